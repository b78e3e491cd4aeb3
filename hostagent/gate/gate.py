"""The gate: one flow's bytes in, commands out. It owns the order inspect, evaluate, mask, record, forward; and time.

It knows no protocol. The inspector of the target's protocol does the reading; the desk judges, records and holds for it.
"""

from __future__ import annotations

from hostagent.gate.context import SessionContext
from hostagent.gate.desk import GateDesk
from hostagent.gate.holds import Holds
from hostagent.inspectors.ports import Ahead, Denial, Holder, Resting, Surroundings
from hostagent.inspectors.registry import PROTOCOLS
from hostagent.model.command import Command
from hostagent.model.errors import LocalWireError
from hostagent.model.flow import Side
from hostagent.model.ticket import Answer

_DENIED = "42501"
_CANCELLED = "57014"


def _nothing() -> int:
    return 0


class Gate:
    """One governed connection, sans I/O. ``now`` is monotonic seconds everywhere."""

    def __init__(self, context: SessionContext) -> None:
        """Choose the inspector of the target's protocol.

        Raises:
            LocalWireError: nobody here understands that protocol; the flow must be refused.
        """
        row = PROTOCOLS.get(context.target.protocol)
        if row is None:
            raise LocalWireError(f"no inspector for protocol {context.target.protocol!r}")
        self._desk = GateDesk(context)
        self._inspector = row.inspector(
            self._desk,
            Surroundings(
                flow=context.flow,
                target=context.target,
                secret=context.secret,
                random=context.random,
                wall_offset_ns=context.wall_offset_ns,
                cancel_keys=context.cancel_keys,
                wake=context.wake,
                tls=context.tls,
                demand_scram=context.demand_scram,
                placeholder=context.placeholder,
                inline=context.inline,
                park_s=context.park_s,
            ),
        )
        # The hot path: nothing of the gate's own happens per chunk.
        self.feed = self._inspector.feed
        self.connected = self._inspector.connected
        self.connect_failed = self._inspector.connect_failed
        self.closed = self._inspector.closed
        self.cut = self._inspector.cut
        self.analysed = self._inspector.analysed
        self.ahead = self._inspector.ahead if isinstance(self._inspector, Ahead) else _nothing

    @property
    def statements(self) -> int:
        """How many statements were recorded."""
        return self._desk.evidence.statements

    @property
    def items(self) -> int:
        """How many things are kept: quick, to know when to ask ``weigh``."""
        return self._inspector.items

    def weigh(self) -> int:
        """Return about how many bytes are kept for this flow."""
        return self._inspector.weigh()

    @property
    def signed_in(self) -> bool:
        """Whether sign-in is complete; nothing can be held before."""
        return self._inspector.signed_in

    @property
    def at_rest(self) -> bool:
        """Whether the session may end without undoing anything."""
        return isinstance(self._inspector, Resting) and self._inspector.at_rest

    @property
    def deadline(self) -> float | None:
        """When ``tick`` wants to be called (monotonic seconds), or None."""
        branches = self._desk.branches
        if not branches:
            return self._desk.holds.deadline
        due = [deadline for holds, _ in self._holding() if (deadline := holds.deadline) is not None]
        return min(due, default=None)

    def _holding(self) -> list[tuple[Holds, Holder]]:
        """Return every place where something may be held, and who waits for its answer."""
        return [(self._desk.holds, self._inspector), *self._desk.branches.values()]

    def secured(
        self, side: Side, now: float, *, version: str = "", channel_binding: bytes = b"", sni: str = ""
    ) -> list[Command]:
        """TLS is up on ``side``."""
        return self._inspector.secured(side, now, version=version, channel_binding=channel_binding, sni=sni)

    def resume(self, answer: Answer, now: float) -> list[Command]:
        """A person (or the desk's own clock) answered the pending hold. An answer to anything else does nothing."""
        out: list[Command] = []
        for holds, holder in self._holding():
            if holds.answered(answer, now, out):
                return out + holder.release(None if answer.granted else _refused(answer), now)
        return out

    def tick(self, now: float) -> list[Command]:
        """Do what is due: a cancelled hold, a timeout, the next notice to a waiting client."""
        out: list[Command] = []
        for holds, holder in self._holding():
            if holds.pending is not None:
                out += _looked_after(holds, holder, now)
        return out


def _looked_after(holds: Holds, holder: Holder, now: float) -> list[Command]:
    """Do what is due of one hold."""
    out: list[Command] = []
    if holder.cancel_wanted():
        holds.withdraw("cancelled by the client", now, out)
        denial = Denial(_CANCELLED, "canceling statement due to user request", "It was held.", "", "cancelled")
        return out + holder.release(denial, now)
    if holds.expired(now):
        holds.withdraw("nobody answered in time", now, out)
        denial = Denial(
            _DENIED,
            "hostagent: denied: held, and nobody answered in time",
            "",
            "Ask an approver to be at hand, then send the statement again.",
        )
        return out + holder.release(denial, now)
    text = holds.due(now)
    return out + holder.notice(text, now) if text else out


def _refused(answer: Answer) -> Denial:
    who = f" by {answer.by}" if answer.by else ""
    why = f": {answer.reason}" if answer.reason else ""
    return Denial(
        _DENIED, f"hostagent: denied{who}{why}", f"Ticket {answer.ticket_id}.", "The session goes on without it."
    )
