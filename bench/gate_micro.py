"""Where the gate's time goes: microseconds per statement and its answer, without any socket.

Run: ``python bench/gate_micro.py [--profile]``. Policy: one rule that allows all (the cost of evaluation is paid once per text).
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hostagent.inspectors.postgres.session import Session
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.flow import Side
from hostagent.model.verdict import Decision, MaskColumn, MaskContent
from hostagent.wire.postgres import backend as b
from hostagent.wire.postgres import frontend as f
from tests.gate.gate_rim import Rules, make_context, make_session

ROUNDS = 20_000
COLUMNS = (b.Column(b"abalance", 16400, 3, 23, 4, -1, 0),)
SIMPLE_ANSWER = (
    b.build_row_description(COLUMNS)
    + b.build_data_row((b"0",))
    + b.build_command_complete("SELECT 1")
    + b.build_ready(b"I")
)
PREPARED_ANSWER = (
    b.BIND_COMPLETE
    + b.build_row_description(COLUMNS)
    + b.build_data_row((b"0",))
    + b.build_command_complete("SELECT 1")
    + b.build_ready(b"I")
)
OBLIGATIONS = (
    MaskColumn("hide", "customers", "card_number"),
    MaskColumn("hide", "customers", "email"),
    MaskContent("detect", frozenset({"card", "email", "iban"})),
)
CATALOGUE = Catalogue(
    {
        16400: CatalogueRelation(16400, "public", "pgbench_accounts", "r", {1: "aid", 3: "abalance"}),
        16500: CatalogueRelation(16500, "public", "customers", "r", {1: "id", 2: "card_number", 3: "email"}),
    },
    frozenset(),
    ("public",),
    {},
    "v1",
)
TEXT = b"SELECT abalance FROM pgbench_accounts WHERE aid = %d;"


def _simple(session: Session, rounds: int) -> None:
    feed = session.feed
    for number in range(rounds):
        feed(Side.CLIENT, f.build_query(TEXT % number), 1.0)
        feed(Side.SERVER, SIMPLE_ANSWER, 1.0)


def _build_only(rounds: int) -> None:
    for number in range(rounds):
        f.build_query(TEXT % number)


def _prepared(session: Session, rounds: int) -> None:
    feed = session.feed
    feed(Side.CLIENT, f.build_parse(f.Parse(b"P1", TEXT.replace(b"%d", b"$1"), ())) + f.SYNC, 1.0)
    feed(Side.SERVER, b.PARSE_COMPLETE + b.build_ready(b"I"), 1.0)
    asked = (
        f.build_bind(f.Bind(b"", b"P1", (), (b"4711",), (0,)))
        + f.build_describe(f.Named(b"P", b""))
        + f.build_execute(f.Execute(b"", 0))
        + f.SYNC
    )
    for _ in range(rounds):
        feed(Side.CLIENT, asked, 1.0)
        feed(Side.SERVER, PREPARED_ANSWER, 1.0)


def _rows(session: Session) -> tuple[int, float]:
    row = b.build_data_row((b"12345", b"some name or other", b"some address in some street", b"2026-01-01"))
    columns = tuple(b.Column(b"c%d" % number, 16400, number, 25, -1, -1, 0) for number in range(1, 5))
    chunk = row * (65536 // len(row))
    session.feed(Side.CLIENT, f.build_query(b"select * from t"), 1.0)
    session.feed(Side.SERVER, b.build_row_description(columns), 1.0)
    started = time.perf_counter()
    for _ in range(500):
        session.feed(Side.SERVER, chunk, 1.0)
    elapsed = time.perf_counter() - started
    session.feed(Side.SERVER, b.build_command_complete("SELECT 1") + b.build_ready(b"I"), 1.0)
    return 500 * len(chunk), elapsed


def _timed(label: str, step: object, *arguments: object) -> float:
    started = time.perf_counter()
    step(*arguments)  # type: ignore[operator]
    each = (time.perf_counter() - started) / ROUNDS * 1e6
    print(f"{label:<28}{each:8.2f} us each")
    return each


def main() -> None:
    """Measure and print."""
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    _simple(session, 100)
    _timed("building the query (ours)", _build_only, ROUNDS)
    _timed("simple query and answer", _simple, session, ROUNDS)
    _timed("prepared and answer", _prepared, session, ROUNDS)
    size, elapsed = _rows(session)
    print(f"{'rows, nothing to mask':<28}{size / elapsed / 1e6:8.0f} MB/s")
    obliged = make_context(Rules(lambda _: Decision.ALLOW, OBLIGATIONS), CATALOGUE)
    _, masked = make_session(obliged)
    _simple(masked, 100)
    _timed("simple, masks elsewhere", _simple, masked, ROUNDS)
    _timed("prepared, masks elsewhere", _prepared, masked, ROUNDS)
    if "--profile" in sys.argv:
        for step in (_simple, _prepared):
            profile = cProfile.Profile()
            profile.runcall(step, session, ROUNDS)
            pstats.Stats(profile).sort_stats("tottime").print_stats(16)


if __name__ == "__main__":
    main()
