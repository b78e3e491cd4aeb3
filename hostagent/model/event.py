"""Events: one line of history each. This table is the contract between the writers and ``recording``.

Every event has ``kind``, ``at`` (unix nanoseconds, wall clock), ``flow`` (flow id or empty), ``workload`` (name or empty)
and ``fields`` (JSON-compatible). Fields never hold a secret, an unmasked value or the exact text of a statement.

============  =========================================================================================================
kind          fields
============  =========================================================================================================
service       component, change (started, stopped, reloaded, upgraded, failed), version, detail
policy        outcome (loaded, refused), policy, documents, reason
admission     leaf, outcome (admitted, refused), reason, launcher, placement, issuer, subject, groups, purpose, claims,
              token_id, expires_at
launch        leaf, pid, start_ticks, exe, argv (redacted), uid, degraded
exit          leaf, pid, status (exit code, or negative signal)
identity      change (renewed, expired, revoked, lost), reason, issuer, subject, token_id, expires_at
connection    leaf, transport, peer, destination, target, protocol, outcome (accepted, denied), reason, rules, policy,
              issuer, subject, groups, purpose, token_id, pid, exe, attribution (cgroup-only, process), direction (outbound,
              inbound: destination is then the host's own port; bytes_up are still the workload's)
login         outcome (ok, denied, failed), reason, rules, policy, database, user, upstream_user, application,
              tls_client, tls_server
statement     statement (id), ordinal, verb, effects, resources, completeness, text (redacted), fingerprint, digest,
              parameters (masked), decision, rules, reason, policy, ticket, masks (rule ids)
result        statement (id), outcome (ok, error, denied, cancelled, withdrawn, aborted), tag, rows, bytes, sqlstate,
              message (masked), columns [{name, table, column, type, masked}], masked_values (by column and by content),
              detections {detector: n},
              elapsed_us
transfer      statement (id), direction (upload, download), name (at most 1,024 characters), media_type (declared), detected_type
              (by its first bytes), coding, part (of a range), size, declared_size (null: none), sha256 (of what passed: to the target, or
              to the client), masked (a download under a mask: the client got other bytes than the target sent), outcome (finished,
              cut, denied), reason, rules, policy
hold          ticket, statement, rule, approvers, digest, expires_at, reason
answer        ticket, statement, granted, by, reason
dns           name, type, outcome (answered, refused), answers, reason, leaf; a connection to port 53: type TCP, outcome connected,
              peer, destination
refusal       layer (proxy, dns, nft, iptables, seccomp, bpf, mount), leaf, source, destination, transport, reason, count
close         reason, bytes_up, bytes_down, statements, elapsed_us
gap           reason, count
kernel_flow   leaf, cookie, transport, source, destination, netns, established, own (the leaf's own loopback), count (above
              1: dials beyond the rate that is recorded one by one, without source and process), pid, start_ns, uid, comm,
              attribution (cgroup-only, process), lineage [{pid, start_ns, exe, argv (redacted), uid, comm}], the nearest program first
audit         leaf, finding (foreign-socket, unconnected-socket, moved-process, unix-listener, ...), pid, start_ns, exe,
              detail, action (killed, masked, reported), elapsed_us; of the proxy: finding journal-budget, action (refused, stopped,
              free)
verify        cause (demand, reload, periodic), outcome (passed, failed), attempts [{name, outcome}], failed [names],
              elapsed_us
============  =========================================================================================================
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import final

from hostagent.model.rows import Row


class EventKind(enum.StrEnum):
    """The kinds of the table above."""

    SERVICE = "service"
    POLICY = "policy"
    ADMISSION = "admission"
    LAUNCH = "launch"
    EXIT = "exit"
    IDENTITY = "identity"
    CONNECTION = "connection"
    LOGIN = "login"
    STATEMENT = "statement"
    RESULT = "result"
    TRANSFER = "transfer"
    HOLD = "hold"
    ANSWER = "answer"
    DNS = "dns"
    REFUSAL = "refusal"
    CLOSE = "close"
    GAP = "gap"
    KERNEL_FLOW = "kernel_flow"
    AUDIT = "audit"
    VERIFY = "verify"


@final
class Event:
    """One line of history; see the module's table for its ``fields``. Never changed; no tuple, because one is made per statement.

    ``shared`` are fields as they are given, never changed afterwards. With a ``row``, the same ``shared`` (that very object) is
    meant to come again in other events, and what is this event's own stands in the row: a journal may write ``shared`` once.
    """

    __slots__ = ("at", "flow", "kind", "row", "shared", "workload")

    def __init__(
        self, kind: EventKind, at: int, flow: str, workload: str, shared: Mapping[str, object], row: Row | None = None
    ) -> None:
        """Keep the parts."""
        self.kind = kind
        self.at = at
        self.flow = flow
        self.workload = workload
        self.shared = shared
        self.row = row

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` says the same."""
        return isinstance(other, Event) and self._parts() == other._parts()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return what it says, for people."""
        return f"Event{self._parts()}"

    def _parts(self) -> tuple[object, ...]:
        return self.kind, self.at, self.flow, self.workload, self.shared, self.row

    @property
    def fields(self) -> Mapping[str, object]:
        """All fields."""
        return self.shared if self.row is None else self.row.fields(self.shared)
