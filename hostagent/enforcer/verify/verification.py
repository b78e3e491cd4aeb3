"""``hostagent verify``: a hostile program in throw-away leaves, one per placement, and whether the rules are still those loaded.

The program goes the whole way of a launch (leaf, rules, listeners, the proxy, view, privileges, filter), so what holds it is
what holds a workload. It has no identity: what it dials, the proxy refuses and records. One run at a time; each step is short.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hostagent.enforcer.confinement.unixsockets import pathnames
from hostagent.enforcer.confinement.view import STAGE
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.rules import nft, ruleset
from hostagent.enforcer.rules.firewall import Firewall, choose
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.enforcer.verify.rulecheck import Loaded, RuleCheck
from hostagent.ipc import Launch
from hostagent.model.errors import HostagentError
from hostagent.model.event import EventKind
from hostagent.model.flow import Placement
from hostagent.model.workload import CANARY, Workload

log = logging.getLogger(__name__)

_RUN_S = 45.0
_AGAIN_S = 60.0
_SOON_S = 5.0
_MOST_OUTPUT = 65_536
_MOST_PATHS = 64
_INTERPRETERS = ("/usr/bin/python3", sys.executable)
_CALLS = ("setns", "unshare", "mount", "bpf", "ptrace", "io_uring_setup")

_NO_ROUTE = frozenset({"ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL"})
"""In the host's own network what has no route cannot be tried."""

_OUTSIDE = frozenset(
    {
        *("tcp IPv4", "tcp IPv6", "tcp IPv4 by an IPv6 socket", "udp IPv4", "udp IPv6"),
        *("DNS tunnel over UDP", "DNS tunnel over UDP IPv6", "DNS tunnel over TCP"),
    }
)

EXPECTED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("tcp IPv4", "tcp IPv6", "tcp IPv4 by an IPv6 socket"), frozenset({"closed"})),
    **dict.fromkeys(("udp IPv4", "udp IPv6"), frozenset({"EPERM"})),
    **dict.fromkeys(("DNS tunnel over UDP", "DNS tunnel over UDP IPv6", "DNS tunnel by loopback"), frozenset({"refused"})),
    "DNS tunnel over TCP": frozenset({"refused", "closed"}),
    **dict.fromkeys(("own listener IPv4", "own listener IPv6"), frozenset({"ECONNREFUSED"})),
    **dict.fromkeys(("another leaf's listener IPv4", "another leaf's listener IPv6"), frozenset({"ECONNREFUSED"})),
    "unix sockets of the host": frozenset({"none reached"}),
    **dict.fromkeys(("raw socket", "ping socket", "setns", "unshare", "mount", "bpf", "ptrace"), frozenset({"EPERM"})),
    **dict.fromkeys(("packet socket", "vsock socket", "netfilter socket"), frozenset({"EAFNOSUPPORT"})),
    "io_uring": frozenset({"ENOSYS"}),
    "set-user-id file": frozenset({"EPERM"}),
    "another cgroup": frozenset({"ENOENT", "EACCES", "EPERM", "EROFS"}),
    "root": frozenset({"EPERM"}),
    "a target's name resolves": frozenset({"resolved"}),
}
"""What must come of each attempt of ``intruder``. One that is missing has failed."""

_HOST_RULES = "rules of the host's table"
_NOT_ALWAYS = frozenset({"another leaf's listener IPv4", "another leaf's listener IPv6", "a target's name resolves"})


@dataclass(slots=True)
class Own:
    """A program of ours: ``request`` is asked when its leaf is ready, ``started`` gets its output, ``ended`` comes last."""

    request: Callable[[Governed], Launch]
    started: Callable[[int], None]
    ended: Callable[[Governed], None]


class Host(Protocol):
    """What a verification needs of ``Leaves``. ``attachments`` counts how often a proxy has come."""

    @property
    def attachments(self) -> int:
        """How often a proxy has come."""

    def live(self) -> list[Governed]:
        """Return every leaf that has not ended."""

    def start_own(self, workload: Workload, own: Own) -> Governed:
        """Begin the launch of a program of ours."""

    def prepare_neighbour(self, workload: Workload) -> Governed:
        """Make a leaf with open listeners and no program."""

    def end(self, governed: Governed, reason: str) -> None:
        """End a leaf at once."""

    def end_neighbour(self, governed: Governed) -> None:
        """Take back what ``prepare_neighbour`` made."""

    def host_rules(self) -> tuple[str, str]:
        """Return what the host's table was filled with (empty: nothing is loaded), and where cgroup v2 is."""

    @property
    def ready(self) -> bool:
        """Whether launches can succeed: a proxy is there and the fence is up."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found. ``attempts`` by name with outcome; ``failed`` are the names that are not as they must be."""

    cause: str
    at: float
    attempts: Mapping[str, str]
    failed: tuple[str, ...]
    elapsed_us: int

    @property
    def passed(self) -> bool:
        """Whether every attempt came out as it must."""
        return not self.failed


@dataclass(slots=True)
class _Run:
    """One run under way. ``waiting`` are placements not yet tried, ``leaf`` the one being tried, ``output`` its pipe or -1.

    ``host_rules`` is what the host's table held when the run began; ``rules`` is None when they have been compared;
    ``attachments`` tells whether the proxy is still the one that it began with.
    """

    cause: str
    began: float
    waiting: list[Placement]
    host_rules: str
    attachments: int
    rules: RuleCheck | None = None
    attempts: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    placement: Placement = Placement.ISOLATED
    leaf: Governed | None = None
    neighbour: Governed | None = None
    output: int = -1
    text: bytes = b""


class Verification:
    """Runs the attempts on demand, after reloads and every so often, and remembers how the last run ended."""

    def __init__(self, settings: Settings, evidence: Evidence, selector: selectors.BaseSelector, host: Host) -> None:
        """Nothing runs until ``ask`` or ``tick``. With ``settings.verify_every_s`` 0 nothing runs unasked."""
        self.last: Result | None = None
        self._settings = settings
        self._evidence = evidence
        self._selector = selector
        self._host = host
        self._asked: list[Callable[[Result], object]] = []
        self._run: _Run | None = None
        self._cause = "periodic"
        self._every, self._freeze = settings.verify_every_s, settings.verify_freeze
        self._due = time.monotonic() + self._every if self._every else float("inf")

    @property
    def frozen(self) -> str:
        """Why nothing may be launched, empty if it may: the last run failed and the configuration says that this freezes."""
        if not self._freeze or self.last is None or self.last.passed:
            return ""
        return f"frozen: `hostagent verify` failed ({', '.join(self.last.failed[:3])}); nothing is launched until it passes"

    def ask(self, answer: Callable[[Result], object]) -> None:
        """Run now, or share the run that is under way and was asked for; ``answer`` gets the result.

        Raises:
            HostagentError: nothing can be launched now.
        """
        if not self._host.ready:
            raise HostagentError("verify needs the proxy and the fence: hostagent status says what is missing")
        self._asked.append(answer)
        if self._run is None:
            self._begin("demand")

    def configure(self, every_s: float, freeze: bool) -> None:
        """Count by these from now on (``Settings.verify_every_s``, ``verify_freeze``)."""
        if every_s != self._every:
            self._due = time.monotonic() + every_s if every_s else float("inf")
        self._every, self._freeze = every_s, freeze

    def reloaded(self) -> None:
        """The rules were loaded anew: run soon, unless nothing is to run unasked."""
        if self._every:
            # Not at once: a reload reaches the proxy as well.
            self._due, self._cause = min(self._due, time.monotonic() + _SOON_S), "reload"

    def tick(self, now: float) -> None:
        """Begin what is due, go on with what runs (``now``: monotonic seconds)."""
        if self._run is not None:
            self._step(self._run, now)
        elif self._asked or now >= self._due:
            if self._host.ready:
                self._begin("demand" if self._asked else self._cause)
            else:
                self._due = now + _SOON_S

    def abandon(self) -> None:
        """We stop: let go of a run under way."""
        if self._run is not None and self._run.rules is not None:
            self._run.rules.close()
        self._run = None

    # -- one run -------------------------------------------------------------------------------------------------------

    def _begin(self, cause: str) -> None:
        text, mount = self._host.host_rules()
        self._run = run = _Run(cause, time.monotonic(), [Placement.ISOLATED, Placement.SHARED], text, self._host.attachments)
        firewall = choose(self._settings.firewall)
        if firewall.shared_refused:
            run.waiting.remove(Placement.SHARED)
        loaded = self._rules(firewall, text)
        try:
            run.rules = RuleCheck(firewall, self._settings.table, mount, loaded)
            run.attempts = {each.name: "not looked at" for each in loaded}
        except OSError as error:
            self._note("rules", f"cannot be looked at: {error.strerror}", good=False)
        self._next(run)

    def _rules(self, firewall: Firewall, text: str) -> list[Loaded]:
        """Return what must be in force: in each isolated leaf, and (nft; the other is looked at all the time) on the host."""
        settings = self._settings
        loaded = [
            Loaded(
                f"rules of leaf {each.leaf.name}",
                each.network,
                each.loopback_ports,
                functools.partial(firewall.load_isolated, settings, each.loopback_ports),
            )
            for each in self._host.live()
            if each.network >= 0
        ]
        if text and firewall is Firewall.NFT:
            host = functools.partial(nft.run, ruleset.create(settings.table) + text)
            loaded.append(Loaded(_HOST_RULES, -1, "host", host))
        return loaded

    def _step(self, run: _Run, now: float) -> None:
        if now - run.began > _RUN_S:
            self._give_up(run)
            if self._run is not run:
                return
        if run.rules is not None and run.rules.finished():
            self._take_rules(run)
        # A leaf in shared placement changes the host's table, so the comparison comes first.
        if run.leaf is None and run.waiting and run.rules is None:
            self._next(run)
            return
        if run.leaf is None and not run.waiting and run.rules is None:
            self._conclude(run)

    def _next(self, run: _Run) -> None:
        run.placement = run.waiting.pop(0)
        workload = Workload(name=CANARY, launchers=frozenset(), placement=run.placement)
        run.output, run.text = -1, b""
        try:
            if run.placement is Placement.SHARED:
                run.neighbour = self._host.prepare_neighbour(workload)
            run.leaf = self._host.start_own(workload, Own(self._request, self._started, self._ended))
        except (HostagentError, OSError) as error:
            self._end_neighbour(run)
            if self._undisturbed(run):
                self._note(f"{run.placement.value}: leaf", f"cannot be made: {error}", good=False)
            else:
                self._interrupt(run)

    def _request(self, governed: Governed) -> Launch:
        """Return how the hostile program is started in the leaf that is ready for it."""
        assert self._run is not None
        neighbour = self._run.neighbour
        numbers = ARCHITECTURES[os.uname().machine].numbers
        given = {
            "port": governed.listeners.port if governed.listeners is not None else 0,
            "neighbour": neighbour.listeners.port if neighbour is not None and neighbour.listeners is not None else 0,
            "numbers": {name: numbers[name] for name in _CALLS},
            "paths": [self._settings.socket_path, *_paths(self._settings.unix_targets())],
            "names": list(self._settings.target_names()),
        }
        interpreter = next((path for path in _INTERPRETERS if os.access(path, os.X_OK)), _INTERPRETERS[0])
        program = (Path(__file__).parent / "intruder.py").read_text(encoding="utf-8")
        return Launch(CANARY, [interpreter, "-I", "-S", "-B", "-c", program, json.dumps(given)], {}, "/", tty=False)

    def _started(self, output: int) -> None:
        assert self._run is not None
        os.set_blocking(output, False)
        self._run.output = output
        self._selector.register(output, selectors.EVENT_READ, self._hear)

    def _hear(self) -> bool:
        """Take what the program has said; return whether there may be more."""
        run = self._run
        if run is None or run.output < 0:
            return False
        try:
            chunk = os.read(run.output, _MOST_OUTPUT)
        except BlockingIOError:
            return False
        run.text += chunk[: _MOST_OUTPUT - len(run.text)]
        if not chunk:
            self._selector.unregister(run.output)
            os.close(run.output)
            run.output = -1
        return bool(chunk)

    def _ended(self, governed: Governed) -> None:
        run = self._run
        if run is None:
            return
        while run.output >= 0 and self._hear():
            continue
        if run.output >= 0:
            self._selector.unregister(run.output)
            os.close(run.output)
            run.output = -1
        run.leaf = None
        self._end_neighbour(run)
        if self._undisturbed(run):
            self._judge(run, governed)
        else:  # the proxy or the fence went away: that tells nothing about the boundary
            self._interrupt(run)

    def _undisturbed(self, run: _Run) -> bool:
        return self._host.ready and self._host.attachments == run.attachments

    def _interrupt(self, run: _Run) -> None:
        """Forget a run that was cut short; it begins again when things are back."""
        log.warning("verify was cut short: the proxy or the fence went away; it begins again when they are back")
        if run.rules is not None:
            run.rules.close()
            run.rules = None
        self._run = None
        if not self._asked:
            self._due, self._cause = time.monotonic() + _SOON_S, run.cause

    def _judge(self, run: _Run, governed: Governed) -> None:
        try:
            outcomes: dict[str, str] = json.loads(run.text)
        except ValueError:
            why = governed.reason or f"the program ended with status {governed.status} and said nothing"
            what = "program" if governed.main_pid else "leaf"
            self._note(f"{run.placement.value}: {what}", why, good=False)
            return
        for name, outcome, good in judge(run.placement, outcomes):
            self._note(f"{run.placement.value}: {name}", outcome, good=good)

    def _take_rules(self, run: _Run) -> None:
        assert run.rules is not None
        alive = {f"rules of leaf {each.leaf.name}" for each in self._host.live()}
        outcomes = run.rules.outcomes()
        run.rules.close()
        run.rules = None
        text, _ = self._host.host_rules()
        for name in [name for name in run.attempts if name.startswith("rules of")]:
            outcome = outcomes.get(name, "not looked at")
            if name.startswith("rules of leaf") and name not in alive:  # it ended meanwhile, and its rules with it
                del run.attempts[name]
            else:
                if name == _HOST_RULES and text != run.host_rules:
                    outcome = "loaded anew meanwhile"  # by us, for a launch or an end: the next run compares them
                self._note(name, outcome, good=outcome in ("as loaded", "loaded anew meanwhile"))

    def _give_up(self, run: _Run) -> None:
        run.waiting.clear()
        if run.leaf is not None:
            self._host.end(run.leaf, f"the attempts were not over within {_RUN_S:.0f} s")
        if run.rules is not None:
            self._take_rules(run)

    def _end_neighbour(self, run: _Run) -> None:
        neighbour, run.neighbour = run.neighbour, None
        if neighbour is not None:
            with contextlib.suppress(HostagentError, OSError):
                self._host.end_neighbour(neighbour)

    def _note(self, name: str, outcome: str, *, good: bool) -> None:
        assert self._run is not None
        self._run.attempts[name] = outcome
        if not good:
            self._run.failed.append(name)

    def _conclude(self, run: _Run) -> None:
        elapsed = int((time.monotonic() - run.began) * 1e6)
        self.last = result = Result(run.cause, time.time(), run.attempts, tuple(run.failed), elapsed)
        self._run = None
        every = self._every
        self._cause = "periodic"
        self._due = time.monotonic() + (every if result.passed else min(every, _AGAIN_S)) if every else float("inf")
        fields: dict[str, object] = {
            "cause": result.cause,
            "outcome": "passed" if result.passed else "failed",
            "attempts": [{"name": name, "outcome": outcome} for name, outcome in result.attempts.items()],
            "failed": list(result.failed),
            "elapsed_us": elapsed,
        }
        self._evidence.note(EventKind.VERIFY, "", fields)
        if not result.passed:
            log.critical("VERIFY FAILED: %s", "; ".join(f"{name}: {result.attempts[name]}" for name in result.failed))
        asked, self._asked = self._asked, []
        for answer in asked:
            answer(result)


def judge(placement: Placement, outcomes: Mapping[str, str]) -> list[tuple[str, str, bool]]:
    """Return for each attempt its name, its outcome, and whether that is as it must be."""
    judged: list[tuple[str, str, bool]] = []
    for name, accepted in EXPECTED.items():
        outcome = outcomes.get(name)
        if outcome is None and name in _NOT_ALWAYS:
            continue
        unrouted = placement is Placement.SHARED and name in _OUTSIDE and outcome in _NO_ROUTE
        judged.append((name, outcome or "not tried", outcome in accepted or unrouted))
    return judged


def _paths(declared: Sequence[str]) -> list[str]:
    """Return unix sockets of the host to try, a bounded number; ours in other leaves are none, and declared ones are served."""
    served = {os.path.realpath(path) for path in declared}
    found = sorted({os.path.realpath(path) for path in pathnames()} - served)
    return [path for path in found if not path.startswith(f"{STAGE}/")][:_MOST_PATHS]
