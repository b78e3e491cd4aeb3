"""The gate's side of the ports: judgement, evidence and holds of one session, as an inspector sees them."""

from __future__ import annotations

from collections.abc import Callable

from hostagent.gate.context import SessionContext
from hostagent.gate.evidence import Evidence, shortened
from hostagent.gate.holds import Holds
from hostagent.gate.judgement import Judgement
from hostagent.inspectors.judged import Ruling, Trace
from hostagent.inspectors.ports import Desk, Earlier, Held, Holder, Outcome
from hostagent.inspectors.transfers import Meter
from hostagent.mask import scrub
from hostagent.model.command import Command, RefreshCatalogue
from hostagent.model.event import EventKind
from hostagent.model.operation import Operation
from hostagent.model.ticket import Ticket
from hostagent.model.verdict import Verdict


class GateDesk:
    """Implements ``hostagent.inspectors.ports.Desk``."""

    def __init__(self, context: SessionContext, trunk: GateDesk | None = None) -> None:
        """Put the parts together; those of ``trunk`` if there is one, but for the holds."""
        self._context = context
        self.judgement: Judgement = Judgement(context) if trunk is None else trunk.judgement
        self.evidence: Evidence = Evidence(context, scrub) if trunk is None else trunk.evidence
        self.branches: dict[Desk, tuple[Holds, Holder]] = {}
        self.holds = Holds(context, self.evidence)
        # The hot path calls the parts without a detour.
        self.current: Callable[[], object] = self.judgement.current
        self.shut: Callable[[Trace, Outcome, float, list[Command]], None] = self.evidence.shut
        self.judge: Callable[[Operation], Verdict] = self.judgement.evaluate
        self.scrub: Callable[[str], str] = self.evidence.scrub
        self.open = self.evidence.open
        self.rule = self.judgement.rule

    def branch(self, holder: Holder) -> GateDesk:
        """Return a desk that is the same but for its holds, which are answered to ``holder``."""
        made = GateDesk(self._context, self)
        self.branches[made] = (made.holds, holder)
        return made

    def prune(self, branch: Desk) -> None:
        """Nothing is held at ``branch`` any more, nor will be."""
        self.branches.pop(branch, None)

    def moved(self, meter: Meter, outcome: str, now: float, out: list[Command], *, reason: str = "") -> None:
        """Record how a file's transfer ended, once."""
        if meter.counts:
            meter.told = True
            out.append(self.evidence.event(EventKind.TRANSFER, meter.fields(outcome, reason, self.scrub), now))

    def refusal(self, reason: str, now: float, out: list[Command]) -> None:
        """Record that something was refused outside any statement."""
        flow = self._context.flow
        fields = {
            "layer": "proxy",
            "leaf": flow.leaf,
            "source": str(flow.peer),
            "destination": str(flow.destination),
            "transport": flow.transport,
            "reason": shortened(reason),
            "count": 1,
        }
        out.append(self.evidence.event(EventKind.REFUSAL, fields, now))

    def signed_in(self, database: str, user: str) -> None:
        """The session is ready: what it is signed in to."""
        self.judgement.database = self.holds.database = database
        self.holds.user = user

    def ticket(self) -> str:
        """Return a new ticket id."""
        return self.holds.new_id()

    def hold(
        self,
        ticket: str,
        ruling: Ruling,
        operations: tuple[Operation, ...],
        trace: str,
        now: float,
        out: list[Command],
        *,
        notice_s: float | None = None,
    ) -> Held:
        """Register a hold of ``operations``."""
        return self.holds.open(ticket, ruling.verdict, operations, trace, now, out, notice_s=notice_s)

    def earlier(self, ruling: Ruling, operations: tuple[Operation, ...], now: float) -> Earlier | None:
        """Return what was kept when the same was asked before; a grant is used up by this."""
        return self.holds.earlier(ruling.verdict, operations, now)

    def keep(self, now: float, out: list[Command]) -> Ticket | None:
        """Keep the pending hold for whoever asks the same again."""
        return self.holds.keep(now, out)

    def unchanged(self, operations: tuple[Operation, ...]) -> bool:
        """Return whether ``operations`` are exactly what the ticket now being released shows."""
        return self.holds.unchanged(operations)

    def withdraw(self, reason: str, now: float, out: list[Command]) -> None:
        """Void the pending hold, if any."""
        self.holds.withdraw(reason, now, out)

    def changed(self, out: list[Command]) -> None:
        """The schema may have changed: ask for a new catalogue."""
        out.append(RefreshCatalogue())
