"""Start-up and authentication of PostgreSQL protocol 3 (PostgreSQL 18 §54.2.1, §54.7).

The first packets of a client carry no type byte::

    Int32  length, including itself          8 .. 10,004
    Int32  code: protocol version (major << 16 | minor) or one of the request codes below
    ...    StartupMessage: name NUL value NUL ... NUL;  CancelRequest: Int32 pid, key bytes

Everything after them is framed as in ``hostagent.wire.postgres.messages``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from hostagent.model.errors import RemoteWireError
from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE, INT32, UINT32, Fields, Server, frame, refuse_frame

MAX_STARTUP_BODY: Final = 10_000
"""PostgreSQL's MAX_STARTUP_PACKET_LENGTH."""
MAX_CANCEL_KEY: Final = 256
"""Longest cancel key of protocol 3.2, in bytes; 3.0 has exactly four."""
CANCEL_CODE: Final = 80877102
SSL_CODE: Final = 80877103
GSSENC_CODE: Final = 80877104
NEWEST_MINOR: Final = 2
"""The newest minor version of protocol 3 that we speak."""
EXTENSION_PREFIX: Final = "_pq_."

PASSWORD: Final = 0x70  # p: PasswordMessage, SASLInitialResponse and SASLResponse alike

# Longest body by type while logging in; libpq accepts 2,000 bytes of authentication and 30,000 of error before that.
LOGIN_SERVER_CAPS: Final[Mapping[int, int]] = {
    Server.AUTHENTICATION: 10_000,
    Server.NEGOTIATE: 10_000,
    Server.ERROR: 30_000,
    Server.NOTICE: 1_000_000,
    Server.PARAMETER_STATUS: 100_000,
    Server.BACKEND_KEY: 4 + MAX_CANCEL_KEY,
    Server.READY: 1,
}
# PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH is 1,024; the mechanism's name comes on top.
LOGIN_CLIENT_CAPS: Final[Mapping[int, int]] = {PASSWORD: 2_048}


class Encryption(enum.Enum):
    """A request to encrypt the connection before anything else is said."""

    SSL = SSL_CODE
    GSS = GSSENC_CODE


class CancelRequest(NamedTuple):
    """Ask the server to stop what the session with this pid and key is doing."""

    pid: int
    key: bytes


class BackendKey(NamedTuple):
    """BackendKeyData: what a client must show to cancel."""

    pid: int
    key: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """What a client asks for. ``parameters`` in wire order, duplicates included; protocol extensions (``_pq_.``) apart."""

    minor: int
    parameters: tuple[tuple[str, str], ...]
    extensions: tuple[str, ...] = ()


StartupPacket = Encryption | CancelRequest | StartupMessage


def read_startup(buffer: bytes) -> tuple[StartupPacket, int] | None:
    """Return the packet at the start of ``buffer`` and how many bytes it took, or None while it is incomplete.

    Raises:
        RemoteWireError: impossible length, unknown protocol, broken body. Known as soon as the length is.
    """
    if len(buffer) < INT32.size:
        return None
    (length,) = INT32.unpack_from(buffer)
    if not 8 <= length <= MAX_STARTUP_BODY + 4:
        raise RemoteWireError(f"invalid length of startup packet: {length}")
    if len(buffer) < length:
        return None
    (code,) = UINT32.unpack_from(buffer, 4)
    body = bytes(buffer[8:length])
    return _startup_packet(code, body), length


def _startup_packet(code: int, body: bytes) -> StartupPacket:
    if code in (SSL_CODE, GSSENC_CODE):
        if body:
            raise RemoteWireError("invalid encryption request: trailing bytes")
        return Encryption(code)
    if code == CANCEL_CODE:
        if not 8 <= len(body) <= 4 + MAX_CANCEL_KEY:
            raise RemoteWireError("invalid length of cancel request")
        return CancelRequest(INT32.unpack_from(body)[0], body[4:])
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        message = f"unsupported frontend protocol {major}.{minor}: hostagent speaks 3.0 to 3.{NEWEST_MINOR}"
        raise RemoteWireError(message, "0A000")
    return _startup_message(minor, body)


def _startup_message(minor: int, body: bytes) -> StartupMessage:
    fields = Fields(body)
    parameters: list[tuple[str, str]] = []
    extensions: list[str] = []
    while name := _text(fields.string()):
        value = _text(fields.string())
        if name.startswith(EXTENSION_PREFIX):
            extensions.append(name)
        else:
            parameters.append((name, value))
    if fields.more:
        raise RemoteWireError("invalid startup packet layout: expected terminator as last byte")
    return StartupMessage(minor, tuple(parameters), tuple(extensions))


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RemoteWireError("startup packet is not valid UTF-8", "22021") from error


def build_encryption_request(kind: Encryption) -> bytes:
    """Return an SSLRequest or GSSENCRequest."""
    return UINT32.pack(8) + UINT32.pack(kind.value)


def build_cancel_request(pid: int, key: bytes) -> bytes:
    """Return a CancelRequest."""
    return UINT32.pack(12 + len(key)) + UINT32.pack(CANCEL_CODE) + INT32.pack(pid) + key


def build_startup_message(message: StartupMessage) -> bytes:
    """Return a StartupMessage; extensions get the value ``on``."""
    pairs = (*message.parameters, *((name, "on") for name in message.extensions))
    body = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in pairs) + b"\0"
    return UINT32.pack(8 + len(body)) + UINT32.pack(3 << 16 | message.minor) + body


# -- typed messages of the login ---------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One typed message and how many bytes it took."""

    kind: int
    body: bytes
    size: int


def read_message(buffer: bytes, caps: Mapping[int, int]) -> Message | None:
    """Return the message at the start of ``buffer``, or None while it is incomplete.

    Raises:
        RemoteWireError: a type that ``caps`` does not know, or a length outside what it allows.
    """
    if buffer and buffer[0] not in caps:
        raise refuse_frame(buffer[0], 0, caps)
    if len(buffer) < HEADER_SIZE:
        return None
    kind, length = HEADER(buffer)
    if length < 4 or length - 4 > caps[kind]:
        raise refuse_frame(kind, length, caps)
    if len(buffer) < length + 1:
        return None
    return Message(kind, bytes(buffer[HEADER_SIZE : length + 1]), length + 1)


class AuthKind(enum.IntEnum):
    """The code of an Authentication message (PostgreSQL 18 §54.7). Absent ones we neither send nor follow."""

    OK = 0
    CLEARTEXT = 3
    MD5 = 5
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


UNSUPPORTED_AUTH: Final[Mapping[int, str]] = {
    2: "Kerberos V5",
    6: "SCM credentials",
    7: "GSSAPI",
    8: "GSSAPI continuation",
    9: "SSPI",
}


class Authentication(NamedTuple):
    """An Authentication message: its code and what follows (salt, mechanisms or SASL data)."""

    code: int
    data: bytes = b""


def parse_authentication(body: bytes) -> Authentication:
    """Return code and data of an Authentication message.

    Raises:
        RemoteWireError: too short, or data of the wrong length for its code.
    """
    fields = Fields(body)
    code = fields.int32()
    data = body[4:]
    if code in (AuthKind.OK, AuthKind.CLEARTEXT) and data:
        raise RemoteWireError("invalid authentication message: trailing bytes")
    if code == AuthKind.MD5 and len(data) != 4:
        raise RemoteWireError("invalid authentication message: the md5 salt must have four bytes")
    return Authentication(code, data)


def build_authentication(message: Authentication) -> bytes:
    """Return an Authentication message."""
    return frame(Server.AUTHENTICATION, INT32.pack(message.code) + message.data)


def parse_mechanisms(data: bytes) -> tuple[str, ...]:
    """Return the SASL mechanism names in the data of an AuthenticationSASL."""
    fields = Fields(data)
    names: list[str] = []
    while name := fields.string():
        names.append(name.decode("latin-1"))
    fields.finish()
    return tuple(names)


def build_mechanisms(names: tuple[str, ...]) -> bytes:
    """Return the data of an AuthenticationSASL."""
    return b"".join(name.encode("ascii") + b"\0" for name in names) + b"\0"


def build_password(password: bytes) -> bytes:
    """Return a PasswordMessage (cleartext, or the md5 form)."""
    return frame(PASSWORD, password + b"\0")


def parse_password(body: bytes) -> bytes:
    """Return the password of a PasswordMessage."""
    fields = Fields(body)
    found = fields.string()
    fields.finish()
    return found


class SaslInitial(NamedTuple):
    """SASLInitialResponse. ``data`` is None when the client sent no initial response."""

    mechanism: str
    data: bytes | None


def parse_sasl_initial(body: bytes) -> SaslInitial:
    """Return mechanism and first message of a SASLInitialResponse."""
    fields = Fields(body)
    mechanism = fields.string().decode("latin-1")
    data = fields.value()
    fields.finish()
    return SaslInitial(mechanism, data)


def build_sasl_initial(message: SaslInitial) -> bytes:
    """Return a SASLInitialResponse."""
    data = INT32.pack(-1) if message.data is None else INT32.pack(len(message.data)) + message.data
    return frame(PASSWORD, message.mechanism.encode("ascii") + b"\0" + data)


def build_sasl_response(data: bytes) -> bytes:
    """Return a SASLResponse; parsing it is taking its body."""
    return frame(PASSWORD, data)


def parse_backend_key(body: bytes) -> BackendKey:
    """Return the key of a BackendKeyData.

    Raises:
        RemoteWireError: the key is shorter than 4 or longer than 256 bytes.
    """
    fields = Fields(body)
    pid = fields.int32()
    key = body[4:]
    if not 4 <= len(key) <= MAX_CANCEL_KEY:
        raise RemoteWireError(f"invalid BackendKeyData: a key of {len(key)} bytes")
    return BackendKey(pid, key)


def build_backend_key(key: BackendKey) -> bytes:
    """Return a BackendKeyData."""
    return frame(Server.BACKEND_KEY, INT32.pack(key.pid) + key.key)


class Negotiation(NamedTuple):
    """NegotiateProtocolVersion: newest minor version the sender speaks, and the extensions it does not know."""

    minor: int
    unknown: tuple[str, ...]


def parse_negotiation(body: bytes) -> Negotiation:
    """Return the fields of a NegotiateProtocolVersion.

    PostgreSQL sends the whole version (3 << 16 | minor); the documentation once said "minor version". Both are read.
    """
    fields = Fields(body)
    version = fields.int32()
    if version >> 16 not in (0, 3):
        raise RemoteWireError("invalid NegotiateProtocolVersion: not a version of protocol 3")
    count = fields.int32()
    if not 0 <= count <= len(body):
        raise RemoteWireError("invalid NegotiateProtocolVersion: impossible count")
    names = tuple(fields.string().decode("latin-1") for _ in range(count))
    fields.finish()
    return Negotiation(version & 0xFFFF, names)


def build_negotiation(message: Negotiation) -> bytes:
    """Return a NegotiateProtocolVersion, as PostgreSQL itself sends it."""
    names = b"".join(name.encode() + b"\0" for name in message.unknown)
    return frame(Server.NEGOTIATE, UINT32.pack(3 << 16 | message.minor) + INT32.pack(len(message.unknown)) + names)
