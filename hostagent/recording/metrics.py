"""Counters over what is recorded, in Prometheus's text format (version 0.0.4): kept while ingesting, never by a query.

Counters begin at 0 with the process, as Prometheus expects. No label holds a name that somebody chose: the endpoint may be read
by every account of the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from hostagent.journal import Accepted, counted
from hostagent.model.event import EventKind
from hostagent.recording.reader import Batch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

LAYERS = ("bpf", "dns", "iptables", "mount", "nft", "proxy", "seccomp")
OUTCOMES = ("accepted", "denied", "closed", "login-denied", "login-failed")
DECISIONS = ("allow", "deny", "hold")
_OTHER = "other"
_MOST_COUNTED = 2**53


class _Fields(msgspec.Struct):
    """What is looked at of an event; whatever else it has is passed over."""

    outcome: str = ""
    decision: str = ""
    layer: str = ""
    action: str = ""
    finding: str = ""
    count: int = 1


class _Row(msgspec.Struct):
    digest: str = ""


class _Batch(msgspec.Struct):
    events: list[_Row]


_BATCH_DECODER = msgspec.json.Decoder(_Batch)
_DECODER = msgspec.json.Decoder(_Fields)
_LOOKED_AT = frozenset(
    {
        *(EventKind.CONNECTION, EventKind.LOGIN, EventKind.STATEMENT, EventKind.CLOSE, EventKind.REFUSAL, EventKind.DNS),
        *(EventKind.GAP, EventKind.AUDIT, EventKind.VERIFY, EventKind.KERNEL_FLOW),
    }
)


class _Verified(NamedTuple):
    passed: bool
    at: int


class Tally:
    """What ``recorderd`` counts. ``count`` and ``at`` belong to the recording thread, ``render`` to any."""

    def __init__(self) -> None:
        """Everything is 0 and no verification is known."""
        self._lock = threading.Lock()
        self._refusals = dict.fromkeys((*LAYERS, _OTHER), 0)
        self._sessions = dict.fromkeys((*OUTCOMES, _OTHER), 0)
        self._statements = dict.fromkeys((*DECISIONS, _OTHER), 0)
        self._verifications = {"passed": 0, "failed": 0}
        self._totals = dict.fromkeys(("events", "gaps", "lost", "faults", "unreadable", "killed", "filled", "flows", "unmatched"), 0)
        self._verified: _Verified | None = None
        self._read_ns = 0

    def count(self, batches: Iterable[Batch]) -> None:
        """Count what was read. Does not raise: an event that cannot be understood is counted as that."""
        with self._lock:
            for batch in batches:
                self._totals["events"] += counted(accepted for _, accepted in batch.events)
                self._totals["faults"] += len(batch.faults)
                for _, accepted in batch.events:
                    if accepted.rows:
                        self._rows(accepted)
                    elif accepted.line.kind in _LOOKED_AT:
                        self._one(accepted)

    def verified(self, at: int, *, passed: bool) -> None:
        """Note how a verification ended, one that an earlier life of ours recorded (``at``: unix nanoseconds)."""
        with self._lock:
            if self._verified is None or at >= self._verified.at:
                self._verified = _Verified(passed, at)

    def stand(self, read_ns: int, unmatched: int) -> None:
        """Note when the reading began that took in everything there was, and how many kernel flows had no record."""
        with self._lock:
            self._read_ns = read_ns
            self._totals["unmatched"] = unmatched

    def render(self, now_ns: int) -> str:
        """Return the page (``now_ns``: the wall clock, unix nanoseconds)."""
        with self._lock:
            totals, verified, read_ns = dict(self._totals), self._verified, self._read_ns
            families = [
                _labelled("refusals_total", "Attempts that were turned away.", "layer", self._refusals),
                _labelled("sessions_total", "Connections by what became of them.", "outcome", self._sessions),
                _labelled("statements_total", "Statements by decision.", "decision", self._statements),
                _labelled("verifications_total", "Runs of verify.", "outcome", self._verifications),
            ]
        families += [
            _plain("events_total", "counter", "Events recorded.", totals["events"]),
            _plain("gaps_total", "counter", "Gaps that writers stated.", totals["gaps"]),
            _plain("lost_events_total", "counter", "Events lost in these gaps.", totals["lost"]),
            _plain("journal_faults_total", "counter", "Breaks found in journals.", totals["faults"]),
            _plain("unreadable_events_total", "counter", "Events whose fields could not be understood.", totals["unreadable"]),
            _plain("auditor_kills_total", "counter", "Holders of foreign sockets that were ended.", totals["killed"]),
            _plain("journal_budgets_used_up_total", "counter", "Times a workload used up its budget of the journal.", totals["filled"]),
            _plain("kernel_flows_total", "counter", "Dials that the kernel saw.", totals["flows"]),
            _plain("unmatched_flows_total", "counter", "Dials without a record of the proxy: must stay 0.", totals["unmatched"]),
        ]
        if read_ns:
            lag = max(0, now_ns - read_ns) / 1e9
            families.append(_plain("journal_lag_seconds", "gauge", "How long ago everything written had been recorded.", lag))
        if verified is not None:
            age = max(0, now_ns - verified.at) / 1e9
            families.append(_plain("verify_passed", "gauge", "Whether the last verify passed.", int(verified.passed)))
            families.append(_plain("verify_age_seconds", "gauge", "How long ago it ended.", age))
        return "".join(families)

    def _rows(self, accepted: Accepted) -> None:
        """A batch holds results and statements that policy allows; only these have a digest."""
        try:
            rows = _BATCH_DECODER.decode(accepted.payload).events
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._totals["unreadable"] += accepted.rows
            return
        _add(self._statements, "allow", sum([row.digest != "" for row in rows]))

    def _one(self, accepted: Accepted) -> None:
        try:
            fields = _DECODER.decode(accepted.line.fields)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._totals["unreadable"] += 1
            return
        kind = accepted.line.kind
        if kind == EventKind.VERIFY:
            self._verify(passed=fields.outcome == "passed", at=accepted.line.at)
        elif kind in (EventKind.REFUSAL, EventKind.DNS):
            self._refusal(kind, fields)
        elif kind in (EventKind.CONNECTION, EventKind.LOGIN, EventKind.CLOSE):
            self._session(kind, fields)
        elif kind == EventKind.STATEMENT:
            _add(self._statements, fields.decision)
        elif kind == EventKind.GAP:
            self._totals["gaps"] += 1
            self._totals["lost"] += _sane(fields.count)
        elif kind == EventKind.AUDIT:
            self._totals["killed"] += fields.action == "killed"
            self._totals["filled"] += fields.finding == "journal-budget" and fields.action == "refused"
        else:
            self._totals["flows"] += _sane(fields.count)

    def _refusal(self, kind: str, fields: _Fields) -> None:
        if kind == EventKind.REFUSAL:
            _add(self._refusals, fields.layer, fields.count)
        elif fields.outcome == "refused":
            _add(self._refusals, "dns")

    def _session(self, kind: str, fields: _Fields) -> None:
        if kind == EventKind.CONNECTION:
            _add(self._sessions, fields.outcome)
            if fields.outcome == "denied":
                _add(self._refusals, "proxy")
        elif kind == EventKind.CLOSE:
            _add(self._sessions, "closed")
        elif fields.outcome != "ok":
            _add(self._sessions, f"login-{fields.outcome}")

    def _verify(self, *, passed: bool, at: int) -> None:
        _add(self._verifications, "passed" if passed else "failed")
        if self._verified is None or at >= self._verified.at:
            self._verified = _Verified(passed, at)


def _sane(count: int) -> int:
    return min(max(count, 0), _MOST_COUNTED)


def _add(counts: dict[str, int], key: str, count: int = 1) -> None:
    counts[key if key in counts else _OTHER] += _sane(count)


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP hostagent_{name} {text}\n# TYPE hostagent_{name} {kind}\n"


def _plain(name: str, kind: str, text: str, value: float) -> str:
    return f"{_head(name, kind, text)}hostagent_{name} {value}\n"


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> str:
    rows = "".join(f'hostagent_{name}{{{label}="{key}"}} {count}\n' for key, count in counts.items())
    return _head(name, "counter", text) + rows
