"""`hostagent verify`: passes on a sound host, and names what is wrong with one whose boundary was broken on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection, RequestError
from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.rules import network, nft, ruleset
from hostagent.enforcer.rules.firewall import Firewall
from hostagent.enforcer.verify.rulecheck import Loaded, compare
from hostagent.enforcer.verify.verification import EXPECTED, judge
from hostagent.ipc import Reload, Reloaded, Verified, Verify
from hostagent.model.flow import Placement
from tests.netns.stage import REPOSITORY, Stage, stage, wait_for

pytestmark = pytest.mark.root

_WORKLOADS = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]


@pytest.fixture
def host(place: Path) -> Iterator[Stage]:
    with stage(place, _WORKLOADS) as built:
        yield built


def verify(host: Stage) -> Verified:
    connection = EnforcerConnection(host.socket_path)
    with contextlib.closing(connection.socket):
        return connection.ask(Verify(), Verified)[0]


def command(host: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    config = host.folder / "hostagent.toml"
    config.write_text(f'[paths]\nruntime = "{host.runtime}"\n')
    arguments = [sys.executable, "-m", "hostagent", "--config", str(config), "verify", *words]
    return subprocess.run(arguments, cwd=REPOSITORY, text=True, capture_output=True, timeout=60, check=False)


@contextlib.contextmanager
def running(host: Stage, workload: str) -> Iterator[tuple[str, int]]:
    """A program that waits; its leaf's name and its first process."""
    process = host.start(workload, "sleep", "1000")
    try:
        [leaf] = wait_for("the leaf", lambda: [each for each in host.status()["leaves"] if each["stage"] == "running"])
        yield leaf["leaf"], leaf["pid"]
    finally:
        process.terminate()
        process.communicate()
        wait_for("its end", lambda: host.status()["leaves"] == [])


def in_leaf(pid: int, *arguments: str) -> None:
    subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "nft", *arguments], check=True, capture_output=True)


def chain_handle(pid: int, table: str, words: str) -> str:
    listing = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-a", "list", "table", "inet", table], check=True, capture_output=True, text=True
    ).stdout
    return next(line.rpartition("handle ")[2] for line in listing.splitlines() if words in line)


def test_a_sound_host_passes_in_both_placements_and_nothing_gets_out(host: Stage) -> None:
    with running(host, "isolated") as (leaf, _):
        before = len(host.seen_by_sink())
        result = verify(host)
        wait_for("the throw-away leaves' end", lambda: [each["leaf"] for each in host.status()["leaves"]] == [leaf])
        assert host.leaked(before) == []
    always = set(EXPECTED) - {"a target's name resolves"}
    isolated = {f"isolated: {name}" for name in always if not name.startswith("another leaf")}
    shared = {f"shared: {name}" for name in always}
    assert (result.failed, set(result.attempts)) == ([], isolated | shared | {f"rules of leaf {leaf}", "rules of the host's table"})
    assert {result.attempts[f"{placement}: {name}"] for placement in ("isolated", "shared") for name in ("tcp IPv4", "tcp IPv6")} == {"closed"}
    [event] = host.events("verify")
    assert (event["cause"], event["outcome"], event["failed"], event["elapsed_us"] > 0) == ("demand", "passed", [], True)
    assert {each["name"]: each["outcome"] for each in event["attempts"]} == result.attempts


def test_what_verify_tries_is_refused_with_rows_like_anybodys(host: Stage) -> None:
    verify(host)
    rows = {(row["layer"], row["destination"] or row["reason"]) for row in host.events("refusal") if row["workload"] == "hostagent.verify"}
    assert {
        ("nft", "192.0.2.1:9"),
        ("nft", "127.0.0.1:901"),
        ("seccomp", "system call refused: socket(AF_PACKET, SOCK_RAW)"),
        ("seccomp", "system call refused: unshare(CLONE_NEWUSER|CLONE_NEWNET)"),
    } <= rows
    asked = {row["tcp"] for row in host.served() if "tcp" in row}
    assert {"192.0.2.1:9", "[2001:db8::1]:9"} <= asked


@pytest.mark.parametrize("as_json", [False, True])
def test_a_rule_deleted_in_a_leafs_namespace_is_named_and_the_command_fails(host: Stage, as_json: bool) -> None:
    with running(host, "isolated") as (leaf, pid):
        assert command(host).returncode == 0
        table = host.settings["table"]
        in_leaf(pid, "delete", "rule", "inet", table, "redir", "handle", chain_handle(pid, table, "l4proto tcp redirect"))
        done = command(host, *["--json"] * as_json)
        name = f"rules of leaf {leaf}"
        assert done.returncode == 1
        if as_json:
            found = json.loads(done.stdout)
            assert (found["outcome"], found["failed"]) == ("failed", [name])
        else:
            assert [line for line in done.stdout.splitlines() if line.startswith("FAILED")] == [
                f"FAILED  {name}: changed: missing `meta l4proto tcp redirect to :901`"
            ]
        assert host.events("verify")[-1]["failed"] == [name]


def test_an_accept_put_before_the_fence_of_a_leaf_is_named(host: Stage) -> None:
    with running(host, "isolated") as (leaf, pid):
        in_leaf(pid, "insert", "rule", "inet", host.settings["table"], "fence", "udp", "dport", "443", "accept")
        result = verify(host)
        assert result.failed == [f"rules of leaf {leaf}"]
        assert result.attempts[result.failed[0]] == "changed: added `udp dport 443 accept`"


def test_a_leaf_whose_table_is_gone_is_named(host: Stage) -> None:
    with running(host, "isolated") as (leaf, pid):
        in_leaf(pid, "flush", "ruleset")
        assert verify(host).failed == [f"rules of leaf {leaf}"]


_SHIM = """#!/bin/sh
if [ "$1" = -f ]; then grep -v '{drop}' | exec {nft} -f -; fi
exec {nft} "$@"
"""


@pytest.mark.parametrize(
    ("drop", "failing"),
    [
        ("dport 53 redirect", {"isolated: DNS tunnel over UDP", "isolated: DNS tunnel by loopback", "shared: DNS tunnel over UDP", "shared: DNS tunnel by loopback"}),
        ("l4proto tcp redirect", {"isolated: leaf", "shared: leaf"}),
    ],
)
def test_rules_that_were_never_right_are_found_by_the_attempts(
    place: Path, monkeypatch: pytest.MonkeyPatch, drop: str, failing: set[str]
) -> None:
    real = subprocess.run(["sh", "-c", "command -v nft"], check=True, capture_output=True, text=True).stdout.strip()
    shims = place / "shims"
    shims.mkdir()
    (shims / "nft").write_text(_SHIM.format(drop=drop, nft=real))
    (shims / "nft").chmod(0o755)
    with stage(place, _WORKLOADS) as host:
        assert verify(host).failed == []
        assert host.enforcer is not None
        host.enforcer.kill()
        host.enforcer.wait()
        assert host.enforcer.stdout is not None
        host.enforcer.stdout.close()
        assert host.proxy is not None
        host.proxy.kill()
        host.proxy.wait()
        monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
        host.start_enforcer()
        host.start_proxy()
        result = verify(host)
        assert failing <= set(result.failed), result.failed
        assert {name for name in result.failed if "DNS" not in name and "leaf" not in name} == set()


def test_a_failure_freezes_launches_until_a_run_passes(place: Path) -> None:
    with stage(place, _WORKLOADS) as host:
        host.enforcer_settings(verify_freeze=True)
        with running(host, "isolated") as (leaf, pid):
            in_leaf(pid, "flush", "ruleset")
            assert verify(host).failed == [f"rules of leaf {leaf}"]
            refused = host.run("shared", "true")
            assert (refused.returncode != 0, f"frozen: `hostagent verify` failed (rules of leaf {leaf})" in refused.stderr) == (True, True)
            assert "frozen" in host.events("admission")[-1]["reason"]
        assert host.run("shared", "true").returncode != 0
        assert verify(host).failed == []
        assert host.run("shared", "true").returncode == 0


def test_it_runs_every_so_often_and_after_a_reload(place: Path) -> None:
    with stage(place, _WORKLOADS) as host:
        host.enforcer_settings(verify_every_s=3600.0)
        connection = EnforcerConnection(host.socket_path)
        with contextlib.closing(connection.socket):
            connection.ask(Reload(), Reloaded)
        wait_for("a run", lambda: host.events("verify"))
        assert [(each["cause"], each["outcome"]) for each in host.events("verify")] == [("reload", "passed")]
        host.enforcer_settings(verify_every_s=1.0)
        wait_for("two runs", lambda: len(host.events("verify")) >= 3, 40)
        assert {(each["cause"], each["outcome"]) for each in host.events("verify")[1:]} == {("periodic", "passed")}


def test_on_a_host_with_iptables_the_same_is_tried_and_found(place: Path) -> None:
    with stage(place, _WORKLOADS, firewall="iptables") as host, running(host, "isolated") as (leaf, pid):
        result = verify(host)
        assert result.failed == []
        assert {name.partition(":")[0] for name in result.attempts} == {"isolated", f"rules of leaf {leaf}"}
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "iptables-legacy", "-t", "nat", "-F"], check=True)
        assert verify(host).failed == [f"rules of leaf {leaf}"]


@pytest.mark.parametrize("plain", [False, True])
def test_an_unprotected_table_is_compared_as_well(place: Path, plain: bool) -> None:
    with stage(place, _WORKLOADS, plain_table=plain) as host:
        assert verify(host).attempts["rules of the host's table"] == "as loaded"
        # A table of somebody else's is none of ours.
        host.nft("add", "table", "inet", "other")
        assert verify(host).failed == []


def test_a_run_that_is_cut_short_by_the_proxys_end_begins_again(host: Stage) -> None:
    results: list[Verified] = []
    asking = threading.Thread(target=lambda: results.append(verify(host)))
    asking.start()
    wait_for("the first throw-away leaf", lambda: host.status()["leaves"])
    host.stop_proxy()
    host.start_proxy()
    asking.join(40)
    assert [each.failed for each in results] == [[]]
    assert [each["outcome"] for each in host.events("verify")] == ["passed"]
    assert (host.status()["verify"]["failed"], host.status()["verify"]["cause"]) == ([], "demand")


def test_without_a_proxy_it_says_what_is_missing(host: Stage) -> None:
    host.stop_proxy()
    with pytest.raises(RequestError, match="needs the proxy"):
        verify(host)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_attempt_that_succeeds_or_is_missing_has_failed(name: str) -> None:
    good = {each: min(accepted) for each, accepted in EXPECTED.items()}
    assert {each for each, _, ok in judge(Placement.ISOLATED, good) if not ok} == set()
    for outcome in ("done", "sent", "made", "answered", "reached /run/docker.sock", "ENETUNREACH", ""):
        assert [each for each, _, ok in judge(Placement.ISOLATED, good | {name: outcome}) if not ok] == [name]
    rest = {each: outcome for each, outcome in good.items() if each != name}
    missing = [each for each, _, ok in judge(Placement.ISOLATED, rest) if not ok]
    assert missing == ([] if name.startswith(("another leaf", "a target")) else [name])


def test_rules_are_compared_by_what_they_mean_not_by_their_order_in_a_set() -> None:
    table = "hacompare"
    text = ruleset.isolated(table, 901, 902, [5432, 80], 5)

    def body() -> str:
        descriptor = network.create()
        found: list[str] = []
        loaded = [Loaded("leaf", descriptor, 0, lambda: nft.run(ruleset.create(table) + text))]
        with kernel.in_network(descriptor):
            nft.run(ruleset.create(table) + text)
        for change in ("", f"flush set inet {table} loopback_ports", f"add element inet {table} loopback_ports {{ 80, 5432 }}", f"flush table inet {table}", f"delete table inet {table}"):
            if change:
                with kernel.in_network(descriptor):
                    nft.run(change)
            found.append(compare(Firewall.NFT, table, "/sys/fs/cgroup", loaded)["leaf"].partition(" `")[0].partition(": Error")[0])
        return "; ".join(found)

    answer = in_child(body, before=lambda: None, timeout_s=30)
    assert answer == "as loaded; changed: missing; as loaded; changed: missing; cannot be listed"
