"""A login under test: what is on both its sides, and what it did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.login import Login
from hostagent.model.command import Close, Command, Forward, Record
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.model.operation import Operation
from hostagent.model.target import Login as Account
from hostagent.model.target import Target, UpstreamTLS
from hostagent.model.verdict import Decision, Verdict
from hostagent.wire.postgres.backend import build_ready, build_status, parse_fields
from hostagent.wire.postgres.messages import HEADER
from hostagent.wire.postgres.startup import (
    Authentication,
    AuthKind,
    BackendKey,
    Encryption,
    StartupMessage,
    build_authentication,
    build_backend_key,
    build_cancel_request,
    build_encryption_request,
    build_startup_message,
)

FLOW = Flow("flow-1", "crm-bot", "leaf-1", Endpoint("10.0.0.9", 40000), Endpoint("10.0.0.2", 5432))
TARGET = Target("crm", "postgres", ("db.internal",), 5432, Account("app"), tls=UpstreamTLS.DISABLE)
ALLOW = Verdict(Decision.ALLOW, ("lets-in",), "", "f" * 64)
SSL = build_encryption_request(Encryption.SSL)
GSS = build_encryption_request(Encryption.GSS)
OK = build_authentication(Authentication(AuthKind.OK))
STATUSES = build_status(b"client_encoding", b"UTF8") + build_status(b"standard_conforming_strings", b"on")
GREETING = STATUSES + build_backend_key(BackendKey(77, b"real")) + build_ready(b"I")


def ask(minor: int = 0, *extra: tuple[str, str], extensions: tuple[str, ...] = ()) -> bytes:
    return build_startup_message(StartupMessage(minor, (("user", "ana"), ("database", "crm"), *extra), extensions))


@dataclass
class Entry:
    workload: str = "crm-bot"
    upstream: bytes | None = build_cancel_request(77, b"real")
    heard: list[float] = field(default_factory=list)

    def cancel(self, now: float) -> bytes | None:
        self.heard.append(now)
        return self.upstream


class Bench:
    """A login with everything around it recorded."""

    def __init__(self, target: Target = TARGET, verdict: Verdict = ALLOW, **options: Any) -> None:
        self.judged: list[Operation] = []
        self.registry = options.pop("registry", CancelRegistry())
        counter = itertools.count(1)
        self.entry = Entry()

        def judge(operation: Operation) -> Verdict:
            self.judged.append(operation)
            return verdict

        self.login = Login(
            flow=options.pop("flow", FLOW),
            target=target,
            judge=judge,
            random=lambda size: next(counter).to_bytes(size, "big"),
            cancel_registry=self.registry,
            cancel_entry=self.entry,
            wall_offset_ns=1_000,
            **{"secret": "s3cret", **options},
        )

    def client(self, data: bytes) -> list[Command]:
        return self.login.feed(Side.CLIENT, data, 5.0)

    def server(self, data: bytes) -> list[Command]:
        return self.login.feed(Side.SERVER, data, 5.0)


def login_event(outcome: str, reason: str, **fields: object) -> Record:
    base: dict[str, object] = {
        "outcome": outcome,
        "reason": reason,
        "rules": [],
        "policy": "",
        "database": "",
        "user": "",
        "upstream_user": "",
        "application": "",
        "tls_client": "",
        "tls_server": "",
    }
    assert set(fields) <= set(base)
    return Record(Event(EventKind.LOGIN, 5_000_001_000, "flow-1", "crm-bot", {**base, **fields}))


JUDGED: dict[str, object] = {"rules": ["lets-in"], "policy": "f" * 64, "database": "crm", "user": "ana"}
DIALLED: dict[str, object] = {**JUDGED, "upstream_user": "app"}


def ended(commands: list[Command]) -> tuple[Record, Mapping[str, str], Close]:
    """Return record, fields of the error and close of a login that was refused."""
    record, forward, close = commands[-3:]
    assert isinstance(record, Record)
    assert isinstance(forward, Forward)
    assert isinstance(close, Close)
    assert forward.side is Side.CLIENT
    kind, length = HEADER(forward.data)
    assert (chr(kind), length + 1) == ("E", len(forward.data))
    return record, parse_fields(forward.data[5:]), close


def outgoing(minor: int = 0, **settings_: str) -> bytes:
    parameters = {"user": "app", "database": "crm", **settings_}
    parameters |= {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
    return build_startup_message(StartupMessage(minor, tuple(parameters.items())))


VERIFIED = replace(TARGET, tls=UpstreamTLS.VERIFY)


def dialled(target: Target = TARGET, **options: Any) -> Bench:
    bench = Bench(target, **options)
    bench.client(ask())
    bench.login.connected(5.0)
    return bench


def encrypted(**options: Any) -> Bench:
    bench = dialled(VERIFIED, **options)
    bench.server(b"S")
    bench.login.secured(Side.SERVER, 5.0, version="TLSv1.3", channel_binding=b"b" * 32)
    return bench
