"""PostgreSQL's own regression suite, made ready from Debian's packages and kept in a cache outside the tree.

The runner is in the ``postgresql-15`` package; tests and expected output come from the source package, and the one shared
library that the tests load is compiled against the headers of ``postgresql-server-dev-15`` (unpacked, not installed).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

PACKAGE = "postgresql-15"
LIBRARIES = Path("/usr/lib/postgresql/15/lib")
RUNNER = LIBRARIES / "pgxs/src/test/regress/pg_regress"
_WANTED = re.compile(r"[^/]+/src/test/regress/(regress\.c|parallel_schedule|resultmap|(sql|expected|data)/.+)")


def prepared() -> Path:
    """Return the folder with ``sql``, ``expected``, ``data``, the schedule and the libraries; made on first use.

    Raises:
        RuntimeError: a step failed; the message holds what it printed.
    """
    version = _run("dpkg-query", "-W", "-f=${source:Version}", PACKAGE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostagent-tests"
    folder = cache / f"pg_regress-{version}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"fetching the source of {PACKAGE} {version} (once)", flush=True)
    _extract(_fetch_source(folder, version), folder)
    _compile(folder)
    for name in ("refint.so", "autoinc.so"):
        shutil.copy(LIBRARIES / name, folder)
    (folder / "complete").touch()
    return folder


def _fetch_source(folder: Path, version: str) -> Path:
    """Download the source archive of ``version``, or of the newest one that the archive still holds."""
    work = folder / "apt"
    (work / "lists/partial").mkdir(parents=True)
    (work / "parts").mkdir()
    _source_lists(work / "parts")
    apt = [
        "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={work}/parts", "-o", f"Dir::State::lists={work}/lists",
        "-o", "APT::Sandbox::User=root",
    ]  # fmt: skip
    _run("apt-get", *apt, "-qq", "update", cwd=work)
    known = re.findall(r"^Version: (\S+)", _run("apt-cache", *apt, "showsrc", PACKAGE), re.MULTILINE)
    wanted = [version, *[each for each in reversed(known) if each != version]]
    problems = []
    for each in wanted:
        try:
            _run("apt-get", *apt, "-qq", "source", "--download-only", f"{PACKAGE}={each}", cwd=work)
        except RuntimeError as error:
            problems.append(str(error))
            continue
        if each != version:
            print(f"the archive no longer has the source of {version}: using the suite of {each}", flush=True)
        return next(work.glob("*.orig.tar.*"))
    raise RuntimeError("no source could be fetched:\n" + "\n".join(problems))


def _source_lists(folder: Path) -> None:
    """Write this machine's package sources anew, asking for source packages."""
    for path in Path("/etc/apt/sources.list.d").glob("*.sources"):
        text = re.sub(r"(?m)^Types:.*$", "Types: deb-src", path.read_text(encoding="utf-8"))
        (folder / path.name).write_text(text, encoding="utf-8")
    plain = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list")]
    for path in plain:
        if path.exists():
            text = re.sub(r"(?m)^deb(-src)?\s", "deb-src ", path.read_text(encoding="utf-8"))
            (folder / f"{path.stem}.list").write_text(text, encoding="utf-8")


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            found = _WANTED.fullmatch(member.name)
            if found and member.isfile():
                target = folder / found.group(1)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())


def _compile(folder: Path) -> None:
    if shutil.which("gcc") is None:
        print("installing gcc and libc6-dev: the suite's own library is compiled", flush=True)
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "gcc", "libc6-dev")
    work = folder / "apt"
    _run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", "postgresql-server-dev-15", cwd=work)
    _run("dpkg", "-x", str(next(work.glob("postgresql-server-dev-15_*.deb"))), str(work / "dev"))
    headers = work / "dev/usr/include/postgresql/15/server"
    _run("gcc", "-O1", "-fPIC", "-shared", f"-I{headers}", "-o", str(folder / "regress.so"), str(folder / "regress.c"))
    shutil.rmtree(work)


def _run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
    return result.stdout.strip()
