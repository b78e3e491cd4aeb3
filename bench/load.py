"""Load: pgbench, the same command on every path, and what it says read back."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

# In a folder of its own: the log is one file per thread. Everything comes back on standard output, so that it does not
# matter where the program runs.
_SCRIPT = """
folder=$(mktemp -d) && cd "$folder" || exit 9
printf '%s' "$SCRIPT" > script.sql
pgbench "$@" 2>&1
status=$?
echo ==log==
cat pgbench_log.* 2>/dev/null | cut -d' ' -f3
rm -rf "$folder"
exit $status
"""

Run = Callable[[Sequence[str]], "CompletedProcess[str]"]


@dataclass(frozen=True)
class Route:
    """A way to the database: where to dial, as whom, and how a program is started that may go there.

    ``proxy`` is the process in between whose time and memory are looked at, None where there is none.
    """

    name: str
    host: str
    port: int
    user: str
    run: Run
    proxy: int | None = None


@dataclass(frozen=True)
class Result:
    """One run: transactions per second, latencies in microseconds, and the proxy's processor time per transaction."""

    tps: float
    p50: float
    p99: float
    proxy_us: float


def pgbench(route: Route, *options: str, script: str = "", sampling: float = 1.0) -> Result:
    """Run pgbench on ``route``; ``script`` replaces the built-in transaction.

    Raises:
        RuntimeError: it failed, or a transaction did.
    """
    words = [
        "-h",
        route.host,
        "-p",
        str(route.port),
        "-U",
        route.user,
        "-n",
        "-l",
        f"--sampling-rate={sampling}",
        *options,
    ]
    if script:
        words += ["-f", "script.sql"]
    spent = cpu_seconds(route.proxy)
    environment = ["env", "PGSSLMODE=disable", f"PGPASSWORD={PASSWORD}", f"SCRIPT={script}"]
    done = route.run([*environment, "sh", "-c", _SCRIPT, "sh", *words, "crm"])
    spent = cpu_seconds(route.proxy) - spent
    said, _, log = done.stdout.partition("==log==\n")
    found = re.search(r"tps = ([\d.]+)", said)
    processed = re.search(r"transactions actually processed: (\d+)", said)
    if done.returncode or found is None or processed is None or "failed transactions: 0" not in said:
        raise RuntimeError(f"pgbench on {route.name}: status {done.returncode}\n{said[-1500:]}{done.stderr[-1500:]}")
    times = sorted(int(line) for line in log.split() if line.isdigit()) or [0]
    p50, p99 = (float(times[min(len(times) - 1, int(len(times) * part))]) for part in (0.5, 0.99))
    return Result(float(found[1]), p50, p99, spent / max(1, int(processed[1])) * 1e6)


PASSWORD = "S3cret-of-the-proxy-alone"


def median(results: Sequence[Result]) -> Result:
    """Return the medians of ``results``, each figure by itself."""
    return Result(
        *(statistics.median(each) for each in zip(*((r.tps, r.p50, r.p99, r.proxy_us) for r in results), strict=True))
    )


def cpu_seconds(pid: int | None) -> float:
    """Return the processor time that process ``pid`` has used, 0 for None."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident(pid: int) -> float:
    """Return the memory of process ``pid`` that is its own (anonymous), in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Watched:
    """Looks at a process's memory every 10 ms while the body runs: ``before``, ``peak`` and ``after`` in MB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.before = self.peak = self.after = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, resident(self._pid))

    def __enter__(self) -> Self:
        self.before = self.peak = resident(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        time.sleep(0.2)
        self.after = resident(self._pid)
        self.peak = max(self.peak, self.after)
