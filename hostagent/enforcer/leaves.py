"""Every governed program, and the steps from a launcher's request to its end.

What the kernel must hold is made before the program and taken back after it; a step that fails takes back what the earlier
ones made, and the launcher is told which it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from pathlib import Path

from hostagent.enforcer import canary, doors
from hostagent.enforcer.audit.auditor import Auditor
from hostagent.enforcer.bpf.programs import Programs
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.confinement.launch import Report, children, receive, start
from hostagent.enforcer.cutting import Cutting
from hostagent.enforcer.fence import Fence
from hostagent.enforcer.governed import Governed, Stage, account_for, build_plan, close_plan, new_name
from hostagent.enforcer.listeners import bind_free
from hostagent.enforcer.peers import Peer
from hostagent.enforcer.quarantine import Quarantine
from hostagent.enforcer.removal import remove_runtime
from hostagent.enforcer.reporting.attempts import AttemptWatch
from hostagent.enforcer.reporting.connects import BpfWatch, register
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.reporting.lineage import Lineage
from hostagent.enforcer.reporting.watch import RefusalWatch
from hostagent.enforcer.rules import backstop, ruleset
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.slicewatch import SliceWatch
from hostagent.enforcer.status import weaker_points
from hostagent.enforcer.verify.verification import Own, Verification
from hostagent.ipc import (
    Admit,
    Admitted,
    Draw,
    Exited,
    Failed,
    Launch,
    Launched,
    Listen,
    Listening,
    Retire,
    Retired,
    State,
)
from hostagent.model.errors import HostagentError, NotPermittedError
from hostagent.model.flow import Placement
from hostagent.model.workload import Workload

log = logging.getLogger(__name__)

_STEP_S = 15.0
_NEIGHBOUR_S = 60.0
REFUSED_CODE = 77
"""The command line's exit status for a launch that is not permitted (EX_NOPERM)."""


class Leaves:
    """The live leaves, the proxy's connection and the launchers'."""

    def __init__(self, settings: Settings, evidence: Evidence, selector: selectors.BaseSelector) -> None:
        """Nothing is touched until ``begin``."""
        self.slice = Slice(settings.slice_name)
        self.programs = Programs(settings.table, self.slice, off=settings.bpf == "off")
        self.fence = Fence(settings, self.slice, self.programs)
        self.proxy: Peer | None = None
        self.attachments = 0
        self._settings = settings
        self._evidence = evidence
        self._selector = selector
        self._leaves: dict[str, Governed] = {}
        self._launchers: dict[str, tuple[Peer, int]] = {}
        self._asked: dict[int, tuple[Governed, bool]] = {}
        self._next_id = 100
        self.watch = RefusalWatch(settings, evidence, selector, self.live)
        self.bpf = BpfWatch(self.programs, evidence, selector, self.live)
        self.lineage = Lineage(self.bpf, evidence)
        self.attempts = AttemptWatch(evidence, selector)
        self.auditor = Auditor(settings, evidence, self.live, self.end, self.attempts.hear_dials)
        self.cutting = Cutting(lambda: self.proxy, self.end)
        self.quarantine = Quarantine(settings, evidence, self.live, self.cutting.cut)
        self._own: dict[str, Own] = {}
        self.verification = Verification(settings, evidence, selector, self)

    # -- the service's own life ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the slice, end what an earlier enforcerd left in it, load and prove the fence.

        The leaves of an enforcerd that died are fenced but cannot be taken over: their listeners died with it.

        Raises:
            HostagentError: the host cannot be fenced.
        """
        self.slice.create()
        doors.clear(self._settings.runtime)
        self.programs.install()
        self.fence.load([], self._settings.loopback_ports())
        for name in self.slice.leaves():
            processes = self.slice.leaf(name).processes()
            self.slice.leaf(name).remove()
            detail = f"leaf {name} of an earlier enforcerd ended ({len(processes)} processes)"
            self._evidence.service("failed", detail)
            log.warning("%s", detail)
        self.watch.begin()
        self.bpf.begin()
        if self.fence.table.watch is not None:
            self._selector.register(self.fence.table.watch, selectors.EVENT_READ, self._table_changed)
        slice_watch = SliceWatch(self.slice.path)
        self._selector.register(slice_watch, selectors.EVENT_READ, lambda: self._slice_changed(slice_watch))

    def abandon(self) -> None:
        """We stop: programs, fence and what the proxy serves stay as they are, as if we had been killed."""
        self.watch.flush()
        self.attempts.flush()
        self.verification.abandon()
        self.bpf.flush()
        self.lineage.flush()

    def uninstall(self) -> list[str]:
        """Remove table, slice and runtime files; every program must have ended. Returns what was removed."""
        if self.live():
            raise HostagentError(f"still running: {', '.join(each.leaf.name for each in self.live())}")
        self.bpf.close()
        programs = self.programs.remove()
        self.fence.remove()
        self.slice.remove()
        remove_runtime(self._settings.runtime)
        return [*programs, f"table inet {self._settings.table}", f"cgroup {self.slice.path}", self._settings.socket_path]

    def live(self) -> list[Governed]:
        """Return every leaf that has not ended."""
        return list(self._leaves.values())

    def tick(self, now: float) -> None:
        """Give up steps that take too long, write counted refusals, and see that the slice is still the fenced one."""
        for each in self.live():
            if each.stage is not Stage.RUNNING and now >= each.give_up_at:
                self._fail(each, f"the proxy did not answer within {_STEP_S:.0f} s ({each.stage.value})")
        self.watch.tick(now)
        self.attempts.tick(now)
        self.bpf.tick(now)
        self.lineage.tick()
        self._see_to_the_fence()
        self.verification.tick(now)

    def _slice_changed(self, slice_watch: SliceWatch) -> None:
        if slice_watch.changed():
            self._see_to_the_fence()

    def _see_to_the_fence(self) -> None:
        if not self.fence.current and not self.fence.removed:
            self._restore("the slice was recreated" if self.fence.stale else "the fence is not in force")

    def _table_changed(self) -> None:
        """Somebody else changed the host's table, which this kernel cannot protect."""
        changed = self.fence.tampering()
        if changed:
            names = ", ".join(list(dict.fromkeys(changed))[:8])
            self._restore(f"table inet {self._settings.table} was changed by {names}")

    def _restore(self, cause: str) -> None:
        """Load the fence again, and only then write; if it cannot be loaded, nothing in shared placement may go on."""
        try:
            took = self.fence.restore(self.live())
        except (HostagentError, OSError) as error:
            self._evidence.service("failed", f"{cause}; the rules cannot be loaded again: {error}")
            log.critical("%s; the rules cannot be loaded again, shared placement ends: %s", cause, error)
            for each in self.live():
                if not each.isolated:
                    self.end(each, f"{cause}, and the fence could not be loaded again")
            return
        detail = f"{cause}; loaded again within {took * 1000:.0f} ms of being seen"
        self._evidence.service("failed", detail)
        log.error("%s", detail)

    def reload(self) -> None:
        """Read the documents again; the ports of loopback targets take effect in live leaves.

        Raises:
            HostagentError: a document is wrong, or nft refused; the previous rules stay.
        """
        self._settings.workloads()
        ports = self._settings.loopback_ports()
        for each in self.live():
            doors.check(each.workload, ports)
        self.fence.load(self.live(), ports)
        for each in self.live():
            if each.isolated and each.network >= 0 and each.loopback_ports != ports:
                each.load_isolated(self._settings, ports)
        self.verification.reloaded()

    # -- a launcher asks -------------------------------------------------------------------------------------------

    def launch(self, peer: Peer, packet_id: int, request: Launch) -> None:
        """Begin a launch: check who asks for what, then ask the proxy.

        Raises:
            HostagentError: refused; nothing was made.
        """
        try:
            governed = self._new(peer, request)
        except HostagentError as error:
            self._evidence.refused(request.workload, peer.name, "", str(error))
            raise
        self._leaves[governed.leaf.name] = governed
        self._launchers[governed.leaf.name] = (peer, packet_id)
        peer.table.state = State.LAUNCHING
        self._admit(governed, again=False)

    def signal(self, peer: Peer, number: int) -> None:
        """Send a signal to the program that ``peer`` launched."""
        for name, (launcher, _) in self._launchers.items():
            if launcher is peer:
                self._leaves[name].signal(number)

    def kill(self, name: str, reason: str) -> list[str]:
        """End the leaf, or every leaf of the workload, called ``name``; return their names.

        Raises:
            HostagentError: there is none.
        """
        found = [each for each in self.live() if name in (each.leaf.name, each.workload.name)]
        if not found:
            raise HostagentError(f"no running workload or leaf is called {name}")
        for each in found:
            self.cutting.cut(each, reason)
        return [each.leaf.name for each in found]

    def end(self, governed: Governed, reason: str) -> None:
        """End a leaf at once; its launcher is told ``reason`` when it is gone."""
        self._fail(governed, reason)

    def peer_gone(self, peer: Peer) -> None:
        """A connection ended: the proxy's (shut the listeners) or a launcher's (end what it launched)."""
        if peer is self.proxy:
            self._detached()
            return
        for name, (launcher, _) in list(self._launchers.items()):
            if launcher is peer:
                del self._launchers[name]
                self.end(self._leaves[name], "the launcher went away")

    def _new(self, peer: Peer, request: Launch) -> Governed:
        workload = self._permitted(peer, request)
        if self.verification.frozen:
            raise HostagentError(self.verification.frozen)
        return self._make(workload, peer.name, request)

    def _make(self, workload: Workload, launcher: str, request: Launch) -> Governed:
        if self._evidence.failed:
            raise HostagentError(f"evidence cannot be written: {self._evidence.failed}")
        if self.proxy is None:
            raise HostagentError("the proxy is not running; nothing can be admitted (hostagent status)")
        if not self.fence.current:
            raise HostagentError("the fence is being loaded again; try once more")
        if unseen := self.auditor.refusal(time.monotonic()):
            raise HostagentError(unseen)
        taken = {each.account.uid for each in self.live()}
        numbers = {each.number for each in self.live()}
        return Governed(
            leaf=self.slice.leaf(new_name(workload.name)),
            workload=workload,
            launcher=launcher,
            request=request,
            account=account_for(workload, self._settings, frozenset(taken)),
            number=next(number for number in range(1, 65536) if number not in numbers),
            give_up_at=time.monotonic() + _STEP_S,
        )

    def _permitted(self, peer: Peer, request: Launch) -> Workload:
        workload = self._settings.workloads().get(request.workload)
        if workload is None or peer.name not in workload.launchers:
            # One answer for both: whoever may not launch it need not learn that it exists.
            raise NotPermittedError(f"{peer.name} may not launch workload {request.workload!r} (launchers in its document)")
        self.quarantine.check(workload.name)
        if workload.placement is Placement.SHARED and self.fence.firewall.shared_refused:
            raise HostagentError(f"workload {workload.name}: {self.fence.firewall.shared_refused}")
        doors.check(workload, self._settings.loopback_ports())
        if not request.argv:
            raise HostagentError("no command given")
        return workload

    # -- a program of ours (verification.Host) -----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether launches can succeed."""
        return self.proxy is not None and self.fence.current and not self._evidence.failed

    def start_own(self, workload: Workload, own: Own) -> Governed:
        """Begin the launch of a program of ours, the same way as anybody's.

        Raises:
            HostagentError: it cannot be begun; nothing was made.
        """
        governed = self._make(workload, "", Launch(workload.name, [], {}, "/", tty=False))
        self._admit(governed, again=False)
        self._leaves[governed.leaf.name] = governed
        self._own[governed.leaf.name] = own
        return governed

    def prepare_neighbour(self, workload: Workload) -> Governed:
        """Make a leaf with open listeners and no program; see ``end_neighbour``.

        Raises:
            HostagentError: the fence does not hold; nothing is left.
        """
        governed = self._make(workload, "", Launch(workload.name, [], {}, "/", tty=False))
        governed.give_up_at += _NEIGHBOUR_S
        self._leaves[governed.leaf.name] = governed
        try:
            self._prepare(governed)
        except (HostagentError, OSError):
            self.end_neighbour(governed)
            raise
        return governed

    def end_neighbour(self, governed: Governed) -> None:
        """Take back what ``prepare_neighbour`` made."""
        self._fail(governed, "", recorded=True)

    def host_rules(self) -> tuple[str, str]:
        """Return what the host's table was filled with, empty where it is not in force, and where cgroup v2 is mounted."""
        return (self.fence.rules if self.fence.current else ""), self.slice.mount

    # -- the proxy answers -----------------------------------------------------------------------------------------

    def attached(self, peer: Peer) -> None:
        """A proxy is there: ask it anew about everything that runs."""
        self.proxy = peer
        self.attachments += 1
        for each in self.live():
            self._admit(each, again=True)

    def answered(self, packet_id: int, body: Admitted | Listening | Retired | Failed | Draw) -> None:
        """Go on with the leaf that an answer is about, or give the proxy sockets of a leaf's network."""
        if isinstance(body, Draw):
            doors.give(self.proxy, packet_id, body.leaf, self._leaves.get(body.leaf))
            return
        governed, again = self._asked.pop(packet_id, (None, False))
        if self.cutting.answered(packet_id) or governed is None or governed.stage is Stage.ENDED:
            return
        try:
            if isinstance(body, Admitted):
                self._admitted(governed, body, again=again)
            elif isinstance(body, Listening):
                self._listening(governed, again=again)
            elif isinstance(body, Failed):
                self._fail_or_end(governed, f"the proxy refused: {body.reason}")
        except (HostagentError, OSError) as error:
            self._fail_or_end(governed, str(error))
        except Exception as error:
            # A fault of ours: this leaf ends, the others go on.
            log.exception("leaf %s", governed.leaf.name)
            self._fail_or_end(governed, f"internal error: {error!r}")

    def _admitted(self, governed: Governed, answer: Admitted, *, again: bool) -> None:
        self._evidence.admission(governed, answer)
        if not answer.admitted:
            self._fail_or_end(governed, f"not admitted: {answer.reason}", recorded=True)
            return
        governed.session = answer.session
        if not again:
            self._prepare(governed)
        elif governed.listeners is not None:
            governed.listeners.open()
        self._hand_over(governed, again=again)

    def _prepare(self, governed: Governed) -> None:
        """Make leaf, rules and listeners, and prove that they hold."""
        governed.leaf.create()
        self.auditor.mark(governed)
        ports = self._settings.loopback_ports()
        with self.programs.proving(governed.leaf.id):
            self._fortify(governed, ports)
        register(self.programs, governed)
        doors.open_doors(governed, self._settings)
        governed.loopback_ports = ports
        self.watch.add(governed)
        governed.stage = Stage.LISTENING

    def _fortify(self, governed: Governed, ports: frozenset[int]) -> None:
        if governed.isolated:
            governed.isolate(self._settings, ports)
        else:
            taken = [each.listeners.port for each in self.live() if each.listeners is not None and not each.isolated]
            governed.listeners = bind_free(self._settings.shared_ports, taken)
            governed.listeners.open()
            self.fence.load(self.live(), ports)
            canary.prove_leaf(governed.listeners, governed.enter, routed=False)
            self.watch.forget()
            self._back(governed)

    def _back(self, governed: Governed) -> None:
        """Put the second no behind the table. After the canary, which must be refused by the table alone."""
        try:
            backstop.attach(governed.leaf.path, ruleset.leaf_mark(governed.number))
        except OSError as error:
            governed.backstop = str(error)
            if not self.fence.table.owned:
                raise HostagentError(
                    "shared placement needs Linux 6.9 (a table that others cannot flush) or cgroup BPF, and this host has"
                    f" neither ({error}); use isolated placement"
                ) from error
            log.warning("leaf %s has no backstop: %s", governed.leaf.name, error)

    def _hand_over(self, governed: Governed, *, again: bool) -> None:
        assert governed.listeners is not None
        self._ask(governed, doors.announce(governed, governed.listeners), Listening, governed.listeners.descriptors, again=again)

    def _listening(self, governed: Governed, *, again: bool) -> None:
        governed.served = True
        if again:
            return
        own = self._own.get(governed.leaf.name)
        if own is not None:
            governed.request = own.request(governed)
        plan = build_plan(governed, self._settings)
        try:
            governed.process = start(plan)
        finally:
            close_plan(plan)
        self.lineage.begin(governed)
        governed.stage = Stage.STARTING
        governed.give_up_at = time.monotonic() + _STEP_S
        self._selector.register(governed.process.control, selectors.EVENT_READ, lambda: self._reported(governed))

    def _detached(self) -> None:
        """The proxy is gone. Dials are refused from here on; the ports stay ours."""
        log.warning("the proxy went away; dials are refused until it is back")
        self.proxy = None
        self._asked.clear()
        for each in self.live():
            each.served = False
            if each.listeners is not None:
                each.listeners.shut()
            if each.stage in (Stage.ADMITTING, Stage.LISTENING):
                self._fail(each, "the proxy went away")

    def _admit(self, governed: Governed, *, again: bool) -> None:
        body = Admit(governed.workload.name, governed.launcher, governed.leaf.name, again)
        self._ask(governed, body, Admitted, [], again=again)

    def _ask(
        self, governed: Governed, body: Admit | Listen, answer: type[Admitted | Listening], fds: list[int], *, again: bool
    ) -> None:
        if self.proxy is None:
            raise HostagentError("the proxy is not running")
        self._next_id += 1
        self._asked[self._next_id] = (governed, again)
        if not self.proxy.ask(self._next_id, body, answer, fds):
            raise HostagentError("the proxy does not take requests")

    # -- the program reports ---------------------------------------------------------------------------------------

    def _reported(self, governed: Governed) -> None:
        assert governed.process is not None
        try:
            message = receive(governed.process.control)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._selector.unregister(governed.process.control)
            self._finish(governed)
            return
        if governed.reason and governed.stage is Stage.STARTING:
            governed.leaf.kill()  # ended before it had entered its leaf, where nothing found it
        try:
            self._heard(governed, message)
        except (IndexError, OSError) as error:  # we may have no descriptor left for those that came with it
            self.end(governed, f"its first process could not be heard: {error}")

    def _heard(self, governed: Governed, message: Report) -> None:
        word, _, rest = message.text.partition(" ")
        if word == "here":
            governed.main_pid = message.pid
        elif word == "calls":
            self.attempts.hear_calls(governed, message.descriptors[0])
        elif word == "masked":
            self.attempts.hear_dials(governed, message.descriptors[0], rest)
        elif word == "unheard":
            governed.unheard = rest
        elif word == "started":
            ticks, _, executable = rest.partition(" ")
            governed.start_ticks, governed.executable = int(ticks), executable
            with contextlib.suppress(OSError):  # the kernel's own word, unless it has ended already
                governed.executable = str(Path(f"/proc/{governed.main_pid}/exe").readlink())
            self._started(governed, message.descriptors)
        elif word == "exit":
            governed.status = int(rest)
        elif word == "failed":
            code, _, reason = rest.partition(" ")
            governed.status, governed.reason = int(code), reason

    def _started(self, governed: Governed, descriptors: list[int]) -> None:
        try:
            governed.stage = Stage.RUNNING
            governed.started_at = time.time()
            try:
                self._evidence.launch(governed)
            except HostagentError as error:
                self.end(governed, str(error))
                return
            governed.forget_request()
            peer, packet_id = self._launchers.get(governed.leaf.name, (None, 0))
            if peer is not None:
                peer.table.state = State.RUNNING
                peer.send(packet_id, Launched(governed.leaf.name, governed.main_pid, weaker_points(governed)), descriptors)
            elif governed.leaf.name in self._own:
                self._own[governed.leaf.name].started(os.dup(descriptors[1]))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def hear_ends(self) -> None:
        """Take every report that has come, outside of the loop."""
        for each in self.live():
            if each.process is not None:
                self._reported(each)

    def reap(self) -> None:
        """Collect ended children that are nobody's first process (what the first processes left, canaries)."""
        first = {each.process.pid for each in self.live() if each.process is not None}
        for pid in children() - first:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _finish(self, governed: Governed) -> None:
        """The first process is gone, and with it everything in its pid namespace."""
        assert governed.process is not None
        _, wait_status = os.waitpid(governed.process.pid, 0)
        if governed.status is None:
            governed.status = os.waitstatus_to_exitcode(wait_status) or -9
        ran = governed.stage is Stage.RUNNING
        self._release(governed)
        if ran:
            self._evidence.exit(governed)
        else:
            self._evidence.refused(governed.workload.name, governed.launcher, governed.leaf.name, governed.reason)
        peer, packet_id = self._launchers.pop(governed.leaf.name, (None, 0))
        if peer is None:
            return
        peer.table.state = State.ENDED
        if ran:
            peer.send(packet_id, Exited(governed.leaf.name, governed.status, governed.reason))
        else:
            peer.send(packet_id, Failed(governed.reason or "could not be started", max(governed.status, 1)))

    def _fail_or_end(self, governed: Governed, reason: str, *, recorded: bool = False) -> None:
        if governed.process is not None:
            self.end(governed, reason)
        else:
            self._fail(governed, reason, recorded=recorded)

    def _fail(self, governed: Governed, reason: str, *, recorded: bool = False) -> None:
        """Give a launch up before its program exists, or kill what runs."""
        governed.reason = governed.reason or reason
        if governed.process is not None:
            governed.leaf.kill()
            return
        self._release(governed)
        if not recorded:
            self._evidence.refused(governed.workload.name, governed.launcher, governed.leaf.name, reason)
        peer, packet_id = self._launchers.pop(governed.leaf.name, (None, 0))
        if peer is not None:
            peer.table.state = State.ENDED
            peer.send(packet_id, Failed(reason, REFUSED_CODE))

    def _release(self, governed: Governed) -> None:
        """Take back everything that the leaf has in the kernel, and tell the proxy."""
        self.watch.end(governed)
        self.attempts.end(governed)
        self.bpf.end(governed)
        self.lineage.end(governed)
        self._leaves.pop(governed.leaf.name, None)
        was_shared = not governed.isolated and governed.listeners is not None
        try:
            governed.release()
        except HostagentError:
            log.exception("leaf %s cannot be removed; it stays fenced", governed.leaf.name)
        if was_shared:
            with contextlib.suppress(HostagentError):
                self.fence.load(self.live(), self._settings.loopback_ports())
        if self.proxy is not None:
            self._next_id += 1
            self.proxy.ask(self._next_id, Retire(governed.leaf.name), Retired)
        own = self._own.pop(governed.leaf.name, None)
        if own is not None:
            own.ended(governed)
