"""Unix sockets that come into a running workload's view: found among what listens anywhere on the host, and masked.

What was there before the launch is masked by the launch. A server that makes its socket anew takes the mask away with the old
file; the new one is a newcomer like any other. A workload's own sockets are never masked: what it makes in its private folders
is out of the question, and in a declared writable folder it is told from others' by its network namespace, or by being held.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.enforcer.bornsockets import Born, BornSockets
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.latemasks import InView, cover, look
from hostagent.model.errors import HostagentError

_PRIVATE = ("/run", "/tmp", "/var/tmp", "/dev", "/dev/shm")  # noqa: S108 - looked at, not used
_LISTENERS = 32
"""Most listeners of one leaf's late masks that are heard one by one: each is a descriptor held."""
_MOST = 1000

HearDials = Callable[[Governed, int, str], None]


@dataclass(slots=True)
class _Leaf:
    """What was looked at already, which devices are the workload's own, and how many masks were put on."""

    private: frozenset[int]
    network: int
    seen: set[Born] = field(default_factory=set)
    masks: int = 0


class Newcomers:
    """Call ``refresh``, then look at what the leaf's processes hold, then ``mask``: in this order, or its own look foreign."""

    def __init__(self, hear_dials: HearDials) -> None:
        """``hear_dials`` is given each mask's listener, to turn dials away and count them."""
        self._hear_dials = hear_dials
        self._born = BornSockets()
        self._names: dict[Born, str] = {}
        self._leaves: dict[str, _Leaf] = {}

    def refresh(self, monotonic_s: float, live: set[str]) -> None:
        """List what exists now; ``live`` are the names of the leaves there are."""
        self._names = self._born.now(monotonic_s)
        self._leaves = {name: leaf for name, leaf in self._leaves.items() if name in live}

    def mask(self, governed: Governed, held: set[int]) -> list[str]:
        """Mask what is new in the leaf's view and not its own; return the paths.

        Args:
            governed: a running leaf.
            held: inode numbers of the sockets that its processes hold, looked at after ``refresh``.

        Raises:
            HostagentError: something in view could not be masked.
            OSError: the kernel refused a step.
        """
        assert governed.process is not None
        leaf = self._leaves.get(governed.leaf.name) or _leaf(governed)
        self._leaves[governed.leaf.name] = leaf
        leaf.seen &= self._names.keys()
        fresh = [born for born in self._names if born not in leaf.seen]
        if not fresh:
            return []
        strangers = [born for born in fresh if born.namespace != leaf.network and born.inode not in held]
        found = self._in_view(governed, leaf, strangers)
        try:
            if found:
                self._cover(governed, leaf, found)
            leaf.seen.update(fresh)
            return [each.path for each in found]
        finally:
            for each in found:
                each.close()

    def _in_view(self, governed: Governed, leaf: _Leaf, strangers: list[Born]) -> list[InView]:
        """Return what is to be covered, each file once."""
        assert governed.process is not None
        doors = {door.file for door in governed.unix}
        found: dict[tuple[int, int], InView] = {}
        candidates = {path: False for born in strangers for path in self._born.beside(self._names[born])}
        exact = {path: True for born in strangers for path in self._born.exact(self._names[born])}
        both = (candidates | exact).items()
        inside = {(_inside(path, governed.workload.root), path, named) for path, named in both if governed.workload.root}
        for shown, path, named in {(path, path, named) for path, named in both} | inside:
            seen = look(governed.process.pid, shown) if shown else None
            if seen is None:
                continue
            key = (seen.device, seen.inode)
            ours = seen.device in leaf.private or key in doors or key in found
            if ours or not (seen.read_only or (named and self._there(strangers, path))):
                seen.close()
            else:
                found[key] = seen
        return list(found.values())

    def _there(self, strangers: list[Born], path: str) -> bool:
        """Whether one of ``strangers`` that may be called ``path`` still exists: a dead one's file may be the workload's by now."""
        return any(path in self._born.exact(self._names[born]) and self._born.exists(born) for born in strangers)

    def _cover(self, governed: Governed, leaf: _Leaf, found: list[InView]) -> None:
        assert governed.process is not None
        if leaf.masks + len(found) > _MOST:
            raise HostagentError(f"more than {_MOST} unix sockets came into view")
        listeners = cover(governed.process.pid, found, leaf.masks)
        for each, listener in zip(found, listeners, strict=True):
            self._hear(governed, leaf, listener, each.path)

    def _hear(self, governed: Governed, leaf: _Leaf, listener: socket.socket, path: str) -> None:
        leaf.masks += 1
        if leaf.masks <= _LISTENERS:
            self._hear_dials(governed, listener.detach(), path)
        else:
            listener.close()  # refused all the same, without a row


def _inside(path: str, root: str) -> str:
    """Return what the host's ``path`` is called where the folder ``root`` is the root; empty where it lies elsewhere."""
    folder = f"{os.path.realpath(root)}/"
    real = os.path.realpath(path)
    return f"/{real[len(folder) :]}" if real.startswith(folder) else ""


def _leaf(governed: Governed) -> _Leaf:
    assert governed.process is not None
    first = governed.process.pid
    private = {Path(f"/proc/{first}/root{folder}").stat().st_dev for folder in _PRIVATE if Path(f"/proc/{first}/root{folder}").is_dir()}
    # In the host's network others' sockets are in the same table.
    network = Path(f"/proc/{first}/ns/net").stat().st_ino if governed.isolated else 0
    return _Leaf(frozenset(private), network)
