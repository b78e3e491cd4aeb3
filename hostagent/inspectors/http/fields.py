"""Which header fields go on, in either direction (RFC 9110 §7.6, RFC 9112 §9.6)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

from hostagent.model.target import Login
from hostagent.wire.http1.head import Fields, tokens, values

Listed = list[tuple[str, str]]

_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"),
        *("content-length", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info"),
    }
)
"""About one connection only, or written anew."""

_NOT_OURS: Final = frozenset(
    {
        *("host", "authorization", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-client-cert"),
        *("client-ip", "x-remote-ip", "x-remote-addr", "remote-addr", "x-originating-ip", "x-cluster-client-ip", "fastly-client-ip", "x-azure-clientip"),
        *("x-remote-user", "x-authenticated-user", "x-userinfo", "x-host", "x-original-host", "x-http-host-override"),
    }
)
"""Never taken from a workload: written anew, or a claim about who asks that only a proxy may make."""

_ALSO_NOT_OURS: Final = (
    *("x-forwarded-", "remote-user", "remote-group", "remote-email", "remote-name", "x-webauth-", "x-auth-request-", "x-client-cert", "x-ssl-client-"),
    *("ssl-client-", "x-amzn-oidc-", "x-goog-authenticated-user-", "x-goog-iap-", "cf-access-", "x-ms-client-principal", "x-ms-token-"),
    *("x-remote-", "impersonate-"),  # a Kubernetes API server's front proxy, and whoever may act for others there
    *("x-consumer-", "x-credential-", "x-authentik-", "x-pomerium-", "x-vouch-"),
)
"""The same by how they begin: what proxies that sign people in (Authelia, oauth2-proxy, Kong, a cloud's own) tell the server behind them."""

_NOT_BACK: Final = frozenset({"alt-svc"})
"""Never given to a workload: it names ways to the server that are not this one."""

_NOT_NOMINATED: Final = frozenset({"host", "content-length", "transfer-encoding", "authorization", "cookie", "content-type"})
"""What Connection may not take out of a message: another reader would judge the rest differently."""


def workloads_own(fields: Fields, login: Login) -> Listed:
    """Return what of a request's ``fields`` goes on and is judged: no hop-by-hop field, no credential, no claim about the client."""
    nominated = set(tokens(values(fields, "connection"))) - _NOT_NOMINATED
    dropped = _HOP | _NOT_OURS | nominated | {login.header.lower()}
    kept = []
    for name, value in fields:
        key = name.lower().replace("_", "-")
        if key not in dropped and not key.startswith(_ALSO_NOT_OURS):
            kept.append((name, value))
    return kept


def back(fields: Fields) -> Listed:
    """Return what of a response's ``fields`` goes on."""
    dropped = _HOP | _NOT_BACK | (set(tokens(values(fields, "connection"))) - _NOT_NOMINATED)
    return [(name, value) for name, value in fields if name.lower() not in dropped]


_UNMASKED: Final = frozenset({"content-type", "date", "expires", "last-modified", "age", "retry-after", "allow", "vary"})
"""Of a response that is masked, what cannot hold a value of the server's data."""

_ABOUT_BYTES: Final = frozenset({"etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges", "content-range"})
"""About the very bytes that the server sent, which the client does not get."""

_ABOUT_PARTS: Final = frozenset({"range", "if-range", "if-none-match", "want-digest", "want-repr-digest", "accept-encoding"})
"""Asks for a part of the bytes, for their digest, or for a coding in which nothing can be found."""


def for_looking(fields: Listed) -> Listed:
    """Return a request's ``fields`` so that the response comes uncoded, if the client would have let it be coded."""
    kept = [each for each in fields if each[0].lower() != "accept-encoding"]
    return fields if len(kept) == len(fields) else [*kept, ("Accept-Encoding", "identity")]


def for_rebuilding(fields: Listed) -> Listed:
    """Return a request's ``fields`` for a body that is written anew: nothing about the bytes that the client sent."""
    return [each for each in fields if each[0].lower() not in _ABOUT_BYTES]


def for_masking(fields: Listed) -> Listed:
    """Return a request's ``fields`` so that the response can be masked: whole and uncoded."""
    return [*(each for each in fields if each[0].lower() not in _ABOUT_PARTS), ("Accept-Encoding", "identity")]


def masked(fields: Listed, text: Callable[[str], str]) -> Listed:
    """Return a response's ``fields`` with ``text`` applied to what can hold data, and nothing about the original bytes."""
    kept = ((name, value) for name, value in fields if name.lower() not in _ABOUT_BYTES)
    return [(name, value if name.lower() in _UNMASKED else text(value)) for name, value in kept]


def credential(login: Login, secret: str | None) -> Listed | None:
    """Return the fields by which the target knows us, empty if it has no credential; None: a field cannot hold it, or it is lost."""
    if secret is None:
        return None if login.credential else []
    if login.scheme in ("certificate", "sigv4"):  # which TLS shows, or which is in no field
        return []
    if not secret or secret != secret.strip() or not all(0x20 <= ord(letter) < 0x7F for letter in secret):
        return None
    match login.scheme:
        case "basic":
            word = base64.b64encode(f"{login.user}:{secret}".encode()).decode()
            return [("Authorization", f"Basic {word}")]
        case "header":
            return [(login.header, secret)]
        case _:
            return [("Authorization", f"Bearer {secret}")]
