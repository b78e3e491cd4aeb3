"""What the suite runs besides hostagent: built or fetched once per content of what names them, and kept outside the tree.

A Go toolchain comes as a module of its makers, pinned by hash; with it etcd, kube-apiserver, kubectl and the stand-in for a kubelet
are built from their published modules (``go/go.sum``). Older clients: Debian's kubectl; the Python client in an environment of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.progress import PhaseError, Progress

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "go"
CLIENT_LOCK = HERE / "client.lock"
_TOOLCHAIN = "go1.26.11"
# What `go mod download -json golang.org/toolchain@v0.0.1-<version>.linux-<processor>` says, checked by it against the checksum database.
_TOOLCHAIN_SUMS = {"x86_64": ("amd64", "h1:KyINmJ/FQdKRmDYGuTAAXkumyeR2DyUlSNHZj7XaLFg=")}
_BUILT = {
    "etcd": "./etcd",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kubelet": "./kubelet",
}
# Measured: 9 minutes beside two emulated machines on two processors.
_TIMEOUT_S = 2400
_KEPT = 3


@dataclass(frozen=True)
class Programs:
    """The folder of one build. Every account may read it."""

    folder: Path

    @property
    def etcd(self) -> Path:
        """Return etcd itself."""
        return self.folder / "etcd"

    @property
    def kube_apiserver(self) -> Path:
        """Return the API server."""
        return self.folder / "kube-apiserver"

    @property
    def kubelet(self) -> Path:
        """Return the stand-in for a node's streaming server."""
        return self.folder / "kubelet"

    @property
    def kubectl(self) -> Path:
        """Return kubectl of the API server's own version."""
        return self.folder / "kubectl"

    @property
    def kubectl_debian(self) -> Path:
        """Return Debian 12's kubectl, which streams over SPDY alone."""
        return self.folder / "kubectl-debian"

    @property
    def python(self) -> Path:
        """Return an interpreter with the official Python client."""
        return self.folder / "python/bin/python"


def cache() -> Path:
    """Return the folder of builds: ``HOSTAGENT_KUBERNETES_CACHE`` or one below ``/var/cache``."""
    return Path(os.environ.get("HOSTAGENT_KUBERNETES_CACHE", "/var/cache/hostagent-kubernetes"))


def key() -> str:
    """Return what names a build: the digest of everything it is made from, this module included."""
    digest = hashlib.sha256()
    for path in (*sorted(each for each in SOURCES.rglob("*") if each.is_file()), CLIENT_LOCK, Path(__file__)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(HERE)} {len(content)}\n".encode() + content)
    return f"programs-{digest.hexdigest()[:20]}"


def present() -> Programs:
    """Return the programs of this tree.

    Raises:
        RuntimeError: they were not built yet. Tests have no network, so they cannot do it themselves.
    """
    folder = cache() / key()
    if not folder.is_dir():
        raise RuntimeError(f"{folder} is missing: `make test-kubernetes` builds it (some ten minutes, once); never skipped")
    return Programs(folder)


def built(progress: Progress) -> Programs:
    """Return the programs of this tree, making them where they are not in the cache. Needs the network then.

    Raises:
        PhaseError: a step failed or took too long; nothing half-made is left under the name of a build.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    done = folder / key()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            progress.say(f"programs: {done} (cached)")
            return Programs(done)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as name:
            making = Path(name)
            _make(making, folder / "go", progress)
            (making / "product").chmod(0o755)
            (making / "product").rename(done)
        # Another checkout may be using the last ones.
        for former in sorted(folder.glob("programs-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            shutil.rmtree(former)
    progress.say(f"programs: {done}, made in {time.monotonic() - started:.0f} s")
    return Programs(done)


def kubernetes_version() -> str:
    """Return the pinned version, as in ``v1.36.3``."""
    found = re.search(r"(?m)^\s*k8s\.io/kubernetes (v\S+)$", (SOURCES / "go.mod").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def _make(making: Path, kept: Path, progress: Progress) -> None:
    product = making / "product"
    product.mkdir()
    go = _toolchain(kept, making, progress)
    _go_programs(go, kept, making, progress)
    progress.say("programs: Debian's kubectl")
    with contextlib.chdir(making):
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        _run([*apt, "update"], making)
        _run([*apt, "download", "kubernetes-client"], making)
    (package,) = making.glob("kubernetes-client_*.deb")
    _run(["dpkg-deb", "-x", str(package), str(making / "debian")], making)
    shutil.copy2(making / "debian/usr/bin/kubectl", product / "kubectl-debian")
    progress.say("programs: the Python client, by hash")
    _run(["/usr/bin/python3", "-m", "venv", str(product / "python")], making)
    pip = [str(product / "python/bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "--progress-bar", "off"]
    _run([*pip, "--require-hashes", "-r", str(CLIENT_LOCK)], making)


def _toolchain(kept: Path, making: Path, progress: Progress) -> Path:
    """Return the pinned ``go``. It is kept beside the builds with what it compiled: a changed line must not cost all of Kubernetes."""
    if platform.machine() not in _TOOLCHAIN_SUMS:
        raise PhaseError(f"programs: no Go toolchain is pinned for {platform.machine()} (tests/kubernetes/programs.py)")
    processor, wanted = _TOOLCHAIN_SUMS[platform.machine()]
    root = kept / f"{_TOOLCHAIN}-{processor}"
    if not root.is_dir():
        first = shutil.which("go")  # of any age: Debian's is too old to build Kubernetes, but not to fetch what can
        if first is None:
            raise PhaseError("programs: there is no go to fetch the Go toolchain with: `.ci/setup kubernetes` installs Debian's")
        progress.say(f"programs: fetching {_TOOLCHAIN}")
        module = f"golang.org/toolchain@v0.0.1-{_TOOLCHAIN}.linux-{processor}"
        (making / "empty").mkdir()
        with contextlib.chdir(making / "empty"):
            said = _run([first, "mod", "download", "-json", module], making, **_environment(making / "toolchain"))
        told = json.loads(said)
        if told["Sum"] != wanted:
            raise PhaseError(f"programs: {module} has the hash {told['Sum']} and must have {wanted}")
        fetched = making / "root"
        shutil.copytree(told["Dir"], fetched)
        _run(["chmod", "-R", "u+w,a+rX", str(fetched), str(making / "toolchain")], making)
        for program in (*fetched.glob("bin/*"), *fetched.glob("pkg/tool/*/*")):
            program.chmod(0o755)  # a module's files are none of them executable
        kept.mkdir(exist_ok=True)
        fetched.rename(root)
    return root / "bin/go"


def _go_programs(go: Path, kept: Path, making: Path, progress: Progress) -> None:
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    words = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamped = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in words.items())
    environment = {**_environment(kept / "modules"), "GOCACHE": str(kept / "compiled"), "CGO_ENABLED": "0"}
    command = [str(go), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-modcacherw", "-ldflags", f"-s -w {stamped}"]
    for number, (name, package) in enumerate(_BUILT.items(), 1):
        progress.say(f"programs: building {name} ({number} of {len(_BUILT)})")
        with contextlib.chdir(SOURCES):
            _run(["nice", "-n", "3", *command, "-o", f"{making / 'product' / name}", package], making, **environment)


def _environment(modules: Path) -> dict[str, str]:
    return {"GOPATH": str(modules.parent), "GOMODCACHE": str(modules), "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def _run(command: list[str], folder: Path, **more: str) -> str:
    """Return what it printed; its other words are shown when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **more}
    with (folder / "words").open("w+b") as words:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, env=environment, check=False, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise PhaseError(f"programs: {command[0]} took more than {_TIMEOUT_S} s") from error
        words.seek(0)
        said = words.read().decode(errors="replace").splitlines()
    if done.returncode:
        raise PhaseError("\n".join([*said[-40:], f"programs: {' '.join(command)[:200]} ended with status {done.returncode}"]))
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    try:
        print(built(Progress()).folder)
    except PhaseError as failure:
        sys.exit(str(failure))
