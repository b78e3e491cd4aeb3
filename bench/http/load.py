"""Load: wrk, h2load and curl, the same command on every route, and what they say read back."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from bench.load import Run, cpu_seconds

_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}
# h2load writes a line for each request: when it began, its status, how long it took in µs.
_H2LOAD = """
folder=$(mktemp -d) && cd "$folder" || exit 9
printf '%b' "$BODY" >body
[ -s body ] && set -- -d body "$@"
timeout 30 h2load --log-file=log "$@" 2>&1
status=$?
echo ==log==
cut -f3 log | sort -n | awk '{time[NR] = $1} END {print time[int(NR / 2) + 1], time[int(NR * 0.99) + 1]}'
rm -rf "$folder"
exit $status
"""


@dataclass(frozen=True)
class Route:
    """A way to the web server: base URLs by kind, and how a program is started that may go there.

    ``proxy`` is the process in between whose time and memory are looked at, None where there is none.
    """

    name: str
    urls: dict[str, str]
    run: Run
    proxy: int | None = None


@dataclass(frozen=True)
class Result:
    """One run: requests per second, latencies in µs, and the proxy's processor time per request in µs."""

    rps: float
    p50: float
    p99: float
    proxy_us: float


def median(results: Sequence[Result]) -> Result:
    """Return the medians of ``results``, each figure by itself."""
    return Result(*(statistics.median(getattr(each, field.name) for each in results) for field in fields(Result)))


def wrk(route: Route, kind: str, path: str, *, connections: int, seconds: int) -> Result:
    """Return what HTTP/1.1 on kept connections reaches, each with one request at a time.

    Raises:
        RuntimeError: it failed, a connection did, or an answer was not a 2xx.
    """
    url = route.urls[kind] + path
    spent = cpu_seconds(route.proxy)
    done = route.run(["timeout", "30", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", url])
    spent = cpu_seconds(route.proxy) - spent
    said = done.stdout
    count, rate = (re.search(pattern, said) for pattern in (r"(\d+) requests in", r"Requests/sec:\s+([\d.]+)"))
    if done.returncode or not count or not int(count[1]) or not rate or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk {url} on {route.name}: status {done.returncode}\n{said[-1500:]}{done.stderr[-1500:]}")
    p50, p99 = (_micros(said, part) for part in ("50%", "99%"))
    return Result(float(rate[1]), p50, p99, spent / max(1, int(count[1])) * 1e6)


def h2load(route: Route, kind: str, path: str, *options: str, body: str = "") -> Result:
    """Return what HTTP/2 reaches; ``options`` say how many connections, streams and seconds, ``body`` makes it a POST (as printf's ``%b``).

    Raises:
        RuntimeError: it failed, or a request did.
    """
    url = route.urls[kind] + path
    spent = cpu_seconds(route.proxy)
    done = route.run(["env", f"BODY={body}", "sh", "-c", _H2LOAD, "sh", "-t1", *options, url])
    spent = cpu_seconds(route.proxy) - spent
    said, _, log = done.stdout.partition("==log==\n")
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    counts = re.search(r"(\d+) succeeded, (\d+) failed", said)
    if done.returncode or rate is None or counts is None or int(counts[2]) or not int(counts[1]):
        raise RuntimeError(f"h2load {url} on {route.name}: status {done.returncode}\n{said[-1500:]}{done.stderr[-1500:]}")
    p50, p99 = (float(word) for word in log.split())
    return Result(float(rate[1]), p50, p99, spent / int(counts[1]) * 1e6)


def download(route: Route, kind: str, path: str, size: int | None) -> float:
    """Return the seconds that curl takes for a body of ``size`` bytes (None: of any size).

    Raises:
        RuntimeError: it did not get that many.
    """
    words = ["-sS", "-k", "--http1.1", "-m", "120", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_total}"]
    done = route.run(["curl", *words, route.urls[kind] + path])
    code, got, seconds = [*done.stdout.split(), "", "", ""][:3]
    if (code, got) != ("200", got if size is None else str(size)):
        raise RuntimeError(f"curl on {route.name}: {done.stdout} {done.stderr}")
    return float(seconds)


def _micros(said: str, part: str) -> float:
    found = re.search(rf"{part}\s+([\d.]+)(us|ms|s|m)\b", said)
    assert found is not None, said
    return float(found[1]) * _UNITS[found[2]]
