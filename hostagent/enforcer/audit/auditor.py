"""The auditor: looks again and again at what governed processes hold, and ends those that hold what was made elsewhere.

The second net. Launching closes every way that is known to bring a descriptor in; this finds what came all the same: sockets
passed in, whether connected or not, processes that somebody moved into a leaf or out of it. One look at everything takes
place every ``EVERY_S``, in small steps between which the loop does its other work; so whatever is held for longer than
``BOUND_S`` is found. What cannot be looked at is said in ``problem``, and after ``PATIENCE_S`` of that nothing is launched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostagent.enforcer import kernel
from hostagent.enforcer.audit import leafmark
from hostagent.enforcer.audit.descriptors import Table, tables
from hostagent.enforcer.audit.held import FINE, FINE_UNIX, Inside, Verdict, judge, network_cookie
from hostagent.enforcer.audit.letters import close, peek, waiting
from hostagent.enforcer.audit.newcomers import HearDials, Newcomers
from hostagent.enforcer.audit.strays import strays
from hostagent.enforcer.confinement.launch import start_ticks
from hostagent.enforcer.governed import Governed, Stage
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings
from hostagent.model.errors import HostagentError
from hostagent.model.event import EventKind

log = logging.getLogger(__name__)

EVERY_S = 0.5
BOUND_S = 1.0
"""Longest time from a foreign descriptor's arrival to its holder's end, as long as one look takes less than ``EVERY_S``."""
PATIENCE_S = 5.0
_STEP_S = 0.004
_MOST_DESCRIPTORS = 100_000
_MOST_SOCKETS = 40_000
"""Of one leaf, each descriptor counted: more could not be looked at within the bound, and whoever holds them would delay every other leaf's."""
_QUEUES = 300
"""Most unix sockets of a leaf whose queues are looked at each time."""
_PATIENT_LOOKS = 4
"""So many looks in a row may find processes moved out of a leaf before the leaf itself is ended, and with it all of its namespace."""
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _Watched:
    """What is known of one leaf: the sockets that it held at the last look, by inode, and which were judged fine (``unix``: of these, the unix ones); for how many looks there were strays."""

    governed: Governed
    cookie: int
    pid_namespace: int
    marked: bool
    fine: set[int] = field(default_factory=set)
    unix: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    strayed: int = 0


@dataclass(slots=True)
class _Look:
    """One look at everything, so far. ``leaf_held`` and ``leaf_sockets`` count the descriptors of the leaf at hand, and the sockets among them."""

    began: float
    spent: float = 0.0
    sockets: int = 0
    processes: int = 0
    leaf_held: int = 0
    leaf_sockets: int = 0


class Auditor:
    """Call ``step`` when ``due`` has come. ``problem`` says why it cannot look, empty when it can."""

    def __init__(
        self,
        settings: Settings,
        evidence: Evidence,
        live: Callable[[], list[Governed]],
        end: Callable[[Governed, str], None],
        hear_dials: HearDials,
    ) -> None:
        """Nothing is looked at until ``step``.

        Args:
            settings: the proxy's uid is taken from them.
            evidence: findings are written here.
            live: the leaves there are.
            end: ends a leaf and gives the reason to its launcher.
            hear_dials: is given the listeners that stand in for masked sockets.
        """
        self.due = 0.0
        self.problem = ""
        self.former: frozenset[int] = frozenset()
        self._settings = settings
        self._evidence = evidence
        self._live = live
        self._end = end
        self._newcomers = Newcomers(hear_dials)
        self._unmarked: dict[str, str] = {}
        self._watched: dict[str, _Watched] = {}
        self._running: Iterator[None] | None = None
        self._look = _Look(0.0)
        self._last = _Look(0.0)
        self._last_at = 0.0
        self._completed = time.monotonic()
        self._findings = 0
        self._looks = 0

    # -- the loop's side ---------------------------------------------------------------------------------------------------

    def mark(self, governed: Governed) -> None:
        """Mark a new leaf's sockets, before anything is made in it."""
        try:
            leafmark.attach(governed.leaf.path, governed.number)
        except OSError as error:
            self._unmarked[governed.leaf.name] = str(error)
            log.warning("leaf %s: its sockets carry no mark: %s", governed.leaf.name, error)

    def unmarked(self, leaf: str) -> str:
        """Return why a leaf's sockets carry no mark, empty when they do."""
        return self._unmarked.get(leaf, "")

    def returned(self, leaf: str, unmarked: str) -> None:
        """Go on with a leaf that an earlier enforcerd marked; ``unmarked`` says why it could not."""
        if unmarked:
            self._unmarked[leaf] = unmarked

    def step(self, now: float) -> None:
        """Look on for a few milliseconds; when everything was looked at, rest until the next ``due``."""
        if self._running is None:
            self._look = _Look(now)
            self._running = self._everything()
        began, spent = time.perf_counter(), time.process_time()
        try:
            while time.perf_counter() - began < _STEP_S:
                next(self._running)
            self.due = now
        except StopIteration:
            self._look.spent += time.process_time() - spent
            self._complete(now)
            return
        except Exception as error:
            # Whatever it is, the loop must go on and the look be tried again; meanwhile ``refusal`` keeps the door shut.
            log.exception("the auditor")
            self._fail(now, repr(error))
        self._look.spent += time.process_time() - spent

    def refusal(self, now: float) -> str:
        """Return why nothing may be launched now, empty when the last complete look is recent enough."""
        if now - self._completed <= PATIENCE_S:
            return ""
        return f"the auditor has not seen everything for {now - self._completed:.0f} s: {self.problem or 'it is too slow'}"

    def report(self) -> dict[str, Any]:
        """Return the state for ``status``.

        Keys: ``last_at`` (unix seconds of the last complete look, 0 before the first), ``took_us`` of processor time for it,
        ``sockets`` and ``processes`` looked at, ``findings`` since the start, ``problem``.
        """
        return {
            "last_at": self._last_at,
            "took_us": int(self._last.spent * 1e6),
            "sockets": self._last.sockets,
            "processes": self._last.processes,
            "findings": self._findings,
            "problem": self.problem or self.refusal(time.monotonic()),
        }

    def weaker(self) -> list[str]:
        """Return what is weaker than it could be, one line each."""
        live = {each.leaf.name for each in self._live()}
        return [
            f"{name}: its sockets are told from others by owner and network alone, not by their maker's cgroup: {reason}"
            for name, reason in self._unmarked.items()
            if name in live
        ]

    def _complete(self, now: float) -> None:
        self._running = None
        self._looks += 1
        self._last = self._look
        self._last_at = time.time()
        self._completed = time.monotonic()
        self.due = max(now, self._look.began + EVERY_S)
        if self.problem:
            self.problem = ""
            self._evidence.service("started", "the auditor sees everything again")

    def _fail(self, now: float, reason: str) -> None:
        self._running = None
        self.due = now + EVERY_S
        if not self.problem:
            self._evidence.service("failed", f"the auditor cannot see everything: {reason}")
        self.problem = reason

    # -- one look ----------------------------------------------------------------------------------------------------------

    def _everything(self) -> Iterator[None]:
        """Look at every running leaf; pauses wherever the loop may do something else."""
        live = {each.leaf.name: each for each in self._live()}
        self._unmarked = {name: reason for name, reason in self._unmarked.items() if name in live}
        self._watched = {name: watched for name, watched in self._watched.items() if name in live}
        if any(governed.stage is Stage.RUNNING for governed in live.values()):
            self._newcomers.refresh(time.monotonic(), set(live))
            yield
        for name, governed in live.items():
            if governed.stage is Stage.RUNNING:
                watched = self._watched.get(name) or self._watch(governed)
                if watched is not None:
                    self._watched[name] = watched
                    yield from self._leaf(watched)
                    yield from self._strays(watched)
                    self._mask(watched)
            yield

    def _watch(self, governed: Governed) -> _Watched | None:
        assert governed.process is not None
        try:
            namespace = Path(f"/proc/{governed.process.pid}/ns/pid").stat().st_ino
        except (FileNotFoundError, ProcessLookupError):
            return None
        if governed.isolated:
            with kernel.in_network(governed.network):
                cookie = network_cookie()
        else:
            cookie = network_cookie()
        return _Watched(governed, cookie, namespace, marked=governed.leaf.name not in self._unmarked)

    def _leaf(self, watched: _Watched) -> Iterator[None]:
        governed = watched.governed
        assert governed.process is not None
        self._look.leaf_held = self._look.leaf_sockets = 0
        held: set[int] = set()
        processes = governed.leaf.processes()
        inside = self._inside(watched)
        for pid in processes:
            if governed.stage is not Stage.RUNNING or governed.reason:
                return
            self._look.processes += 1
            # The first process is ours: it runs nothing of the workload's, and it holds the socket that it reports over.
            if pid != governed.process.pid and self._belongs(watched, pid):
                for table in tables(pid):
                    with contextlib.closing(table):
                        yield from self._table(watched, table, inside, held)
            yield
        watched.fine &= held
        watched.unix &= held
        watched.held = held
        self._look.sockets += len(held)

    def _mask(self, watched: _Watched) -> None:
        """Mask the unix sockets that came into the leaf's view; where one cannot be, the leaf is ended."""
        governed = watched.governed
        if governed.stage is not Stage.RUNNING or governed.reason:
            return
        assert governed.process is not None
        try:
            masked = self._newcomers.mask(governed, watched.held)
        except (FileNotFoundError, ProcessLookupError):
            return  # ended meanwhile
        except HostagentError as error:
            self._foreign(watched, governed.main_pid, Verdict("unix-listener", str(error)))
            return
        for path in masked:
            facts = {"leaf": governed.leaf.name, "finding": "unix-listener", "pid": 0, "start_ns": 0, "exe": "", "detail": path}
            self._record(watched, facts, "masked")

    def _inside(self, watched: _Watched) -> Inside:
        governed = watched.governed
        assert governed.process is not None
        return Inside(
            number=governed.number,
            marked=watched.marked,
            cookie=watched.cookie,
            uid=governed.account.uid if governed.account.own else -1,
            # Both live as long as this look: neither number can be another's.
            servers=frozenset({os.getpid(), governed.process.pid}),
            former=self.former,
            server_uid=self._settings.proxy_uid,
            has=lambda pid: pid in governed.leaf.processes(),
        )

    def _belongs(self, watched: _Watched, pid: int) -> bool:
        """Whether ``pid`` is of the leaf's own pid namespace; one that was moved in from outside is ended."""
        try:
            namespace = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        except (FileNotFoundError, ProcessLookupError):
            return False
        if namespace == watched.pid_namespace:
            return True
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if pid in watched.governed.leaf.processes():
                    facts = self._facts(watched, "moved-process", pid, "not started in this leaf; moved in from outside")
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    self._record(watched, facts)
            finally:
                os.close(pidfd)
        return False

    def _strays(self, watched: _Watched) -> Iterator[None]:
        """End the leaf's processes that were moved out of it; where that does not help, the leaf."""
        governed, last = watched.governed, 0
        assert governed.process is not None
        for stray in strays(governed.process.pid, governed.leaf):
            if stray is not None:
                with contextlib.closing(stray), contextlib.suppress(ProcessLookupError):
                    last = stray.pid
                    facts = self._facts(watched, "moved-process", stray.pid, f"started in this leaf; moved out of it to {stray.place}")
                    signal.pidfd_send_signal(stray.descriptor, signal.SIGKILL)
                    self._record(watched, facts)
            yield
            if governed.stage is not Stage.RUNNING or governed.reason:
                return
        watched.strayed = watched.strayed + 1 if last else 0
        if watched.strayed >= _PATIENT_LOOKS:
            self._foreign(watched, last, Verdict("moved-process", "processes are moved out of it again and again"))

    def _table(self, watched: _Watched, table: Table, inside: Inside, held: set[int]) -> Iterator[None]:
        """Look at one table of descriptors, unless its leaf was ended for another one."""
        if watched.governed.reason:
            return
        for batch in table.sockets():
            self._look.leaf_held += batch.looked_at
            self._look.leaf_sockets += len(batch.found)
            if self._look.leaf_held > _MOST_DESCRIPTORS or self._look.leaf_sockets > _MOST_SOCKETS:
                detail = f"more than {_MOST_DESCRIPTORS}, or {_MOST_SOCKETS} sockets"
                self._foreign(watched, table.pid, Verdict("too-many-descriptors", detail))
                return
            for number, key in batch.found:
                held.add(key)
                if key not in watched.fine and self._socket(watched, table, number, inside):
                    return
                if key in watched.unix and self._turn(watched, key) and self._letters(watched, table, number, inside):
                    return
            yield

    def _socket(self, watched: _Watched, table: Table, number: int, inside: Inside) -> bool:
        """Judge one descriptor; return whether its leaf was ended for it."""
        taken = table.take(number, watched.governed.leaf)
        if taken is None:
            return False
        try:
            inode = os.fstat(taken).st_ino
            verdict = judge(taken, inside)
        finally:
            os.close(taken)
        if verdict is FINE_UNIX or not verdict.settled:
            watched.unix.add(inode)
        if verdict in (FINE, FINE_UNIX):
            watched.fine.add(inode)
        if not verdict.finding:
            return False
        self._foreign(watched, table.pid, Verdict(verdict.finding, f"descriptor {number}: {verdict.detail}"))
        return True

    def _turn(self, watched: _Watched, inode: int) -> bool:
        """Whether the queue of a unix socket is looked at now: all of a few, of many a part each time."""
        parts = 1 + len(watched.unix) // _QUEUES
        return (inode + self._looks) % parts == 0

    def _letters(self, watched: _Watched, table: Table, number: int, inside: Inside) -> bool:
        """Judge the descriptors that wait in a unix socket's queue; return whether the leaf was ended for one."""
        if not waiting(table, number):
            return False
        taken = table.take(number, watched.governed.leaf)
        if taken is None:
            return False
        letters = peek(taken)
        os.close(taken)
        try:
            verdicts = [judge(each, inside) for each in letters]
        finally:
            close(letters)
        for verdict in verdicts:
            if verdict.finding:
                detail = f"in the queue of descriptor {number}: {verdict.detail}"
                self._foreign(watched, table.pid, Verdict(verdict.finding, detail))
                return True
        return False

    # -- what was found ----------------------------------------------------------------------------------------------------

    def _foreign(self, watched: _Watched, pid: int, verdict: Verdict) -> None:
        """End the whole leaf: the descriptor may have been passed on inside it already."""
        facts = self._facts(watched, verdict.finding, pid, verdict.detail)
        self._end(watched.governed, f"the auditor found a {verdict.finding}: {verdict.detail}")
        self._record(watched, facts)

    def _facts(self, watched: _Watched, finding: str, pid: int, detail: str) -> dict[str, object]:
        exe = ""
        with contextlib.suppress(OSError):
            exe = str(Path(f"/proc/{pid}/exe").readlink())
        return {
            "leaf": watched.governed.leaf.name,
            "finding": finding,
            "pid": pid,
            "start_ns": start_ticks(pid) * _TICK_NS,
            "exe": exe,
            "detail": detail,
        }

    def _record(self, watched: _Watched, facts: dict[str, object], action: str = "killed") -> None:
        self._findings += 1
        elapsed = int((time.monotonic() - self._look.began) * 1e6)
        fields = facts | {"action": action, "elapsed_us": elapsed}
        self._evidence.note(EventKind.AUDIT, watched.governed.workload.name, fields)
        log.warning("leaf %s: %s: %r", watched.governed.leaf.name, facts["finding"], facts["detail"])
