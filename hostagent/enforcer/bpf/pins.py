"""Where maps and links are kept alive: a folder per layout on the bpf filesystem, closed to everybody but root.

``/sys/fs/bpf/hostagent-TABLE-SLICE/vN-SHAPES/{maps,links}/NAME``. Every service of the host has another slice (networks, and so
tables, there may be several with the same name). SHAPES is a digest of the maps' shapes: programs that share a folder
can use each other's maps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.bpf import calls, layout
from hostagent.enforcer.bpf.calls import MapShape

MOUNT = Path("/sys/fs/bpf")
_OURS = "hostagent"


def home(table: str, slice_name: str) -> Path:
    """Return the folder of the service with this nft table and this slice."""
    # The filesystem takes no dots.
    return MOUNT / f"hostagent-{table}-{slice_name.removesuffix('.slice').replace('.', '_').replace('/', '_')}"


def prepare(folder: Path, maps: Sequence[tuple[str, MapShape]]) -> Path:
    """Make the folders for programs with these maps below ``folder`` (see ``home``), mounting the filesystem where it is missing; return the layout's.

    Raises:
        OSError: it cannot be mounted.
    """
    if not _mounted():
        kernel.mount(_OURS, str(MOUNT), "bpf", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=700")
    shapes = hashlib.sha256(json.dumps(sorted(maps)).encode()).hexdigest()[:8]
    place = folder / f"v{layout.VERSION}-{shapes}"
    for each in (folder, place, place / "maps", place / "links"):
        each.mkdir(mode=0o700, exist_ok=True)
    return place


def layouts(folder: Path) -> list[Path]:
    """Return the folders of every layout that is in a service's ``folder``."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def open_map(path: Path, shape: MapShape) -> int:
    """Return the map pinned at ``path``, made now if there is none.

    Raises:
        OSError: refused, or what is there has another shape.
    """
    try:
        found = calls.pinned(str(path))
    except FileNotFoundError:
        made = calls.create_map(path.name, shape)
        calls.pin(made, str(path))
        return made
    if calls.map_shape(found) != shape:
        os.close(found)
        raise OSError(f"{path} is not the map that belongs there")
    return found


def remove_layout(place: Path) -> None:
    """Let go of everything in a layout's folder: programs stop to run, maps are freed when nobody holds them."""
    for part in ("links", "maps"):
        folder = place / part
        for entry in folder.iterdir() if folder.is_dir() else ():
            entry.unlink()
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    place.rmdir()


def _stop(place: Path) -> None:
    """Take the programs off at once: a link that nobody holds any more is freed some time later."""
    links = place / "links"
    for entry in links.iterdir() if links.is_dir() else ():
        link = calls.pinned(str(entry))
        try:
            with contextlib.suppress(OSError):  # a tracepoint's cannot be
                calls.detach(link)
        finally:
            os.close(link)


def remove(folder: Path) -> list[str]:
    """Let go of everything in a service's ``folder``, and of the filesystem if we mounted it and nobody else uses it.

    Returns what was removed.
    """
    if not folder.is_dir():
        return []
    for place in layouts(folder):
        _stop(place)
        remove_layout(place)
    folder.rmdir()
    # The filesystem itself shows two files.
    if _mounted() == _OURS and not any(path.is_dir() for path in MOUNT.iterdir()):
        kernel.unmount(str(MOUNT))
    return [f"eBPF programs and maps in {folder}"]


def _mounted() -> str:
    """Return the source of the bpf filesystem at its place, empty if there is none."""
    found = ""
    for line in kernel.text_of("/proc/self/mountinfo").rstrip("\n").split("\n"):
        before, _, after = line.partition(" - ")
        if before.split(" ")[4] == str(MOUNT):
            kind, source = after.split(" ")[:2]
            found = source if kind == "bpf" else ""
    return found
