"""The login of a PostgreSQL client, sans I/O: from its first byte until both sides are ready for statements.

Theory of operation. The client's half walks through encryption requests to a StartupMessage (or a CancelRequest, which ends
here), is judged, and may prove itself by SCRAM against a public placeholder if it insists on a proof. Only then is the target
dialled and logged in to with the target's own credential (``upstream``); what the workload sent as a password is never looked
at. When the server is ready, the client gets AuthenticationOk, the server's greeting and a cancel key of ours in one piece,
and ``done`` is set: the session takes over, with whatever bytes were left on either side.

Every way out but ``done`` is a FATAL ErrorResponse, a ``login`` record and ``Close``.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hostagent.inspectors.postgres.cancel import CancelEntry, CancelRegistry
from hostagent.inspectors.postgres.startup import LoginRefused, LoginRequest, admit, understand
from hostagent.inspectors.postgres.upstream import NONCE_SIZE, Upstream
from hostagent.model.command import CancelUpstream, Close, Command, Connect, Forward, Record, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Flow, Side
from hostagent.model.operation import Operation
from hostagent.model.target import Target
from hostagent.model.verdict import Decision, Verdict
from hostagent.wire.postgres import scram
from hostagent.wire.postgres.backend import build_error, build_ready
from hostagent.wire.postgres.startup import (
    LOGIN_CLIENT_CAPS,
    NEWEST_MINOR,
    Authentication,
    AuthKind,
    BackendKey,
    CancelRequest,
    Encryption,
    Negotiation,
    StartupMessage,
    build_authentication,
    build_backend_key,
    build_mechanisms,
    build_negotiation,
    parse_sasl_initial,
    read_message,
    read_startup,
)
from hostagent.wire.tls_hello import RECORD_HANDSHAKE, read_client_hello

ALPN: Final = "postgresql"
"""The ALPN protocol name of direct TLS (PostgreSQL 17 §53.2.11)."""
_MAX_EARLY: Final = 65_536
"""How much a client may send ahead of being let in."""


@dataclass(frozen=True, slots=True)
class LoginResult:
    """A finished login.

    ``parameters`` went upstream; ``reported`` are the server's ParameterStatus values. ``client_key`` was minted by us and must
    be given to ``CancelRegistry.forget`` when the session ends; it and ``upstream_key`` are None if the server has no cancel
    key. ``minor`` is the protocol version spoken with the client. The leftovers are bytes already received that belong to the
    session.
    """

    user: str
    upstream_user: str
    database: str
    application: str
    minor: int
    parameters: Mapping[str, str]
    reported: Mapping[str, str]
    client_key: BackendKey | None
    upstream_key: BackendKey | None
    tls_client: str
    tls_server: str
    leftover_client: bytes
    leftover_server: bytes


class _Stage(enum.Enum):
    STARTUP = enum.auto()
    HANDSHAKE = enum.auto()
    PROOF = enum.auto()  # SCRAM with the client
    UPSTREAM = enum.auto()
    OVER = enum.auto()


class Login:
    """One login. Every method returns the commands it causes; none after the end."""

    def __init__(
        self,
        *,
        flow: Flow,
        target: Target,
        judge: Callable[[Operation], Verdict],
        random: Callable[[int], bytes],
        cancel_registry: CancelRegistry,
        cancel_entry: CancelEntry,
        secret: str | None = None,
        wall_offset_ns: int = 0,
        tls: bool = True,
        demand_scram: bool = False,
        placeholder: str = "hostagent",
        scrub: Callable[[str], str] = str,
    ) -> None:
        """Nothing happens before the first ``feed``.

        Args:
            flow: the connection.
            target: the server that its destination belongs to.
            judge: answers for the connect operation.
            random: ``random(n)`` returns n unpredictable bytes.
            cancel_registry: where minted keys are kept, and looked up when this connection is a cancel request.
            cancel_entry: what the key minted for this login will lead to.
            secret: the target's credential; None for none.
            wall_offset_ns: ``event.at`` is ``now`` in nanoseconds plus this.
            tls: TLS can be served to the client.
            demand_scram: make every client prove that it knows ``placeholder``.
            placeholder: public by design.
            scrub: cleans texts of the server before a client or a record sees them.
        """
        self._flow = flow
        self._target = target
        self._judge_operation = judge
        self._random = random
        self._cancels = cancel_registry
        self._entry = cancel_entry
        self._secret = secret
        self._wall_offset_ns = wall_offset_ns
        self._tls_offered = tls
        self._demand_scram = demand_scram
        self._placeholder = placeholder
        self._scrub = scrub
        self._stage = _Stage.STARTUP
        self._buffer = bytearray()
        self._first = True  # no byte of a request was seen: direct TLS is possible
        self._ssl_asked = self._gss_asked = False
        self._request: LoginRequest | None = None
        self._verdict: Verdict | None = None
        self._proof: scram.ScramServer | None = None
        self._proof_begun = False
        self._upstream: Upstream | None = None
        self._binding = b""
        self._tls = {Side.CLIENT: "", Side.SERVER: ""}
        self.done: LoginResult | None = None

    @property
    def over(self) -> bool:
        """Whether the login has ended: successfully if ``done`` is set."""
        return self._stage is _Stage.OVER

    # -- what happens ------------------------------------------------------------------------------------------------------

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        if side is Side.CLIENT:
            return self._guarded(now, lambda out: self._client_bytes(data, now, out))
        return self._guarded(now, lambda out: self._server_bytes(data, now, out), Side.SERVER)

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""
        return self._guarded(now, lambda out: out.extend(self._dialled().connected()), Side.SERVER)

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection (or its TLS) could not be made. ``reason`` is one line, shown to the client."""
        message = f'target "{self._target.name}" cannot be reached: {reason}'
        return self._end(LoginRefused(message, "08006", outcome="failed"), now)

    def secured(
        self, side: Side, now: float, *, version: str = "", channel_binding: bytes = b"", sni: str = ""
    ) -> list[Command]:
        """TLS is up on ``side``.

        Args:
            side: where.
            now: monotonic seconds.
            version: such as ``TLSv1.3``, for the record.
            channel_binding: tls-server-end-point hash; of the server's certificate, or on the client's side of ours.
            sni: the name the client asked for; not used, because the destination was fixed by address.
        """
        self._tls[side] = version or "TLS"
        if side is Side.SERVER:
            return self._guarded(now, lambda out: out.extend(self._dialled().secured(channel_binding)), side)
        return self._guarded(now, lambda _: self._client_secured(channel_binding))

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""
        if side is Side.SERVER:
            message = f'target "{self._target.name}" closed the connection during the login'
            return self._end(LoginRefused(message, "08006", outcome="failed"), now)
        return self._end(LoginRefused("the client left during the login", "08006", outcome="failed"), now, tell=False)

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the login now."""
        return self._end(LoginRefused(reason, "57P01"), now)

    # -- the client's half -------------------------------------------------------------------------------------------------

    def _client_bytes(self, data: bytes, now: float, out: list[Command]) -> None:
        self._buffer += data
        if self._stage is _Stage.HANDSHAKE:
            raise RemoteWireError("plaintext during the TLS handshake")
        if self._stage is _Stage.STARTUP:
            self._startup_packets(now, out)
        elif self._stage is _Stage.PROOF:
            self._proof_messages(out)
        if self._stage is _Stage.UPSTREAM and len(self._buffer) > _MAX_EARLY:
            raise RemoteWireError(f"more than {_MAX_EARLY} bytes sent before the login was complete")

    def _startup_packets(self, now: float, out: list[Command]) -> None:
        while self._stage is _Stage.STARTUP and self._buffer:
            if self._first and self._buffer[0] == RECORD_HANDSHAKE:
                self._direct_tls(out)
                return
            found = read_startup(bytes(self._buffer))
            if found is None:
                return
            self._first = False
            packet, size = found
            del self._buffer[:size]
            if isinstance(packet, Encryption):
                self._encryption(packet, out)
            elif isinstance(packet, CancelRequest):
                self._cancel(packet, now, out)
            else:
                self._startup(packet, out)

    def _direct_tls(self, out: list[Command]) -> None:
        hello = read_client_hello(bytes(self._buffer))
        if hello is None:
            return
        if not self._tls_offered or ALPN not in hello.alpn:
            raise RemoteWireError(f"direct TLS needs ALPN {ALPN!r}")
        self._first = False
        self._stage = _Stage.HANDSHAKE
        self._ssl_asked = self._gss_asked = True
        out.append(StartTLS(Side.CLIENT, ALPN, bytes(self._buffer)))
        self._buffer.clear()

    def _encryption(self, kind: Encryption, out: list[Command]) -> None:
        """Answer SSLRequest or GSSENCRequest; each at most once, and none inside TLS (as PostgreSQL does)."""
        ssl = kind is Encryption.SSL
        if self._ssl_asked if ssl else self._gss_asked:
            raise RemoteWireError("unexpected second encryption request", "0A000")
        if not ssl or not self._tls_offered:
            self._ssl_asked = self._ssl_asked or ssl
            self._gss_asked = self._gss_asked or not ssl
            out.append(Forward(Side.CLIENT, b"N"))
            return
        if self._buffer:  # CVE-2021-3935: what came before the handshake must not be read as if it came through it
            raise RemoteWireError("received unencrypted data after SSL request")
        self._ssl_asked = self._gss_asked = True
        self._stage = _Stage.HANDSHAKE
        out.append(Forward(Side.CLIENT, b"S"))
        out.append(StartTLS(Side.CLIENT, ALPN))

    def _client_secured(self, binding: bytes) -> None:
        if self._stage is not _Stage.HANDSHAKE:
            raise RemoteWireError("TLS finished where none was begun")
        self._binding = binding
        self._stage = _Stage.STARTUP

    def _cancel(self, request: CancelRequest, now: float, out: list[Command]) -> None:
        """Cancel what the key leads to. The client learns nothing, as PostgreSQL 17 §53.2.8 demands."""
        found = self._cancels.lookup(request.pid, request.key)
        outcome, reason = "denied", "cancel request with an unknown key"
        if found is not None and found.entry.workload != self._flow.workload:
            reason = "cancel request for a session of another workload"
        elif found is not None:
            outcome, reason = "ok", f"cancel request for flow {found.flow_id}"
            data = found.entry.cancel(now)
            if data is None:
                reason += " (not passed on: it had nothing running at the target)"
            else:
                out.append(CancelUpstream(data))
        out.insert(0, self._record(outcome, reason, now))
        out.append(Close(reason))
        self._stage = _Stage.OVER

    def _startup(self, message: StartupMessage, out: list[Command]) -> None:
        request = understand(message)
        self._request = request
        if message.minor > NEWEST_MINOR or message.extensions:
            answer = Negotiation(request.minor, message.extensions)
            out.append(Forward(Side.CLIENT, build_negotiation(answer)))
        self._request = request = admit(request, self._target)
        self._judge(request)
        if self._demand_scram:
            self._demand_proof(out)
        else:
            self._dial(out)

    def _judge(self, request: LoginRequest) -> None:
        verdict = self._verdict = self._judge_operation(request.operation())
        matched = f"Matching rules: {', '.join(verdict.rules) or 'none'}; policy {verdict.policy[:12]}."
        if verdict.decision is Decision.ALLOW and not request.replication:
            return
        if verdict.decision is Decision.ALLOW:
            message = "replication connections are refused: their rows could be neither judged nor masked"
            raise LoginRefused(message, "0A000", hint="Connect without replication.", detail=matched)
        if verdict.decision is Decision.HOLD:
            hint = "Hold statements instead of connect in that rule."
            raise LoginRefused("a rule holds the login itself, which cannot wait", "42501", hint=hint, detail=matched)
        by = f"by rule {verdict.rules[0]}" if verdict.rules else "by default"
        hint = verdict.hint or "Ask whoever owns the policy for a rule that allows this workload to connect."
        raise LoginRefused(f"login denied {by}: {verdict.reason}", "42501", hint=hint, detail=matched)

    # -- the client's proof, for clients that insist on giving one ----------------------------------------------------------

    def _demand_proof(self, out: list[Command]) -> None:
        # The salt is no secret and the same for all, so that the keys are computed once.
        salt = hashlib.sha256(b"hostagent placeholder " + self._placeholder.encode()).digest()[:16]
        nonce = self._random(NONCE_SIZE)
        self._proof = scram.ScramServer(self._placeholder, nonce, salt, self._binding)
        data = build_mechanisms(self._proof.mechanisms)
        out.append(Forward(Side.CLIENT, build_authentication(Authentication(AuthKind.SASL, data))))
        self._stage = _Stage.PROOF

    def _proof_messages(self, out: list[Command]) -> None:
        while self._stage is _Stage.PROOF:
            message = read_message(bytes(self._buffer), LOGIN_CLIENT_CAPS)
            if message is None:
                return
            del self._buffer[: message.size]
            self._proof_message(message.body, out)

    def _proof_message(self, body: bytes, out: list[Command]) -> None:
        assert self._proof is not None
        if not self._proof_begun:
            self._proof_begun = True
            initial = parse_sasl_initial(body)
            answer = self._proof.first(initial.mechanism, initial.data or b"")
            out.append(Forward(Side.CLIENT, build_authentication(Authentication(AuthKind.SASL_CONTINUE, answer))))
            return
        try:
            answer = self._proof.final(body)
        except scram.Rejected as error:
            hint = "This host asks clients for the placeholder password that `hostagent target list` prints."
            raise LoginRefused(str(error), "28P01", hint=hint) from error
        out.append(Forward(Side.CLIENT, build_authentication(Authentication(AuthKind.SASL_FINAL, answer))))
        self._dial(out)

    # -- the server's half -------------------------------------------------------------------------------------------------

    def _dial(self, out: list[Command]) -> None:
        assert self._request is not None
        self._upstream = Upstream(self._target, self._secret, self._request, self._random, self._scrub)
        self._stage = _Stage.UPSTREAM
        out.append(Connect(self._request.database))

    def _dialled(self) -> Upstream:
        if self._upstream is None:
            raise RemoteWireError("the server appeared before it was dialled")
        return self._upstream

    def _server_bytes(self, data: bytes, now: float, out: list[Command]) -> None:
        upstream = self._dialled()
        out.extend(upstream.feed(data))
        if upstream.ready:
            self._let_in(upstream, now, out)

    def _let_in(self, upstream: Upstream, now: float, out: list[Command]) -> None:
        assert self._request is not None
        request = self._request
        client_key = None
        greeting = build_authentication(Authentication(AuthKind.OK)) + upstream.greeting
        if upstream.key is not None:
            client_key = self._cancels.mint(self._random, request.minor, self._entry, self._flow.flow_id)
            greeting += build_backend_key(client_key)
        out.insert(0, self._record("ok", "", now))
        out.append(Forward(Side.CLIENT, greeting + build_ready(b"I")))
        self.done = LoginResult(
            user=request.user,
            upstream_user=self._target.login.user,
            database=request.database,
            application=request.application,
            minor=request.minor,
            parameters=request.settings,
            reported=upstream.parameters,
            client_key=client_key,
            upstream_key=upstream.key,
            tls_client=self._tls[Side.CLIENT],
            tls_server=self._tls[Side.SERVER],
            leftover_client=bytes(self._buffer),
            leftover_server=upstream.leftover,
        )
        self._stage = _Stage.OVER

    # -- ends --------------------------------------------------------------------------------------------------------------

    def _guarded(
        self, now: float, step: Callable[[list[Command]], None], side: Side = Side.CLIENT
    ) -> list[Command]:
        """Return the commands of ``step``; what it raises becomes the end of the login."""
        out: list[Command] = []
        if self._stage is _Stage.OVER:
            return out
        try:
            step(out)
        except LoginRefused as refusal:
            out.extend(self._end(refusal, now))
        except RemoteWireError as error:
            where = f'target "{self._target.name}": ' if side is Side.SERVER else ""
            out.extend(self._end(LoginRefused(f"{where}{error}", error.code, outcome="failed"), now))
        return out

    def _end(self, refusal: LoginRefused, now: float, *, tell: bool = True) -> list[Command]:
        if self._stage is _Stage.OVER:
            return []
        out: list[Command] = [self._record(refusal.outcome, str(refusal), now)]
        # In the middle of a handshake there is no channel in which an ErrorResponse would be read.
        if tell and self._stage is not _Stage.HANDSHAKE:
            out.append(Forward(Side.CLIENT, build_error(_fatal_fields(refusal))))
        out.append(Close(f"login {refusal.outcome}: {refusal}"))
        self._stage = _Stage.OVER
        return out

    def _record(self, outcome: str, reason: str, now: float) -> Record:
        request, verdict, flow = self._request, self._verdict, self._flow
        fields: dict[str, object] = {
            "outcome": outcome,
            "reason": reason,
            "rules": list(verdict.rules) if verdict else [],
            "policy": verdict.policy if verdict else "",
            "database": request.database if request else "",
            "user": request.user if request else "",
            "upstream_user": self._target.login.user if self._upstream else "",
            "application": request.application if request else "",
            "tls_client": self._tls[Side.CLIENT],
            "tls_server": self._tls[Side.SERVER],
        }
        at = int(now * 1e9) + self._wall_offset_ns
        return Record(Event(EventKind.LOGIN, at, flow.flow_id, flow.workload, fields))


def _fatal_fields(refusal: LoginRefused) -> dict[str, str]:
    fields = {"S": "FATAL", "V": "FATAL", "C": refusal.sqlstate, "M": f"hostagent: {refusal}"}
    if refusal.detail:
        fields["D"] = refusal.detail
    if refusal.hint:
        fields["H"] = refusal.hint
    return fields
