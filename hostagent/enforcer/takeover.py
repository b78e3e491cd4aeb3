"""What outlasts enforcerd: the descriptors of each running leaf, kept by the service manager and given to the next enforcerd.

When a program has started, everything that belongs to its leaf and would go with this process is put into the manager's store
(sd_pid_notify_with_fds(3), ``FDSTORE=1``) under the leaf's name, together with a sealed memory file that says what is what. So a
planned restart, an upgrade and a crash are the same to a workload: its listeners stay open, its denied calls wait, its launcher
hears nothing. The store is emptied when the unit is stopped; what is then found in the slice is ended as ever.

Not kept, and so lost in between: counts not yet written, the lineage of processes that ran already, listeners of masks that
were put on after the launch (dials of those are refused without a row), refused packets of shared leaves.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.confinement.launch import Process, receive
from hostagent.enforcer.confinement.unixdoors import UnixDoor
from hostagent.enforcer.doors import InboundDoor
from hostagent.enforcer.governed import Account, Governed, Stage
from hostagent.enforcer.listeners import Listeners
from hostagent.enforcer.peers import Peer
from hostagent.enforcer.rules.refusals import PacketLog
from hostagent.enforcer.settings import DescriptorStore, Settings
from hostagent.ipc import Launch, State
from hostagent.model.errors import HostagentError
from hostagent.model.workload import Workload

log = logging.getLogger(__name__)

_VERSION = 1
_MOST = 250
"""Descriptors in one message; the kernel's limit is 253 (SCM_MAX_FD)."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MEMORY = "hostagent-leaf"
_CALLS = "seccomp notify"


class _Manifest(msgspec.Struct, frozen=True):
    """One leaf. Descriptors are named by device and inode (empty: none): the store keeps no order and gives them other numbers."""

    version: int
    cgroup: int
    workload: Workload
    launcher: str
    tty: bool
    account: Account
    number: int
    pid: int
    main_pid: int
    start_ticks: int
    executable: str
    session: str
    started_at: float
    loopback_ports: frozenset[int]
    backstop: str
    unheard: str
    unmarked: str
    request_id: int
    port: int
    dns_port: int
    network: str
    packets: str
    control: str
    asker: str
    listeners: list[str]
    unix: list[tuple[str, str, str]]
    inbound: list[str]
    masked: list[tuple[str, str]]
    servers: list[int]


@dataclass(slots=True)
class Returned:
    """A leaf that goes on, or has ended meanwhile (``Stage.ENDED``), and who is to be told of it. ``heard`` are the sources of its attempts: path, or empty for its denied calls."""

    governed: Governed
    peer: Peer
    request_id: int
    unmarked: str
    servers: list[int]
    heard: list[tuple[str, int]] = field(default_factory=list)


def keep(
    store: DescriptorStore, governed: Governed, asked: tuple[Peer, int], heard: Iterable[tuple[str, int]], unmarked: str, servers: Iterable[int]
) -> None:
    """Put a leaf whose program runs into the store.

    Args:
        store: the service manager's.
        governed: the leaf.
        asked: its launcher's connection and request.
        heard: see ``Returned``.
        unmarked: why its sockets carry no mark, empty when they do.
        servers: pids of the enforcers that have served it.
    """
    assert governed.listeners is not None
    assert governed.process is not None
    heard = list(heard)
    listeners, unix = governed.listeners, governed.unix
    six, others = listeners.own, [door for door in listeners.doors if door not in unix]
    manifest = _Manifest(
        version=_VERSION,
        cgroup=governed.leaf.id,
        workload=governed.workload,
        launcher=governed.launcher,
        tty=governed.request.tty,
        account=governed.account,
        number=governed.number,
        pid=governed.process.pid,
        main_pid=governed.main_pid,
        start_ticks=governed.start_ticks,
        executable=governed.executable.encode(errors="replace").decode(),
        session=governed.session,
        started_at=governed.started_at,
        loopback_ports=governed.loopback_ports,
        backstop=governed.backstop,
        unheard=governed.unheard,
        unmarked=unmarked,
        request_id=asked[1],
        port=listeners.port,
        dns_port=listeners.dns_port,
        network=_inode(governed.network) if governed.network >= 0 else "",
        packets=_inode(governed.log.fileno()) if governed.log is not None else "",
        control=_inode(governed.process.control.fileno()),
        asker=_inode(asked[0].fileno()),
        listeners=[_inode(each.fileno()) for each in six],
        unix=[(door.path, str(door.place), _inode(door.listener.fileno())) for door in unix],
        inbound=[_inode(door.listener.fileno()) for door in others],
        masked=[(path, _inode(descriptor)) for path, descriptor in heard if path],
        servers=sorted({os.getpid(), *servers}),
    )
    descriptors = [*listeners.descriptors, governed.process.control.fileno(), asked[0].fileno(), *(each for _, each in heard)]
    descriptors += [governed.network] if governed.network >= 0 else []
    descriptors += [governed.log.fileno()] if governed.log is not None else []
    if len(descriptors) >= _MOST:
        log.warning("leaf %s has too many descriptors to be kept: it ends with this enforcerd", governed.leaf.name)
        return
    memory = os.memfd_create(_MEMORY, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(msgspec.json.encode(manifest))
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        store.keep(governed.leaf.name, [memory, *descriptors])
    finally:
        os.close(memory)


def returned(settings: Settings, slice_: Slice) -> list[Returned]:
    """Return the leaves of an earlier enforcerd that can go on; what cannot is taken out of the store, with the reason in the log."""
    store = settings.store
    if store is None:
        return []
    found = []
    for name, descriptors in store.take().items():
        given = _Given(descriptors)
        try:
            found.append(_rebuilt(settings, slice_, name, given))
            if found[-1].governed.stage is Stage.ENDED:
                store.drop(name)
        except (HostagentError, OSError, msgspec.MsgspecError, LookupError) as error:
            log.warning("leaf %s of an earlier enforcerd cannot go on: %s", name, error)
            store.drop(name)
        given.close()
    return found


class _Given:
    """The descriptors of one leaf; what was not taken is closed."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._by_inode: dict[str, int] = {}
        self._named: dict[str, int] = {}
        for descriptor in descriptors:
            name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no path
            key = next((known for known in (_MEMORY, _CALLS) if known in name), "")
            if key and key not in self._named:
                self._named[key] = descriptor
            else:
                self._by_inode[_inode(descriptor)] = descriptor

    def manifest(self) -> _Manifest:
        """Return what was written of the leaf.

        Raises:
            LookupError, MsgspecError, HostagentError: none, or one that is not understood.
        """
        descriptor = self._named[_MEMORY]
        manifest = msgspec.json.decode(os.pread(descriptor, os.fstat(descriptor).st_size, 0), type=_Manifest)
        if manifest.version != _VERSION:
            raise HostagentError(f"it was kept by a version that writes layout {manifest.version}")
        return manifest

    def calls(self) -> int | None:
        """Take the descriptor of its denied calls; None: it has none."""
        return self._named.pop(_CALLS, None)

    def take(self, inode: str) -> int:
        """Take the descriptor of this device and inode.

        Raises:
            LookupError: it is not there.
        """
        return self._by_inode.pop(inode)

    def socket(self, inode: str) -> socket.socket:
        """As ``take``."""
        return socket.socket(fileno=self.take(inode))

    def close(self) -> None:
        """Close the rest."""
        for descriptor in (*self._by_inode.values(), *self._named.values()):
            os.close(descriptor)


def _rebuilt(settings: Settings, slice_: Slice, name: str, given: _Given) -> Returned:
    """Return the leaf as it was.

    Raises:
        HostagentError, OSError, LookupError, MsgspecError: it has ended, or something of it is missing.
    """
    kept = given.manifest()
    leaf = slice_.leaf(name)
    if leaf.path.exists() and leaf.id != kept.cgroup:
        raise HostagentError("its cgroup is another one")
    if leaf.frozen:
        raise HostagentError("it was about to be ended")
    with contextlib.ExitStack() as undo:
        control = undo.enter_context(given.socket(kept.control))
        control.setblocking(False)
        connection = undo.enter_context(given.socket(kept.asker))
        peer = Peer(connection, settings.proxy_uid)
        peer.table.state = State.RUNNING
        governed = Governed(
            leaf=leaf,
            workload=kept.workload,
            launcher=kept.launcher,
            request=Launch(kept.workload.name, [], {}, "", kept.tty),
            account=kept.account,
            number=kept.number,
            stage=Stage.RUNNING,
            process=Process(kept.pid, control),
            main_pid=kept.main_pid,
            start_ticks=kept.start_ticks,
            executable=kept.executable,
            session=kept.session,
            started_at=kept.started_at,
            loopback_ports=kept.loopback_ports,
            backstop=kept.backstop,
            unheard=kept.unheard,
            returned=True,
        )
        found = Returned(governed, peer, kept.request_id, kept.unmarked, kept.servers)
        if kept.pid not in leaf.processes():
            governed.stage, governed.status = Stage.ENDED, _last_word(control)
            control.close()
            undo.pop_all()
            return found
        listeners = Listeners(kept.port, kept.dns_port, [given.socket(each) for each in kept.listeners])
        undo.callback(listeners.close)
        unix = [UnixDoor(Path(place), path, given.socket(inode)) for path, place, inode in kept.unix]
        listeners.doors = [*unix, *(InboundDoor(each, given.socket(key)) for each, key in zip(kept.workload.inbound, kept.inbound, strict=True))]
        governed.listeners, governed.unix = listeners, unix
        governed.log = PacketLog(settings.log_group, given.socket(kept.packets)) if kept.packets else None
        governed.network = given.take(kept.network) if kept.network else -1
        found.heard = [(path, given.take(inode)) for path, inode in kept.masked]
        calls = given.calls()
        if calls is not None:
            found.heard.append(("", calls))
        undo.pop_all()
    return found


def _last_word(control: socket.socket) -> int:
    """Return the exit status that a first process that is gone has reported, -9 if it could not."""
    status = -9
    with contextlib.suppress(OSError):
        while report := receive(control):
            word, _, rest = report.text.partition(" ")
            if word == "exit":
                status = int(rest)
    return status


def former_servers(leaves: Iterable[Returned]) -> frozenset[int]:
    """Return the pids of the enforcers that served ``leaves`` before us: of sockets that they listened on, the kernel still names them."""
    return frozenset(pid for each in leaves for pid in each.servers)


def doors_of(leaves: Iterable[Returned]) -> frozenset[str]:
    """Return the files of the unix listeners that go on."""
    return frozenset(str(door.place) for each in leaves for door in each.governed.unix)


def _inode(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"
