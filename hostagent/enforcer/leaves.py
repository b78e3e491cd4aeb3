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

from hostagent.enforcer import doors, takeover
from hostagent.enforcer.admission import STEP_S, Admission
from hostagent.enforcer.audit.auditor import Auditor
from hostagent.enforcer.bpf import kept
from hostagent.enforcer.bpf.programs import Programs
from hostagent.enforcer.confinement.launch import Report, children, receive, start, wait
from hostagent.enforcer.cutting import Cutting
from hostagent.enforcer.fence import Fence
from hostagent.enforcer.fencewatch import FenceWatch
from hostagent.enforcer.governed import Governed, Stage, build_plan, close_plan
from hostagent.enforcer.launchers import Launchers
from hostagent.enforcer.peers import Peer
from hostagent.enforcer.preparation import Preparation
from hostagent.enforcer.proxylink import ProxyLink
from hostagent.enforcer.quarantine import Quarantine
from hostagent.enforcer.removal import remove_runtime
from hostagent.enforcer.reporting.attempts import AttemptWatch
from hostagent.enforcer.reporting.connects import BpfWatch, expect, register
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.reporting.lineage import Lineage
from hostagent.enforcer.reporting.watch import RefusalWatch
from hostagent.enforcer.scopes import slice_of
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.verify.verification import Own, Verification
from hostagent.ipc import (
    Admitted,
    Draw,
    Exited,
    Failed,
    Launch,
    Leave,
    Listening,
    Retired,
)
from hostagent.model.errors import HostagentError
from hostagent.model.workload import Workload

log = logging.getLogger(__name__)

_NEIGHBOUR_S = 60.0


class Leaves:
    """The live leaves, the proxy's connection and the launchers'."""

    def __init__(self, settings: Settings, evidence: Evidence, selector: selectors.BaseSelector) -> None:
        """Nothing is touched until ``begin``."""
        self.slice = slice_of(settings.slice_name, systemd=settings.systemd)
        self.programs = Programs(settings.table, self.slice, off=settings.bpf == "off", cache=kept.folder(settings.runtime))
        self.fence = Fence(settings, self.slice, self.programs)
        self._settings = settings
        self._evidence = evidence
        self._selector = selector
        self._leaves: dict[str, Governed] = {}
        self._launchers = Launchers()
        self._link = ProxyLink()
        self.watch = RefusalWatch(settings, evidence, selector, self.live)
        self.bpf = BpfWatch(self.programs, evidence, selector, self.live)
        self.lineage = Lineage(self.bpf, evidence)
        self.attempts = AttemptWatch(evidence, selector)
        self.auditor = Auditor(settings, evidence, self.live, self.end, self.attempts.hear_dials)
        self.cutting = Cutting(lambda: self.proxy, self.end)
        self.quarantine = Quarantine(settings, evidence, self.live, self.cutting.cut)
        self._fence_watch = FenceWatch(settings, evidence, self.fence, self.live, self.end)
        self._preparation = Preparation(settings, self.programs, self.fence, self.auditor, self.watch, self.live)
        self._admission = Admission(
            settings, evidence, self.slice, self.fence, self._link, self.quarantine, self.auditor, self.live
        )
        self._own: dict[str, Own] = {}
        self.verification = Verification(settings, evidence, selector, self)

    @property
    def proxy(self) -> Peer | None:
        """The attached proxy, None while there is none."""
        return self._link.peer

    @property
    def attachments(self) -> int:
        """How often a proxy has come."""
        return self._link.attachments

    # -- the service's own life ------------------------------------------------------------------------------------

    def begin(self) -> list[Peer]:
        """Make the slice, load and prove the fence, and go on with what an earlier enforcerd left; return the launchers of that.

        A leaf whose descriptors nobody kept is fenced but cannot be taken over, because its listeners died: it is ended.

        Raises:
            HostagentError: the host cannot be fenced.
        """
        self.slice.create()
        found = self._returned()
        doors.clear(self._settings.runtime, takeover.doors_of(found))
        for each in found:
            self._leaves[each.governed.leaf.name] = each.governed
            expect(self.programs, each.governed)
        self.programs.install()
        self.fence.load(self.live(), self._settings.loopback_ports())
        for name in self.slice.leaves():
            if name in self._leaves:
                continue
            processes = self.slice.leaf(name).processes()
            self.slice.leaf(name).remove()
            detail = f"leaf {name} of an earlier enforcerd ended ({len(processes)} processes)"
            self._evidence.service("failed", detail)
            log.warning("%s", detail)
        self.watch.begin()
        self.bpf.begin()
        self._fence_watch.begin(self._selector, self.slice)
        return self._take_over(found)

    def _returned(self) -> list[takeover.Returned]:
        """Return the leaves that go on; tell the launchers of those that ended while nobody was here."""
        found = takeover.returned(self._settings, self.slice)
        for each in found:
            if each.governed.stage is Stage.ENDED:
                self._evidence.exit(each.governed)
                each.peer.send(each.request_id, Exited(each.governed.leaf.name, each.governed.status or 0))
                each.peer.close()
        return [each for each in found if each.governed.stage is Stage.RUNNING]

    def _take_over(self, found: list[takeover.Returned]) -> list[Peer]:
        """Go on with leaves that run. One that cannot be governed as before is ended."""
        self.auditor.former = takeover.former_servers(found)
        ports = self._settings.loopback_ports()
        if found:
            self._link.expected(time.monotonic())
        for each in found:
            governed = each.governed
            assert governed.process is not None
            self._launchers.returned(governed.leaf.name, each.peer, each.request_id)
            self.auditor.returned(governed.leaf.name, each.unmarked)
            self.watch.add(governed)
            self._selector.register(governed.process.control, selectors.EVENT_READ, lambda governed=governed: self._reported(governed))
            try:
                for path, descriptor in each.heard:
                    if path:
                        self.attempts.hear_dials(governed, descriptor, path)
                    else:
                        self.attempts.hear_calls(governed, descriptor)
                if governed.isolated:
                    governed.load_isolated(self._settings, ports)
                governed.loopback_ports = ports
                register(self.programs, governed)
                self.lineage.begin(governed)
            except (HostagentError, OSError) as error:
                self.end(governed, f"it cannot go on under a new enforcerd: {error}")
                continue
            self._evidence.service("started", f"leaf {governed.leaf.name} of an earlier enforcerd goes on")
        return [each.peer for each in found]

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
                self._fail(each, f"the proxy did not answer within {STEP_S:.0f} s ({each.stage.value})")
        if self._link.waited(now):
            log.warning("no other proxy came; dials are refused until one does")
            for each in self.live():
                if each.listeners is not None:
                    each.listeners.shut()
        self.watch.tick(now)
        self.attempts.tick(now)
        self.bpf.tick(now)
        self.lineage.tick()
        self._fence_watch.look()
        self.verification.tick(now)

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
            workload = self._admission.permit(peer.name, request)
            if self.verification.frozen:
                raise HostagentError(self.verification.frozen)
            governed = self._admission.admit(workload, peer.name, request)
        except HostagentError as error:
            self._evidence.refused(request.workload, peer.name, "", str(error))
            raise
        self._leaves[governed.leaf.name] = governed
        self._launchers.begin(governed, peer, packet_id)
        self._link.admit(governed, again=False)

    def signal(self, peer: Peer, number: int) -> None:
        """Send a signal to the program that ``peer`` launched."""
        for name in self._launchers.leaves_of(peer):
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
        for name in self._launchers.leaves_of(peer):
            self._launchers.forget(name)
            self.end(self._leaves[name], "the launcher went away")

    # -- a program of ours (verification.Host) -----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether launches can succeed."""
        return self._admission.ready

    def start_own(self, workload: Workload, own: Own) -> Governed:
        """Begin the launch of a program of ours, the same way as anybody's.

        Raises:
            HostagentError: it cannot be begun; nothing was made.
        """
        governed = self._admission.admit(workload, "", Launch(workload.name, [], {}, "/", tty=False))
        self._link.admit(governed, again=False)
        self._leaves[governed.leaf.name] = governed
        self._own[governed.leaf.name] = own
        return governed

    def prepare_neighbour(self, workload: Workload) -> Governed:
        """Make a leaf with open listeners and no program; see ``end_neighbour``.

        Raises:
            HostagentError: the fence does not hold; nothing is left.
        """
        governed = self._admission.admit(workload, "", Launch(workload.name, [], {}, "/", tty=False))
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
        self._link.attached(peer)
        for each in self.live():
            self._link.admit(each, again=True)

    def answered(self, packet_id: int, body: Admitted | Listening | Retired | Failed | Draw | Leave) -> None:
        """Go on with the leaf that an answer is about, or give the proxy sockets of a leaf's network, or note that it will go."""
        if isinstance(body, Leave):
            self._link.leaving()
            return
        if isinstance(body, Draw):
            doors.give(self.proxy, packet_id, body.leaf, self._leaves.get(body.leaf))
            return
        governed, again = self._link.subject(packet_id)
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
        self._link.hand_over(governed, again=again)

    def _prepare(self, governed: Governed) -> None:
        self._preparation.prepare(governed)
        governed.stage = Stage.LISTENING

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
        governed.give_up_at = time.monotonic() + STEP_S
        self._selector.register(governed.process.control, selectors.EVENT_READ, lambda: self._reported(governed))

    def _detached(self) -> None:
        """The proxy is gone. Dials are refused from here on, or wait for a stated time if it said that it would go; the ports stay ours."""
        awaited = self._link.detached(time.monotonic())
        log.warning("the proxy went away; dials %s", "wait for the next one" if awaited else "are refused until it is back")
        for each in self.live():
            each.served = False
            if each.listeners is not None and not awaited:
                each.listeners.shut()
            if each.stage in (Stage.ADMITTING, Stage.LISTENING):
                self._fail(each, "the proxy went away")

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
            governed.leaf.occupied()
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
            if not self._launchers.started(governed, descriptors) and governed.leaf.name in self._own:
                self._own[governed.leaf.name].started(os.dup(descriptors[1]))
            self._keep(governed)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _keep(self, governed: Governed) -> None:
        """Have what belongs to a leaf that runs outlast us. One of our own, or without a launcher, need not."""
        asked = self._launchers.asked(governed.leaf.name)
        if self._settings.store is not None and asked is not None:
            name = governed.leaf.name
            try:
                takeover.keep(self._settings.store, governed, asked, self.attempts.heard(name), self.auditor.unmarked(name), self.auditor.former)
            except (OSError, ValueError) as error:
                log.warning("leaf %s ends with this enforcerd, it cannot be kept: %s", name, error)

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
        code = wait(governed.process)
        if governed.status is None:
            governed.status = code or -9
        ran = governed.stage is Stage.RUNNING
        self._release(governed)
        if ran:
            self._evidence.exit(governed)
            self._launchers.ended(governed, governed.status)
        else:
            self._evidence.refused(governed.workload.name, governed.launcher, governed.leaf.name, governed.reason)
            self._launchers.refused(governed, governed.reason or "could not be started", max(governed.status, 1))

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
        self._launchers.refused(governed, reason)

    def _release(self, governed: Governed) -> None:
        """Take back everything that the leaf has in the kernel, and tell the proxy."""
        self.watch.end(governed)
        self.attempts.end(governed)
        self.bpf.end(governed)
        self.lineage.end(governed)
        self._leaves.pop(governed.leaf.name, None)
        if self._settings.store is not None:
            self._settings.store.drop(governed.leaf.name)
        was_shared = not governed.isolated and governed.listeners is not None
        try:
            governed.release()
        except HostagentError:
            log.exception("leaf %s cannot be removed; it stays fenced", governed.leaf.name)
        if was_shared:
            with contextlib.suppress(HostagentError):
                self.fence.load(self.live(), self._settings.loopback_ports())
        self._link.retire(governed.leaf.name)
        own = self._own.pop(governed.leaf.name, None)
        if own is not None:
            own.ended(governed)
