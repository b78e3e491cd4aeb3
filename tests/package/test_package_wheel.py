"""The wheel, in a virtual environment of its own and far from any checkout: everything it needs is inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stage import Service, Settings, World

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.e2e


class Installed(Service):
    """A service that is run by the virtual environment ``stage/venv``."""

    @property
    def prefix(self) -> Path:
        """The virtual environment."""
        return self.world.folder / "venv"

    @property
    def command(self) -> list[str]:
        return [str(self.prefix / "bin/hostagent")]

    @property
    def environment(self) -> dict[str, str]:
        return {key: value for key, value in super().environment.items() if key != "PYTHONPATH"}


def _install(prefix: Path) -> None:
    """Build the wheel from a clean copy and install it. What it depends on is borrowed: tests have no network."""
    build = [sys.executable, str(REPOSITORY / "packaging/deb/build.py"), "--wheel", "--output", str(prefix.with_name("dist"))]
    environment = {**os.environ, "HOSTAGENT_COMPILE": "0"}
    wheel = subprocess.run(build, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment).stdout.strip()
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(prefix)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    target = [*pip, "--python", str(prefix / "bin/python"), "install", "--no-deps", "--no-index", wheel]
    subprocess.run(target, check=True, stdin=subprocess.DEVNULL)
    # Files of that folder that start programs at start-up are not read again through a path file: no editable hostagent.
    (borrowed,) = (Path(sys.prefix) / "lib").glob("python3.*/site-packages")
    (prefix / "lib" / borrowed.parent.name / "site-packages/borrowed.pth").write_text(
        f"/mnt/hostagent/{borrowed.relative_to(REPOSITORY)}\n", encoding="utf-8"
    )


@pytest.fixture(scope="module")
def service() -> Iterator[Installed]:
    """A running service, from the wheel alone."""
    with World() as world:
        _install(world.folder / "venv")
        with Installed(world, Settings(), name="wheel") as running:
            yield running


def test_the_modules_and_the_data_are_those_of_the_virtual_environment(service: Installed) -> None:
    question = (
        "import hostagent, json; from hostagent import shipped; "
        "print(json.dumps([hostagent.__file__, *(str(shipped.folder(name)) for name in ('bpf', 'policy', 'systemd'))]))"
    )
    python = str(service.prefix / "bin/python")
    places = json.loads(subprocess.run([python, "-I", "-c", question], check=True, capture_output=True, cwd="/").stdout)
    assert [place.startswith(f"{service.prefix}/") for place in places] == [True] * 4
    for place, name in zip(places[1:], ("network.c", "default.yaml", "README.md"), strict=True):
        assert (Path(place) / name).is_file()


def test_the_command_answers_without_a_service_behind_it(service: Installed) -> None:
    assert service.hostagent("--version").stdout.startswith("hostagent, version ")
    assert "bpf.compiler: compiles" in service.hostagent("doctor", check=False).stdout
    assert ": valid; " in service.hostagent("policy", "check", str(service.config / "policy")).stdout


def test_a_governed_query_is_masked_and_recorded(service: Installed) -> None:
    dialled = "host=crm.internal dbname=crm user=crm_app password=anything sslmode=require"
    done = service.launch("psql", "-X", "-At", dialled, "-c", "select email from customers limit 1")
    assert (done.stdout, done.returncode) == ("[masked]\n", 0), done.stderr
    assert service.wait_sql("select decision from statements where text like '%customers%'")


def test_the_boundary_of_an_installed_service_holds(service: Installed) -> None:
    verified = service.hostagent("verify", check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    status = json.loads(service.hostagent("status", "--json", check=False).stdout)
    assert not [line for line in status["weaker"] if "bpf" in line.lower()], status["weaker"]
