"""Builds the Debian package: ``python packaging/deb/build.py [--output FOLDER] [--version VERSION] [--wheel]``; `make deb` calls it.

The same tree gives the same bytes: every time is ``SOURCE_DATE_EPOCH`` (default: the last commit's), every order is sorted, no path
of the build is kept. Python's own packages are those of ``.ci/requirements.lock`` that hostagent needs, by hash. Only that fetching
uses the network, and only where the folder of wheels does not hold them yet.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import manual
from packaging.requirements import Requirement

from hostagent.documents import parse_config
from hostagent.documents.drafts import config_text

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LOCK = REPOSITORY / ".ci/requirements.lock"
TREE = ("hostagent", "bpf", "policy", "systemd", "pyproject.toml", "setup.py", "README.md", "LICENSE")
HOME = "usr/lib/hostagent"
INTERPRETER = "/usr/bin/python3"
_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
_TIMEOUT_S = 1800
_NEW = """\
# A new installation denies everything: no target is declared (targets/), no workload (workloads/), and the one policy document
# (policy/default.yaml) allows nothing. Programs that are not started as a workload are not touched. First steps: hostagent --help
#
"""


def main() -> None:
    """Build the package and print its path."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser = argparse.ArgumentParser(description="Build the Debian package of this tree.")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/deb", help="where the package is written")
    parser.add_argument("--wheels", type=Path, default=REPOSITORY / "build/deb/wheels", help="where fetched packages are kept")
    parser.add_argument("--version", default=project["version"], help="the package's version")
    parser.add_argument("--wheel", action="store_true", help="only hostagent's own wheel, for other places than Debian")
    options = parser.parse_args()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    epoch = _epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="hostagent-deb-") as work:
        root = Path(work, "root")
        root.mkdir()
        wheel = _wheel(Path(work), options.version)
        if options.wheel:
            print(shutil.copy(wheel, output))
            return
        _environment(root, _dependencies(options.wheels, Path(work)), wheel)
        _files(root)
        _documents(root, options.version, epoch)
        manual.write_manual(root, options.version, epoch)
        manual.write_completions(root)
        _control(root, options.version, epoch)
        package = output / f"hostagent_{options.version}_{_architecture()}.deb"
        making = package.with_suffix(".making")
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build", str(root), str(making))
        making.rename(package)
    print(package)


def _epoch() -> int:
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    return int(_run("git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"))


def _architecture() -> str:
    return _run("dpkg", "--print-architecture").strip()


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


# -- Python ------------------------------------------------------------------------------------------------------------------


def compiles() -> bool:
    """Return whether to compile the hot floors: where a C compiler, Python's headers and mypyc are, unless ``HOSTAGENT_COMPILE=0``."""
    if os.environ.get("HOSTAGENT_COMPILE") == "0":
        return False
    header = Path(sysconfig.get_path("include"), "Python.h")
    return shutil.which("gcc") is not None and header.is_file() and (REPOSITORY / "setup.py").is_file() and _has_mypyc()


def _has_mypyc() -> bool:
    try:
        metadata.version("mypy")
    except metadata.PackageNotFoundError:
        return False
    return True


def _wheel(work: Path, version: str) -> Path:
    """Return hostagent's own wheel, built from a clean copy: what an earlier build left behind must not get in."""
    source = work / "source"
    source.mkdir()
    for name in TREE:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, source / name)
    for name in ("pyproject.toml", "hostagent/__init__.py"):
        text = (source / name).read_text(encoding="utf-8")
        (source / name).write_text(re.sub(r'(?m)^(_*version_*) = ".*"$', rf'\1 = "{version}"', text), encoding="utf-8")
    compiled = compiles()
    print(f"hostagent {version}: hot floors {'compiled' if compiled else 'stay Python: not wanted, or no C compiler, Python headers or mypyc here'}", file=sys.stderr)
    environment = {"HOSTAGENT_COMPILE": "1" if compiled else "0", "CFLAGS": f"-g0 -ffile-prefix-map={source}=.", "PYTHONHASHSEED": "0"}
    _run(*_PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(work), str(source), **environment)
    (wheel,) = work.glob("hostagent-*.whl")
    return wheel


def _dependencies(wheels: Path, work: Path) -> list[Path]:
    """Return the wheels of what hostagent needs at run time, as the lock names them: by version and hash."""
    wanted = _needed("hostagent", frozenset())
    entries = re.findall(r"(?m)^([a-z0-9][a-z0-9.-]*)==.*(?:\n {4}.*)*", LOCK.read_text(encoding="utf-8"))
    texts = re.findall(r"(?m)^[a-z0-9][a-z0-9.-]*==.*(?:\n {4}.*)*", LOCK.read_text(encoding="utf-8"))
    chosen = [text for name, text in zip(entries, texts, strict=True) if _plain(name) in wanted]
    missing = wanted - {_plain(name) for name in entries}
    if missing:
        sys.exit(f"{LOCK.name} lacks {', '.join(sorted(missing))}: make lock")
    lock = work / "requirements.txt"
    lock.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    folder = wheels / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not folder.is_dir():
        making = Path(tempfile.mkdtemp(prefix="wheels-", dir=work))
        options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
        _run(*_PIP, "download", *options, "-r", str(lock), "-d", str(making))
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(making, folder)
    return sorted(folder.glob("*.whl"))


def _needed(name: str, extras: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            plain = _plain(requirement.name)
            if plain not in found:
                found |= {plain} | _needed(plain, frozenset(requirement.extras))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _environment(root: Path, wheels: list[Path], own: Path) -> None:
    """Make the private virtual environment in ``root``, as if it had been made at its final place."""
    home = root / HOME
    (home / "bin").mkdir(parents=True)
    name = _run(INTERPRETER, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])").strip()
    packages = home / "lib" / name / "site-packages"
    packages.mkdir(parents=True)
    for link, target in (("python", f"/usr/bin/{name}"), ("python3", "python"), (name, "python")):
        (home / "bin" / link).symlink_to(target)
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n", encoding="utf-8")
    install = [*_PIP, "--python", str(home / "bin/python"), "install", "--no-index", "--no-deps", "--no-compile"]
    _run(*install, *map(str, [*wheels, own]))
    for script in (home / "bin").iterdir():
        if not script.is_symlink():
            script.unlink()  # they name the place of the build
    program = home / "bin/hostagent"
    program.write_text(f"#!/{HOME}/bin/python -I\nfrom hostagent.cli import main\n\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    for library in sorted([*packages.glob("*__mypyc*.so"), *packages.glob("hostagent/**/*.so")]):
        _run("strip", "--strip-unneeded", str(library))
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        (record.parent / "direct_url.json").unlink(missing_ok=True)
        _rewrite(record)
    _run(*_PIP, "--python", str(home / "bin/python"), "check")
    (home / "bin/python").unlink()
    (home / "bin/python").symlink_to(f"../../../bin/{name}")
    shutil.rmtree(home / "include", ignore_errors=True)
    for stale in sorted(root.rglob("__pycache__")):
        shutil.rmtree(stale)
    # Checked by hash: the same bytes whenever it is built, and a changed source is noticed.
    _run(INTERPRETER, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "-s", str(root), "-p", "/", str(packages), PYTHONHASHSEED="0")


def _rewrite(record: Path) -> None:
    """Keep in a wheel's list of files what is there, in order, with the digests of what they are now (PyPA: Recording installed projects)."""
    with record.open(encoding="utf-8", newline="") as file:
        rows = sorted(row for row in csv.reader(file) if (record.parents[1] / row[0]).exists())
    for row in rows:
        if row[1]:  # its own has none
            content = (record.parents[1] / row[0]).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            row[1:] = [f"sha256={digest}", str(len(content))]
    with record.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


# -- everything else ------------------------------------------------------------------------------------------------------------


def _files(root: Path) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/hostagent").symlink_to("../lib/hostagent/bin/hostagent")
    shutil.copytree(HERE / "etc", root / "etc/hostagent")
    for folder in ("targets", "workloads", "policy", "secrets"):
        (root / "etc/hostagent" / folder).mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "policy/default.yaml", root / "etc/hostagent/policy/default.yaml")
    (root / "etc/hostagent/hostagent.toml").write_text(_NEW + config_text(parse_config("defaults", ""), {}), encoding="utf-8")
    for place, path in _units().items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / place)


def _units() -> dict[str, Path]:
    """Return the files of systemd/ by the place that they are installed at."""
    found = {}
    for path in sorted((REPOSITORY / "systemd").iterdir()):
        kind = path.suffix[1:]
        if kind in {"service", "socket", "target", "slice", "timer"}:
            found[f"lib/systemd/system/{path.name}"] = path
        elif kind in {"sysusers", "tmpfiles"}:
            found[f"usr/lib/{kind}.d/{path.stem}.conf"] = path
    return found


def _documents(root: Path, version: str, epoch: int) -> None:
    folder = root / "usr/share/doc/hostagent"
    folder.mkdir(parents=True)
    when = subprocess.run(["date", "-u", "-R", f"-d@{epoch}"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout.strip()
    entry = f"hostagent ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- The hostagent authors <authors@hostagent.invalid>  {when}\n"
    _compressed(folder / "changelog.gz", entry.encode())
    _compressed(folder / "CHANGELOG.md.gz", (REPOSITORY / "CHANGELOG.md").read_bytes())
    shutil.copy(REPOSITORY / "README.md", folder / "README.md")
    shutil.copytree(REPOSITORY / "policy/examples", folder / "examples/policy")
    overrides = root / "usr/share/lintian/overrides/hostagent"
    overrides.parent.mkdir(parents=True)
    shutil.copy(HERE / "lintian-overrides", overrides)
    licence = (HERE / "copyright").read_text(encoding="utf-8")
    (folder / "copyright").write_text(licence + "".join(_bundled(root)), encoding="utf-8")


def _bundled(root: Path) -> Iterator[str]:
    (packages,) = (root / HOME / "lib").glob("python3.*/site-packages")
    for each in sorted(metadata.distributions(path=[str(packages)]), key=lambda each: each.metadata["Name"].lower()):
        name = each.metadata["Name"]
        if name != "hostagent":
            words = each.metadata.get("License-Expression") or each.metadata.get("License") or ""
            classified = [line.rpartition(" :: ")[2] for line in each.metadata.get_all("Classifier") or [] if line.startswith("License")]
            licence = words if words and "\n" not in words else ", ".join(classified)
            yield f" {name} {each.version}: {licence or 'see its licence file'}\n"


def _compressed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def _control(root: Path, version: str, epoch: int) -> None:
    control = root / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in root.rglob("*") if control not in path.parents and path.is_file() and not path.is_symlink())
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    kilobytes = sum((path.stat().st_size + 1023) // 1024 for path in files)
    minor = _run(INTERPRETER, "-c", "import sys; print(sys.version_info[1])").strip()
    units = {path.name: path.read_text(encoding="utf-8") for place, path in _units().items() if place.startswith("lib/systemd/system/")}
    services = [name for name in units if name.endswith(".service") and "@" not in name]
    words = {
        "VERSION": version,
        "ARCHITECTURE": _architecture(),
        "SIZE": str(kilobytes),
        "PYTHON": f"python3 (>= 3.{minor}~), python3 (<< 3.{int(minor) + 1}~), python3.{minor}",
        "ENABLED": " ".join(name for name, text in units.items() if "[Install]" in text),
        "SERVICES": " ".join(name for name in services if "RefuseManualStop=yes" not in units[name]),
    }
    for name in ("control", "postinst", "prerm", "postrm"):
        text = re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], (HERE / name).read_text(encoding="utf-8"))
        (control / name).write_text(text, encoding="utf-8")
        (control / name).chmod(0o644 if name == "control" else 0o755)
    (control / "md5sums").write_text(sums, encoding="utf-8")
    (control / "conffiles").write_text("".join(f"/{path.relative_to(root)}\n" for path in files if path.is_relative_to(root / "etc")), encoding="utf-8")
    _normalise(root, epoch)


def _normalise(root: Path, epoch: int) -> None:
    """Give everything its mode and its time."""
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            executable = path.is_dir() or (path.stat().st_mode & 0o100 and path.suffix not in {".so", ".py"})
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    (root / "etc/hostagent/secrets").chmod(0o700)
    root.chmod(0o755)
    os.utime(root, (epoch, epoch))


if __name__ == "__main__":
    main()
