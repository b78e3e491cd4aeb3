"""enforcerd: one loop over its sockets, its children's reports, the kernel's packet logs and its signals.

Everything here is a short step; the longest is preparing a leaf (about 0.1 s, nft and the canary). A workload's way: Launch
-> (Admit) -> leaf, rules, listeners, canary -> (Listen) -> program -> Launched -> its end -> (Retire), Exited.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.launchers import REFUSED_CODE
from hostagent.enforcer.leaves import Leaves
from hostagent.enforcer.peers import Door, Peer, listen
from hostagent.enforcer.renewal import Renewal, told
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.status import report
from hostagent.enforcer.trustwatch import TrustWatch
from hostagent.ipc import (
    Admitted,
    Attach,
    Attached,
    Body,
    Draw,
    Failed,
    Kill,
    Killed,
    Launch,
    Leave,
    Listening,
    Packet,
    Quarantine,
    Quarantined,
    Release,
    Released,
    Reload,
    Renewed,
    Retired,
    Signal,
    Signalled,
    State,
    Status,
    StatusReport,
    Uninstall,
    Uninstalled,
    Verified,
    Verify,
)
from hostagent.model.errors import HostagentError, NotPermittedError, RemoteWireError
from hostagent.model.event import EventKind

log = logging.getLogger(__name__)

_TICK_S = 0.5
_UNINSTALL_S = 10.0


class Server:
    """The process. ``run`` returns when it is told to stop; the fence and what runs inside it stay."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is touched until ``run``."""
        self._settings = settings
        self._selector = selectors.DefaultSelector()
        self._evidence = Evidence(settings.journal)
        self._leaves = Leaves(settings, self._evidence, self._selector)
        self._renewal = Renewal(settings, self._leaves)
        self._trust = TrustWatch(settings.ca_file, self._evidence, self._leaves.live)
        self._door = Door()
        self._stopping = False
        self._uninstalled = False
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._listener: socket.socket | None = None

    def run(self, ready: Callable[[], None] = lambda: None, alive: Callable[[], None] = lambda: None) -> bool:
        """Load the fence, go on with what an earlier enforcerd left in the slice or end it, and serve until SIGTERM, SIGINT or an uninstall.

        Returns whether it was an uninstall: then the fence is gone, and to be started again is not wanted.

        Args:
            ready: called once when requests are served.
            alive: called at every turn of the loop, at least each half second.

        Raises:
            HostagentError: the host cannot be fenced.
        """
        kernel.become_subreaper()
        launchers = self._leaves.begin()
        self._listener = listen(self._settings.socket_path)
        for peer in launchers:
            self._door.enter(peer, time.monotonic())
            self._selector.register(peer.connection, selectors.EVENT_READ, lambda peer=peer: self._readable(peer))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._watch_signals()
        self._evidence.service("started", "")
        ready()
        try:
            self._serve(alive)
        finally:
            self._leaves.abandon()
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                Path(self._settings.socket_path).unlink()
            if not self._uninstalled:
                self._evidence.service("stopped", "the fence stays; `hostagent uninstall` removes it")
        return self._uninstalled

    def stop(self) -> None:
        """End ``run`` after the present step."""
        self._stopping = True

    def _serve(self, alive: Callable[[], None]) -> None:
        next_tick = time.monotonic() + _TICK_S
        while not self._stopping:
            alive()
            due = min(next_tick, self._leaves.auditor.due)
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if still_registered(self._selector, key):
                    key.data()
            if time.monotonic() >= self._leaves.auditor.due:
                self._leaves.auditor.step(time.monotonic())
            if time.monotonic() >= next_tick:
                self._leaves.tick(time.monotonic())
                self._trust.tick()
                self._leaves.cutting.tick(time.monotonic())
                self._renewal.tick(time.monotonic())
                for peer in self._door.overdue(time.monotonic()):
                    self._drop(peer)
                next_tick = time.monotonic() + _TICK_S

    def _watch_signals(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._wake = (reader, writer)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, self._signalled)

    def _signalled(self) -> None:
        assert self._wake is not None
        for number in self._wake[0].recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
            elif number == signal.SIGHUP:
                with _logged("reload"):
                    self._renewal.begin(told)
        self._leaves.reap()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        peer = Peer(connection, self._settings.proxy_uid)
        if self._leaves.slice.contains(peer.pid):
            fields: dict[str, object] = {"layer": "mount", "reason": "a governed process asked enforcerd", "count": 1}
            self._evidence.note(EventKind.REFUSAL, "", fields)
            peer.close()
            return
        if not self._door.enter(peer, time.monotonic()):
            peer.close()
            return
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._readable(peer))

    def _readable(self, peer: Peer) -> None:
        try:
            packet = peer.receive()
        except BlockingIOError:
            return
        except RemoteWireError as error:
            if self._door.allows(peer, time.monotonic()):
                log.warning("connection of pid %d (uid %d) closed: %s", peer.pid, peer.uid, error)
            packet = None
        except OSError:
            packet = None
        if packet is None:
            self._drop(peer)
            return
        self._handle(peer, packet)

    def _drop(self, peer: Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.close()
        self._door.leave(peer)
        self._leaves.peer_gone(peer)

    def _handle(self, peer: Peer, packet: Packet) -> None:
        """Do what a permitted packet asks. What goes wrong is the asker's answer, never our end."""
        if not self._door.allows(peer, time.monotonic()):
            peer.send(packet.id, Failed("too many requests of this user; try again in a moment"))
            return
        try:
            self._dispatch(peer, packet.id, packet.body)
        except (HostagentError, OSError) as error:
            log.warning("%s of %s: %s", type(packet.body).__name__, peer.name, error)
            code = REFUSED_CODE if isinstance(error, NotPermittedError) else 1
            peer.send(packet.id, Failed(str(error), code))
        except Exception as error:
            # A fault of ours in one request must not take the others' launchers down with it.
            log.exception("%s of %s", type(packet.body).__name__, peer.name)
            peer.send(packet.id, Failed(f"internal error: {error!r}"))

    def _dispatch(self, peer: Peer, packet_id: int, body: Body) -> None:
        match body:
            case Launch():
                self._leaves.launch(peer, packet_id, body)
            case Signal(number=number):
                self._leaves.signal(peer, number)
                peer.send(packet_id, Signalled())
            case Status():
                peer.send(packet_id, StatusReport(report(self._settings, self._leaves, self._evidence) | {"trust": self._trust.report()}))
            case Kill(name=name, reason=reason):
                killed = self._leaves.kill(name, reason or f"killed by {peer.name}")
                peer.send(packet_id, Killed(killed))
            case Quarantine(name=name, reason=reason):
                peer.send(packet_id, Quarantined(self._leaves.quarantine.impose(name, peer.name, reason)))
            case Release(name=name):
                self._leaves.quarantine.lift(name, peer.name)
                peer.send(packet_id, Released())
            case Reload():
                self._renewal.begin(lambda result: peer.send(packet_id, result))
            case Verify():
                self._leaves.verification.ask(
                    lambda result: peer.send(packet_id, Verified(dict(result.attempts), list(result.failed), result.elapsed_us))
                )
            case Uninstall():
                self._uninstall(peer, packet_id)
            case Attach(worker=worker):
                self._attach(peer, packet_id, worker)
            case Admitted() | Listening() | Retired() | Renewed() | Failed() | Draw() | Leave():
                self._answered(packet_id, body)
            case _:  # the table lets nothing else through
                raise HostagentError(f"{type(body).__name__} is not a request")

    def _answered(self, packet_id: int, body: Admitted | Listening | Retired | Renewed | Failed | Draw | Leave) -> None:
        if not self._renewal.answered(packet_id, body) and not isinstance(body, Renewed):
            self._leaves.answered(packet_id, body)

    def _attach(self, peer: Peer, packet_id: int, worker: str) -> None:
        if self._leaves.proxy is not None:
            # A second one would be somebody else with the proxy's uid, or an upgrade that forgot to stop the first.
            raise HostagentError("a proxy is attached already")
        peer.worker = worker
        peer.table.state = State.ATTACHED
        peer.send(packet_id, Attached([each.leaf.name for each in self._leaves.live()]))
        self._leaves.attached(peer)

    def _uninstall(self, peer: Peer, packet_id: int) -> None:
        for each in self._leaves.live():
            self._leaves.end(each, "uninstalled")
        until = time.monotonic() + _UNINSTALL_S
        while self._leaves.live() and time.monotonic() < until:
            self._leaves.hear_ends()
            time.sleep(0.01)
        removed = self._leaves.uninstall()
        self._evidence.service("stopped", "uninstalled")
        peer.send(packet_id, Uninstalled(removed))
        self._uninstalled = self._stopping = True


def still_registered(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
    """Whether ``key`` still counts: what came before it in its batch may have closed it, and its number be another's by now."""
    try:
        return selector.get_key(key.fileobj) is key
    except (KeyError, ValueError):  # ValueError: it has no number any more
        return False


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except (HostagentError, OSError):
        log.exception("%s failed, the previous state stays", what)

