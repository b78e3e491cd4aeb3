"""A small world for recording: a journal with every kind of event, and the evidence made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store

START = 1_800_000_000_000_000_000


def story() -> list[Event]:
    """Return one event of every kind and more: two sessions, an approval, denials, refusals."""
    clock = iter(range(START, START + 1_000_000_000, 1_000_000))

    def event(kind: EventKind, fields: Mapping[str, object], flow: str = "f1") -> Event:
        return Event(kind, next(clock), flow, "bot", fields)

    who = {"issuer": "local", "subject": "billing-bot", "groups": ["agents"], "purpose": "billing", "token_id": "t1"}
    chain = [
        {"pid": 43, "start_ns": 9, "exe": "/bin/x", "argv": ["x", "<9 characters>"], "uid": 64000, "comm": "x"},
        {"pid": 42, "start_ns": 7, "exe": "/bin/bash", "argv": ["bash"], "uid": 64000, "comm": "bash"},
    ]
    statement = {
        "statement": "f1.1", "ordinal": 0, "verb": "SELECT", "effects": ["read"],
        "resources": [{"kind": "relation", "name": "customers", "access": "read"}], "completeness": "full",
        "text": "select email from customers where id = $1", "fingerprint": "fp", "digest": "d", "parameters": ["1", None],
        "decision": "allow", "rules": ["read-customers", "mask-mail"], "reason": "", "policy": "p1", "ticket": "", "masks": ["mask-mail"],
    }  # fmt: skip
    result = {
        "statement": "f1.1", "outcome": "ok", "tag": "SELECT 1", "rows": 1, "bytes": 40, "sqlstate": "", "message": "",
        "columns": [{"name": "email", "table": "customers", "column": "email", "type": "text", "masked": True}],
        "masked_values": 1, "detections": {"email": 1}, "elapsed_us": 250,
    }  # fmt: skip
    held = {
        **statement,
        "statement": "f1.3",
        "text": "delete from orders",
        "decision": "hold",
        "rules": ["ask"],
        "ticket": "T1",
    }
    drop = {
        **statement,
        "statement": "f1.2",
        "text": "drop table customers",
        "decision": "deny",
        "rules": [],
        "reason": "nothing allows it",
    }
    return [
        event(EventKind.SERVICE, {"component": "proxyd", "change": "started", "version": "0.1.0", "detail": ""}, ""),
        event(EventKind.POLICY, {"outcome": "loaded", "policy": "p1", "documents": ["a.yaml"], "reason": ""}, ""),
        event(EventKind.ADMISSION, {"leaf": "l1", "outcome": "admitted", "launcher": "root", "placement": "isolated", "claims": {"a": 1}, "expires_at": 1.9e9, **who}, ""),
        event(EventKind.LAUNCH, {"leaf": "l1", "pid": 42, "start_ticks": 7, "exe": "/bin/x", "argv": ["x", "y"], "uid": 64000}, ""),
        event(EventKind.DNS, {"name": "db.example", "type": "A", "outcome": "answered", "answers": ["192.0.2.1"]}, ""),
        event(EventKind.DNS, {"name": "evil.example", "type": "A", "outcome": "refused", "answers": [], "reason": "no target"}, ""),
        event(EventKind.KERNEL_FLOW, {"leaf": "l1", "cookie": 77, "transport": "tcp", "source": "127.0.0.1:5", "destination": "192.0.2.1:5432", "netns": 5, "established": True, "count": 1, "pid": 43, "start_ns": 9, "uid": 64000, "comm": "x", "attribution": "process", "lineage": chain}, ""),
        event(EventKind.CONNECTION, {"leaf": "l1", "transport": "tcp", "peer": "127.0.0.1:5", "destination": "192.0.2.1:5432", "target": "shop", "protocol": "postgres", "outcome": "accepted", "rules": ["to-shop"], "policy": "p1", "attribution": "cgroup-only", **who}),
        event(EventKind.LOGIN, {"outcome": "ok", "database": "shop", "user": "me", "upstream_user": "app", "rules": ["to-shop"], "policy": "p1", "tls_client": "", "tls_server": "TLSv1.3"}),
        event(EventKind.STATEMENT, statement),
        event(EventKind.RESULT, result),
        event(EventKind.STATEMENT, drop),
        event(EventKind.RESULT, {**result, "statement": "f1.2", "outcome": "denied", "sqlstate": "42501", "tag": "", "rows": 0, "columns": []}),
        event(EventKind.STATEMENT, held),
        event(EventKind.HOLD, {"ticket": "T1", "statement": "f1.3", "rule": "ask", "approvers": "dba", "digest": "dd", "expires_at": 1.8e9, "reason": "no where"}),
        event(EventKind.ANSWER, {"ticket": "T1", "statement": "f1.3", "granted": True, "by": "alice", "reason": "ok"}),
        event(EventKind.RESULT, {**result, "statement": "f1.3", "tag": "DELETE 9", "rows": 9, "columns": [], "masked_values": 0}),
        event(EventKind.TRANSFER, {"statement": "f1.3", "direction": "download", "name": "public.orders", "media_type": "text/csv", "detected_type": "", "coding": "", "part": "", "size": 5, "declared_size": None, "sha256": "ab", "masked": False, "outcome": "finished", "reason": "", "rules": ["ask"], "policy": "p1"}),
        event(EventKind.CLOSE, {"reason": "client left", "bytes_up": 100, "bytes_down": 200, "statements": 3, "elapsed_us": 9000}),
        event(EventKind.CONNECTION, {"leaf": "l1", "transport": "tcp", "peer": "127.0.0.1:6", "destination": "203.0.113.9:80", "outcome": "denied", "reason": "no target", "rules": [], **who}, "f2"),
        event(EventKind.REFUSAL, {"layer": "nft", "leaf": "l1", "source": "127.0.0.1", "destination": "203.0.113.9:53", "transport": "udp", "reason": "fence", "count": 3}, ""),
        event(EventKind.IDENTITY, {"change": "revoked", "reason": "by root", "issuer": "local", "subject": "billing-bot", "token_id": "t1", "expires_at": 1.9e9}, ""),
        event(EventKind.EXIT, {"leaf": "l1", "pid": 42, "status": -9}, ""),
        event(EventKind.VERIFY, {"cause": "demand", "outcome": "passed", "attempts": [{"name": "isolated: raw socket", "outcome": "EPERM"}], "failed": [], "elapsed_us": 1_300_000}, ""),
        event(EventKind.GAP, {"reason": "disk full: events refused", "count": 2}, ""),
    ]  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal root with the story in it, by one signing writer."""
    root = tmp_path / "journal"
    with JournalFile(root / "proxyd-0", "proxyd-0", host="h", key_file=tmp_path / "key", segment_bytes=3_000) as file:
        for event in story():
            file.append([event])
    return root


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Return a function that records a journal root into an evidence folder and publishes it."""
    stores: list[Store] = []

    def run(root: Path, name: str = "evidence", *, seal: bool = False) -> Store:
        store = Store(tmp_path / name)
        stores.append(store)
        Recorder(root, store, seal_rows=5 if seal else 100_000).drain()
        store.publish()
        return store

    yield run
    for store in stores:
        store.close()
