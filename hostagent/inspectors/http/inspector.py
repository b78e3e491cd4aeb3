"""HTTP on one flow: the opening, which says for what name and in what version, and then that version (``http1``, ``http2``)."""

from __future__ import annotations

from typing import ClassVar, Protocol

from hostagent.inspectors.http import problem
from hostagent.inspectors.http.dialect import PLAIN, Dialect
from hostagent.inspectors.http.http1 import Http1
from hostagent.inspectors.http.http2 import Http2
from hostagent.inspectors.http.opening import ALPN, ALPN_2, alert, chosen, objection
from hostagent.inspectors.ports import Denial, Desk, Surroundings
from hostagent.model.command import Close, Command, Forward, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.target import UpstreamTLS
from hostagent.sql import Analysis
from hostagent.wire.http2.meter import PREFACE
from hostagent.wire.tls_hello import RECORD_HANDSHAKE, read_client_hello


class Connection(Protocol):
    """One version of HTTP on an open connection; the methods are those of ``hostagent.inspectors.ports.Inspector``."""

    signed_in: bool
    failed: bool

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way or held."""

    @property
    def items(self) -> int:
        """How many requests are kept."""

    def ahead(self) -> int:
        """Return how many bytes of the target's pass unmasked, whatever they are."""

    def weigh(self) -> int:
        """Return about how many bytes are kept."""

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""

    def secured(self, now: float) -> list[Command]:
        """TLS is up towards the target."""

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """A held request was answered."""

    def notice(self, text: str, now: float) -> list[Command]:
        """A held request was parked long enough."""

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session."""


class HttpInspector:
    """Implements ``hostagent.inspectors.ports.Inspector``. ``dialect``: the API that is spoken over it."""

    dialect: ClassVar[Dialect] = PLAIN

    def __init__(self, desk: Desk, surroundings: Surroundings) -> None:
        """Begin before the first byte."""
        self._desk = desk
        self._surroundings = surroundings
        self._target = surroundings.target
        self._tls = surroundings.target.tls is UpstreamTLS.VERIFY
        self._buffer = bytearray()
        self._open = not self._tls and not self._target.http2
        self._inner: Connection = Http1(desk, surroundings, "", self.dialect)

    @property
    def signed_in(self) -> bool:
        """Whether a request was understood."""
        return self._inner.signed_in

    @property
    def failed(self) -> bool:
        """Whether the session is over."""
        return self._inner.failed

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way or held."""
        return self._inner.at_rest and not self._buffer

    @property
    def items(self) -> int:
        """How many requests are kept."""
        return self._inner.items

    def ahead(self) -> int:
        """Return how many bytes of the target's are to pass, whatever they are: see ``ports.Ahead``."""
        return self._inner.ahead()

    def weigh(self) -> int:
        """Return about how many bytes wait to be understood, judged, masked or sent, and what is remembered."""
        return self._inner.weigh() + len(self._buffer)

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        if self._open or self.failed:
            return self._inner.feed(side, data, now)
        self._buffer += data
        return self._opening(now) if self._tls else self._beginning(now)

    def _beginning(self, now: float) -> list[Command]:
        """Look at the first bytes without TLS: HTTP/2 has a preface (RFC 9113 §3.3)."""
        first = bytes(self._buffer)
        if len(first) < len(PREFACE) and PREFACE.startswith(first):
            return []
        self._choose(ALPN_2 if first.startswith(PREFACE) else ALPN, "")
        self._open = True
        self._buffer.clear()
        return self._inner.feed(Side.CLIENT, first, now)

    def _opening(self, now: float) -> list[Command]:
        """Look at the ClientHello before TLS begins."""
        out: list[Command] = []
        raw = bytes(self._buffer)
        plain = raw[:1] not in (b"", bytes([RECORD_HANDSHAKE]))
        try:
            if plain:
                raise RemoteWireError(f"target {self._target.name} is reached over TLS (https) only", "400")
            hello = read_client_hello(raw)
        except RemoteWireError as error:
            reason = f"{Side.CLIENT}: {error}"
            self._desk.refusal(self._desk.scrub(reason), now, out)
            if plain:
                step = "The connection was closed; send requests as RFC 9112 writes them."
                refused = problem.refused(problem.status_of(error), str(error), step)
                out.append(Forward(Side.CLIENT, problem.build(refused, "GET", close=True, written=self.dialect.written(refused, None))))
            return out + self._leave(reason)
        if hello is None:
            return []
        reason, number = objection(hello, self._target)
        if reason:
            self._desk.refusal(reason, now, out)
            return [*out, Forward(Side.CLIENT, alert(number)), *self._leave(reason)]
        self._buffer.clear()
        version = chosen(hello, self._target)
        self._choose(version, hello.server_name)
        return [StartTLS(Side.CLIENT, version, initial=raw)]

    def _choose(self, version: str, name: str) -> None:
        if version == ALPN_2:
            self._inner = Http2(self._desk, self._surroundings, name)
        else:
            self._inner = Http1(self._desk, self._surroundings, name, self.dialect)

    def _leave(self, reason: str) -> list[Command]:
        self._inner.failed = True
        return [Close(reason)]

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""
        return self._inner.connected(now)

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""
        return self._inner.connect_failed(reason, now)

    def secured(self, side: Side, now: float, *, version: str, channel_binding: bytes, sni: str) -> list[Command]:
        """TLS is up on ``side``."""
        if side is Side.SERVER:
            return self._inner.secured(now)
        self._open = True
        return []

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held request was answered: send it (None), or refuse it."""
        return self._inner.release(denial, now)

    def cancel_wanted(self) -> bool:
        """Return False: HTTP/1.1 has no way to take back a request but to close the connection."""
        return False

    def analysed(self, analysis: Analysis, now: float) -> list[Command]:
        """Nothing is handed out to be analysed here."""
        return []

    def notice(self, text: str, now: float) -> list[Command]:
        """A held request was parked long enough: tell the client its ticket, and keep that for when it comes again."""
        return self._inner.notice(text, now)

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""
        return self._inner.closed(side, now)

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session with a 503 if a request waits for its response."""
        return self._inner.cut(reason, now)
