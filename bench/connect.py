"""``python -m bench.connect``: what a connection's beginning costs with nothing, with redirect and fence, and with eBPF behind.

One host, one listener that accepts and closes, interleaved rounds. The client's own socket(), connect() and close() are timed;
the proxy's work after accept is not in it. Needs root; namespaces, table and cgroup are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostagent.enforcer.bpf import layout, objects
from hostagent.enforcer.bpf.programs import Programs, netns_cookie
from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.enforcer.rules import backstop, nft, ruleset

_INSIDE = "HOSTAGENT_BENCH_INSIDE"
_TARGET, _PORT = "192.0.2.1", 5432
_LISTENER, _DNS = 790, 791
_CLIENT = """
import json, socket, struct, sys, time
count, clock = int(sys.argv[1]), time.perf_counter_ns
reset = struct.pack("ii", 1, 0)
steps = {"socket": [], "connect": [], "close": []}
for _ in range(count):
    began = clock()
    one = socket.socket()
    made = clock()
    one.connect(("192.0.2.1", 5432))
    connected = clock()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    set_ = clock()
    one.close()
    ended = clock()
    for name, took in (("socket", made - began), ("connect", connected - made), ("close", ended - set_)):
        steps[name].append(took)
print(json.dumps(steps))
"""
NONE, FENCED, WITH_BPF = "none", "redirect and fence", "redirect, fence and eBPF"


def main() -> int:
    """Enter private namespaces, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.connect", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=1000, help="in each round")
    options = parser.parse_args()
    if _INSIDE not in os.environ:
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "bench.connect", *sys.argv[1:]]
        return subprocess.call(command, env={**os.environ, _INSIDE: "1"})
    for words in ("link set lo up", f"addr add {_TARGET}/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    print(table(measure(options.rounds, options.connections)))
    return 0


def measure(rounds: int, connections: int) -> dict[str, dict[str, list[int]]]:
    """Return nanoseconds by route and step."""
    built = objects.compiled(objects.source(2))
    slice_ = Slice(f"habench-{os.getpid()}.slice")
    slice_.create()
    outside = Path(slice_.mount) / f"habench-{os.getpid()}"
    outside.mkdir()
    programs = Programs(f"hab{os.getpid() % 10000}", slice_)
    taken: dict[str, dict[str, list[int]]] = {route: {} for route in (NONE, FENCED, WITH_BPF)}
    try:
        leaf = slice_.leaf("client")
        leaf.create()
        _fence(slice_, leaf)
        with _accepting((_TARGET, _PORT)), _accepting(("127.0.0.1", _LISTENER)):
            for _ in range(rounds):
                for route, cgroup in ((NONE, outside), (FENCED, leaf.path), (WITH_BPF, leaf.path)):
                    if route == WITH_BPF:
                        programs.register(leaf.id, netns_cookie(), layout.FLAG_SHARED)
                        programs.install(lambda _: built)
                        assert not programs.problem, programs.problem
                    for step, values in _client(cgroup, connections).items():
                        taken[route].setdefault(step, []).extend(values)
                    programs.remove()
    finally:
        programs.remove()
        for name in slice_.leaves():
            slice_.leaf(name).remove()
        slice_.remove()
        outside.rmdir()
    return taken


def _fence(slice_: Slice, leaf: Leaf) -> None:
    shared = ruleset.SharedLeaf(leaf.rule_path, 1, _LISTENER, _DNS)
    nft.run(ruleset.create("habench") + ruleset.shared("habench", slice_.name, slice_.level, [shared], [], 5), slice_.mount)
    backstop.attach(leaf.path, ruleset.leaf_mark(1))


def _client(cgroup: Path, connections: int) -> dict[str, list[int]]:
    def enter() -> None:
        (cgroup / "cgroup.procs").write_text("0")

    done = subprocess.run(
        [sys.executable, "-I", "-c", _CLIENT, str(connections)], preexec_fn=enter, stdout=subprocess.PIPE, text=True, check=True
    )
    steps: dict[str, list[int]] = json.loads(done.stdout)
    return steps


@contextmanager
def _accepting(address: tuple[str, int]) -> Iterator[None]:
    with socket.create_server(address, backlog=1024) as listener:

        def accept() -> None:
            try:
                while True:
                    listener.accept()[0].close()
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def table(taken: dict[str, dict[str, list[int]]]) -> str:
    """Return a table of medians and 99th percentiles in microseconds."""
    lines = ["| route | socket() p50 | connect() p50 | connect() p99 | close() p50 | all three p50 | more than none |", "| --- | --- | --- | --- | --- | --- | --- |"]
    totals = {route: statistics.median(map(sum, zip(*steps.values(), strict=True))) for route, steps in taken.items()}
    for route, steps in taken.items():
        middle = {step: statistics.median(values) / 1000 for step, values in steps.items()}
        late = statistics.quantiles(steps["connect"], n=100)[98] / 1000
        more = f"{(totals[route] - totals[NONE]) / 1000:+.1f} µs"
        cells = (route, f"{middle['socket']:.1f}", f"{middle['connect']:.1f}", f"{late:.1f}", f"{middle['close']:.1f}", f"{totals[route] / 1000:.1f}", more)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
