"""Prepared statements and portals of one session, as the server has them.

The mirror is *optimistic*: a change is made when its message is forwarded, so that the next message of a pipeline can be
judged, and taken back when the server rejects or skips that message. SQL-level PREPARE, DECLARE and their opposites share
the two namespaces with Parse and Bind (PostgreSQL 17 §53.2.3).
"""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.ports import Shape, Subject
from hostagent.sql.statement import Statement

# NAMEDATALEN - 1: the server's name tables compare no more of a name than this.
NAME_LIMIT: Final = 63
# Names that begin like this are ours.
RESERVED: Final = b"hostagent:"


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
    """

    __slots__ = ("described", "description", "durable", "formats", "prepared", "segment", "values")

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


Undo = list[
    tuple[int, dict[bytes, Prepared], bytes, Prepared | None] | tuple[int, dict[bytes, Portal], bytes, Portal | None]
]


class Names:
    """The two namespaces. Every change goes through here and can be taken back."""

    __slots__ = ("portals", "statements")

    def __init__(self) -> None:
        """Start as a fresh session does: with nothing."""
        self.statements: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Portal] = {}

    def set_statement(self, name: bytes, value: Prepared | None, undo: Undo, position: int = 0) -> Undo:
        """Define or (None) drop a statement; note in ``undo``, which is returned, how to take it back."""
        undo.append((position, self.statements, name, self.statements.get(name)))
        if value is None:
            self.statements.pop(name, None)
        else:
            self.statements[name] = value
        return undo

    def set_portal(self, name: bytes, value: Portal | None, undo: Undo, position: int = 0) -> Undo:
        """Define or (None) drop a portal; note in ``undo``, which is returned, how to take it back."""
        undo.append((position, self.portals, name, self.portals.get(name)))
        if value is None:
            self.portals.pop(name, None)
        else:
            self.portals[name] = value
        return undo

    @staticmethod
    def take_back(undo: Undo, done: int = 0) -> None:
        """Take back every change of statements from position ``done`` on, latest first."""
        for change in reversed(undo):
            if change[0] < done:
                continue
            _, space, name, previous = change
            if previous is None:
                space.pop(name, None)
            else:
                space[name] = previous  # type: ignore[assignment]

    def transaction_ended(self, segment: int) -> None:
        """The server is idle after ``segment``: drop every portal made until then that does not outlive it."""
        if self.portals:
            gone = [name for name, portal in self.portals.items() if portal.segment <= segment and not portal.durable]
            for name in gone:
                del self.portals[name]

    def apply(self, statement: Statement, subject: Subject, segment: int, undo: Undo, position: int) -> None:
        """Make the changes that running ``statement`` makes; ``subject`` is what it prepares or declares."""
        verb = statement.verb
        name = key_of(statement.name.encode("utf-8", "surrogateescape"))
        if verb == "prepare":
            self.set_statement(name, Prepared(subject), undo, position)
        elif verb.startswith("declare"):
            durable = "hold" in statement.text.lower()
            portal = Portal(Prepared(subject), segment, durable=durable)
            self.set_portal(name, portal, undo, position)
        elif verb.startswith("deallocate"):
            for each in [name] if name else list(self.statements):
                self.set_statement(each, None, undo, position)
        elif verb.startswith("close"):
            for each in [name] if name else list(self.portals):
                self.set_portal(each, None, undo, position)
        elif verb.startswith("discard"):
            self._discard(statement, undo, position)

    def _discard(self, statement: Statement, undo: Undo, position: int) -> None:
        if not any(setting == "*" for setting, _ in statement.settings):
            return  # PLANS, SEQUENCES, TEMPORARY: no name goes
        for each in list(self.statements):
            self.set_statement(each, None, undo, position)
        for each in list(self.portals):
            self.set_portal(each, None, undo, position)
