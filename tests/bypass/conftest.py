"""Fixtures of the bypass tests: a database with customers in it, the service under attack, and the results by attack."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.bypass import bypass_world
from tests.bypass.attacked import DOCUMENT, POLICY, Attacked, bpf_setting
from tests.bypass.attacks import HERE
from tests.bypass.host_doors import HostDoors
from tests.bypass.results import Run
from tests.gate import gate_postgres
from tests.stage import Service, Settings, World

_RUN = Run({})


@pytest.fixture(scope="session")
def world() -> Iterator[bypass_world.World]:
    """The database of ``bypass_world.SCHEMA`` on a server that trusts everybody."""
    with gate_postgres.running() as port:
        yield bypass_world.World(port)


@pytest.fixture(scope="package")
def attacked() -> Iterator[Attacked]:
    """One service for all attacks, with one workload for each placement."""
    with World() as built:
        document = f"{DOCUMENT}trust_files: [{built.folder}/company-ca.pem]\n"
        documents = {"isolated.yaml": document, "shared.yaml": document + "placement: shared\n"}
        home = built.folder / "dana"
        home.mkdir()
        shutil.chown(home, "dana", "dana")
        view = built.folder / "doors"
        view.mkdir()
        settings = Settings(workloads=documents, policies={"attack.yaml": POLICY}, toml=bpf_setting())
        with HostDoors(view) as doors, Service(built, settings, name="bypass") as service:
            yield Attacked(built, service, home, doors)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what attacks a placement that this run's firewall cannot hold; that it is refused is a test of its own."""
    out = [item for item in items if any(marker.kwargs.get("placement", HERE[0]) not in HERE for marker in item.iter_markers("attack"))]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what came of every test that is marked with an attack's number."""
    report = yield
    if report.when == "call" or report.failed:
        given = getattr(item, "callspec", None)
        for marker in item.iter_markers("attack"):
            placement = marker.kwargs.get("placement") or (given.params["placement"] if given else "")
            real = bool(marker.kwargs.get("real"))
            for number in marker.args:
                _RUN.note(number, placement, passed=report.passed, real=real, known_open=("state", "open") in report.user_properties)
    return report


def pytest_sessionfinish() -> None:
    """Hand the results to whoever asked for them."""
    _RUN.refuse()
    wanted = os.environ.get("HOSTAGENT_BYPASS_RESULTS")
    if wanted:
        Path(wanted).write_text(json.dumps(_RUN.cells), encoding="utf-8")
