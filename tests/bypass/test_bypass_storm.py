"""The fence while everything around it breaks: a workload dials and sends without a pause, and the sinks see nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.bypass.attacked import Attacked
from tests.bypass.attacks import HERE
from tests.stage.world import DATABASE_V4, DATABASE_V6, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# -- the fence while everything around it breaks ---------------------------------------------------------------------------------

_STORM = """
import errno, json, socket, sys, time
sink4, sink6, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
until, number, outcomes = time.monotonic() + seconds, 0, {}
print("begun", flush=True)
def note(what):
    outcomes[what] = outcomes.get(what, 0) + 1
datagrams = [(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), sink4), (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), sink6)]
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("0.0.0.0", 40123))
while time.monotonic() < until:
    for family, address in ((socket.AF_INET, sink4), (socket.AF_INET6, sink6)):
        with socket.socket(family, socket.SOCK_STREAM) as dial:
            dial.setblocking(False)
            try:
                dial.connect_ex((address, 9999))
                dial.send(b"leaked")
                note("sent")
            except OSError as error:
                note(errno.errorcode.get(error.errno, "?"))
    for sender, address in (*datagrams, (bound, sink4)):
        try:
            sender.sendto(b"leaked", (address, 9999))
            note("datagram")
        except OSError as error:
            note("datagram " + errno.errorcode.get(error.errno, "?"))
    number += 1
print(json.dumps({"rounds": number, **outcomes}))
"""


FENCES = "'nft', 'iptables', 'bpf'"


@contextlib.contextmanager
def _storm(attacked: Attacked, workload: str, seconds: float) -> Iterator[list[dict[str, int]]]:
    """Dial and send without a pause from inside ``workload``; the list has the counts at the end, unless it was ended."""
    command = [*attacked.service.command, "run", "--workload", workload, "--no-tty", "--", attacked.python, "-c", _STORM]
    told: list[dict[str, int]] = []
    with subprocess.Popen(
        [*command, DATABASE_V4, DATABASE_V6, str(seconds)],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=attacked.service.environment, cwd="/",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield told
        last = process.stdout.read()
        process.wait(60)
    if last:
        told.append(json.loads(last))


def _recorded(attacked: Attacked, workload: str, began: str, layers: tuple[str, ...] = (FENCES, "'proxy'")) -> None:
    """What was tried since ``began`` is on record, by the mechanism that refused the datagrams and by the proxy."""
    for each in layers:
        rows = attacked.service.wait_sql(f"""
            select workload, reason from refusals where workload = '{workload}' and layer in ({each})
            and (destination like '%:9999' or workload = '') and time > timestamp '{began}' and reason <> '' limit 1
        """)
        assert rows


def _told(attacked: Attacked, began: str, where: str) -> None:
    """The service has said of itself since ``began`` what came to pass."""
    assert attacked.service.wait_sql(f"select detail from service where {where} and time > timestamp '{began}'")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _healthy(attacked: Attacked) -> None:
    wait_for(lambda: attacked.service.hostagent("status", check=False).returncode == 0, "the service to be whole again", 60)
    leaked = attacked.world.sink_lines()
    (attacked.world.folder / "sinks.log").write_text("")  # each test answers for its own
    assert leaked == []
    for placement in HERE:
        assert attacked.service.launch("true", workload=placement).returncode == 0


@pytest.mark.attack("39", "46", "47")
@pytest.mark.parametrize("placement", HERE)
def test_nothing_leaks_while_connections_are_forgotten_and_other_tools_rule(attacked: Attacked, placement: str) -> None:
    """Attacks 38, 39, 46, 47: the connection table emptied, other tables loaded, redirecting and flushed, under load."""
    other, began = "table inet bypass_other", _now()
    with _storm(attacked, placement, 6) as told:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            subprocess.run(["conntrack", "-F"], check=False, capture_output=True)
            rules = (
                f"{other} {{\n chain out {{\n type nat hook output priority -100;\n"
                f" ip daddr {DATABASE_V4} meta l4proto {{ tcp, udp }} dnat ip to {DATABASE_V4}:5433\n }}\n}}\n"
            )
            subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
            time.sleep(0.03)
            subprocess.run(["nft", "flush", "ruleset"], check=False, capture_output=True)
            subprocess.run(["nft", "delete", *other.split()], check=False, capture_output=True)
            time.sleep(0.03)
    _healthy(attacked)
    assert told[0]["rounds"] > (500 if attacked.quick else 50)  # a storm it was
    assert "datagram" not in told[0]
    _recorded(attacked, placement, began)


@pytest.mark.attack("40")
@pytest.mark.parametrize("placement", HERE)
@pytest.mark.parametrize("component", ["proxyd", "enforcerd"])
def test_nothing_leaks_while_a_process_dies_under_load(attacked: Attacked, placement: str, component: str) -> None:
    began = _now()
    with _storm(attacked, placement, 5) as told:
        for _ in range(2):
            time.sleep(0.7)
            with contextlib.suppress(RuntimeError, ProcessLookupError):
                os.kill(attacked.service.pid(component), 9)
    _healthy(attacked)
    assert all("datagram" not in each for each in told)
    _recorded(attacked, placement, began, ("'proxy'",))
    _told(attacked, began, f"component = '{component}' and change = 'started'")
    if component == "enforcerd":
        _told(attacked, began, "detail like 'leaf % of an earlier enforcerd ended %'")


@pytest.mark.attack("45", placement="shared")
def test_an_outsiders_datagram_makes_no_reply_of_what_a_workload_sends(attacked: Attacked) -> None:
    """Attack 45, knocking all the while at the port that the workload sends from. Last, for what the knocks leave in the log."""
    knock = (
        "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.setsockopt(1,2,1)\ns.setsockopt(1,15,1)\n"
        "s.bind(('10.77.0.2',9998))\nu=time.monotonic()+4\nwhile time.monotonic()<u:\n"
        "  s.sendto(b'knock',('10.77.0.1',40123))\n  time.sleep(.002)\n"
    )
    began = _now()
    holder = f"--net=/proc/{attacked.world.holder}/ns/net"
    with subprocess.Popen(["nsenter", holder, sys.executable, "-c", knock]) as knocking, _storm(attacked, "shared", 3) as told:
        pass
    assert knocking.returncode == 0
    assert "datagram" not in told[0]
    # The host's own "port unreachable" to a knock before the workload had the port quotes the knock; nothing else came.
    others = [line for line in attacked.world.sink_lines() if "knock" not in line or not line.startswith("packet protocol 1 ")]
    assert others == []
    _recorded(attacked, "shared", began)
