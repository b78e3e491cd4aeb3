"""Compiled programs, kept for the next start: compiling takes most of the time that a start of enforcerd takes.

One file per text, compiler's input and boot (the kernel numbers tracepoints anew at each), in a folder that only root may enter.
What is there is read only where nobody else could have put it there; otherwise, and where anything about it is odd, the programs
are compiled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from hostagent.enforcer.bpf.calls import MapShape
from hostagent.enforcer.bpf.objects import INTERPRETER, Objects, compiled, header_folders
from hostagent.enforcer.bpf.table import PROGRAMS, Row

log = logging.getLogger(__name__)

_NAME = "ebpf"
_LARGEST = 1 << 22
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def folder(runtime: str) -> Path:
    """Return where they are kept: below what systemd calls this service's cache, or below ``runtime`` until the next boot."""
    return Path(os.environ.get("CACHE_DIRECTORY") or runtime) / _NAME


def clear(runtime: str) -> None:
    """Remove what is kept below ``runtime``."""
    shutil.rmtree(Path(runtime, _NAME), ignore_errors=True)


def kept_or_compiled(text: str, place: Path, programs: Sequence[Row] = PROGRAMS) -> Objects:
    """Return the compiled ``text``, from ``place`` where it was compiled before in this boot.

    Raises:
        HostagentError: as ``compiled``.
    """
    boot = _BOOT_ID.read_text(encoding="ascii").strip()
    file = place / f"{boot}-{_digest(text, programs)}.json"
    try:
        return _read(file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what was compiled before is not used: %s: %s", file, error)
    made = compiled(text, programs)
    with contextlib.suppress(OSError):
        _write(file, made)
        for other in place.iterdir():
            if not other.name.startswith(boot):
                other.unlink()
    return made


def _digest(text: str, programs: Sequence[Row]) -> str:
    """Of everything that what is compiled depends on."""
    about = [text, [[row.name, row.tracepoint] for row in programs], header_folders(), list(os.uname()), _stamp(INTERPRETER)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _stamp(path: str) -> list[int]:
    """When a program was last replaced."""
    with contextlib.suppress(OSError):
        found = Path(path).stat()
        return [found.st_size, found.st_mtime_ns]
    return []


def _read(file: Path) -> Objects:
    _check(os.lstat(file.parent), stat.S_ISDIR)
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as source:
        _check(os.fstat(descriptor), stat.S_ISREG)
        answer = json.loads(source.read(_LARGEST))
    code = {str(name): bytes.fromhex(each) for name, each in answer["code"].items()}
    maps = [(str(name), MapShape(*map(int, shape))) for name, shape in answer["maps"]]
    return Objects(code, maps, {str(name): int(number) for name, number in answer["tracepoints"].items()})


def _check(found: os.stat_result, kind: object) -> None:
    assert callable(kind)
    if not kind(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o077:
        raise OSError("others may have written it")


def _write(file: Path, made: Objects) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    _check(os.lstat(file.parent), stat.S_ISDIR)
    body = {
        "code": {name: code.hex() for name, code in made.code.items()},
        "maps": [[name, list(shape)] for name, shape in made.maps],
        "tracepoints": dict(made.tracepoints),
    }
    temporary = file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as target:
        json.dump(body, target)
    temporary.rename(file)
