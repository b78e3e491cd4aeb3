"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles, and the md5 answer (RFC 5802, RFC 7677, RFC 5929; PostgreSQL 17 §53.3).

As PostgreSQL does: the user name inside SCRAM is empty and ignored (StartupMessage named the user), and a password that
SASLprep refuses is used as the bytes it is. Channel binding is ``tls-server-end-point`` only.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import stringprep
import unicodedata
from functools import lru_cache
from typing import Final

from hostagent.model.errors import RemoteWireError

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDING_TYPE: Final = "tls-server-end-point"

MIN_ITERATIONS: Final = 4096
"""RFC 7677 §4; what we ask of our own clients."""
MAX_ITERATIONS: Final = 600_000
"""A server that asks for more keeps us computing (about 0.2 s here); PostgreSQL's default is 4096."""
MAX_NONCE: Final = 512
MAX_SALT: Final = 1024
_PRINTABLE: Final = frozenset(range(0x21, 0x7F)) - {0x2C}


class Rejected(Exception):  # noqa: N818 - an outcome
    """The peer could not prove that it knows the password. An expected outcome, not a protocol violation."""


class _Stage(enum.Enum):
    NEW = enum.auto()
    FIRST = enum.auto()
    DONE = enum.auto()


def choose_mechanism(offered: tuple[str, ...], binding: bytes) -> str:
    """Return the strongest offered mechanism we can speak, empty if there is none. ``binding`` empty: no channel binding."""
    if binding and PLUS in offered:
        return PLUS
    return PLAIN if PLAIN in offered else ""


def md5_answer(password: str, user: str, salt: bytes) -> bytes:
    """Return what AuthenticationMD5Password wants: ``md5`` + md5(hex md5(password + user) + salt)."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def saslprep(text: str) -> str:
    """Return ``text`` prepared by RFC 4013 as a stored string, or unchanged where that forbids it (as PostgreSQL does)."""
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared or any(_prohibited(c) for c in prepared) or not _bidirectional(prepared):
        return text
    return prepared


def _prohibited(character: str) -> bool:
    s = stringprep
    tables = (
        s.in_table_a1, s.in_table_c12, s.in_table_c21_c22, s.in_table_c3, s.in_table_c4,
        s.in_table_c5, s.in_table_c6, s.in_table_c7, s.in_table_c8, s.in_table_c9,
    )  # fmt: skip
    return any(table(character) for table in tables)


def _bidirectional(text: str) -> bool:
    """Return whether RFC 3454 §6 holds: right-to-left text begins and ends so, and has no left-to-right character."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return True
    if any(stringprep.in_table_d2(c) for c in text):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


@lru_cache(maxsize=32)
def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """Return (client key, server key). Kept, because a server hands out the same salt for a user every time."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    return _mac(salted, b"Client Key"), _mac(salted, b"Server Key")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _base64(text: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RemoteWireError(f"SCRAM: {what} is not base64") from error


def _attribute(part: bytes, name: bytes) -> bytes:
    if part[:2] != name + b"=":
        raise RemoteWireError(f"SCRAM: expected attribute {name.decode()}")
    return part[2:]


def _nonce(value: bytes) -> bytes:
    if not 0 < len(value) <= MAX_NONCE or not _PRINTABLE.issuperset(value):
        raise RemoteWireError("SCRAM: unusable nonce")
    return value


class ScramClient:
    """The client's role, towards a server whose password we know."""

    def __init__(self, password: str, nonce: bytes, mechanism: str, binding: bytes) -> None:
        """Prepare one exchange.

        Args:
            password: the secret.
            nonce: at least 18 random bytes; sent as base64.
            mechanism: from ``choose_mechanism``.
            binding: hash of the server's certificate, empty without TLS (or where RFC 5929 has no hash for it).
        """
        self.mechanism = mechanism
        self._password = password
        self._nonce = base64.b64encode(nonce)
        # "y": we could bind but the server did not offer it, which lets the server notice that someone cut its offer.
        flag = f"p={BINDING_TYPE}" if mechanism == PLUS else "y" if binding else "n"
        self._header = flag.encode() + b",,"
        self._bound = binding if mechanism == PLUS else b""
        self._first_bare = b"n=,r=" + self._nonce
        self._server_signature = b""

    def first(self) -> bytes:
        """Return client-first-message."""
        return self._header + self._first_bare

    def final(self, server_first: bytes) -> bytes:
        """Return client-final-message for ``server_first``.

        Raises:
            RemoteWireError: malformed, a nonce that is not ours extended, or more iterations than we are willing to do.
        """
        parts = server_first.split(b",")
        if len(parts) < 3 or parts[0].startswith(b"m="):
            raise RemoteWireError("SCRAM: malformed server-first-message")
        nonce = _nonce(_attribute(parts[0], b"r"))
        salt = _base64(_attribute(parts[1], b"s"), "the salt")
        iterations = self._iterations(_attribute(parts[2], b"i"))
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise RemoteWireError("SCRAM: the server's nonce does not extend ours")
        if not 0 < len(salt) <= MAX_SALT:
            raise RemoteWireError("SCRAM: unusable salt")
        client_key, server_key = _keys(self._password, salt, iterations)
        without_proof = b"c=" + base64.b64encode(self._header + self._bound) + b",r=" + nonce
        auth_message = self._first_bare + b"," + server_first + b"," + without_proof
        signature = _mac(hashlib.sha256(client_key).digest(), auth_message)
        self._server_signature = _mac(server_key, auth_message)
        return without_proof + b",p=" + base64.b64encode(_xor(client_key, signature))

    @staticmethod
    def _iterations(text: bytes) -> int:
        if not text.isdigit() or len(text) > 9:
            raise RemoteWireError("SCRAM: malformed iteration count")
        count = int(text)
        if not 1 <= count <= MAX_ITERATIONS:
            raise RemoteWireError(f"SCRAM: the server asks for {count} iterations; at most {MAX_ITERATIONS} are done")
        return count

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password too.

        Raises:
            RemoteWireError: it reports an error, or its signature is wrong.
        """
        part = server_final.split(b",")[0]
        if part.startswith(b"e="):
            raise RemoteWireError("SCRAM: the server ended the exchange with an error")
        signature = _base64(_attribute(part, b"v"), "the server's signature")
        if not self._server_signature or not hmac.compare_digest(signature, self._server_signature):
            raise RemoteWireError("SCRAM: the server's signature is wrong: it does not know the password")


class ScramServer:
    """The server's role, towards a client that demands SCRAM."""

    def __init__(self, password: str, nonce: bytes, salt: bytes, binding: bytes, iterations: int = MIN_ITERATIONS) -> None:
        """Prepare one exchange. ``binding``: hash of the certificate we showed; empty without TLS."""
        self._password = password
        self._nonce = base64.b64encode(nonce)
        self._salt = salt
        self._binding = binding
        self._iterations = iterations
        self._stage = _Stage.NEW
        self._header = b""
        self._first_bare = b""
        self._server_first = b""
        self._bound = b""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What to offer, strongest first."""
        return (PLUS, PLAIN) if self._binding else (PLAIN,)

    def first(self, mechanism: str, client_first: bytes) -> bytes:
        """Return server-first-message for the client's mechanism and client-first-message.

        Raises:
            RemoteWireError: not offered, malformed, or the client's channel binding does not fit (a downgrade).
        """
        if self._stage is not _Stage.NEW or mechanism not in self.mechanisms:
            raise RemoteWireError("client selected an invalid SASL authentication mechanism")
        parts = client_first.split(b",", 2)
        if len(parts) != 3:
            raise RemoteWireError("SCRAM: malformed client-first-message")
        flag, identity, bare = parts
        if identity:
            raise RemoteWireError("client uses authorization identity, but it is not supported", "0A000")
        self._check_flag(flag, mechanism)
        pieces = bare.split(b",")
        if len(pieces) != 2:  # anything more is an extension we do not know; "m=" must be refused (RFC 5802 §5.1)
            raise RemoteWireError("client requires an unsupported SCRAM extension", "0A000")
        _attribute(pieces[0], b"n")
        self._nonce = _nonce(_attribute(pieces[1], b"r")) + self._nonce
        self._header = flag + b",,"
        self._first_bare = bare
        salt = base64.b64encode(self._salt)
        self._server_first = b"r=" + self._nonce + b",s=" + salt + b",i=" + str(self._iterations).encode()
        self._stage = _Stage.FIRST
        return self._server_first

    def _check_flag(self, flag: bytes, mechanism: str) -> None:
        if mechanism == PLUS:
            if flag != f"p={BINDING_TYPE}".encode():
                raise RemoteWireError("SCRAM: SCRAM-SHA-256-PLUS needs channel binding tls-server-end-point")
            self._bound = self._binding
        elif flag == b"y" and self._binding:
            raise RemoteWireError("SCRAM channel binding negotiation error", "28000")
        elif flag not in (b"n", b"y"):
            raise RemoteWireError("SCRAM: unexpected channel-binding flag")

    def final(self, client_final: bytes) -> bytes:
        """Return server-final-message for ``client_final``.

        Raises:
            Rejected: well-formed, but the password (or the channel) is another.
            RemoteWireError: malformed.
        """
        if self._stage is not _Stage.FIRST:
            raise RemoteWireError("SCRAM: message out of order")
        without_proof, marker, encoded = client_final.rpartition(b",p=")
        if not marker:
            raise RemoteWireError("SCRAM: no proof in client-final-message")
        proof = _base64(encoded, "the proof")
        parts = without_proof.split(b",")
        if len(parts) != 2 or len(proof) != 32:
            raise RemoteWireError("SCRAM: malformed client-final-message")
        channel = _base64(_attribute(parts[0], b"c"), "the channel binding")
        self._stage = _Stage.DONE
        if not hmac.compare_digest(channel, self._header + self._bound):
            raise Rejected("SCRAM channel binding check failed")
        if not hmac.compare_digest(_attribute(parts[1], b"r"), self._nonce):
            raise RemoteWireError("SCRAM: the nonce does not match")
        client_key, server_key = _keys(self._password, self._salt, self._iterations)
        auth_message = self._first_bare + b"," + self._server_first + b"," + without_proof
        stored = hashlib.sha256(client_key).digest()
        shown = hashlib.sha256(_xor(proof, _mac(stored, auth_message))).digest()
        if not hmac.compare_digest(shown, stored):
            raise Rejected("password authentication failed")
        return b"v=" + base64.b64encode(_mac(server_key, auth_message))
