"""Which mounts there are, and by which other paths what lies below one of them is in view (``proc_pid_mountinfo(5)``).

A file is not at one path alone: a folder is mounted a second time for a chroot, and a container has a folder of the host's under
a name of its own. What is found at one path must be found at the others too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(r"\\([0-7]{3})")

Aliases = Mapping[str, set[str]]
"""Folders elsewhere, each with the folders here that are the same one."""


class Mount(NamedTuple):
    """One mount: its ``number``, the file system's device and ``kind``, which folder of that is mounted, and at which ``place``."""

    number: int
    device: str
    root: str
    place: str
    kind: str


def listed(process: int | str = "self", most: int = -1) -> list[Mount]:
    """Return the mounts that are within the root of ``process``, in the order in which they were made; of the first ``most`` bytes alone.

    Raises:
        OSError: there is no such process.
    """
    with Path(f"/proc/{process}/mountinfo").open("rb") as file:
        text = file.read(most)
    return parse(os.fsdecode(text[: text.rfind(b"\n") + 1]))


def parse(text: str) -> list[Mount]:
    """Return what the text of a ``mountinfo`` file says."""
    found = []
    for line in text.split("\n"):
        ours, dash, theirs = line.partition(" - ")
        words = ours.split(" ")
        if dash and len(words) >= 6:
            found.append(Mount(int(words[0]), words[2], _plain(words[3]), _plain(words[4]), theirs.split(" ")[0]))
    return found


def aliases(here: Iterable[Mount], there: Iterable[Mount]) -> Aliases:
    """Return what folders of ``there`` are called here, where that is not the same name."""
    devices: dict[str, list[Mount]] = {}
    for mount in here:
        if mount.root.startswith("/"):  # a namespace's is none
            devices.setdefault(mount.device, []).append(mount)
    found: dict[str, set[str]] = {}
    for mount in there:
        for known in devices.get(mount.device, ()):
            if (rest := _below(mount.root, known.root)) is not None:
                theirs, ours = mount.place, _joined(known.place, rest)
            elif (rest := _below(known.root, mount.root)) is not None:
                theirs, ours = _joined(mount.place, rest), known.place
            else:
                continue
            if theirs != ours:
                found.setdefault(theirs, set()).add(ours)
    return found


def elsewhere(path: str, known: Aliases) -> Iterator[str]:
    """Yield what ``path`` (absolute, without ``.`` and ``..``) may be called here by ``known``; some of them need not exist."""
    folder, rest = path, ""
    while True:
        for ours in known.get(folder, ()):
            yield _joined(ours, rest)
        if folder == "/":
            return
        above, _, name = folder.rpartition("/")
        folder, rest = above or "/", f"/{name}{rest}"


def _plain(word: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), word) if "\\" in word else word


def _below(path: str, folder: str) -> str | None:
    """Return the rest of ``path`` behind ``folder``, empty or with a slash in front; None where it does not lie there."""
    if folder == "/":
        return path if path != "/" else ""
    return path[len(folder) :] if path == folder or path.startswith(f"{folder}/") else None


def _joined(folder: str, rest: str) -> str:
    return (folder if folder != "/" else "") + rest or "/"
