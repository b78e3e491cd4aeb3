"""Unix sockets that come into a running workload's view: found among what listens anywhere on the host, and masked.

What was there before the launch is masked by the launch. A server that makes its socket anew takes the mask away with the old
file; the new one is a newcomer like any other. A workload's own sockets are never masked: what it makes in its private folders
is out of the question, and in a declared writable folder it is told from others' by its network namespace, or by being held.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.enforcer.audit.bornsockets import Born, BornSockets
from hostagent.enforcer.audit.latemasks import InView, cover, look
from hostagent.enforcer.governed import Governed

_PRIVATE = ("/run", "/tmp", "/var/tmp", "/dev", "/dev/shm")  # noqa: S108 - looked at, not used
_LISTENERS = 32
"""Most listeners of one leaf's late masks that are heard one by one: each is a descriptor held."""
_AT_ONCE = 256
"""Most that are masked in one look: somebody who makes thousands must not hold up the loop, nor have a leaf ended."""

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
        found, all_of_them = self._in_view(governed, leaf, strangers)
        try:
            if found:
                self._cover(governed, leaf, found)
            if all_of_them:
                leaf.seen.update(fresh)  # else the rest comes with the next look: what is covered is not found again
            return [each.path for each in found]
        finally:
            for each in found:
                each.close()

    def _in_view(self, governed: Governed, leaf: _Leaf, strangers: list[Born]) -> tuple[list[InView], bool]:
        """Return what is to be covered, each file once, ``_AT_ONCE`` at most, and whether that is all."""
        assert governed.process is not None
        by_name: dict[str, set[Born]] = {}
        for born in strangers:
            by_name.setdefault(self._names[born], set()).add(born)
        doors = {door.file for door in governed.unix}
        found: dict[tuple[int, int], tuple[InView, set[Born]]] = {}
        for shown, called in self._shown(governed, by_name):
            if len(found) >= _AT_ONCE:
                break
            seen = look(governed.process.pid, shown)
            if seen is None:
                continue
            key = (seen.device, seen.inode)
            makers = {born for name in called for born in by_name[name]}
            if seen.device in leaf.private or key in doors or not (seen.read_only or makers):
                seen.close()
            elif key in found:
                found[key][1].update(makers)
                seen.close()
            else:
                found[key] = (seen, makers)
        # Asked after the files were looked at: the file of one that is dead may be the workload's by now.
        living = self._born.living({born for _, makers in found.values() for born in makers})
        strange = []
        for seen, makers in found.values():
            if seen.read_only or makers & living:
                strange.append(seen)
            else:
                seen.close()
        return strange, len(found) < _AT_ONCE

    def _shown(self, governed: Governed, names: Collection[str]) -> Iterator[tuple[str, set[str]]]:
        """Yield the paths in the leaf's view of the socket files that ``names`` can mean, with those that mean this very file."""
        root = os.path.realpath(governed.workload.root) if governed.workload.root else ""
        for path, called in self._born.files(names).items():
            yield path, called
            inside = _inside(path, root) if root else ""
            if inside:
                yield inside, called

    def _cover(self, governed: Governed, leaf: _Leaf, found: list[InView]) -> None:
        assert governed.process is not None
        listeners = cover(governed.process.pid, found)
        for each, listener in zip(found, listeners, strict=True):
            self._hear(governed, leaf, listener, each.path)

    def _hear(self, governed: Governed, leaf: _Leaf, listener: socket.socket, path: str) -> None:
        leaf.masks += 1
        if leaf.masks <= _LISTENERS:
            self._hear_dials(governed, listener.detach(), path)
        else:
            listener.close()  # refused all the same, without a row


def _inside(path: str, root: str) -> str:
    """Return what the host's ``path`` is called where the (real) folder ``root`` is the root; empty where it lies elsewhere."""
    real = os.path.realpath(path)
    return real[len(root) :] if real.startswith(f"{root}/") else ""


def _leaf(governed: Governed) -> _Leaf:
    assert governed.process is not None
    first = governed.process.pid
    private = {Path(f"/proc/{first}/root{folder}").stat().st_dev for folder in _PRIVATE if Path(f"/proc/{first}/root{folder}").is_dir()}
    # In the host's network others' sockets are in the same table.
    network = Path(f"/proc/{first}/ns/net").stat().st_ino if governed.isolated else 0
    return _Leaf(frozenset(private), network)
