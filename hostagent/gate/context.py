"""What a session is given by the process around it: fixed facts, and sources that are read anew for every judgement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hostagent.approval import Book
from hostagent.model.catalogue import Catalogue
from hostagent.model.flow import Flow
from hostagent.model.identity import Identity
from hostagent.model.target import Target
from hostagent.policy import Policy, PolicyContext
from hostagent.sql import MAX_TEXT


class PolicySource(Protocol):
    """The policy in force; it may change between two statements."""

    @property
    def current(self) -> Policy:
        """The rule set in force."""

    @property
    def context(self) -> PolicyContext:
        """Wall-clock time and context attributes now."""


class CatalogueSource(Protocol):
    """What is known of the target's schema."""

    @property
    def current(self) -> Catalogue | None:
        """The latest snapshot, or None while there is none."""


@dataclass(slots=True)
class SessionContext:
    """One session's surroundings.

    ``identity`` may be replaced when the token is renewed. ``secret`` is the target's password, never shown. Events carry
    ``int(now * 1e9) + wall_offset_ns``. ``random(n)`` returns n unpredictable bytes. ``wake`` asks the rim to call
    ``Gate.tick`` soon, whatever the deadline: used when another connection's cancel request concerns this session.
    ``tls`` says whether the rim can serve TLS to the client; ``demand_scram`` whether clients insist on SCRAM, for which
    ``placeholder`` is the password they use. Statements of more than ``inline`` bytes are analysed beside the loop (``Analyse``).
    ``cancel_keys`` is the protocol's own registry of cancel keys. A held operation of a protocol whose clients cannot wait is
    parked for ``park_s`` seconds; then its ticket goes into ``book``, which all sessions share.
    """

    flow: Flow
    identity: Identity
    target: Target
    launcher: str
    policy: PolicySource
    secret: str | None
    catalogue: CatalogueSource
    digest_key: bytes
    wall_offset_ns: int
    random: Callable[[int], bytes]
    cancel_keys: object
    book: Book = field(default_factory=Book)
    park_s: float = 0.0
    wake: Callable[[], None] = field(default=lambda: None)
    tls: bool = True
    demand_scram: bool = False
    placeholder: str = "hostagent"
    inline: int = MAX_TEXT

    def at(self, now: float) -> int:
        """Return the wall-clock time of monotonic ``now`` in unix nanoseconds."""
        return int(now * 1e9) + self.wall_offset_ns
