"""Compiles the programs of ``bpf/``: runs under the distribution's own interpreter, which has bcc, and ends.

``/usr/bin/python3 -I compiler.py`` reads one JSON object from standard input and writes one to standard output. LLVM lives and
dies with this process. It imports nothing of hostagent.

Request: ``text`` (C), ``functions`` (names), ``headers`` (folders with the kernel's headers, later ones fill gaps of earlier
ones), ``tracepoints`` ("category/name" each).
Answer: ``functions`` {name: code, hex, with each map reference replaced by the map's place in ``maps``}, ``maps`` (a list of
name, type, key_size, value_size, max_entries, flags), ``tracepoints`` {name: the kernel's number of it}; or ``error`` (text).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_LOAD_64 = 0x18
_MAP_DESCRIPTOR = 1
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


def main() -> None:
    """Answer one request."""
    answered = os.dup(1)
    os.dup2(2, 1)  # what LLVM prints is for the log
    try:
        # Ours, so that it goes also when enforcerd is killed meanwhile.
        with tempfile.TemporaryDirectory(prefix="hostagent-bpf-") as work:
            answer = _answer(json.load(sys.stdin), Path(work))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        answer = {"error": f"{type(error).__name__}: {error}"}
    with os.fdopen(answered, "w") as out:
        json.dump(answer, out)


def _answer(request: dict[str, Any], work: Path) -> dict[str, Any]:
    tracepoints = _tracepoints(request["tracepoints"], work / "tracing")  # while there is one thread
    # Before bcc is imported: it reads the variable when it compiles, and its own search needs /lib/modules.
    os.environ["BCC_KERNEL_SOURCE"] = _headers(request["headers"], work / "headers")
    from bcc import BPF, lib

    module = BPF(text=request["text"].encode()).module
    maps, places = _maps(lib, module)
    functions = {}
    for name in request["functions"]:
        start, size = lib.bpf_function_start(module, name.encode()), lib.bpf_function_size(module, name.encode())
        if not start:
            raise ValueError(f"no function {name}")
        functions[name] = _relocate(ctypes.string_at(start, size), places).hex()
    return {"functions": functions, "maps": maps, "tracepoints": tracepoints}


def _headers(folders: list[str], merged: Path) -> str:
    """Return a folder that looks like one kernel's build folder; Debian's headers come in two, none of them whole."""
    for part in ("include", f"arch/{_ARCHITECTURES[platform.machine()]}/include"):
        (merged / part).mkdir(parents=True)
        for folder in folders:
            source = Path(folder, part)
            for entry in source.iterdir() if source.is_dir() else ():
                with contextlib.suppress(FileExistsError):
                    (merged / part / entry.name).symlink_to(entry)
    return str(merged)


def _maps(lib: Any, module: int) -> tuple[list[dict[str, Any]], dict[int, int]]:  # noqa: ANN401 - a ctypes library
    """Return the text's maps and the place of each by descriptor."""

    def ask(what: str, number: int) -> Any:  # noqa: ANN401 - as declared
        function = getattr(lib, f"bpf_table_{what}")
        # Most of them are not declared by bcc; an undeclared pointer argument would be cut to an int.
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        function.restype = ctypes.c_char_p if what == "name" else ctypes.c_size_t if what == "max_entries_id" else ctypes.c_int
        return function(module, number)

    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    lib.bpf_num_tables.restype = ctypes.c_size_t
    maps: list[dict[str, Any]] = []
    places = {}
    for number in range(lib.bpf_num_tables(module)):
        places[ask("fd_id", number)] = number
        maps.append(
            {
                "name": ask("name", number).decode(),
                "type": ask("type_id", number),
                "key_size": ask("key_size_id", number),
                "value_size": ask("leaf_size_id", number),
                "max_entries": ask("max_entries_id", number),
                "flags": ask("flags_id", number),
            }
        )
    return maps, places


def _relocate(code: bytes, places: dict[int, int]) -> bytes:
    """Replace bcc's descriptors, which end with this process, by places."""
    words = bytearray(code)
    for position in range(0, len(words), 8):
        operation, registers, _, value = struct.unpack_from("=BBhi", words, position)
        if operation == _LOAD_64 and registers >> 4 == _MAP_DESCRIPTOR:
            struct.pack_into("=i", words, position + 4, places[value])
    return bytes(words)


def _tracepoints(names: list[str], folder: Path) -> dict[str, int]:
    """Return the kernel's numbers; a name that it does not have is left out. tracefs is mounted where nobody else sees it."""
    if not names:
        return {}
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    private = libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None) == 0
    if not private or libc.mount(b"tracefs", str(folder).encode(), b"tracefs", ctypes.c_ulong(0), None) != 0:
        raise OSError(ctypes.get_errno(), f"tracefs: {os.strerror(ctypes.get_errno())}")
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = int((folder / "events" / name / "id").read_text())
    if libc.umount2(str(folder).encode(), 0) != 0:
        raise OSError(ctypes.get_errno(), f"tracefs stays mounted: {os.strerror(ctypes.get_errno())}")
    return found


if __name__ == "__main__":
    main()
