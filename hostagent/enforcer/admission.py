"""Whether enforcerd itself permits a launch, before the proxy is asked, and the leaf that it would have."""

from __future__ import annotations

import time
from collections.abc import Callable

from hostagent.enforcer import doors
from hostagent.enforcer.audit.auditor import Auditor
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.fence import Fence
from hostagent.enforcer.governed import Governed, account_for, new_name
from hostagent.enforcer.proxylink import ProxyLink
from hostagent.enforcer.quarantine import Quarantine
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings
from hostagent.ipc import Launch
from hostagent.model.errors import HostagentError, NotPermittedError
from hostagent.model.flow import Placement
from hostagent.model.workload import Workload

STEP_S = 15.0
"""How long the proxy, or a program's first process, may take for one step of a launch."""


class Admission:
    """Answers who may launch what, and whether anything may be launched at the moment."""

    def __init__(
        self,
        settings: Settings,
        evidence: Evidence,
        slice_: Slice,
        fence: Fence,
        proxy: ProxyLink,
        quarantine: Quarantine,
        auditor: Auditor,
        live: Callable[[], list[Governed]],
    ) -> None:
        """``live`` returns every leaf that has not ended."""
        self._settings = settings
        self._evidence = evidence
        self._slice = slice_
        self._fence = fence
        self._proxy = proxy
        self._quarantine = quarantine
        self._auditor = auditor
        self._live = live

    def permit(self, launcher: str, request: Launch) -> Workload:
        """Return the workload that ``launcher`` asks for.

        Raises:
            NotPermittedError: no such workload, or it is not among its launchers.
            HostagentError: it cannot be launched as its document is, or not now.
        """
        workload = self._settings.workloads().get(request.workload)
        if workload is None or launcher not in workload.launchers:
            # One answer for both: whoever may not launch it need not learn that it exists.
            raise NotPermittedError(f"{launcher} may not launch workload {request.workload!r} (launchers in its document)")
        self._quarantine.check(workload.name)
        if workload.placement is Placement.SHARED and self._fence.firewall.shared_refused:
            raise HostagentError(f"workload {workload.name}: {self._fence.firewall.shared_refused}")
        doors.check(workload, self._settings.loopback_ports())
        if not request.argv:
            raise HostagentError("no command given")
        return workload

    @property
    def ready(self) -> bool:
        """Whether launches can succeed."""
        return self._proxy.peer is not None and self._fence.current and not self._evidence.failed

    def admit(self, workload: Workload, launcher: str, request: Launch) -> Governed:
        """Return a leaf that nothing was made of yet.

        Raises:
            HostagentError: nothing can be launched now, or there is no uid for it.
        """
        if self._evidence.failed:
            raise HostagentError(f"evidence cannot be written: {self._evidence.failed}")
        if self._proxy.peer is None:
            raise HostagentError("the proxy is not running; nothing can be admitted (hostagent status)")
        if not self._fence.current:
            raise HostagentError("the fence is being loaded again; try once more")
        if unseen := self._auditor.refusal(time.monotonic()):
            raise HostagentError(unseen)
        taken = {each.account.uid for each in self._live()}
        numbers = {each.number for each in self._live()}
        return Governed(
            leaf=self._slice.leaf(new_name(workload.name)),
            workload=workload,
            launcher=launcher,
            request=request,
            account=account_for(workload, self._settings, frozenset(taken)),
            number=next(number for number in range(1, 65536) if number not in numbers),
            give_up_at=time.monotonic() + STEP_S,
        )
