"""Our own login at the target: TLS, StartupMessage, authentication, and the server's greeting (PostgreSQL 18 §54.2).

Nothing of it reaches the client before it is complete: the greeting is collected, and passed on as one piece.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from hostagent.inspectors.postgres.startup import PINNED, LoginRefused, LoginRequest
from hostagent.model.command import Command, Forward, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.target import Target, UpstreamTLS
from hostagent.wire.postgres import scram
from hostagent.wire.postgres.backend import (
    build_notice,
    build_status,
    parse_fields,
    parse_ready,
    parse_status,
)
from hostagent.wire.postgres.messages import Server
from hostagent.wire.postgres.startup import (
    LOGIN_SERVER_CAPS,
    UNSUPPORTED_AUTH,
    Authentication,
    AuthKind,
    BackendKey,
    Encryption,
    SaslInitial,
    StartupMessage,
    build_encryption_request,
    build_password,
    build_sasl_initial,
    build_sasl_response,
    build_startup_message,
    parse_authentication,
    parse_backend_key,
    parse_mechanisms,
    parse_negotiation,
    read_message,
)

NONCE_SIZE: Final = 18
_MAX_GREETING: Final = 4 * 1024 * 1024
_CREDENTIAL_CODES: Final = ("28000", "28P01")
_HINT_CREDENTIAL: Final = "The workload's own password plays no part; tell whoever runs hostagent."


class _Stage(enum.Enum):
    CONNECTING = enum.auto()
    ENCRYPTION = enum.auto()  # SSLRequest is out
    HANDSHAKE = enum.auto()
    AUTHENTICATION = enum.auto()
    GREETING = enum.auto()
    READY = enum.auto()


class Authenticator:
    """Answers the server's authentication requests with the target's credential."""

    def __init__(self, target: Target, secret: str | None, nonce: bytes, *, encrypted: bool, binding: bytes) -> None:
        """Prepare one login. ``binding``: tls-server-end-point hash of the server's certificate, or empty."""
        self._target = target
        self._secret = secret
        self._nonce = nonce
        self._encrypted = encrypted
        self._binding = binding
        self._asked = False
        self._scram: scram.ScramClient | None = None
        self._expected = AuthKind.OK
        self.done = False

    def answer(self, request: Authentication) -> bytes:
        """Return the message to send, empty for none. ``done`` is True after AuthenticationOk.

        Raises:
            LoginRefused: a method we do not speak or will not use here, or no credential.
            RemoteWireError: out of order, or the server failed to prove itself.
        """
        if request.code == AuthKind.OK:
            if self._expected is not AuthKind.OK:
                raise RemoteWireError("the server skipped its own proof in SCRAM")
            self.done = True
            return b""
        if request.code in (AuthKind.SASL_CONTINUE, AuthKind.SASL_FINAL):
            return self._go_on(request)
        if self._asked:
            raise RemoteWireError("the server asked twice for authentication")
        self._asked = True
        return self._begin(request)

    def _begin(self, request: Authentication) -> bytes:
        match request.code:
            case AuthKind.SASL:
                return self._begin_scram(parse_mechanisms(request.data))
            case AuthKind.MD5:
                return build_password(scram.md5_answer(self._password(), self._target.login.user, request.data))
            case AuthKind.CLEARTEXT:
                if not self._encrypted:
                    raise self._refused("asks for the password in clear on an unencrypted connection")
                return build_password(self._password().encode())
            case code:
                method = UNSUPPORTED_AUTH.get(code, f"authentication method {code}")
                raise self._refused(f"asks for {method}, which hostagent does not speak")

    def _begin_scram(self, offered: tuple[str, ...]) -> bytes:
        mechanism = scram.choose_mechanism(offered, self._binding)
        if not mechanism:
            raise self._refused(f"offers only SASL mechanisms hostagent does not speak: {', '.join(offered)}")
        self._scram = scram.ScramClient(self._password(), self._nonce, mechanism, self._binding)
        self._expected = AuthKind.SASL_CONTINUE
        return build_sasl_initial(SaslInitial(mechanism, self._scram.first()))

    def _go_on(self, request: Authentication) -> bytes:
        if self._scram is None or request.code != self._expected:
            raise RemoteWireError("authentication message out of order")
        if request.code == AuthKind.SASL_CONTINUE:
            self._expected = AuthKind.SASL_FINAL
            return build_sasl_response(self._scram.final(request.data))
        self._scram.verify(request.data)
        self._expected = AuthKind.OK
        return b""

    def _password(self) -> str:
        if self._secret is None:
            raise self._refused("asks for a password, but its document names no credential")
        return self._secret

    def _refused(self, what: str) -> LoginRefused:
        return LoginRefused(f'target "{self._target.name}" {what}', "28000", hint=_HINT_CREDENTIAL, outcome="failed")


class Upstream:
    """The server's side of a login. Methods return what to do; ``ready`` turns True once, after which nothing is read."""

    def __init__(
        self,
        target: Target,
        secret: str | None,
        request: LoginRequest,
        random: Callable[[int], bytes],
        scrub: Callable[[str], str],
    ) -> None:
        """Prepare; nothing happens before ``connected``. ``scrub`` cleans texts of the server for the client."""
        self._target = target
        self._secret = secret
        self._request = request
        self._random = random
        self._scrub = scrub
        self._stage = _Stage.CONNECTING
        self._buffer = bytearray()
        self._auth: Authenticator | None = None
        self._greeting = bytearray()
        self.parameters: dict[str, str] = {}
        self.key: BackendKey | None = None

    @property
    def ready(self) -> bool:
        """Whether the server is ready for the first statement."""
        return self._stage is _Stage.READY

    @property
    def greeting(self) -> bytes:
        """ParameterStatus and NoticeResponse messages for the client, in the server's order."""
        return bytes(self._greeting)

    @property
    def leftover(self) -> bytes:
        """What the server sent after ReadyForQuery."""
        return bytes(self._buffer)

    def connected(self) -> list[Command]:
        """The connection is up: encrypt it, or say who we are."""
        if self._target.tls is UpstreamTLS.VERIFY:
            self._stage = _Stage.ENCRYPTION
            return [Forward(Side.SERVER, build_encryption_request(Encryption.SSL))]
        return self._introduce(encrypted=False, binding=b"")

    def secured(self, binding: bytes) -> list[Command]:
        """TLS is up and verified. ``binding``: tls-server-end-point hash, empty where none is defined."""
        if self._stage is not _Stage.HANDSHAKE:
            raise RemoteWireError("TLS finished where none was begun")
        return self._introduce(encrypted=True, binding=binding)

    def _introduce(self, *, encrypted: bool, binding: bytes) -> list[Command]:
        nonce = self._random(NONCE_SIZE)
        self._auth = Authenticator(self._target, self._secret, nonce, encrypted=encrypted, binding=binding)
        self._stage = _Stage.AUTHENTICATION
        parameters = {"user": self._target.login.user, "database": self._request.database, **self._request.settings}
        # 3.1 never existed; every server takes 3.0, which differs from 3.2 in nothing but the length of cancel keys.
        minor = 2 if self._request.minor >= 2 else 0
        return [Forward(Side.SERVER, build_startup_message(StartupMessage(minor, tuple(parameters.items()))))]

    def feed(self, data: bytes) -> list[Command]:
        """Bytes arrived from the server.

        Raises:
            LoginRefused: the login cannot go on.
            RemoteWireError: the server broke the protocol.
        """
        self._buffer += data
        out: list[Command] = []
        if self._stage is _Stage.ENCRYPTION:
            self._encryption_answer(out)
        elif self._stage in (_Stage.CONNECTING, _Stage.HANDSHAKE) and self._buffer:
            raise RemoteWireError("the server spoke before its turn")
        while self._stage in (_Stage.AUTHENTICATION, _Stage.GREETING):
            message = read_message(bytes(self._buffer), LOGIN_SERVER_CAPS)
            if message is None:
                break
            del self._buffer[: message.size]
            self._message(message.kind, message.body, out)
        return out

    def _encryption_answer(self, out: list[Command]) -> None:
        answer = bytes(self._buffer)
        if not answer:
            return
        if answer[:1] != b"S":
            # An error text before TLS is anybody's word (CVE-2024-10977): it is neither shown nor kept.
            reason = "does not offer TLS" if answer[:1] == b"N" else "did not answer the request for TLS"
            raise LoginRefused(
                f'target "{self._target.name}" {reason}, which its document demands',
                "08P01",
                hint='Enable ssl at the server, or set "tls: disable" in the target document.',
                outcome="failed",
            )
        if len(answer) > 1:  # CVE-2021-23222: what came before the handshake must not be read as if it came through it
            raise RemoteWireError("the server sent unencrypted data after accepting TLS")
        self._buffer.clear()
        self._stage = _Stage.HANDSHAKE
        out.append(StartTLS(Side.SERVER))

    def _message(self, kind: int, body: bytes, out: list[Command]) -> None:
        if kind == Server.ERROR:
            raise self._error(body)
        if kind == Server.NOTICE:
            fields = {code: text if code in "SVC" else self._scrub(text) for code, text in parse_fields(body).items()}
            self._collect(build_notice(fields))
        elif self._stage is _Stage.AUTHENTICATION:
            self._authentication(kind, body, out)
        else:
            self._welcome(kind, body)

    def _authentication(self, kind: int, body: bytes, out: list[Command]) -> None:
        assert self._auth is not None
        if kind == Server.NEGOTIATE:
            if parse_negotiation(body).minor > self._request.minor:
                raise RemoteWireError("the server negotiated a newer protocol than was asked for")
        elif kind == Server.AUTHENTICATION:
            answer = self._auth.answer(parse_authentication(body))
            if answer:
                out.append(Forward(Side.SERVER, answer))
            if self._auth.done:
                self._stage = _Stage.GREETING
        else:
            raise RemoteWireError(f"message {chr(kind)!r} before authentication was complete")

    def _welcome(self, kind: int, body: bytes) -> None:
        if kind == Server.PARAMETER_STATUS:
            name, value = (part.decode("utf-8", "replace") for part in parse_status(body))
            self.parameters[name] = value
            self._collect(build_status(name.encode(), self._scrub(value).encode()))
        elif kind == Server.BACKEND_KEY and self.key is None:
            self.key = parse_backend_key(body)
        elif kind == Server.READY:
            self._finish(parse_ready(body))
        else:
            raise RemoteWireError(f"message {chr(kind)!r} is not part of a server's greeting")

    def _collect(self, message: bytes) -> None:
        self._greeting += message
        if len(self._greeting) > _MAX_GREETING:
            raise RemoteWireError(f"the server's greeting is longer than {_MAX_GREETING} bytes")

    def _finish(self, status: bytes) -> None:
        if status != b"I":
            raise RemoteWireError("the server starts inside a transaction")
        for name, wanted in PINNED.items():
            if self.parameters.get(name) != wanted:
                raise LoginRefused(
                    f'target "{self._target.name}" reports {name}={self.parameters.get(name)!r} although asked for {wanted}',
                    "08P01",
                    hint="Statements could not be read reliably; look for a pooler or a default that overrides it.",
                    outcome="failed",
                )
        self._stage = _Stage.READY

    def _error(self, body: bytes) -> LoginRefused:
        """Return the server's refusal in words for the client, who is not to learn about the account we use."""
        fields = parse_fields(body)
        code = fields.get("C", "") or "08006"
        name = self._target.name
        if self._stage is _Stage.AUTHENTICATION and code in _CREDENTIAL_CODES:
            message = f'target "{name}" refused the login that hostagent itself makes (SQLSTATE {code})'
            return LoginRefused(message, code, hint=_HINT_CREDENTIAL, outcome="failed")
        message = f'target "{name}": {self._scrub(fields.get("M", "no reason given"))}'
        return LoginRefused(
            message,
            code,
            hint=self._scrub(fields.get("H", "")),
            detail=self._scrub(fields.get("D", "")),
            outcome="failed",
        )
