"""Changing one's mind while a workload runs: policy, identity, and what a live session notices of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import example
from tests.e2e.talk import Talk, environment
from tests.stage import Service, World
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

_FREEZE = "version: 1\nrules:\n  - {id: freeze, what: {effects: [update]}, then: deny, reason: there is a change freeze}\n"
_CHANGE = "update orders set status = status where id = 1"


@pytest.fixture
def talk(service: Service) -> Iterator[Talk]:
    with Talk(service) as talking:
        talking.connect()
        yield talking


def _within(seconds: float, talk: Talk, statement: str, error: str | None) -> float:
    """Ask until the answer is as wanted; return how long that took."""
    started = time.monotonic()
    while True:
        answer = talk.sql(statement)
        passed = time.monotonic() - started
        if answer.get("error") == error:
            return passed
        assert passed < seconds, f"still {answer} after {passed:.1f} s"


def test_a_changed_policy_governs_the_next_statement_of_a_live_session_within_a_second(service: Service, talk: Talk) -> None:
    assert talk.sql(_CHANGE)["tag"] == "UPDATE 1"
    document = service.config / "policy" / "freeze.yaml"
    document.write_text(_FREEZE, encoding="utf-8")
    try:
        took = _within(1.5, talk, _CHANGE, "42501")
        denied = talk.sql(_CHANGE)
        assert "there is a change freeze" in denied["message"]
        assert "freeze" in denied["message"]
        assert talk.sql("select 'usable'")["rows"] == [["usable"]]
    finally:
        document.unlink()
    back = _within(1.5, talk, _CHANGE, None)
    print(f"in force after {took:.2f} s, lifted after {back:.2f} s")


def test_a_changed_policy_governs_a_prepared_statement_and_an_open_transaction(service: Service, talk: Talk) -> None:
    talk.sql("prepare change as update orders set status = status where id = 1")
    assert talk.sql("execute change")["tag"] == "UPDATE 1"
    talk.sql("begin")
    document = service.config / "policy" / "freeze.yaml"
    document.write_text(_FREEZE, encoding="utf-8")
    try:
        _within(1.5, talk, "execute change", "42501")
        assert talk.sql("select 'in a failed transaction'")["error"] == "25P02"
        assert talk.sql("rollback")["status"] == "IDLE"
        assert talk.sql("execute change")["error"] == "42501"
    finally:
        document.unlink()
    _within(1.5, talk, "execute change", None)


@pytest.mark.parametrize("wrong", ["version: 1\nrules: [{id: x, tehn: allow}]\n", "version: 1\nrules: [", "version: 7\nrules: []\n"])
def test_a_wrong_document_is_refused_whole_and_the_last_good_policy_stays(wrong: str, service: Service, talk: Talk) -> None:
    [before] = service.sql("select count(*) as n from policies where outcome = 'refused'")
    document = service.config / "policy" / "broken.yaml"
    document.write_text(wrong, encoding="utf-8")
    try:
        wait_for(lambda: service.sql("select count(*) as n from policies where outcome = 'refused'") != [before], "the refusal's row")
        assert talk.sql(_CHANGE)["tag"] == "UPDATE 1"
        assert talk.sql("drop table customers")["error"] == "42501"
        [row] = service.sql("select documents, reason from policies where outcome = 'refused' order by time desc limit 1")
        assert "broken.yaml" in str(row)
    finally:
        document.unlink()


def test_an_empty_policy_folder_denies_everything(service: Service, talk: Talk) -> None:
    document = service.config / "policy" / "customer-data.yaml"
    document.unlink()
    try:
        _within(1.5, talk, "select 1", "42501")
    finally:
        document.write_text(example("customer-data"), encoding="utf-8")
    _within(1.5, talk, "select 1", None)


def test_a_revoked_identity_cuts_live_sessions_and_refuses_new_ones_until_it_is_restored(world: World, service: Service, talk: Talk) -> None:
    assert talk.sql("select 1")["rows"] == [[1]]
    running = talk.tell("sql", on="b", sql="select 1")
    talk.answer(running)  # not connected: an error, and the line is there
    talk.connect("b")
    asleep = talk.tell("sql", on="b", sql="select pg_sleep(60)")
    service.hostagent("identity", "revoke", "support-bot", "--reason", "an exercise")
    started = time.monotonic()
    try:
        cut = talk.answer(asleep, 30)
        assert cut["closed"] is True
        assert talk.sql("select 1")["closed"] is True
        assert time.monotonic() - started < 30
        assert "error" in talk.connect("c")
        again = service.launch(*environment(service), "true", timeout=60)
        assert again.returncode == 77, again.stderr
        wait_for(lambda: world.superuser_sql("select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%'") == "0", "the backend to go", 40)  # fmt: skip
    finally:
        service.hostagent("identity", "restore", "support-bot")
    wait_for(lambda: "connected" in talk.connect("d"), "the restored identity")
    assert talk.sql("select 1", on="d")["rows"] == [[1]]
    changes = service.wait_sql("select change, reason from identities where change = 'revoked'", 15)
    assert any("an exercise" in str(row["reason"]) for row in changes)


def test_who_is_no_launcher_cannot_launch(service: Service) -> None:
    refused = service.hostagent("run", "--workload", "support-bot", "--no-tty", "--", "id", user="dana", check=False)
    assert refused.returncode == 77
    assert "may not launch" in refused.stderr
    unknown = service.hostagent("run", "--workload", "nobody-knows", "--no-tty", "--", "id", check=False)
    assert unknown.returncode == 77
    assert unknown.stderr.replace("nobody-knows", "") == refused.stderr.replace("dana", "root").replace("support-bot", "")


def test_evidence_of_all_this_holds(world: World, service: Service) -> None:
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout
    assert service.sql("select * from unaccounted") == []
    assert world.sink_lines() == []
