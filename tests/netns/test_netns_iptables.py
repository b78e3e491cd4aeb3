"""A host without nftables: the tests of isolated placement's boundary, the very same ones, and what is refused instead of weakened."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.rules.firewall import Firewall, choose
from hostagent.ipc import Reload, Reloaded, Uninstall, Uninstalled
from hostagent.model.errors import HostagentError
from tests.netns import test_netns_boundary as boundary
from tests.netns import test_netns_lifecycle as lifecycle
from tests.netns.stage import SINK_4, SINK_6, Stage, new_network, stage, wait_for

pytestmark = pytest.mark.root

_SAME_TESTS = [
    boundary.test_dns_goes_to_the_leafs_own_listener_whatever_the_server,
    boundary.test_nothing_but_redirected_tcp_and_dns_leaves,
    boundary.test_the_listener_cannot_be_dialled_directly,
    boundary.test_a_workload_reaches_its_own_loopback_servers,
    boundary.test_nobody_connects_into_a_workload,
]


@pytest.mark.parametrize(("family", "address", "destination"), boundary.DESTINATIONS)
def test_every_tcp_connection_reaches_the_listener_on_iptables(
    iptables_host: Stage, family: int, address: tuple[str, int], destination: str
) -> None:
    boundary.test_every_tcp_connection_reaches_the_leafs_own_listener_with_its_destination(
        iptables_host, "isolated", family, address, destination
    )


@pytest.mark.parametrize("body", _SAME_TESTS, ids=lambda body: body.__name__)
def test_the_boundary_is_the_same_on_iptables(iptables_host: Stage, body: object) -> None:
    assert callable(body)
    body(iptables_host, "isolated")


def test_what_iptables_refuses_becomes_a_row_that_names_it(iptables_host: Stage) -> None:
    script = "import socket\ntry: socket.socket(2, 2).sendto(b'stolen', ('203.0.113.1', 9999))\nexcept OSError: pass\nprint('{}')"
    iptables_host.probe("isolated", script)
    rows = wait_for("the row", lambda: [row for row in iptables_host.events("refusal") if row.get("destination") == f"{SINK_4}:9999"])
    assert {(row["layer"], row["workload"], row["transport"]) for row in rows} == {("iptables", "isolated", "udp")}


def test_shared_placement_is_refused_with_the_reason_and_status_says_so(iptables_host: Stage) -> None:
    refused = iptables_host.run("shared", "true")
    assert refused.returncode == 125
    assert "shared placement needs nftables: iptables cannot tell which workload an arriving packet is for" in refused.stderr
    report = iptables_host.status()
    assert report["firewall"] == "iptables"
    assert report["fence"]["loaded"] is True
    assert any("shared placement needs nftables" in line for line in report["weaker"])


def test_whoever_is_in_the_slice_but_in_no_leaf_reaches_nothing_by_the_rules_alone(place: Path) -> None:
    with stage(place, [{"name": "isolated"}], firewall="iptables", bpf="off") as host:
        _nobody_gets_out(host)


def _nobody_gets_out(host: Stage) -> None:
    script = (
        "import errno, json, os, socket\n"
        "os.mkdir(LEAF); open(LEAF + '/cgroup.procs', 'w').write('0')\nmet = []\n"
        "for family, address in ((2, SINK), (10, SINK6), (2, '127.0.0.1'), (10, '::1')):\n"
        "    for kind in (1, 2):\n"
        "        s = socket.socket(family, kind)\n        s.settimeout(2)\n"
        "        try:\n            s.connect((address, 5432))\n            s.send(b'stolen')\n            met.append('out')\n"
        "        except OSError as e: met.append(errno.errorcode.get(e.errno, str(e)))\n"
        "print(json.dumps(met))\n"
    )
    leaf = Slice(host.slice).path / "unknown"
    try:
        met = host.outside(script, LEAF=str(leaf), SINK=SINK_4, SINK6=SINK_6)
    finally:
        wait_for("the leaf to be empty", lambda: not (leaf / "cgroup.procs").read_text())
        leaf.rmdir()
    assert met == ["ECONNREFUSED", "EPERM"] * 4
    assert host.leaked(0) == []


@pytest.mark.parametrize(
    "commands",
    [
        [("iptables-legacy", "-F"), ("ip6tables-legacy", "-F")],
        [("iptables-legacy", "-I", "OUTPUT", "-j", "ACCEPT")],
        [("ip6tables-legacy-restore",)],
    ],
    ids=["flush", "a rule before ours", "restore"],
)
def test_the_hosts_fence_is_put_back_after_other_tools(place: Path, commands: list[tuple[str, ...]]) -> None:
    with stage(place, [{"name": "isolated"}], firewall="iptables") as host:
        text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
        chain = f"{host.settings['table']}-fence"

        def first() -> bool:
            with kernel.in_network(host.host):
                for program in ("iptables-legacy", "ip6tables-legacy"):
                    lines = subprocess.run([program, "-S", "OUTPUT"], text=True, capture_output=True, check=True).stdout.splitlines()
                    if not lines[1:] or not lines[1].endswith(f"-j {chain}"):
                        return False
            return True

        assert first()
        with kernel.in_network(host.host):
            for command in commands:
                subprocess.run(command, input=text, text=True, capture_output=True, check=True)
        wait_for("the fence", first)
        wait_for("the record", lambda: [row for row in host.events("service") if "loaded again" in row["detail"]])
        for _ in range(5):
            with contextlib.closing(EnforcerConnection(host.socket_path)) as connection:
                connection.ask(Reload(), Reloaded)
        with kernel.in_network(host.host):
            listed = subprocess.run(["iptables-legacy", "-S"], text=True, capture_output=True, check=True).stdout
        assert listed.count(f"-j {chain}") == 1
        assert host.run("isolated", "sh", "-c", "exit 4").returncode == 4
        assert host.leaked(0) == []


def test_uninstall_takes_the_fence_away_and_leaves_other_rules(place: Path) -> None:
    with stage(place, [{"name": "isolated"}], firewall="iptables", proxy=False) as host:
        with kernel.in_network(host.host):
            subprocess.run(["iptables-legacy", "-A", "OUTPUT", "-p", "sctp", "-j", "DROP"], check=True)
        with contextlib.closing(EnforcerConnection(host.socket_path)) as connection:
            connection.ask(Uninstall(), Uninstalled)
        assert host.enforcer is not None
        assert host.enforcer.wait(20) == 0
        with kernel.in_network(host.host):
            for program, rules in (("iptables-legacy", ["-A OUTPUT -p sctp -j DROP"]), ("ip6tables-legacy", [])):
                listed = subprocess.run([program, "-S"], text=True, capture_output=True, check=True).stdout.splitlines()
                assert [line for line in listed if not line.startswith("-P")] == rules


def test_iptables_is_chosen_by_itself_where_nft_does_not_work_and_neither_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = place / "bin"
    programs.mkdir()
    network = new_network()
    try:
        with kernel.in_network(network):
            assert choose.__wrapped__("auto") is Firewall.NFT
            (programs / "nft").write_text("#!/bin/sh\necho 'netlink: Operation not supported' >&2\nexit 1\n")
            (programs / "nft").chmod(0o755)
            monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
            assert choose.__wrapped__("auto") is Firewall.IPTABLES
            with pytest.raises(HostagentError, match="'nft', and it does not work here: nft: netlink: Operation not supported"):
                choose.__wrapped__("nft")
            monkeypatch.setenv("PATH", str(programs))
            with pytest.raises(HostagentError, match=r"neither nftables nor iptables works here: .*iptables-legacy-restore is missing"):
                choose.__wrapped__("auto")
    finally:
        os.close(network)


def test_a_loopback_target_that_a_reload_adds_is_redirected_on_iptables(place: Path) -> None:
    contents = ("[5432]", "[3306, 5432]")
    answers = lifecycle.answers_over_reloads(place, [{"name": "isolated"}], contents, firewall="iptables", proxy=False)
    assert answers == ["up", "111", "127.0.0.1:3306"]
