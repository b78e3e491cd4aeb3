"""What a client may ask for at start-up, and the connect operation that policy judges (PostgreSQL 17 §20.11, §53.2.1).

Whatever is asked is parsed here once and the upstream StartupMessage is built anew from the result: a parameter, switch or
spelling that this module does not know never reaches a server (pgbouncer CVE-2025-12819 is what happens otherwise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hostagent.model.errors import RemoteWireError
from hostagent.model.operation import Effect, Operation, Resource
from hostagent.model.target import Target
from hostagent.wire.postgres.options import parse_boolean, parse_options
from hostagent.wire.postgres.startup import NEWEST_MINOR, StartupMessage

PROTOCOL: Final = "postgres"

HARMLESS: Final = frozenset(
    {
        "application_name",
        "datestyle",
        "extra_float_digits",
        "geqo",
        "idle_in_transaction_session_timeout",
        "intervalstyle",
        "lock_timeout",
        "statement_timeout",
        "timezone",
    }
)
"""Settings any client may bring. They change how values look or how long things last, never what a statement means."""

PINNED: Final[Mapping[str, str]] = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
"""Settings that our own reading of statements rests on: always sent, and nothing else is accepted for them."""

# SQL_ASCII means "do not convert"; what a client without a locale asks for. Pinning UTF8 gives it the same bytes.
_UTF8_NAMES: Final = frozenset({"utf8", "unicode", "sqlascii"})
# PostgreSQL cuts names silently at NAMEDATALEN - 1 bytes, so a longer one would be judged as one name and used as another.
_MAX_NAME: Final = 63
_MAX_VALUE: Final = 1024
_NO_SETTINGS: Final = frozenset({"user", "database", "replication", "options"})


class LoginRefused(Exception):  # noqa: N818 - an outcome
    """The login ends here. ``str()`` is the message for the client, without the ``hostagent:`` in front.

    ``outcome`` is what the record says: ``denied`` (somebody decided so) or ``failed`` (something did not work).
    """

    def __init__(
        self, message: str, sqlstate: str, *, hint: str = "", detail: str = "", outcome: str = "denied"
    ) -> None:
        """Keep the fields of the ErrorResponse to come."""
        super().__init__(message)
        self.sqlstate = sqlstate
        self.hint = hint
        self.detail = detail
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """A StartupMessage, understood. ``settings`` go upstream as they are, the pinned ones included.

    ``asked`` names the settings that the client itself brought; ``minor`` is the protocol version to speak with it.
    """

    user: str
    database: str
    replication: bool
    settings: Mapping[str, str]
    asked: tuple[str, ...]
    minor: int

    @property
    def application(self) -> str:
        """The client's application_name, empty if it gave none."""
        return self.settings.get("application_name", "")

    def operation(self) -> Operation:
        """Return the operation to judge."""
        effects = {Effect.CONNECT, Effect.REPLICATION} if self.replication else {Effect.CONNECT}
        named = (Resource("database", self.database), Resource("role", self.user))
        attributes = {"database": self.database, "user": self.user, "application": self.application}
        return Operation(
            protocol=PROTOCOL,
            verb="connect",
            effects=frozenset(effects),
            resources=named + tuple(Resource("setting", name) for name in self.asked),
            attributes=attributes,
        )


def understand(message: StartupMessage) -> LoginRequest:
    """Return what ``message`` asks for. Later duplicates win and ``options`` come first, as in PostgreSQL.

    Raises:
        RemoteWireError: no user, an impossible name, a replication value or switch that means nothing.
    """
    own = {name: value for name, value in message.parameters if name in _NO_SETTINGS}
    brought = (item for item in message.parameters if item[0] not in _NO_SETTINGS)
    settings: dict[str, str] = {}
    for name, value in (*parse_options(own.get("options", "")), *brought):
        settings[name.lower()] = _value(name, value)
    user = own.get("user", "")
    if not user:
        raise RemoteWireError("no PostgreSQL user name specified in startup packet", "28000")
    return LoginRequest(
        user=_name("user", user),
        database=_name("database", own.get("database", "") or user),
        replication=_replication(own.get("replication", "")),
        settings=settings,
        asked=tuple(sorted(settings)),
        minor=min(message.minor, NEWEST_MINOR),
    )


def _name(kind: str, name: str) -> str:
    if len(name.encode()) > _MAX_NAME:
        raise RemoteWireError(f"{kind} name is longer than {_MAX_NAME} bytes", "42622")
    return name


def _value(name: str, value: str) -> str:
    if len(value) > _MAX_VALUE:
        raise RemoteWireError(f"value of parameter {name!r} is longer than {_MAX_VALUE} characters", "22023")
    return value


def _replication(value: str) -> bool:
    if not value:
        return False
    if value == "database":
        return True
    asked = parse_boolean(value)
    if asked is None:
        raise RemoteWireError(f'invalid value for parameter "replication": {value!r}', "22023")
    return asked


def admit(request: LoginRequest, target: Target) -> LoginRequest:
    """Return ``request`` as it may go upstream: what ``target`` offers, with the pinned settings in place.

    Raises:
        LoginRefused: a database, user or parameter that the target document does not name.
    """
    _offered("database", request.database, target.databases, target)
    _offered("user", request.user, target.users, target)
    allowed = HARMLESS | {name.lower() for name in target.parameters}
    for name in request.asked:
        if name in PINNED:
            _check_pinned(name, request.settings[name])
        elif name not in allowed:
            raise LoginRefused(
                f'start-up parameter "{name}" is not allowed at target "{target.name}"',
                "42501",
                hint=f'Leave it out of the connection string, or have it added to "parameters" of target {target.name}.',
            )
    return LoginRequest(
        request.user,
        request.database,
        request.replication,
        {**request.settings, **PINNED},
        request.asked,
        request.minor,
    )


def _offered(kind: str, name: str, offered: frozenset[str], target: Target) -> None:
    if offered and name not in offered:
        raise LoginRefused(
            f'{kind} "{name}" is not offered at target "{target.name}"',
            "42501",
            hint=f'Ask for one of: {", ".join(sorted(offered))}; or have it added to "{kind}s" of target {target.name}.',
        )


def _check_pinned(name: str, value: str) -> None:
    if name == "client_encoding":
        plain = "".join(c for c in value.lower() if c.isascii() and c.isalnum())
        fits = plain in _UTF8_NAMES
    else:
        fits = parse_boolean(value) is True
    if not fits:
        raise LoginRefused(
            f'start-up parameter "{name}" must be {PINNED[name]}, not {value!r}',
            "42501",
            hint=f"Statements can only be read reliably under {name}={PINNED[name]}; no rule can change that.",
        )
