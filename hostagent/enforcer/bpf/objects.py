"""From C to code that can be loaded: the text, and the one-shot compiler that knows bcc."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostagent import shipped
from hostagent.enforcer.bpf import layout
from hostagent.enforcer.bpf.calls import MapShape
from hostagent.enforcer.bpf.table import PROGRAMS, Row
from hostagent.model.errors import HostagentError

SOURCES = shipped.folder("bpf")
"""The folder of C programs."""

LICENCE = "Dual MIT/GPL"
"""What the kernel is told; see the first line of each C file."""

INTERPRETER = "/usr/bin/python3"
_COMPILER = Path(__file__).with_name("compiler.py")
_FIRST = ("layout.h", "common.h")
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Objects:
    """Compiled programs. Map references in ``code`` are places in ``maps``; ``tracepoints`` are the kernel's numbers."""

    code: Mapping[str, bytes]
    maps: Sequence[tuple[str, MapShape]]
    tracepoints: Mapping[str, int]


def source(level: int, folder: Path = SOURCES, extra: str = "") -> str:
    """Return the whole text: layout, its assertions, maps, programs.

    Args:
        level: how deep leaves lie in the cgroup tree (the root is 0).
        folder: of the C files.
        extra: C before everything else.

    Raises:
        OSError: a file is missing.
    """
    programs = sorted(path.name for path in folder.glob("*.c"))
    parts = [f"{extra}\n#define LEAF_LEVEL {level}\n#include <linux/types.h>\n"]
    for name in (*_FIRST, *programs):
        parts.append(f'#line 1 "bpf/{name}"\n' + (folder / name).read_text())
        if name == "layout.h":
            parts.append('#line 1 "hostagent/enforcer/bpf/layout.py"\n' + layout.assertions())
    return "\n".join(parts)


def compiled(text: str, programs: Sequence[Row] = PROGRAMS) -> Objects:
    """Compile ``text``.

    Raises:
        HostagentError: bcc or the kernel's headers are not there, or the text does not compile.
    """
    request = {
        "text": text,
        "functions": [row.name for row in programs],
        "headers": header_folders(),
        "tracepoints": [row.tracepoint for row in programs if row.tracepoint],
    }
    try:
        done = subprocess.run(
            [INTERPRETER, "-I", str(_COMPILER)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostagentError(f"the compiler of eBPF programs did not run: {error}") from error
    return _objects(done)


def _objects(done: subprocess.CompletedProcess[str]) -> Objects:
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error": f"exit status {done.returncode}"}
    if "error" in answer:
        said = [line.strip() for line in done.stderr.splitlines() if "error:" in line]
        raise HostagentError(_reason(str(answer["error"]), said))
    maps = [
        (each["name"], MapShape(*(each[key] for key in ("type", "key_size", "value_size", "max_entries", "flags"))))
        for each in answer["maps"]
    ]
    return Objects({name: bytes.fromhex(code) for name, code in answer["functions"].items()}, maps, answer["tracepoints"])


def _reason(error: str, said: Sequence[str]) -> str:
    if "No module named 'bcc'" in error:
        return "bcc is not installed (apt-get install python3-bpfcc linux-headers-amd64)"
    return f"the programs do not compile: {said[0] if said else error}"


@functools.cache
def header_folders() -> tuple[str, ...]:
    """Return the folders with some kernel's headers, the running one's first; any will do.

    Raises:
        HostagentError: there are none.
    """
    release = os.uname().release
    folders = [path for path in (Path(f"/lib/modules/{release}/build"), Path(f"/usr/src/linux-headers-{release}")) if _generated(path)]
    folders = folders or [path for path in sorted(Path("/usr/src").glob("linux-headers-*"), reverse=True) if _generated(path)]
    if not folders:
        raise HostagentError("no kernel headers in /usr/src (apt-get install linux-headers-amd64)")
    build = folders[0].resolve()
    found = [str(build)]
    # Debian keeps what all flavours share in a folder of its own, named in the build folder's Makefile.
    stem = build.name.rpartition("-")[0]
    shared = [path for path in (build.parent / f"{stem}-common", build.parent / stem) if (path / "include/uapi").is_dir()]
    found.extend(map(str, shared))
    return tuple(found)


def _generated(folder: Path) -> bool:
    return (folder / "include/generated/autoconf.h").is_file()
