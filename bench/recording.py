"""What recording costs: appending, reading, inserting, publishing; how far behind, how much of a core; big questions.

Run: ``python -m bench.recording [--events 5000000] [--rate 2000] [--seconds 20]`` (as any user; files in a temporary
folder). Part 1 loads a history of ``events`` as fast as it goes; part 2 writes ``rate`` events a second on top of it
and reports the recorder's share of a core and how far the published database is behind; part 3 asks questions.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.model.rows import ResultRow, StatementRow

_QUESTIONS = {
    "count statements by decision": "select decision, count(*) from statements group by 1",
    "newest 20 statements": "select time, subject, text, decision, rules, approver from statements order by time desc limit 20",
    "newest 50 sessions": "from sessions order by opened desc limit 50",
    "one session's statements": "from statements where session = '{flow}'",
    "who touched customers": "select workload, count(*) from touched where name = 'customers' group by 1",
    "masked values by target": "select target, sum(masked_values) from statements group by 1",
    "unaccounted": "from unaccounted",
}


def history(chance: random.Random) -> Iterator[list[Event]]:
    """Yield sessions of 1 connection, 1 login, about 20 statements (of three kinds) and results, 1 close, without end."""
    number = 0
    while True:
        flow = f"{chance.getrandbits(64):016x}"
        now = time.time_ns()
        batch = [
            Event(EventKind.CONNECTION, now, flow, f"bot-{number % 7}", {"leaf": "l", "transport": "tcp", "peer": "127.0.0.1:40000", "destination": "192.0.2.1:5432", "target": "shop", "protocol": "postgres", "outcome": "accepted", "reason": "", "rules": ["to-shop"], "policy": "ab" * 32, "issuer": "local", "subject": f"bot-{number % 7}", "groups": ["agents"], "purpose": "x", "token_id": flow, "pid": 4711, "exe": "/usr/bin/python3.11", "attribution": "process"}),
            Event(EventKind.LOGIN, now, flow, f"bot-{number % 7}", {"outcome": "ok", "reason": "", "rules": ["to-shop"], "policy": "ab" * 32, "database": "shop", "user": "me", "upstream_user": "app", "application": "psql", "tls_client": "", "tls_server": "TLSv1.3"}),
        ]  # fmt: skip
        touched = {name: {"verb": "SELECT", "effects": ["read"], "resources": [{"kind": "relation", "name": name, "access": "read"}], "completeness": "full", "text": "select id, name, email, created from customers where id = $1 and region = $2 order by created desc limit $3", "fingerprint": f"{number % 97:016x}", "decision": "allow", "rules": ["read-customers", "mask-mail"], "reason": "rule read-customers", "policy": "ab" * 32, "masks": ["mask-mail"]} for name in ("customers", "orders", "items")}  # fmt: skip
        shape = {"outcome": "ok", "sqlstate": "", "message": "", "columns": [{"name": name, "table": "customers", "column": name, "type": "text", "masked": name == "email"} for name in ("id", "name", "email", "created")]}  # fmt: skip
        for ordinal in range(1, chance.randrange(2, 40)):
            asked = StatementRow(now, flow, ordinal, f"{chance.getrandbits(256):064x}", 0, ("17", "eu", "10"))
            batch.append(Event(EventKind.STATEMENT, now, flow, f"bot-{number % 7}", chance.choice(list(touched.values())), asked))
            came = ResultRow(now, flow, ordinal, "SELECT 10", 10, 900, chance.randrange(200, 9000), 10, {"email": 10})
            batch.append(Event(EventKind.RESULT, now, flow, f"bot-{number % 7}", shape, came))
        batch.append(
            Event(
                EventKind.CLOSE,
                now,
                flow,
                f"bot-{number % 7}",
                {"reason": "client left", "bytes_up": 4000, "bytes_down": 90000, "statements": 20, "elapsed_us": 90000},
            )
        )
        number += 1
        yield batch


def cpu_of(pid: int) -> float:
    """Return the processor seconds that process ``pid`` has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def newest(database: Path) -> int:
    with duckdb.connect(str(database), read_only=True) as connection:
        row = connection.execute("select seq from live.reading").fetchone()
    return int(row[0]) if row else 0


def _recorder(root: Path) -> subprocess.Popen[bytes]:
    config = root / "hostagent.toml"
    config.write_text(f'[paths]\nstate = "{root}"\nruntime = "{root}/run"\n')
    return subprocess.Popen(
        [sys.executable, "-m", "hostagent.daemon.recorderd", "--config", str(config)], cwd=Path(__file__).parent.parent
    )


def load(root: Path, journal: JournalFile, sessions: Iterator[list[Event]], events: int) -> str:
    """Write the history, then let recorderd take it in; return one flow id of it."""
    written, flow, spent = 0, "", time.process_time()
    started = time.monotonic()
    while written < events:
        batch = next(sessions)
        for event in batch:
            journal.append([event])
        written, flow = written + len(batch), batch[0].flow
    spent = time.process_time() - spent
    print(
        f"append      {spent / written * 1e6:7.1f} µs an event (making it included), {written / (time.monotonic() - started):,.0f}/s"
    )
    started = time.monotonic()
    process = _recorder(root)
    database = root / "evidence" / "sessions.duckdb"
    while not database.exists() or newest(database) < journal.state.seq:
        time.sleep(0.5)
    took, used = time.monotonic() - started, cpu_of(process.pid)
    process.terminate()
    process.wait()
    print(
        f"catch up    {written:,} events in {took:.1f} s: {written / took:,.0f}/s, {used / written * 1e6:.1f} µs of a core an event"
    )
    return flow


def steady(root: Path, journal: JournalFile, sessions: Iterator[list[Event]], rate: int, seconds: int) -> None:
    """Write ``rate`` events a second and print what recorderd needs for it, and how far behind readers are."""
    process = _recorder(root)
    database = root / "evidence" / "sessions.duckdb"
    lags: list[float] = []
    written_at: dict[int, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seq = newest(database)
            now = time.monotonic()
            waiting = [at for number, at in list(written_at.items()) if number > seq]
            lags.append(now - min(waiting) if waiting else 0.0)

    begun = time.time()
    while not database.exists() or database.stat().st_mtime < begun:  # it always publishes once at its start
        time.sleep(0.05)
    time.sleep(2.0)
    started, used = time.monotonic(), cpu_of(process.pid)
    thread = threading.Thread(target=watch)
    thread.start()
    written = 0
    while (elapsed := time.monotonic() - started) < seconds:
        while written < rate * elapsed:
            batch = next(sessions)
            journal.append(batch)
            written_at[journal.state.seq] = time.monotonic()
            written += len(batch)
        time.sleep(0.02)
    used, elapsed = cpu_of(process.pid) - used, time.monotonic() - started
    done.set()
    thread.join()
    process.terminate()
    process.wait()
    lags.sort()
    print(
        f"steady      {written / elapsed:,.0f} events/s: {used / elapsed * 100:.1f} % of a core; behind p50 {lags[len(lags) // 2]:.2f} s, "
        f"p99 {lags[int(len(lags) * 0.99)]:.2f} s, worst {lags[-1]:.2f} s; published {database.stat().st_size / 1e6:.1f} MB"
    )


def questions(database: Path, flow: str) -> None:
    """Print how long questions take."""
    with duckdb.connect(str(database), read_only=True) as connection:
        for name, sql in _QUESTIONS.items():
            started = time.monotonic()
            rows = connection.execute(sql.format(flow=flow)).fetchall()
            print(f"question    {time.monotonic() - started:7.2f} s  {name} ({len(rows)} rows)")


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rate", type=int, action="append")
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="hostagent-bench-recording-"))
    try:
        sessions = history(random.Random(1))
        with JournalFile(root / "journal" / "proxyd-0", "proxyd-0", key_file=root / "key") as journal:
            flow = load(root, journal, sessions, arguments.events)
            for rate in arguments.rate or [200, 2_000]:
                steady(root, journal, sessions, rate, arguments.seconds)
        questions(root / "evidence" / "sessions.duckdb", flow)
        sealed = sum(path.stat().st_size for path in (root / "evidence" / "sealed").rglob("*.parquet"))
        written = sum(path.stat().st_size for path in (root / "journal").rglob("*.journal"))
        print(f"on disk     journal {written / 1e6:,.0f} MB, sealed {sealed / 1e6:,.0f} MB")
        print(
            f"memory      {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB at most in recorderd"
        )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
