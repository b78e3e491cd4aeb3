"""PostgreSQL on one flow: start-up and sign-in by ``login``, everything after by ``session``."""

from __future__ import annotations

from hostagent.inspectors.ports import Denial, Desk, Surroundings
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.login import Login, LoginResult
from hostagent.inspectors.postgres.session import Session
from hostagent.model.command import CancelUpstream, Command
from hostagent.model.errors import LocalWireError
from hostagent.model.flow import Side
from hostagent.sql import Analysis
from hostagent.wire.postgres.startup import build_cancel_request


class CancelHandle:
    """What a cancel request for this session finds, on whichever connection it arrives."""

    def __init__(self, inspector: PostgresInspector, surroundings: Surroundings) -> None:
        """Belong to ``inspector``."""
        self.workload = surroundings.flow.workload
        self._inspector = inspector
        self._wake = surroundings.wake

    def cancel(self, _now: float) -> bytes | None:
        """Return the CancelRequest to send to the target, or None: it hit a held operation, or nothing."""
        if self._inspector.held:
            self._inspector.cancel_requested = True
            self._wake()
            return None
        return self._inspector.cancel_request


class PostgresInspector:
    """Implements ``hostagent.inspectors.ports.Inspector``."""

    def __init__(self, desk: Desk, surroundings: Surroundings) -> None:
        """Begin with start-up."""
        registry = surroundings.cancel_keys
        if not isinstance(registry, CancelRegistry):
            raise LocalWireError("PostgreSQL needs its own registry of cancel keys")
        self._desk = desk
        self._registry = registry
        self._session: Session | None = None
        self._result: LoginResult | None = None
        self._longest_inline = surroundings.inline
        self.cancel_requested = False
        self.cancel_request: bytes | None = None
        self._login = Login(
            flow=surroundings.flow,
            judge=desk.judge,
            target=surroundings.target,
            secret=surroundings.secret,
            random=surroundings.random,
            wall_offset_ns=surroundings.wall_offset_ns,
            cancel_registry=registry,
            cancel_entry=CancelHandle(self, surroundings),
            tls=surroundings.tls,
            demand_scram=surroundings.demand_scram,
            placeholder=surroundings.placeholder,
            scrub=desk.scrub,
        )

    @property
    def signed_in(self) -> bool:
        """Whether sign-in is complete, on both sides."""
        return self._session is not None

    @property
    def failed(self) -> bool:
        """Whether the session is over."""
        return self._session is not None and self._session.over

    @property
    def held(self) -> bool:
        """Whether an operation of the client is withheld."""
        return self._session is not None and self._session.held

    @property
    def at_rest(self) -> bool:
        """Whether the session may end without undoing anything: see ``ports.Resting``."""
        return self._session is not None and self._session.at_rest

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        session = self._session
        if session is not None:
            return session.feed(side, data, now)
        return self._begun(self._login.feed(side, data, now), now)

    def _begun(self, out: list[Command], now: float) -> list[Command]:
        """Go over to the main phase once sign-in is done; what arrived too early is read there."""
        result = self._login.done
        if result is None or self._session is not None:
            return out
        self._result = result
        attributes = {"database": result.database, "user": result.user, "application": result.application}
        self._desk.signed_in(result.database, result.user)
        encoding = result.reported.get("server_encoding", "")
        self._session = Session(self._desk, attributes, ascii_names=encoding != "UTF8", inline=self._longest_inline)
        if result.upstream_key is not None:
            self.cancel_request = build_cancel_request(*result.upstream_key)
        for side, data in ((Side.SERVER, result.leftover_server), (Side.CLIENT, result.leftover_client)):
            if data:
                out += self._session.feed(side, data, now)
        return out

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""
        return [] if self._session is not None else self._begun(self._login.connected(now), now)

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""
        return [] if self._session is not None else self._login.connect_failed(reason, now)

    def secured(self, side: Side, now: float, *, version: str, channel_binding: bytes, sni: str) -> list[Command]:
        """TLS is up on ``side``."""
        if self._session is not None:
            return []
        out = self._login.secured(side, now, version=version, channel_binding=channel_binding, sni=sni)
        return self._begun(out, now)

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held operation was answered."""
        self.cancel_requested = False
        return [] if self._session is None else self._session.release(denial, now)

    @property
    def items(self) -> int:
        """How many things the session keeps."""
        return 0 if self._session is None else self._session.items

    def weigh(self) -> int:
        """Return about how many bytes the session keeps."""
        return 0 if self._session is None else self._session.weigh()

    def analysed(self, analysis: Analysis, now: float) -> list[Command]:
        """The text that was handed out means this."""
        return [] if self._session is None else self._session.analysed(analysis, now)

    def notice(self, text: str, now: float) -> list[Command]:
        """Tell the client something that is no answer to anything."""
        return [] if self._session is None else self._session.notice(text, now)

    def cancel_wanted(self) -> bool:
        """Return whether a cancel of the held operation has arrived since the last call."""
        wanted, self.cancel_requested = self.cancel_requested, False
        return wanted

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""
        self._forget()
        return self._login.closed(side, now) if self._session is None else self._session.closed(side, now)

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session with the protocol's own fatal error, and what it has running at the target."""
        self._forget()
        if self._session is None:
            return self._login.cut(reason, now)
        busy = self._session.busy
        out = self._session.cut(reason, now)
        if busy and out and self.cancel_request is not None:
            # A server notices a lost client only when it next writes; a session is cut so that nothing goes on.
            out.insert(0, CancelUpstream(self.cancel_request))
        return out

    def _forget(self) -> None:
        """No cancel request shall find this session any more."""
        if self._result is not None and self._result.client_key is not None:
            self._registry.forget(self._result.client_key)
