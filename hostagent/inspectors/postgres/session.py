"""A PostgreSQL session after start-up, sans I/O: both halves, the hold, and the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hostagent.inspectors.ports import Denial, Desk
from hostagent.inspectors.postgres import refusals
from hostagent.inspectors.postgres.client import ClientHalf
from hostagent.inspectors.postgres.conversation import Conversation
from hostagent.inspectors.postgres.server import ServerHalf
from hostagent.inspectors.postgres.subjects import Subjects
from hostagent.inspectors.postgres.weight import count, weigh
from hostagent.model.command import Close, Command, Forward
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.sql import MAX_TEXT, Analysis

_CLIENT: Final = Side.CLIENT


class Session:
    """The main phase. Every method returns the commands it causes; after ``over`` there are none."""

    def __init__(self, desk: Desk, attributes: Mapping[str, str], *, ascii_names: bool = False, inline: int = MAX_TEXT) -> None:
        """``attributes`` go into every operation: database, user, application. ``ascii_names``, ``inline``: see ``Subjects``."""
        self._desk = desk
        self._talk = Conversation(desk, Subjects(attributes, ascii_names=ascii_names, inline=inline))
        self._client = ClientHalf(self._talk)
        self._server = ServerHalf(self._talk)

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self._talk.over

    @property
    def held(self) -> bool:
        """Whether an operation of the client is withheld."""
        waiting = self._client.waiting
        return waiting is not None and not waiting.released

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        out: list[Command] = []
        if self._talk.over:
            return out
        try:
            if side is _CLIENT:
                self._client.feed(data, now, out)
                self._check_left(now, out)
            else:
                self._server.feed(data, now, out)
        except RemoteWireError as error:
            self._broken(side, error, now, out)
        return out

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held operation was answered: go on with it (None), or refuse it."""
        out: list[Command] = []
        waiting = self._client.waiting
        if self._talk.over or waiting is None or waiting.released:
            return out
        waiting.released = True
        waiting.denial = denial
        try:
            self._client.go_on(now, out)
            self._check_left(now, out)
        except RemoteWireError as error:
            self._broken(Side.CLIENT, error, now, out)
        return out

    @property
    def items(self) -> int:
        """How many things the session keeps."""
        return count(self._talk)

    def weigh(self) -> int:
        """Return about how many bytes the session keeps."""
        waiting = 3 if self._client.waiting is not None else 1  # the ticket shows all of it once more
        return weigh(self._talk) + waiting * self._client.buffered + self._server.buffered

    def analysed(self, analysis: Analysis, now: float) -> list[Command]:
        """The text that was handed out (``Analyse``) means this: go on with the statement that has it."""
        out: list[Command] = []
        if self._talk.over:
            return out
        try:
            self._client.analysed(analysis, now, out)
            self._check_left(now, out)
        except RemoteWireError as error:
            self._broken(Side.CLIENT, error, now, out)
        return out

    def notice(self, text: str, _now: float) -> list[Command]:
        """Tell the client something that is no answer to anything."""
        out: list[Command] = []
        if not self._talk.over:
            self._talk.aside(refusals.notice(text), out)
        return out

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset: the other side gets what was sent, and the end."""
        out: list[Command] = []
        if not self._talk.over:
            self._leave("the client closed the connection" if side is Side.CLIENT else "the target closed it", now, out)
        return out

    @property
    def busy(self) -> bool:
        """Whether the server has not yet answered all that it was sent."""
        return not self._talk.over and bool(self._talk.queue)

    @property
    def at_rest(self) -> bool:
        """Whether no transaction is open and nothing is under way or held."""
        talk = self._talk
        return talk.status == b"I" and not (talk.queue or talk.copying_in or talk.discarding or talk.partial or self.held)

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session now with a FATAL error (57P01)."""
        out: list[Command] = []
        if not self._talk.over:
            self._fatal(f"hostagent: session ended: {reason}", refusals.TERMINATED, out)
            self._leave(reason, now, out)
        return out

    def _check_left(self, now: float, out: list[Command]) -> None:
        if self._client.terminated and self._client.waiting is not None:
            self._leave("the client left while its operation was held", now, out)

    def _broken(self, side: Side, error: RemoteWireError, now: float, out: list[Command]) -> None:
        reason = f"{side}: {error}"
        self._desk.refusal(reason, now, out)
        self._fatal(f"hostagent: {error}", error.code, out)
        self._leave(reason, now, out)

    def _fatal(self, message: str, sqlstate: str, out: list[Command]) -> None:
        if not self._talk.partial:  # half a message is out: no error can be told apart from its rest
            out.append(Forward(Side.CLIENT, refusals.fatal(message, sqlstate)))

    def _leave(self, reason: str, now: float, out: list[Command]) -> None:
        waiting = self._client.waiting
        if waiting is not None:
            self._client.waiting = None
            self._desk.withdraw(reason, now, out)
            for trace in waiting.traces:
                self._desk.shut(trace, refusals.WITHDRAWN, now, out)
        self._talk.finish(now, out)
        # Whatever else refers to this session for a while: what it kept is let go of now.
        self._client.forget()
        self._server.forget()
        out.append(Close(reason))
