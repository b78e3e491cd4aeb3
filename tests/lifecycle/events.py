"""What happens to a host while it is under load. Each event is a function of the rig, the measurement and how often."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.enforcer import kernel
from hostagent.ipc import Kill, Killed
from tests.lifecycle.rig import Measurement, Stray
from tests.netns.stage import SINK_4, wait_for

_HOLD_S = 1.5
"""How long a condition that lasts (a full table, NOTRACK rules, a dead process) is held."""

_OTHERS_RULES = f"""
table inet others {{
    chain pre {{ type nat hook prerouting priority -100; policy accept;
        tcp dport 8443 dnat ip to {SINK_4}:443
    }}
    chain out {{ type nat hook output priority -100; policy accept;
        ip daddr 198.51.100.9 tcp dport 80 dnat ip to {SINK_4}:80
    }}
    chain input {{ type filter hook input priority 0; policy accept;
        ct state established,related accept
    }}
    chain post {{ type nat hook postrouting priority 100; policy accept;
        oifname "wan" masquerade
    }}
}}
"""
_IPTABLES_RULES = """*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
"""


@dataclass(frozen=True)
class Event:
    """``fast`` and ``full``: how often in `make test` and in `make lifecycle`. ``breaks_others``: the event itself stops everybody."""

    name: str
    body: Callable[[Measurement, int], None]
    placements: tuple[str, ...]
    fast: int
    full: int
    breaks_others: bool = False


def reload(m: Measurement, times: int) -> None:
    for _ in range(times):
        m.rig.reload()


def launches(m: Measurement, times: int) -> None:
    """Programs whose first act is to connect, one after the other: the table is loaded for each."""
    code = f"import socket\ns = socket.socket(); s.settimeout(5); s.connect(({SINK_4!r}, 5432)); print(s.recv(99).decode(), end='')"
    for _ in range(times):
        done = m.rig.run(m.load.workload, "/usr/bin/python3", "-I", "-c", code)
        assert done.stdout == m.rig.token, (done.returncode, done.stdout, done.stderr)


def enforcer_restarts(m: Measurement, times: int) -> None:
    """SIGTERM and a new one, with a stray in the slice that no enforcerd ever knew."""
    for _ in range(times):
        _replace_enforcer(m, m.rig.close_enforcer)


def enforcer_crashes(m: Measurement, times: int) -> None:
    for _ in range(times):
        _replace_enforcer(m, m.rig.kill_enforcer)


def _replace_enforcer(m: Measurement, end: Callable[[], None]) -> None:
    stray = Stray(m.rig)
    end()
    time.sleep(0.3)
    m.rig.start_enforcer()
    m.stray_runs.append(stray.end())
    m.rig.start_proxy()
    m.load.again()


def proxy_crashes(m: Measurement, times: int) -> None:
    for _ in range(times):
        m.rig.restart_proxy()
        m.load.warm()


def everything_crashes(m: Measurement, times: int) -> None:
    """enforcerd and proxyd at once, and squatters who want the ports that are free then."""
    taken: list[str] = []
    for _ in range(times):
        assert m.rig.proxy is not None
        m.rig.proxy.kill()
        m.rig.proxy.wait()
        m.rig.kill_enforcer()
        taken += squat(m)
        m.rig.start_enforcer()
        m.rig.start_proxy()
        m.load.again()
    assert taken == []
    m.figures.note = "no listener port could be taken"


_SQUAT = """
import errno, json, socket, sys
taken = []
for port in map(int, sys.argv[1:]):
    for family, address in ((2, "127.0.0.1"), (2, "0.0.0.0"), (10, "::1"), (10, "::")):
        for kind in (1, 2):
            s = socket.socket(family, kind)
            s.setsockopt(1, 2, 1)
            s.setsockopt(1, 15, 1)
            try:
                s.bind((address, port))
                taken.append(f"{address} {port}")
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EADDRINUSE):
                    raise
print(json.dumps(taken))
"""


def squat(m: Measurement) -> list[str]:
    """Try every listener port as an unprivileged program of the host, for as long as the crash lasts; return what was got."""
    ports = ("700", "701", "702", "703")
    found: list[str] = []
    with kernel.in_network(m.rig.host):
        for _ in range(3):
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-I", "-c", _SQUAT, *ports]
            found += json.loads(subprocess.run(command, text=True, capture_output=True, check=True, timeout=30).stdout)
    return found


def flush_ruleset(m: Measurement, times: int) -> None:
    _again_and_again(m, times, lambda: m.rig.other_tool("nft", "flush", "ruleset"))


def refill(m: Measurement, times: int) -> None:
    """As firewalld and others do: flush everything, then their own rules, in one transaction."""
    _again_and_again(m, times, lambda: m.rig.other_tool("nft", "-f", "-", text="flush ruleset\n" + _OTHERS_RULES))


def iptables_reload(m: Measurement, times: int) -> None:
    """As ufw and scripts do: iptables-restore and flushes, by both of iptables' back ends."""

    def both() -> None:
        for flavour in ("nft", "legacy"):
            for program in ("iptables", "ip6tables"):
                done = m.rig.other_tool(f"{program}-{flavour}-restore", text=_IPTABLES_RULES)
                assert done.returncode == 0, done.stderr
                for words in (("-F",), ("-X",), ("-t", "nat", "-F")):
                    done = m.rig.other_tool(f"{program}-{flavour}", *words)
                    assert done.returncode == 0, done.stderr

    _again_and_again(m, times, both)


def _again_and_again(m: Measurement, times: int, act: Callable[[], object]) -> None:
    for _ in range(times):
        act()
        wait_for("the fence", lambda: m.rig.status()["fence"]["loaded"])
    m.load.warm()


def leaf_recreated(m: Measurement, times: int) -> None:
    """The same path, a new id: what is in it is nobody's."""
    for _ in range(times):
        stray = Stray(m.rig, "again")
        m.stray_runs.append(stray.end())


def slice_recreated(m: Measurement, times: int) -> None:
    """What a stop and start of the slice's unit does. Whoever is in the new one before enforcerd heard of it is root's own doing."""
    fenced: list[float] = []
    for _ in range(times):
        connection = EnforcerConnection(m.rig.socket_path)
        connection.ask(Kill(m.load.workload, "the slice is recreated"), Killed)
        connection.close()
        wait_for("its end", lambda: m.load.running.process.poll() is not None)
        wait_for("the leaves", lambda: [each.name for each in m.rig.slice_path.iterdir() if each.is_dir()] == ["anchor"])
        (m.rig.slice_path / "anchor").rmdir()
        m.rig.slice_path.rmdir()
        with contextlib.suppress(FileExistsError):  # enforcerd may have been faster
            m.rig.slice_path.mkdir()
        began = time.monotonic()
        wait_for("the fence", lambda: m.rig.status()["fence"]["loaded"])
        fenced.append(time.monotonic() - began)
        stray = Stray(m.rig)
        m.load.again()
        m.stray_runs.append(stray.end())
    m.figures.note = f"the new slice fenced and proven within {max(fenced) * 1000:.0f} ms"


def conntrack_flushed(m: Measurement, times: int) -> None:
    for _ in range(times):
        with _in_the_network(m):
            subprocess.run(["conntrack", "-F"], capture_output=True, check=True, timeout=30)
    m.load.warm()


def conntrack_full(m: Measurement, times: int) -> None:
    for _ in range(times):
        with _in_the_network(m):
            command = (sys.executable, "-B", "-m", "tests.lifecycle.conntrack_table")
            filler = subprocess.Popen(command, cwd=m.rig.repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert filler.stdout is not None
        entries = filler.stdout.readline()
        time.sleep(_HOLD_S)
        filler.communicate(timeout=30)
        assert int(entries) > 0
        m.figures.note = f"{int(entries)} entries"
        with _in_the_network(m):
            subprocess.run(["conntrack", "-F"], capture_output=True, check=True, timeout=60)
        m.load.warm()


def notrack(m: Measurement, times: int) -> None:
    """Rules of somebody else's table that take every packet out of connection tracking, and so out of every redirection."""
    rules = "".join(
        f"table inet untracked {{ chain {hook} {{ type filter hook {hook} priority raw; policy accept; notrack\n }}\n }}\n"
        for hook in ("output", "prerouting")
    )
    for _ in range(times):
        with _in_the_network(m):
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=30)
        time.sleep(_HOLD_S)
        with _in_the_network(m):
            subprocess.run(["nft", "delete", "table", "inet", "untracked"], check=True, timeout=30)
        m.load.warm()


@contextlib.contextmanager
def _in_the_network(m: Measurement) -> Iterator[None]:
    """Enter the network that the governed program is in."""
    leaves = {each["workload"]: each["pid"] for each in m.rig.status()["leaves"]}
    with Path(f"/proc/{leaves[m.load.workload]}/ns/net").open() as network, kernel.in_network(network.fileno()):
        yield


BOTH = ("isolated", "shared")
HOST_ONLY = ("shared", "shared (plain)")
ALL = (*BOTH, "shared (plain)")
IPTABLES = "isolated (iptables)"
RULES_ALONE = "shared (no eBPF)"

EVENTS = (
    Event("reload", reload, (*ALL, IPTABLES), 100, 1000),
    Event("launches", launches, BOTH, 5, 50),
    Event("enforcerd restarted", enforcer_restarts, BOTH, 1, 5),
    Event("enforcerd kill -9", enforcer_crashes, (*ALL, IPTABLES, RULES_ALONE), 1, 5),
    Event("proxyd kill -9", proxy_crashes, BOTH, 2, 10),
    Event("both kill -9, squatters", everything_crashes, BOTH, 1, 5),
    Event("nft flush ruleset", flush_ruleset, ALL, 20, 200),
    Event("another tool's nft reload", refill, ALL, 20, 200),
    Event("another tool's iptables reload", iptables_reload, (*ALL, IPTABLES), 2, 20),
    Event("leaf recreated", leaf_recreated, ("shared", RULES_ALONE), 3, 20),
    Event("slice recreated", slice_recreated, (*BOTH, RULES_ALONE), 1, 5),
    Event("conntrack flushed", conntrack_flushed, (*BOTH, IPTABLES), 20, 200),
    Event("conntrack full", conntrack_full, BOTH, 1, 2, breaks_others=True),
    Event("NOTRACK rules", notrack, (*BOTH, IPTABLES), 1, 5),
)
