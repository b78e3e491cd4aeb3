"""Where proxyd's time goes, floor by floor: the real session, gate, masks and journal, fed with a recorded conversation.

Run: ``python -m bench.floors [--functions]``. Only the sockets are missing: what they and the event loop cost is the
difference between these figures and proxyd's own processor time per transaction under load.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from hostagent.daemon.journalfile import JournalFile
from hostagent.gate import Gate
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.mask import DETECTORS, TRANSFORMS
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.flow import Side
from hostagent.model.identity import Identity
from hostagent.model.operation import Effect, Operation, Resource
from hostagent.model.target import Login, Target, UpstreamTLS
from hostagent.policy import Policy, PolicyContext, load
from hostagent.proxy.around import Outside
from hostagent.proxy.session import Session
from hostagent.proxy.shares import Shares
from hostagent.proxy.turn import Turn
from hostagent.wire.postgres import backend, frontend
from hostagent.wire.postgres.startup import StartupMessage, build_startup_message
from tests.gate.gate_rim import Source, make_context

POLICIES = Path(__file__).resolve().parent.parent / "policy" / "examples"
_TITLES = {1: "id", 2: "name", 3: "email", 4: "phone", 5: "card_number", 6: "country", 7: "created"}
_TYPES = {1: 23, 2: 25, 3: 25, 4: 25, 5: 25, 6: 25, 7: 1082}
CATALOGUE = Catalogue(
    {
        16400: CatalogueRelation(
            16400,
            "public",
            "pgbench_accounts",
            "r",
            {1: "aid", 2: "bid", 3: "abalance", 4: "filler"},
            {1: 23, 2: 23, 3: 23},
        ),
        16500: CatalogueRelation(16500, "public", "customers", "r", _TITLES, _TYPES),
    },
    frozenset(),
    ("public",),
    {},
    "bench",
)
_COLUMNS = (backend.Column(b"abalance", 16400, 3, 23, 4, -1, 0),)
_TEXT = b"SELECT abalance FROM pgbench_accounts WHERE aid = %d;"
_ANSWER = (
    backend.build_row_description(_COLUMNS)
    + backend.build_data_row((b"0",))
    + backend.build_command_complete("SELECT 1")
    + backend.build_ready(b"I")
)
_GREETING = (
    b"R\0\0\0\x08\0\0\0\0"
    + backend.build_status(b"client_encoding", b"UTF8")
    + backend.build_status(b"standard_conforming_strings", b"on")
    + backend.build_status(b"server_version", b"15.0")
    + backend.build_status(b"is_superuser", b"off")
    + backend.build_status(b"TimeZone", b"UTC")
    + backend.build_status(b"DateStyle", b"ISO, MDY")
    + b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02"
    + backend.build_ready(b"I")
)


class Nowhere(asyncio.Transport):
    """A transport whose other end takes everything at once."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits to be written."""
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Forget ``data``."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        """Never."""
        return False


class _Outside:
    def connect(self, _session: Session, protocol: asyncio.Protocol) -> None:
        protocol.connection_made(Nowhere())

    def keeps(self, _session: Session, _size: int) -> None:
        """Nobody counts memory here."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"the conversation asks for {name}")


def policy(name: str) -> Policy:
    """Return the example policy ``name``."""
    text = (POLICIES / f"{name}.yaml").read_text(encoding="utf-8")
    return load(
        {f"{name}.yaml": text},
        detectors=frozenset(DETECTORS),
        transforms=frozenset(TRANSFORMS),
        group_members=lambda _: frozenset({"dana"}),
    )


def signed_in(rules: Policy, journal: JournalFile) -> Session:
    """Return a session through which a client has signed in."""
    target = Target(
        "crm", "postgres", ("10.0.0.1",), 5432, Login("crm_proxy"), UpstreamTLS.DISABLE,
        databases=frozenset({"crm"}), users=frozenset({"crm_app"}), labels={"env": "demo"},
    )  # fmt: skip
    context = make_context(Source(rules), CATALOGUE, target=target, cancel_keys=CancelRegistry(), tls=False)
    context.identity = Identity("local", "support-bot", 2e9, groups=frozenset({"support"}))
    context.flow = replace(context.flow, workload="support-bot")
    turn, share = Turn(journal, lambda settle: settle(), lambda _s, _call: None), Shares(lambda _: None).of("support-bot")
    share.spent = -1e9  # never used up: nobody else waits here
    session = Session(context.flow, Gate(context), cast("Outside", _Outside()), turn, share=share)
    session.client.connection_made(Nowhere())
    asked = (("user", "crm_app"), ("database", "crm"), ("application_name", "pgbench"))
    session.received(Side.CLIENT, build_startup_message(StartupMessage(0, asked)))
    session.received(Side.SERVER, _GREETING)
    return session


def simple(session: Session, rounds: int) -> None:
    """Ask ``rounds`` simple queries and answer them, as ``pgbench -S`` does."""
    for number in range(rounds):
        session.received(Side.CLIENT, frontend.build_query(_TEXT % number))
        session.received(Side.SERVER, _ANSWER)


def prepared(session: Session, rounds: int) -> None:
    """Run one prepared statement ``rounds`` times."""
    session.received(
        Side.CLIENT, frontend.build_parse(frontend.Parse(b"P1", _TEXT.replace(b"%d", b"$1"), ())) + frontend.SYNC
    )
    session.received(Side.SERVER, backend.PARSE_COMPLETE + backend.build_ready(b"I"))
    asked = (
        frontend.build_bind(frontend.Bind(b"", b"P1", (), (b"4711",), (0,)))
        + frontend.build_describe(frontend.Named(b"P", b""))
        + frontend.build_execute(frontend.Execute(b"", 0))
        + frontend.SYNC
    )
    for _ in range(rounds):
        session.received(Side.CLIENT, asked)
        session.received(Side.SERVER, backend.BIND_COMPLETE + _ANSWER)


def masked(session: Session, rounds: int) -> None:
    """Answer with ``rounds`` rows of masked customers, in chunks as a socket gives them."""
    columns = tuple(backend.Column(_TITLES[n].encode(), 16500, n, _TYPES[n], -1, -1, 0) for n in _TITLES)
    values = (
        b"1234",
        b"Person 1234",
        b"person1234@example.com",
        b"+1 202-555-0143",
        b"4111 1111 1111 1111",
        b"US",
        b"2026-01-01",
    )
    rows = backend.build_data_row(values) * rounds
    session.received(Side.CLIENT, frontend.build_query(b"select * from customers"))
    session.received(Side.SERVER, backend.build_row_description(columns))
    for start in range(0, len(rows), 65536):
        session.received(Side.SERVER, rows[start : start + 65536])
    session.received(Side.SERVER, backend.build_command_complete("SELECT 1") + backend.build_ready(b"I"))


STEPS: dict[str, Callable[[Session, int], None]] = {"simple": simple, "prepared": prepared, "masked row": masked}


@dataclass(frozen=True)
class Profile:
    """``micros``: processor time per transaction (or row) by step. ``shares``: floor to its part of it. ``decision``: µs."""

    micros: dict[str, float]
    shares: dict[str, dict[str, float]]
    decision_fresh: float
    decision_cached: float


def where_the_time_goes(rounds: int, *, functions: bool = False) -> Profile:
    """Measure every step under ``customer-data``."""
    micros: dict[str, float] = {}
    shares: dict[str, dict[str, float]] = {}
    rules = policy("customer-data")
    with tempfile.TemporaryDirectory() as folder, JournalFile(folder, "bench") as journal:
        for name, step in STEPS.items():
            session = signed_in(rules, journal)
            step(session, 100)
            micros[name] = min(_spent(step, session, rounds // 5) for _ in range(5))
            profile = cProfile.Profile()
            profile.runcall(step, session, rounds)
            stats = pstats.Stats(profile)
            shares[name] = _by_floor(stats)
            if functions:
                stats.sort_stats("tottime").print_stats(22)
        fresh = _decision(rules, min(rounds, 2000))
        cached = _cached_decision(rules, rounds)
    return Profile(micros, shares, fresh, cached)


def _spent(step: Callable[[Session, int], None], session: Session, rounds: int) -> float:
    """Return the processor microseconds per round: of this thread alone, because others share the machine."""
    started = time.thread_time()
    step(session, rounds)
    return (time.thread_time() - started) / rounds * 1e6


def _decision(rules: Policy, rounds: int) -> float:
    operation = Operation(
        "postgres", "select", frozenset({Effect.READ}), (Resource("table", "public.pgbench_accounts"),),
        text="select 1", redacted="select 1", fingerprint="f", attributes={"database": "crm", "user": "crm_app"},
    )  # fmt: skip
    context = make_context(Source(rules))
    now = PolicyContext(0.0)
    target = Target("crm", "postgres", ("10.0.0.1",), 5432, Login("crm_proxy"), labels={"env": "demo"})
    started = time.perf_counter()
    for _ in range(rounds):
        rules.evaluate(context.identity, "support-bot", target, operation, now)
    return (time.perf_counter() - started) / rounds * 1e6


def _cached_decision(rules: Policy, rounds: int) -> float:
    from hostagent.gate.desk import GateDesk
    from hostagent.inspectors.postgres.subjects import Subjects

    desk = GateDesk(make_context(Source(rules), CATALOGUE))
    subjects = Subjects({"database": "crm", "user": "crm_app", "application": "pgbench"})
    started = time.perf_counter()
    for number in range(rounds):
        desk.rule(subjects.of(_TEXT % number))
    return (time.perf_counter() - started) / rounds * 1e6


def _by_floor(stats: pstats.Stats) -> dict[str, float]:
    """Return each floor's part of the profile, 0 to 1. What C functions cost belongs to the floor that called them."""
    spent: dict[str, float] = {}
    for (file, _line, _name), (_cc, _nc, own, _cum, callers) in stats.stats.items():  # type: ignore[attr-defined]
        floor = _floor(file)
        if floor:
            spent[floor] = spent.get(floor, 0.0) + own
            continue
        for (caller, _l, _n), (_c, _nn, part, _cumulative) in callers.items():
            place = _floor(caller) or "other"
            spent[place] = spent.get(place, 0.0) + part
    spent.pop("bench", None)
    total = sum(spent.values())
    return {floor: part / total for floor, part in sorted(spent.items(), key=lambda item: -item[1])}


def _floor(file: str) -> str:
    parts = Path(file).parts
    if "bench" in parts:
        return "bench"
    if "hostagent" not in parts:
        return ""
    rest = parts[len(parts) - 1 - parts[::-1].index("hostagent") + 1 :]
    return rest[0] if len(rest) > 1 else ""


def main() -> None:
    """Measure and print."""
    found = where_the_time_goes(10_000, functions="--functions" in sys.argv)
    for name, each in found.micros.items():
        parts = ", ".join(f"{floor} {share:.0%}" for floor, share in found.shares[name].items() if share >= 0.01)
        print(f"{name:12} {each:7.2f} us   {parts}")
    print(
        f"a fresh decision {found.decision_fresh:.1f} us, a cached one {found.decision_cached:.1f} us (its template included)"
    )


if __name__ == "__main__":
    main()
