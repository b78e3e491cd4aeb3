"""Where a request goes: host, path and query in one canonical form each (RFC 3986 §6, RFC 9110 §4.2, RFC 9112 §3.2).

Only the canonical form is judged, and only the canonical form is forwarded. A path that servers are known to read in several
ways (an encoded slash, parameters behind a semicolon) has several ``readings``, for rules to be asked about each.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from hostagent.model.errors import RemoteWireError

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
# Beyond RFC 3986 what browsers and libraries leave as it is.
_QUERY = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]{}|^`]|%[0-9A-Fa-f]{2})*")
_TRIPLET = re.compile(r"%([0-9A-Fa-f]{2})")
_EMPTY = re.compile(r"/{2,}")
_TWICE = re.compile(r"%25[0-9A-Fa-f]{2}")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)")

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Authority(NamedTuple):
    """A host (canonical name or address, without brackets) and its port."""

    host: str
    port: int

    def written(self, scheme: str) -> str:
        """Return it as the Host field says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[scheme] else f"{host}:{self.port}"


class Location(NamedTuple):
    """What a request line and its Host say. ``query`` is None when there is no question mark."""

    scheme: str
    authority: Authority
    path: str
    query: str | None

    @property
    def target(self) -> str:
        """The request target in origin form."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def url(self) -> str:
        """All of it."""
        return f"{self.scheme}://{self.authority.written(self.scheme)}{self.target if self.path != '*' else ''}"


def locate(method: str, target: str, host: str, scheme: str) -> Location:
    """Return where a request goes.

    Args:
        method: of the request.
        target: its request target: origin form, absolute form, or ``*`` for OPTIONS.
        host: its one Host field.
        scheme: http or https, by the connection.

    Raises:
        RemoteWireError: malformed, or the parts contradict each other (400).
    """
    authority = parse_authority(host, scheme)
    if target == "*":
        if method != "OPTIONS":
            raise RemoteWireError("the request target * is for OPTIONS only", "400")
        return Location(scheme, authority, "*", None)
    if not target.startswith("/"):
        target = _origin_form(target, authority, scheme)
    path, mark, query = target.partition("?")
    if "#" in target:
        raise RemoteWireError("a fragment in the request target", "400")
    if not _QUERY.fullmatch(query):
        raise RemoteWireError("characters in the query that must be percent-encoded", "400")
    return Location(scheme, authority, canonical_path(path), query if mark else None)


def _origin_form(target: str, authority: Authority, scheme: str) -> str:
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise RemoteWireError("malformed request target", "400")
    asked, where, rest = found.groups()
    if asked.lower() != scheme or parse_authority(where, scheme) != authority:
        raise RemoteWireError("the request target and the Host field disagree", "400")
    return rest if rest.startswith("/") else f"/{rest}"


def parse_authority(text: str, scheme: str) -> Authority:
    """Return the host and port that ``text`` names; a host name in small letters, without a dot at its end.

    Raises:
        RemoteWireError: user information, an empty host, letters beyond ASCII, a port that is none (400).
    """
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        host = _address(inside) if bracket else ""
    else:
        name, colon, port = text.partition(":")
        host, rest = name.lower().removesuffix("."), colon + port
        if not _HOST_NAME.fullmatch(host):
            host = ""
    if not host or (rest and (rest[0] != ":" or not _PORT.fullmatch(rest[1:]) or int(rest[1:]) > 65535)):
        raise RemoteWireError("malformed host", "400")
    return Authority(host, int(rest[1:]) if rest else DEFAULT_PORTS[scheme])


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text)) if "%" not in text else ""
    except ValueError:
        return ""


def canonical_path(raw: str) -> str:
    """Return ``raw`` with unreserved characters decoded, dot segments resolved and empty segments left out.

    Raises:
        RemoteWireError: it cannot be one path only: encoded twice, an encoded control character or backslash, not UTF-8, a way
            out of the root, or dots that only some servers would see (400).
    """
    if not _PATH.fullmatch(raw):
        raise RemoteWireError("characters in the path that must be percent-encoded", "400")
    text = _TRIPLET.sub(_decoded, raw)
    if _TWICE.search(text):
        raise RemoteWireError("the path is percent-encoded twice", "400")
    try:
        _octets(text).decode()
    except UnicodeDecodeError:
        raise RemoteWireError("the path is not UTF-8", "400") from None
    return _resolved(text)


def _decoded(found: re.Match[str]) -> str:
    octet = int(found[1], 16)
    if octet < 0x20 or octet in (0x5C, 0x7F):
        raise RemoteWireError("an encoded control character or backslash in the path", "400")
    return chr(octet) if octet in _UNRESERVED else f"%{octet:02X}"


def _octets(text: str) -> bytes:
    return _TRIPLET.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")


def _resolved(text: str) -> str:
    segments = text.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            if not kept:
                raise RemoteWireError("the path leaves the root", "400")
            kept.pop()
        elif segment not in ("", "."):
            if any(piece.partition(";")[0] in (".", "..") for piece in segment.replace("%3B", ";").split("%2F")):
                raise RemoteWireError("dot segments that only some servers would see", "400")
            kept.append(segment)
    ends_in_slash = segments[-1] in ("", ".", "..") and bool(kept)
    return "/" + "/".join(kept) + ("/" if ends_in_slash else "")


def readings(path: str) -> tuple[str, ...]:
    """Return every decoded text that a server may take the canonical ``path`` for; the first is the plain one."""
    plain = path.replace("%2F", "%252F")
    sliced = path.replace("%2F", "/")
    found = [plain, sliced]
    if ";" in path or "%3B" in path:
        found += [_without_parameters(form.replace("%3B", ";")) for form in (plain, sliced)]
    # What a slash or a parameter made empty, some servers leave out as canonical_path does.
    found += [_EMPTY.sub("/", form) for form in found]
    return tuple(dict.fromkeys(map(_text, found)))


def _without_parameters(path: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


def _text(path: str) -> str:
    return _octets(path).decode()


def query_pairs(query: str) -> tuple[tuple[str, str], ...] | None:
    """Return the parameters of ``query`` as forms write them, decoded once; None when servers would not agree on them.

    They do not where a semicolon stands: some take it for the end of a parameter. Nor where it is not UTF-8.
    """
    if ";" in query:
        return None
    pairs = []
    for item in query.split("&"):
        name, _, value = item.partition("=")
        try:
            pairs.append((_form_text(name), _form_text(value)))
        except UnicodeDecodeError:
            return None
    return tuple(pair for pair in pairs if pair != ("", ""))


def _form_text(text: str) -> str:
    return _octets(text.replace("+", " ")).decode()
