"""The ports between an inspector and the gate: what an inspector is given, and what it must offer.

The gate implements ``Desk`` and ``Masking``; every protocol implements ``Inspector``. Neither side knows more of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from hostagent.inspectors.judged import Ruling, Subject, Trace
from hostagent.inspectors.transfers import Meter
from hostagent.model.command import Command
from hostagent.model.flow import Flow, Side
from hostagent.model.operation import Operation
from hostagent.model.target import Target
from hostagent.model.ticket import Answer, Ticket
from hostagent.model.verdict import Verdict
from hostagent.sql import MAX_TEXT, Analysis
from hostagent.sql.statement import Statement


class Detected(Protocol):
    """What masking did to a run of rows."""

    @property
    def masked(self) -> int:
        """How many values were replaced."""

    @property
    def detections(self) -> Mapping[str, int]:
        """How often each detector hit."""


class RowPlan(Protocol):
    """How rows of one shape are masked."""

    def clear(self, buffer: bytes, offset: int) -> int:
        """Return how far rows that begin at ``offset`` surely pass as they are: found out at the speed of memory."""

    def apply(self, run: bytes) -> tuple[bytes, Detected]:
        """Return the masked form of a run of complete row messages."""


class CopyPlan(Protocol):
    """How a bulk stream is masked; one per stream."""

    def feed(self, data: bytes) -> bytes:
        """Return what may pass now."""

    def finish(self) -> bytes:
        """Return the rest at the end of the stream."""

    @property
    def counts(self) -> Detected:
        """What was masked so far."""


class Shape(NamedTuple):
    """One result shape under one set of obligations.

    ``message`` replaces the description the server sent, None when it may pass as it is. ``plan`` is None when rows may
    pass untouched. ``columns`` is for the record. ``unknown``: a column comes from a table that the catalogue does not have.
    """

    message: bytes | None
    plan: RowPlan | None
    columns: Sequence[Mapping[str, object]]
    unknown: bool = False


class Column(NamedTuple):
    """One result column, as far as obligations care. ``table_oid`` and ``attnum`` are 0 when it is no table's column."""

    name: str
    table_oid: int
    attnum: int
    type_oid: int
    format: int


class Planned(NamedTuple):
    """How rows are masked (None: not at all), and the columns as the record tells them."""

    plan: RowPlan | None
    columns: Sequence[Mapping[str, object]]
    unknown: bool = False


class Masking(Protocol):
    """Obligations in force for a statement. ``shapes`` is the inspector's own, for what it compiled under them."""

    shapes: dict[object, Shape]

    def rows(self, columns: Sequence[Column], exposed: int) -> Planned:
        """Return the plan for rows of ``columns``."""

    def copy_out(self, statement: Statement) -> CopyPlan | None:
        """Return the plan for this COPY's stream, or None when it cannot be masked and must not pass."""

    def message(self, fields: Mapping[str, str], exposed: int) -> Mapping[str, str]:
        """Return the fields of an error or notice as the client may see them."""

    def text(self, value: str) -> str:
        """Return ``value`` with every detected secret replaced."""

    def maskable(self, media_type: str) -> bool:
        """Return whether a body of that type can be masked at all."""

    def document(self, media_type: str, body: bytes) -> tuple[bytes, Detected] | None:
        """Return a whole body with every detected value replaced and what that did; None when it cannot be masked."""


class Outcome(NamedTuple):
    """How a statement ended; see the ``result`` row of ``hostagent.model.event``. ``message`` is already masked."""

    outcome: str
    tag: str = ""
    sqlstate: str = ""
    message: str = ""


class Earlier(NamedTuple):
    """What became of the ticket of the same operation when it came before. ``answer`` None: nobody has answered yet."""

    ticket: Ticket
    answer: Answer | None


class Held(NamedTuple):
    """A hold that the gate registered: its ticket and the text the client is to be told."""

    ticket: str
    notice: str


Parameters = tuple[str | bytes | None, ...]


class Holder(Protocol):
    """Whoever waits for the answer to a hold: the inspector, or one of several exchanges on its connection."""

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held operation was answered: go on with it (None), or refuse it."""

    def notice(self, text: str, now: float) -> list[Command]:
        """Tell the client something that is no answer to anything."""

    def cancel_wanted(self) -> bool:
        """Return whether a cancel of the *held* operation has arrived since the last call."""


class Desk(Protocol):
    """What the gate does for an inspector. Methods with ``out`` append commands to it."""

    def branch(self, holder: Holder) -> Desk:
        """Return a desk that is the same but for its holds, which are answered to ``holder``."""

    def prune(self, branch: Desk) -> None:
        """Nothing is held at ``branch`` any more, nor will be."""

    def current(self) -> object:
        """Return the epoch now; it changes when policy, identity or catalogue did."""

    def rule(self, subject: Subject, parameters: Parameters = ()) -> Ruling:
        """Return the ruling on ``subject`` now: cached where nothing it read can have changed."""

    def open(
        self,
        ruling: Ruling,
        exact: Sequence[bytes],
        parameters: Parameters | None,
        now: float,
        out: list[Command],
        *,
        decision: str = "",
        ticket: str = "",
        reason: str = "",
    ) -> list[Trace]:
        """Record that the statements of ``ruling`` are about to run (or are refused, or held).

        ``reason``: it is refused whatever policy said, and why.
        """

    def shut(self, trace: Trace, outcome: Outcome, now: float, out: list[Command]) -> None:
        """Record how a statement ended."""

    def moved(self, meter: Meter, outcome: str, now: float, out: list[Command], *, reason: str = "") -> None:
        """Record how a file's transfer ended, once: finished, cut or denied. One that was no file after all is not recorded."""

    def refusal(self, reason: str, now: float, out: list[Command]) -> None:
        """Record that something was refused outside any statement."""

    def judge(self, operation: Operation) -> Verdict:
        """Return what policy says of one operation now, such as the connection itself."""

    def signed_in(self, database: str, user: str) -> None:
        """The session is ready: what it is signed in to, for masking and tickets."""

    def ticket(self) -> str:
        """Return a new ticket id."""

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
        """Register a hold of ``operations`` (exact, with parameters); the first notice is due after ``notice_s`` seconds."""

    def earlier(self, ruling: Ruling, operations: tuple[Operation, ...], now: float) -> Earlier | None:
        """Return what was kept when the same running program asked for exactly ``operations`` before. A grant is used up by this."""

    def keep(self, now: float, out: list[Command]) -> Ticket | None:
        """Keep the pending hold for ``earlier``: this session waits no more. None: there are too many; it is void."""

    def unchanged(self, operations: tuple[Operation, ...]) -> bool:
        """Return whether ``operations`` are exactly what the ticket now being released shows."""

    def withdraw(self, reason: str, now: float, out: list[Command]) -> None:
        """Void the pending hold, if any."""

    def scrub(self, text: str) -> str:
        """Return ``text`` as it may be recorded, whatever policy says."""

    def changed(self, out: list[Command]) -> None:
        """The schema may have changed: ask for a new catalogue."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a protocol needs to know of the flow beside its bytes.

    ``random(n)`` returns n unpredictable bytes; ``wake`` asks for a tick soon; ``cancel_keys`` is the protocol's own
    registry, shared by all sessions. ``tls``: the client can be offered TLS. ``demand_scram``: clients insist on SCRAM and
    use ``placeholder`` as their password. Statements of more than ``inline`` bytes are analysed beside the loop. ``at(now)`` is
    wall-clock unix nanoseconds. ``park_s``: how long a held operation waits where clients cannot wait.
    """

    flow: Flow
    target: Target
    secret: str | None
    random: Callable[[int], bytes]
    wall_offset_ns: int
    cancel_keys: object
    wake: Callable[[], None]
    tls: bool
    demand_scram: bool
    placeholder: str
    inline: int = MAX_TEXT
    park_s: float = 0.0


class Denial(NamedTuple):
    """A refusal in words, for the client and for the record."""

    sqlstate: str
    message: str
    detail: str = ""
    hint: str = ""
    outcome: str = "denied"


@runtime_checkable
class Resting(Protocol):
    """An inspector that can say when its session may end without undoing anything. One that cannot is never at rest."""

    @property
    def at_rest(self) -> bool:
        """Whether no transaction is open and no operation is under way or held."""


@runtime_checkable
class Ahead(Protocol):
    """An inspector that can say that what comes next of the target's is content, cheap and the same whatever stands in it."""

    def ahead(self) -> int:
        """Return how many bytes of the target's that is: so many may be fed at once."""


class Inspector(Protocol):
    """One protocol on one flow. Every method returns the commands it causes."""

    @property
    def signed_in(self) -> bool:
        """Whether sign-in is complete, on both sides."""

    @property
    def failed(self) -> bool:
        """Whether the session is over."""

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""

    def secured(self, side: Side, now: float, *, version: str, channel_binding: bytes, sni: str) -> list[Command]:
        """TLS is up on ``side``."""

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held operation was answered: go on with it (None), or refuse it."""

    @property
    def items(self) -> int:
        """How many things (statements, requests) the flow keeps: quick."""

    def weigh(self) -> int:
        """Return about how many bytes the flow keeps; takes time in proportion to ``items``."""

    def analysed(self, analysis: Analysis, now: float) -> list[Command]:
        """The text of the last ``Analyse`` means this: go on with the statement that has it."""

    def notice(self, text: str, now: float) -> list[Command]:
        """Tell the client something that is no answer to anything."""

    def cancel_wanted(self) -> bool:
        """Return whether a cancel of the *held* operation has arrived since the last call."""

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session with the protocol's own fatal error."""
