"""`hostagent verify` against the whole service: the real proxy refuses what the hostile program dials, and all of it is evidence."""

from __future__ import annotations

import json

import pytest

from tests.stage import Service

pytestmark = pytest.mark.e2e


def test_a_sound_service_passes_and_the_evidence_shows_every_attempt(service: Service) -> None:
    done = service.hostagent("verify", "--json", check=False)
    result = json.loads(done.stdout)
    assert (done.returncode, result["failed"], result["outcome"]) == (0, [], "passed")
    assert {result["attempts"][f"{placement}: a target's name resolves"] for placement in ("isolated", "shared")} == {"resolved"}
    [event] = service.wait_sql("select fields from events where kind = 'verify'")
    recorded = json.loads(str(event["fields"]))
    assert (recorded["cause"], recorded["outcome"], len(recorded["attempts"])) == ("demand", "passed", len(result["attempts"]))
    service.wait_sql("select 1 from refusals where workload = 'hostagent.verify' and layer = 'dns'")
    refused = service.sql("select distinct layer from refusals where workload = 'hostagent.verify' order by 1")
    assert [row["layer"] for row in refused] == ["dns", "mount", "nft", "proxy", "seccomp"]
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
