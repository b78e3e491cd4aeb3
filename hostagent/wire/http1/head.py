"""Heads: the start line and the fields of a request or response (RFC 9112 §2 to §5), and the fields of a trailer.

Layout::

    request    method SP request-target SP "HTTP/1." ("0" | "1") CRLF *(field CRLF) CRLF
    response   "HTTP/1." ("0" | "1") SP 3DIGIT [SP reason] CRLF *(field CRLF) CRLF
    field      name ":" OWS value OWS

Stricter than the RFC allows, each for a smuggling technique: no line end but CRLF, no CR, LF or NUL anywhere else, no folding, no
space before the colon, no empty line in front of a request, no small letters in a method, exactly one Host, at most one framing
field, and no name that a gateway interface (RFC 3875 §4.1.18) would take for a framing or credential field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from hostagent.model.errors import RemoteWireError

MAX_HEAD: Final = 65_536
"""Longest head, in bytes."""
MAX_FIELDS: Final = 128
"""Most fields in a head."""
MAX_TARGET: Final = 16_384
"""Longest request target."""

END: Final = b"\r\n\r\n"
_BEGINNING: Final = 1024

_BROKEN = re.compile(rb"\x00|(?<!\r)\n|\r(?!\n|\Z)")
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9-]{0,31}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

# What a name with underscores may not turn into.
_DELICATE: Final = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"),
        *("authorization", "proxy-authorization", "cookie", "x-api-key", "http2-settings"),
    }
)

Fields = tuple[tuple[str, str], ...]
"""Names as they were written, and values without the blanks around them; ISO-8859-1 stands for bytes."""


class RequestHead(NamedTuple):
    """A request's head. ``minor`` is the 1 of HTTP/1.1."""

    method: str
    target: str
    minor: int
    fields: Fields

    def values(self, name: str) -> list[str]:
        """Return the value of every field called ``name`` (small letters), in order."""
        return values(self.fields, name)


class ResponseHead(NamedTuple):
    """A response's head."""

    status: int
    reason: str
    minor: int
    fields: Fields

    def values(self, name: str) -> list[str]:
        """Return the value of every field called ``name`` (small letters), in order."""
        return values(self.fields, name)


def values(fields: Fields, name: str) -> list[str]:
    """Return the value of every field called ``name`` (small letters), in order."""
    return [value for key, value in fields if key.lower() == name]


def tokens(listed: Sequence[str]) -> list[str]:
    """Return the members of a list field (RFC 9110 §5.6.1), in small letters."""
    return [word for value in listed for item in value.split(",") if (word := item.strip(" \t").lower())]


def take_head(buffer: bytearray, most: int = MAX_HEAD) -> bytes | None:
    """Remove a whole head from the start of ``buffer`` and return it without its last empty line; None while incomplete.

    Raises:
        RemoteWireError: longer than ``most`` bytes (431), or it can already be seen that it is malformed (400).
    """
    stop = buffer.find(END)
    # All of it once it is whole; before that its beginning, or a head that comes byte by byte costs the square of its length.
    looked_at = stop + 2 if stop >= 0 else len(buffer) if len(buffer) > most else min(len(buffer), _BEGINNING)
    if _BROKEN.search(buffer, 0, looked_at):
        raise RemoteWireError("a line of the head does not end in CRLF, or it holds CR, LF or NUL elsewhere", "400")
    if stop > most or (stop < 0 and len(buffer) > most):
        raise RemoteWireError(f"the head is longer than {most} bytes", "431")
    if buffer.startswith(b"\r\n"):
        raise RemoteWireError("an empty line where a head should begin", "400")
    if stop < 0:
        return None
    head = bytes(buffer[:stop])
    del buffer[: stop + len(END)]
    return head


def parse_request(head: bytes) -> RequestHead:
    """Return the request that ``head`` (from ``take_head``) begins.

    Raises:
        RemoteWireError: malformed (400), too long (414, 431), another version of HTTP (505).
    """
    first, *lines = head.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise RemoteWireError("malformed request line", "400")
    method, target, major, minor = found.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise RemoteWireError(f"HTTP/{major.decode()}.{minor.decode()} is not spoken here, only HTTP/1.1", "505")
    if len(target) > MAX_TARGET:
        raise RemoteWireError(f"the request target is longer than {MAX_TARGET} bytes", "414")
    return RequestHead(method.decode(), target.decode(), int(minor), parse_fields(lines))


def parse_response(head: bytes) -> ResponseHead:
    """Return the response that ``head`` (from ``take_head``) begins.

    Raises:
        RemoteWireError: malformed.
    """
    first, *lines = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise RemoteWireError("malformed status line", "502")
    minor, status, reason = found.groups()
    return ResponseHead(int(status), (reason or b"").decode("latin-1"), int(minor), parse_fields(lines))


def parse_fields(lines: Sequence[bytes]) -> Fields:
    """Return the fields on ``lines``, which have no line ends.

    Raises:
        RemoteWireError: a malformed one, a folded one, too many, or a name that could be taken for another.
    """
    if len(lines) > MAX_FIELDS:
        raise RemoteWireError(f"more than {MAX_FIELDS} header fields", "431")
    return tuple(_field(line) for line in lines)


def _field(line: bytes) -> tuple[str, str]:
    if line[:1] in (b" ", b"\t"):
        raise RemoteWireError("a header field goes on over several lines (obsolete folding)", "400")
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name):
        raise RemoteWireError("malformed header field name", "400")
    value = value.strip(b" \t")
    if not _VALUE.fullmatch(value):
        raise RemoteWireError("control characters in a header field", "400")
    text = name.decode()
    if "_" in text and text.replace("_", "-").lower() in _DELICATE:
        raise RemoteWireError(f"{text} could be taken for another header field", "400")
    return text, value.decode("latin-1")


def build_request(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the head of an HTTP/1.1 request. The parts must have been read by this module or be our own."""
    return _build(f"{method} {target} HTTP/1.1", fields)


def build_response(status: int, reason: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the head of an HTTP/1.1 response. The parts must have been read by this module or be our own."""
    return _build(f"HTTP/1.1 {status} {reason}", fields)


def _build(first: str, fields: Sequence[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")
