"""Prepared statements and portals of one session, as the server has them.

The mirror is *optimistic*: a change is made when its message is forwarded, so that the next message of a pipeline can be
judged, and taken back when the server rejects or skips that message. What was sent later and still stands is then made anew
on top of what is left, because what it replaced is no longer the same. SQL-level PREPARE, DECLARE and their opposites share
the two namespaces with Parse and Bind (PostgreSQL 17 §53.2.3).
"""

from __future__ import annotations

from typing import Any, Final

from hostagent.inspectors.judged import Subject
from hostagent.inspectors.ports import Shape
from hostagent.sql.statement import Statement

# NAMEDATALEN - 1: the server's name tables compare no more of a name than this.
NAME_LIMIT: Final = 63
# Names that begin like this are ours.
RESERVED: Final = b"hostagent:"
_UNNAMED: Final = b""
# The position of a change that a message makes before any of its statements runs.
DROPPED: Final = -1


def key_of(name: bytes) -> bytes:
    """Return the part of a protocol-level name that the server tells names apart by."""
    return name[:NAME_LIMIT]


class Prepared:
    """A prepared statement. ``types`` are parameter type OIDs, 0 where the server has not told us."""

    __slots__ = ("shape", "subject", "types")

    def __init__(self, subject: Subject, types: tuple[int, ...] = ()) -> None:
        """Keep the parts."""
        self.subject = subject
        self.types = types
        self.shape: Shape | None = None


class Portal:
    """A portal: a prepared statement with values.

    ``segment`` is the stretch between two Syncs it was made in; ``durable`` cursors outlive their transaction.
    ``description`` is the body of its RowDescription once the server sent it; ``described`` that somebody asked for it.
    ``named`` is what the names in its statement stood for when it was bound: its description is that of these.
    """

    __slots__ = ("described", "description", "durable", "formats", "named", "prepared", "segment", "values")

    def __init__(
        self,
        prepared: Prepared,
        segment: int,
        values: tuple[bytes | None, ...] = (),
        formats: tuple[int, ...] = (),
        *,
        durable: bool = False,
    ) -> None:
        """Keep the parts; not described yet."""
        self.prepared = prepared
        self.segment = segment
        self.values = values
        self.formats = formats
        self.durable = durable
        self.described = False
        self.description: bytes | None = None
        self.named: tuple[Prepared | Portal | None, ...] = ()


class Change:
    """One name got another value: ``previous`` before, ``value`` after, None for no such name.

    ``position`` is that of the statement within its message; ``DROPPED`` for what goes whatever becomes of the statements.
    """

    __slots__ = ("name", "position", "previous", "space", "value")

    def __init__(
        self,
        space: dict[bytes, Any],
        name: bytes,
        value: Any,  # noqa: ANN401
        position: int = 0,
        previous: Any = None,  # noqa: ANN401
    ) -> None:
        """Keep the parts; nothing is changed yet."""
        self.position = position
        self.space = space
        self.name = name
        self.value = value
        self.previous = previous

    @property
    def key(self) -> tuple[int, bytes]:
        """What tells its name from others."""
        return id(self.space), self.name

    @property
    def stands(self) -> bool:
        """Whether the name surely has its value of this change: what was made since then would have given it another."""
        return self.value is not None and self.space.get(self.name) is self.value

    def lifted(self) -> tuple[Change, Any]:
        """Put back what was there before, whatever has followed; returns itself and what stood there, for ``put_back``."""
        value = self.space.get(self.name)
        self.take_back()
        return self, value

    def put_back(self, value: Any) -> None:  # noqa: ANN401
        """Make the change again, and all that followed it."""
        self.previous = self.space.get(self.name)
        self._set(value)

    def make(self) -> None:
        """Make the change."""
        self.previous = self.space.get(self.name)
        self._set(self.value)

    def take_back(self) -> None:
        """Put back what was there before."""
        self._set(self.previous)

    def doubt(self) -> None:
        """Nobody can say whether the change happened: keep what the name can only stand for, if it stands for anything."""
        self._set(self.value if self.previous is None else self.previous if self.value is None else None)

    def _set(self, value: Any) -> None:  # noqa: ANN401
        if value is None:
            self.space.pop(self.name, None)
        else:
            self.space[self.name] = value


Undo = list[Change]


def _changed(change: Change, undo: Undo) -> Undo:
    change.make()
    undo.append(change)
    return undo


class Names:
    """The two namespaces. Every change goes through here and can be taken back."""

    __slots__ = ("portals", "statements")

    def __init__(self) -> None:
        """Start as a fresh session does: with nothing."""
        self.statements: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Portal] = {}

    def set_statement(self, name: bytes, value: Prepared | None, undo: Undo, position: int = 0) -> Undo:
        """Define or (None) drop a statement; note in ``undo``, which is returned, how to take it back."""
        return _changed(Change(self.statements, name, value, position), undo)

    def set_portal(self, name: bytes, value: Portal | None, undo: Undo, position: int = 0) -> Undo:
        """Define or (None) drop a portal; note in ``undo``, which is returned, how to take it back."""
        return _changed(Change(self.portals, name, value, position), undo)

    def drop_unnamed(self, *, empty: bool) -> Undo | None:
        """Drop both unnamed objects, as a simple Query does; return how to take it back, None if there were none.

        An ``empty`` Query makes no portal and so leaves the old one.
        """
        undo: Undo = []
        if b"" in self.statements:
            self.set_statement(b"", None, undo, DROPPED)
        if b"" in self.portals and not empty:
            self.set_portal(b"", None, undo, DROPPED)
        return undo or None

    def transaction_ended(self, segment: int) -> None:
        """The server is idle after ``segment``: drop every portal made until then that does not outlive it."""
        portals = self.portals
        if len(portals) == 1:  # as nearly always: the unnamed one
            only = portals.get(_UNNAMED)
            if only is not None and only.segment <= segment and not only.durable:
                portals.clear()
                return
        if portals:
            gone = [name for name, portal in portals.items() if portal.segment <= segment and not portal.durable]
            for name in gone:
                del portals[name]

    def apply(self, statement: Statement, subject: Subject, segment: int, undo: Undo, position: int) -> None:
        """Make the changes that running ``statement`` makes; ``subject`` is what it prepares or declares.

        ALL leaves the unnamed statement alone, and the unnamed portal when that runs it.
        """
        verb = statement.verb
        name = key_of(statement.name.encode("utf-8", "surrogateescape"))
        if verb == "prepare":
            self.set_statement(name, Prepared(subject), undo, position)
        elif verb.startswith("declare"):
            durable = "hold" in statement.text.lower()
            portal = Portal(Prepared(subject), segment, durable=durable)
            self.set_portal(name, portal, undo, position)
        elif verb.startswith("deallocate"):
            for each in [name] if name else filter(None, list(self.statements)):
                self.set_statement(each, None, undo, position)
        elif verb.startswith("close"):
            for each in [name] if name else filter(None, list(self.portals)):
                self.set_portal(each, None, undo, position)
        elif verb.startswith("discard"):
            self._discard(statement, undo, position)

    def _discard(self, statement: Statement, undo: Undo, position: int) -> None:
        if not any(setting == "*" for setting, _ in statement.settings):
            return  # PLANS, SEQUENCES, TEMPORARY: no name goes
        for each in filter(None, list(self.statements)):
            self.set_statement(each, None, undo, position)
        for each in filter(None, list(self.portals)):
            self.set_portal(each, None, undo, position)
