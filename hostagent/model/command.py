"""Commands: what the gate asks the I/O rim to do. Tuples, but for the two that are made per message: compiled, a class costs a tenth.

The rim obeys a list of them in this order: first every ``Record`` is appended to the journal, in list order; only if that
succeeded are the others carried out, in list order. A failed append closes the flow and nothing else is carried out.
"""

from __future__ import annotations

from typing import NamedTuple, final

from hostagent.model.event import Event
from hostagent.model.flow import Side
from hostagent.model.ticket import Ticket


@final
class Forward:
    """Write ``data`` to ``side``."""

    __slots__ = ("data", "side")

    def __init__(self, side: Side, data: bytes) -> None:
        """Keep the parts."""
        self.side = side
        self.data = data

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` writes the same."""
        return isinstance(other, Forward) and self.side is other.side and self.data == other.data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return what it does, for people."""
        return f"Forward({self.side!r}, {self.data!r})"


@final
class Record:
    """Append ``event`` to the journal before anything else in this list happens."""

    __slots__ = ("event",)

    def __init__(self, event: Event) -> None:
        """Keep the event."""
        self.event = event

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` records the same."""
        return isinstance(other, Record) and self.event == other.event

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return what it does, for people."""
        return f"Record({self.event!r})"


class Hold(NamedTuple):
    """Register ``ticket`` with the approvals desk; the answer comes back through ``Gate.resume``."""

    ticket: Ticket


class Withdraw(NamedTuple):
    """The held operation is gone (client left, cancelled): void the ticket."""

    ticket_id: str
    reason: str


class Detach(NamedTuple):
    """The ticket is kept for the same operation to come again: this session waits for its answer no more."""

    ticket_id: str


class Connect(NamedTuple):
    """Open the upstream connection to the flow's target; the gate is told by ``Gate.connected``.

    ``database`` (or whatever the protocol calls it) is where the client wants to go there.
    """

    database: str = ""


class StartTLS(NamedTuple):
    """Upgrade ``side`` to TLS after writing what precedes; the gate is told by ``Gate.secured``.

    CLIENT: serve with a leaf certificate for the name the client asked for. SERVER: verify as the target demands.
    ``initial`` is client data already received that belongs to the TLS stream (direct TLS). ``name`` is the one of the target's
    names that the client asked for, and so the one that the server must prove; empty: the one that fits where it is dialled.
    ``alpn`` is the only protocol that is offered (RFC 7301); ``demand``: the server must agree to it.
    """

    side: Side
    alpn: str = ""
    initial: bytes = b""
    name: str = ""
    demand: bool = False


class Pause(NamedTuple):
    """Read nothing more from ``side`` until ``Resume``: what it sent before is not used up."""

    side: Side


class Resume(NamedTuple):
    """Read from ``side`` again."""

    side: Side


class Again(NamedTuple):
    """Not all that ``side`` sent was looked at, so that others come in between: next, feed nothing (``b""``) of it."""

    side: Side


class CancelUpstream(NamedTuple):
    """Open a separate connection to the target, send ``data`` (a CancelRequest) and close it."""

    data: bytes


class RefreshCatalogue(NamedTuple):
    """The schema changed or an unknown object was met: fetch the catalogue anew."""


class Analyse(NamedTuple):
    """Find out what ``text`` means beside the loop, because that takes long; the answer comes back through ``Gate.analysed``.

    Nothing of the client is to be fed before it: the gate stands at the statement that has this text.
    """

    text: bytes


class Close(NamedTuple):
    """Flush what was written, then close both sides. ``reason`` is one line for logs and records."""

    reason: str


Command = Forward | Record | Hold | Withdraw | Detach | Connect | StartTLS | Pause | Resume | Again | CancelUpstream | RefreshCatalogue | Analyse | Close
