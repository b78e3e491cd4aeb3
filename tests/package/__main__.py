"""``make test-package``: checks the container files against their schemas, builds the Debian package three times and runs ``deb_*.py`` on it in a fresh chroot, without a network.

Twice the same tree, for the same bytes, and once with a lower version and nothing compiled, to upgrade from. The chroot (Debian minbase and what the
package depends on or recommends) is kept in ``HOSTAGENT_PACKAGE_CACHE`` (default /var/cache/hostagent-package) under the digest of what
it is made from; a run writes to a layer above it that goes with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONTROL = REPOSITORY / "packaging/deb/control"
SUITE = "bookworm"
# Of the tests' own: a client to govern.
EXTRA = ("postgresql-client-15",)
_TIMEOUT_S = 1200


def main() -> None:
    """Prepare with the network, then test without."""
    if os.geteuid() != 0:
        sys.exit("test-package needs root: mmdebstrap, chroot, namespaces")
    started = time.monotonic()
    cache = Path(os.environ.get("HOSTAGENT_PACKAGE_CACHE", "/var/cache/hostagent-package"))
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="hostagent-package-") as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base(cache, started)
        packages = []
        for name, version, compiled in (("one", "", "1"), ("two", "", "1"), ("old", "0.0.1", "0")):
            _say(started, f"package: building ({name})")
            packages.append(_build(Path(work, name), cache / "wheels", version, compiled))
        environment = dict(zip(("HOSTAGENT_DEB", "HOSTAGENT_DEB_AGAIN", "HOSTAGENT_DEB_OLD"), map(str, packages), strict=True))
        _say(started, "container files against the Compose specification's and Kubernetes' schemas")
        _schemas(cache)
        _say(started, "tests")
        tests = sorted(map(str, Path(__file__).parent.glob("deb_*.py")))
        command = [sys.executable, "-m", "pytest", "-v", *tests, *sys.argv[1:]]
        done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment, "HOSTAGENT_DEB_BASE": str(base)}, check=False)
    _say(started, "done")
    sys.exit(done.returncode)


def _say(started: float, what: str) -> None:
    print(f"[{time.monotonic() - started:4.0f} s] {what}", flush=True)


def _build(output: Path, wheels: Path, version: str, compiled: str) -> Path:
    command = [sys.executable, str(REPOSITORY / "packaging/deb/build.py"), "--output", str(output), "--wheels", str(wheels)]
    return Path(_run([*command, *(["--version", version] if version else [])], HOSTAGENT_COMPILE=compiled).strip())


def _base(cache: Path, started: float) -> Path:
    """Return the folder of the chroot that the package is installed in."""
    packages = _packages()
    digest = hashlib.sha256("\n".join([SUITE, *packages, *EXTRA]).encode()).hexdigest()[:16]
    done = cache / f"base-{digest}"
    if done.is_dir():
        _say(started, f"chroot: {done} (cached)")
        return done
    _say(started, f"chroot: {SUITE}, minbase, with {len(packages)} packages that are depended on or recommended")
    making = cache / f"making-{os.getpid()}"
    include = ",".join([*packages, *EXTRA])
    _run([
        "mmdebstrap", "--variant=minbase", "--format=directory", f"--include={include}", '--aptopt=Acquire::Retries "3"', SUITE, str(making),
    ])  # fmt: skip
    for other in cache.glob("base-*"):
        shutil.rmtree(other)
    making.rename(done)
    return done


def _schemas(cache: Path) -> None:
    """Check packaging/container against the published schemas, which two packages of PyPI bring along."""
    lock = Path(__file__).with_name("schemas.lock")
    environment = cache / f"schemas-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not (environment / "done").exists():
        _run(["/usr/bin/python3", "-m", "venv", "--clear", str(environment)])
        _run([str(environment / "bin/pip"), "--disable-pip-version-check", "install", "-q", "--require-hashes", "-r", str(lock)])
        (environment / "done").touch()
    container = REPOSITORY / "packaging/container"
    _run([str(environment / "bin/check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(container / "compose.yaml")])
    _run([str(environment / "bin/kubernetes-validate"), "--strict", "-k", "1.37", str(container / "daemonset.yaml")])


def _packages() -> list[str]:
    """Return what the package depends on and recommends; of alternatives the first."""
    fields = re.findall(r"(?m)^(?:Depends|Recommends): (.*)$", CONTROL.read_text(encoding="utf-8"))
    entries = [entry.split("|")[0] for field in fields for entry in field.split(",")]
    names = {re.sub(r"\(.*?\)", "", entry).strip() for entry in entries}
    return sorted(names - {"@PYTHON@"} | {"python3"})


def _run(command: list[str], **more: str) -> str:
    environment = {**os.environ, **more, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
