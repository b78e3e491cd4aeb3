"""What a session has on either side of it: the gate that judges, and the process around that dials, asks and counts."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Protocol

from hostagent.model.command import Command, Detach, Hold, Withdraw
from hostagent.model.flow import Side
from hostagent.model.ticket import Answer
from hostagent.sql import Analysis

if TYPE_CHECKING:
    from hostagent.proxy.session import Session


class Judging(Protocol):
    """What a session needs of its ``hostagent.gate.Gate``, where all of this is explained."""

    def feed(self, side: Side, data: bytes, now: float, /) -> list[Command]:
        """Bytes arrived from ``side``."""

    def connected(self, now: float, /) -> list[Command]:
        """The upstream connection is up."""

    def connect_failed(self, reason: str, now: float, /) -> list[Command]:
        """The upstream connection could not be made."""

    def secured(self, side: Side, now: float, *, version: str = "", channel_binding: bytes = b"") -> list[Command]:
        """TLS is up on ``side``."""

    def analysed(self, analysis: Analysis, now: float, /) -> list[Command]:
        """The text that was handed out means this."""

    def resume(self, answer: Answer, now: float, /) -> list[Command]:
        """The pending hold was answered."""

    def tick(self, now: float, /) -> list[Command]:
        """Do what is due."""

    def closed(self, side: Side, now: float, /) -> list[Command]:
        """``side`` is gone."""

    def cut(self, reason: str, now: float, /) -> list[Command]:
        """End the session."""

    def ahead(self) -> int:
        """Return how many bytes of the target's come next that are content, cheap and the same whatever stands in it."""

    def weigh(self) -> int:
        """Return about how many bytes are kept."""

    @property
    def items(self) -> int:
        """How many things are kept."""

    @property
    def statements(self) -> int:
        """How many statements were recorded."""

    @property
    def deadline(self) -> float | None:
        """When ``tick`` wants to be called."""

    @property
    def at_rest(self) -> bool:
        """Whether the session may end without undoing anything."""

    @property
    def signed_in(self) -> bool:
        """Whether sign-in is complete."""


class Outside(Protocol):
    """What a session needs of the process around it."""

    def connect(self, session: Session, protocol: asyncio.Protocol) -> None:
        """Start the upstream connection; ends in ``protocol.connection_made`` or ``session.connect_failed``."""

    def client_tls(self, session: Session, alpn: str) -> ssl.SSLContext:
        """Return the context that presents our leaf certificate for this session's target, and speaks ``alpn``."""

    def client_binding(self, session: Session) -> bytes:
        """Return the tls-server-end-point hash of that leaf certificate."""

    def server_tls(self, session: Session, name: str, alpn: str) -> tuple[ssl.SSLContext, str]:
        """Return the context that verifies the target and offers ``alpn``, and the name to prove; ``name`` if the client asked for one."""

    def server_binding(self, certificate: bytes) -> bytes:
        """Return the tls-server-end-point hash of the target's DER certificate."""

    def hold(self, session: Session, command: Hold) -> None:
        """Put the ticket on the approvals desk; the answer comes to ``session.resume``."""

    def withdraw(self, command: Withdraw) -> None:
        """Take the ticket off the desk."""

    def analyse(self, session: Session, text: bytes) -> None:
        """Find out what a statement means; ends in ``session.analysed``."""

    def detach(self, command: Detach) -> None:
        """Leave the ticket on the desk; its answer is kept for the same operation to come again."""

    def cancel_upstream(self, session: Session, data: bytes) -> None:
        """Send a cancel request on a connection of its own; ends in ``session.cancel_delivered``."""

    def refresh_catalogue(self, session: Session) -> None:
        """Fetch the catalogue anew."""

    def keeps(self, session: Session, size: int) -> None:
        """The session keeps about ``size`` bytes now; it may be ended for that, or another one."""

    def closed(self, session: Session) -> None:
        """The session is over."""
