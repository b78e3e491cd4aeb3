"""`hostagent verify` against the whole service: the real proxy refuses what the hostile program dials, and all of it is evidence."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.stage import Service, Settings
from tests.stage.world import AGENT_V4, wait_for

pytestmark = pytest.mark.e2e

METRICS = 9464
_WORKLOAD = "launchers: [root]\nplacement: {placement}\nidentity: {{kind: local, groups: [support]}}\n"


@pytest.fixture(scope="module")
def settings() -> Settings:
    workloads = {f"{name}.yaml": _WORKLOAD.format(placement=placement) for name, placement in (("support-bot", "isolated"), ("shared-bot", "shared"))}
    return Settings(workloads=workloads, toml=f'[metrics]\nlisten = "127.0.0.1:{METRICS}"\n')


def test_a_sound_service_passes_and_the_evidence_shows_every_attempt(service: Service) -> None:
    done = service.hostagent("verify", "--json", check=False)
    result = json.loads(done.stdout)
    assert (done.returncode, result["failed"], result["outcome"]) == (0, [], "passed")
    assert {result["attempts"][f"{placement}: a target's name resolves"] for placement in ("isolated", "shared")} == {"resolved"}
    [event] = service.wait_sql("select cause, outcome, failed, len(attempts) as tried from verifications")
    assert event == {"cause": "demand", "outcome": "passed", "failed": [], "tried": len(result["attempts"])}
    service.wait_sql("select 1 from refusals where workload = 'hostagent.verify' and layer = 'dns'")
    refused = service.sql("select distinct layer from refusals where workload = 'hostagent.verify' order by 1")
    # Where the eBPF programs are loaded they refuse first some of what nft would.
    assert {row["layer"] for row in refused} - {"bpf"} == {"dns", "mount", "nft", "proxy", "seccomp"}
    # Nobody was let in: it has no identity, and what has none is refused.
    assert service.sql("select count(*) as n from sessions where workload = 'hostagent.verify' and outcome <> 'denied'") == [{"n": 0}]
    assert service.world.sink_lines() == []


def test_only_root_may_ask_for_it(service: Service) -> None:
    done = service.hostagent("verify", user="dana", check=False)
    assert (done.returncode != 0, "the boundary holds" in done.stdout) == (True, False)


def test_no_workload_can_be_called_like_it(service: Service) -> None:
    document = service.config / "workloads/hostagent.verify.yaml"
    document.write_text("launchers: [root]\n", encoding="utf-8")
    try:
        refused = service.launch("true", workload="hostagent.verify")
    finally:
        document.unlink()
    assert (refused.returncode != 0, "lower-case letter" in refused.stderr) == (True, True)


_SCRAPE = """
import socket, sys
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, sys.argv[2])):
    with socket.socket(family) as dial:
        dial.settimeout(5)
        try:
            dial.connect((address, int(sys.argv[1])))
            dial.sendall(b"GET /metrics HTTP/1.1\\r\\n\\r\\n")
            print("read" if dial.recv(100) else "closed")
        except OSError as error:
            print("refused")
"""


def _metrics() -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_metrics_show_the_verification_and_what_was_refused(service: Service) -> None:
    assert service.hostagent("verify", check=False).returncode == 0
    wait_for(lambda: _metrics().get("hostagent_verify_passed") == 1.0, "the verification in the metrics", 15)
    found = _metrics()
    assert found["hostagent_verify_age_seconds"] < 30
    for layer in ("nft", "seccomp", "mount", "dns", "proxy"):
        assert found[f'hostagent_refusals_total{{layer="{layer}"}}'] > 0
    assert (found["hostagent_unmatched_flows_total"], found["hostagent_gaps_total"], found["hostagent_journal_faults_total"]) == (0, 0, 0)
    assert found["hostagent_journal_lag_seconds"] < 10


def test_no_workload_reaches_the_metrics(service: Service) -> None:
    for workload in ("support-bot", "shared-bot"):
        inside = service.launch(*service.command[:1], "-c", _SCRAPE, str(METRICS), AGENT_V4, workload=workload)
        assert inside.returncode == 0, inside.stderr
        assert "read" not in inside.stdout.split()
        assert len(inside.stdout.split()) == 2
