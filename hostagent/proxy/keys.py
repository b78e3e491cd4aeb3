"""Key sets of identity providers: found by OIDC discovery, fetched, kept fresh, and dropped when they can no longer be trusted.

The set is asked for again every ``REFRESH_S``, so that a key which its provider withdrew stops counting within seconds, and at
once when a token names a key that is not there, but never more often than every ``AGAIN_S``. While a provider does not answer,
the last good set is used until it is ``STALE_S`` old; tokens expire all the same. (OIDC Discovery 1.0 §4, RFC 7517 §5.)

Only https, with the system's certificates or the named ``ca_file``; plain http only to this machine's loopback, for a provider
that runs here. No redirects, no proxies, no compressed answers, bounded size and time.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ipaddress
import logging
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from hostagent.identity import KeySet
from hostagent.identity.compact import read_object
from hostagent.model.errors import IdentityError
from hostagent.model.workload import IdentitySource
from hostagent.proxy.trustedfile import read_trusted

log = logging.getLogger(__name__)

REFRESH_S = 12.0
"""How old a set may become before it is asked for again."""

AGAIN_S = 10.0
"""Least time between two requests for the same set, whatever tokens ask for."""

STALE_S = 900.0
"""How long the last good set is used while its provider does not answer."""

TIMEOUT_S = 5.0
"""For one whole answer, connection included."""

MAX_ANSWER = 1_048_576
_POLL_S = 1.0
_WELL_KNOWN = "/.well-known/openid-configuration"


class KeySource(NamedTuple):
    """Where a key set comes from: ``jwks`` as file path or URL if given, otherwise discovery at ``issuer``."""

    issuer: str
    jwks: str
    ca_file: str

    @classmethod
    def of(cls, source: IdentitySource) -> KeySource:
        """Return the key source of a workload's identity source."""
        return cls(source.issuer, source.jwks, source.ca_file)

    @property
    def is_file(self) -> bool:
        """Whether the set is a file on this host."""
        return self.jwks.startswith("/")


@dataclass(slots=True)
class _Kept:
    """What is known of one source. Times are the clock's; ``problem`` is why the last attempt failed."""

    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    demanded_at: float = float("-inf")
    problem: str = ""
    address: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Keys:
    """The key sets in use, each asked for in the background once it was needed."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that never go back."""
        self._clock = clock
        self._kept: dict[KeySource, _Kept] = {}

    async def get(self, source: KeySource, *, missing: bool = False) -> KeySet:
        """Return the key set of ``source``, fetching it if it was never fetched.

        ``missing`` says that a token named a key which the set lacks: it is fetched again, unless that was done for the same
        reason less than ``AGAIN_S`` ago.

        Raises:
            IdentityError: there is none, or the last good one is too old.
        """
        kept = self._kept.setdefault(source, _Kept())
        if missing and self._clock() - kept.demanded_at >= AGAIN_S:
            kept.demanded_at = self._clock()
            await self._refresh(source, kept, 0.0)
        elif source.is_file or kept.keys is None:
            await self._refresh(source, kept, AGAIN_S)
        return self._usable(source, kept)

    async def run(self) -> None:
        """Keep every set that was ever needed fresh, until cancelled."""
        while True:
            async with asyncio.TaskGroup() as tasks:
                for source, kept in list(self._kept.items()):
                    tasks.create_task(self._refresh(source, kept, REFRESH_S))
            await asyncio.sleep(_POLL_S)

    def forget_all_but(self, needed: Collection[KeySource]) -> None:
        """Drop what is kept of every source that is not ``needed`` any more."""
        for source in [source for source in self._kept if source not in needed]:
            del self._kept[source]

    def status(self) -> list[dict[str, object]]:
        """Return for every source how fresh its keys are, in seconds, and what the last attempt said."""
        now = self._clock()
        return [
            {
                "issuer": source.issuer,
                "jwks": source.jwks or kept.address,
                "keys": [key.kid for key in kept.keys.keys] if kept.keys else [],
                "refused": dict(kept.keys.refused or {}) if kept.keys else {},
                "age_s": round(now - kept.fetched_at, 1) if kept.keys else None,
                "problem": kept.problem,
            }
            for source, kept in self._kept.items()
        ]

    def _usable(self, source: KeySource, kept: _Kept) -> KeySet:
        age = self._clock() - kept.fetched_at
        if kept.keys is not None and age <= (REFRESH_S if source.is_file else STALE_S):
            return kept.keys
        name = source.jwks or source.issuer
        if kept.keys is not None:
            raise IdentityError(f"the keys of {name} are {age:.0f} s old and cannot be fetched anew: {kept.problem}")
        raise IdentityError(f"the keys of {name} cannot be had: {kept.problem}")

    async def _refresh(self, source: KeySource, kept: _Kept, least: float) -> None:
        """Fetch the set, unless that was tried less than ``least`` seconds ago; a file is looked at every time."""
        async with kept.lock:
            now = self._clock()
            if not source.is_file and now - kept.tried_at < least:
                return
            kept.tried_at = now
            try:
                keys = await _fetch(source, kept)
            except (IdentityError, OSError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
                kept.problem = str(error) or type(error).__name__
                log.warning(
                    "keys cannot be fetched",
                    extra={"issuer": source.issuer, "jwks": source.jwks, "error": kept.problem},
                )
                if source.is_file or isinstance(error, _Lying):
                    kept.keys = None
                return
            if kept.keys is not None and kept.keys.version != keys.version:
                log.info("keys changed", extra={"issuer": source.issuer, "kids": [key.kid for key in keys.keys]})
            kept.keys, kept.fetched_at, kept.problem = keys, now, ""


class _Lying(IdentityError):  # noqa: N818 - said of a provider
    """The provider answered, and what it says cannot be believed: what it said before counts no longer either."""


async def _fetch(source: KeySource, kept: _Kept) -> KeySet:
    if source.is_file:
        content = await asyncio.to_thread(read_trusted, source.jwks, MAX_ANSWER, secret=False)
        return KeySet.parse(content)
    async with asyncio.timeout(TIMEOUT_S):
        kept.address = source.jwks or await _discover(source)
        content = await fetch(kept.address, source.ca_file)
    try:
        return KeySet.parse(content)
    except IdentityError as error:
        raise _Lying(f"{kept.address}: {error}") from None


async def _discover(source: KeySource) -> str:
    """Return the address of the issuer's key set.

    Raises:
        IdentityError: no address, or the document is of another issuer: then nothing else in it can be believed.
    """
    if source.issuer.startswith("spiffe://"):
        raise IdentityError(f"{source.issuer}: a trust domain has no discovery; name its bundle with jwks")
    address = source.issuer.rstrip("/") + _WELL_KNOWN
    content = await fetch(address, source.ca_file)
    try:
        document: Mapping[str, object] = read_object(content, "discovery document")
    except IdentityError as error:
        raise _Lying(f"{address}: {error}") from None
    if document.get("issuer") != source.issuer:
        raise _Lying(f"{address}: says its issuer is {document.get('issuer')!r}, not {source.issuer!r}")
    found = document.get("jwks_uri")
    if not isinstance(found, str):
        raise _Lying(f"{address}: names no key set (jwks_uri)")
    if urlsplit(source.issuer).scheme == "https" and urlsplit(found).scheme != "https":
        raise _Lying(f"{address}: names a key set that is not fetched by https")
    return found


async def fetch(address: str, ca_file: str) -> bytes:
    """Return the body of the 200 answer to a GET of ``address``.

    Raises:
        IdentityError: an address that is not allowed, another answer, or one that is too long.
        OSError: no connection, or no TLS that can be verified.
        http.client.HTTPException: the answer breaks HTTP, or ends early.
    """
    url = urlsplit(address)
    reader, writer = await _open(address, url, ca_file)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        head = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
        writer.write((head + "User-Agent: hostagent\r\nConnection: close\r\n\r\n").encode("ascii"))
        await writer.drain()
        answer = bytearray()
        while len(answer) <= MAX_ANSWER and (chunk := await reader.read(65_536)):
            answer += chunk
    finally:
        writer.close()
    if len(answer) > MAX_ANSWER:
        raise IdentityError(f"{address}: answers with more than {MAX_ANSWER} bytes")
    return _body(address, bytes(answer))


async def _open(address: str, url: SplitResult, ca_file: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        host, port = url.hostname or "", url.port
    except ValueError:
        raise IdentityError(f"{address}: has no valid port") from None
    if not host or url.username is not None or not address.isascii() or not address.isprintable() or " " in address:
        raise IdentityError(f"{address!r}: is not an address that keys are fetched from")
    if url.scheme == "https":
        # Reading the system's certificates takes milliseconds that sessions would feel.
        context = await asyncio.to_thread(_context, ca_file)
        return await asyncio.open_connection(host, port or 443, ssl=context, server_hostname=host)
    if url.scheme != "http" or not _is_loopback(host):
        raise IdentityError(f"{address}: keys are fetched by https only (http only from this machine's loopback)")
    return await asyncio.open_connection("127.0.0.1" if host == "localhost" else host, port or 80)


def _context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Received(io.BytesIO):
    """A whole answer, in the form that the standard library's parser reads from."""

    def makefile(self, *_: object, **__: object) -> _Received:
        """Return itself: the parser asks its socket for a file."""
        return self


def _body(address: str, answer: bytes) -> bytes:
    response = http.client.HTTPResponse(_Received(answer))  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    if response.status != 200:
        where = response.getheader("Location", "")
        raise IdentityError(
            f"{address}: answers {response.status}" + (f" (redirects are not followed: {where})" if where else "")
        )
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise IdentityError(f"{address}: answers compressed, though asked not to")
    return body
