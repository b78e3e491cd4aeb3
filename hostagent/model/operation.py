"""An operation: what the workload is trying to do, in words that every protocol shares."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.model.transfer import Transfer


class Effect(enum.StrEnum):
    """What an operation may change or reach. Unknown is not an effect: it is *every* effect (``ALL_EFFECTS``)."""

    CONNECT = "connect"
    READ = "read"
    INSERT = "insert"
    UPDATE = "update"
    UPDATE_ALL = "update-without-where"
    DELETE = "delete"
    DELETE_ALL = "delete-without-where"
    TRUNCATE = "truncate"
    CREATE = "create"
    ALTER = "alter"
    DROP = "drop"
    PRIVILEGE = "privilege"  # GRANT, REVOKE, roles, SET ROLE, SECURITY LABEL
    SESSION = "session"  # SET, RESET, DISCARD: changes only this session
    TRANSACTION = "transaction"  # BEGIN, COMMIT, SAVEPOINT ...
    LOCK = "lock"
    NOTIFY = "notify"  # LISTEN, NOTIFY, UNLISTEN
    EXECUTE = "execute"  # server-side code whose effect the wire cannot see: DO, CALL, unknown functions
    IMPORT = "import"  # bulk data in: COPY FROM STDIN
    EXPORT = "export"  # bulk data out: COPY TO STDOUT
    HOST = "host"  # files, programs, other servers: COPY PROGRAM, pg_read_file, dblink, extensions
    ADMIN = "admin"  # server-wide: ALTER SYSTEM, CHECKPOINT, VACUUM, terminate backends
    REPLICATION = "replication"
    CANCEL = "cancel"
    FASTPATH = "fastpath"  # PostgreSQL FunctionCall


ALL_EFFECTS: frozenset[Effect] = frozenset(Effect)


class Completeness(enum.StrEnum):
    """How much of an operation was understood. Anything but FULL is judged as every effect."""

    FULL = "full"
    PARTIAL = "partial"
    OPAQUE = "opaque"


class Access(enum.StrEnum):
    """What is done to a resource."""

    READ = "read"
    WRITE = "write"
    DEFINE = "define"  # created, altered, dropped, granted
    USE = "use"


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """A thing an operation touches. ``kind``: relation, function, database, role, schema, setting, file, host ...

    ``name`` is as written and case-folded by the protocol's own rules, schema-qualified only when the text was
    (``public.customers`` or ``customers``).
    """

    kind: str
    name: str
    access: Access = Access.USE


class ContentKind(enum.StrEnum):
    """What a request carries, as far as it was understood. ``OPAQUE``: something that could be anything."""

    NOTHING = "nothing"
    JSON = "json"
    FORM = "form"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request. ``value``: the JSON value (``hostagent.wire.jsontext``), or the form's fields (``hostagent.wire.forms``)."""

    kind: ContentKind
    value: object = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One unit of judgement.

    ``text`` is exact and must never be stored; ``redacted`` is the same with every literal replaced and may be.
    ``fingerprint`` groups operations that differ only in literals. ``parameters`` are bind values as text, exact,
    never stored; ``None`` is SQL NULL, ``bytes`` a binary value of a type that could not be decoded. ``content`` is what a request
    carries beside its head, exact, never stored; None while nobody has looked. ``transfer`` is the file that it moves, if any.
    """

    protocol: str
    verb: str
    effects: frozenset[Effect]
    resources: tuple[Resource, ...] = ()
    completeness: Completeness = Completeness.FULL
    text: str = ""
    redacted: str = ""
    fingerprint: str = ""
    parameters: tuple[str | bytes | None, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    content: Content | None = None
    transfer: Transfer | None = None

    @property
    def judged_effects(self) -> frozenset[Effect]:
        """The effects that policy sees: all of them unless the operation was fully understood."""
        return self.effects if self.completeness is Completeness.FULL else ALL_EFFECTS
