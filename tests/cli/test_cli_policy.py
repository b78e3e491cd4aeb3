"""``hostagent policy``: what it prints and its exit status. The examples that we publish say what their tables expect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hostagent.cli.main import main

FOLDER = Path(__file__).parents[2] / "policy"
EXAMPLES = FOLDER / "examples"
ABOUT = ["--workload", "support-bot", "--target", "crm-db", "--label", "env=demo", "--database", "crm"]


def run(tmp_path: Path, *words: str) -> Result:
    """Run the command with a configuration of its own."""
    toml = tmp_path / "hostagent.toml"
    toml.write_text(f'[paths]\nconfig = "{tmp_path}"\n')
    return CliRunner().invoke(main, ["--config", str(toml), "policy", *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configured policy folder, holding the customer-data example."""
    configured = tmp_path / "policy"
    configured.mkdir()
    for name in ("customer-data.yaml", "customer-data.expected.yaml"):
        (configured / name).write_text((EXAMPLES / name).read_text())
    return configured


def test_every_example_says_what_its_table_expects(tmp_path: Path) -> None:
    result = run(tmp_path, "test", str(EXAMPLES), "--json")
    answer = json.loads(result.stdout)
    assert answer["wrong"] == []
    assert answer["cases"] > 50
    assert result.exit_code == 0


def test_every_example_has_a_table(tmp_path: Path) -> None:
    documents = {path.name for path in EXAMPLES.glob("*.yaml") if not path.name.endswith(".expected.yaml")}
    assert documents == {path.name.replace(".expected", "") for path in EXAMPLES.glob("*.expected.yaml")}


def test_check_says_that_the_published_policies_are_valid(tmp_path: Path) -> None:
    result = run(tmp_path, "check", str(FOLDER))
    assert (result.exit_code, "everything is denied" in result.stdout) == (0, True)
    result = run(tmp_path, "check", "--skip-groups", str(EXAMPLES))
    assert (result.exit_code, "valid" in result.stdout) == (0, True)


def test_check_uses_the_configured_folder_and_asks_for_the_approvers(tmp_path: Path, folder: Path) -> None:
    name = "no-such-group-here"
    text = (folder / "customer-data.yaml").read_text().replace("hostagent-approvers", name)
    (folder / "customer-data.yaml").write_text(text)
    result = run(tmp_path, "check")
    assert result.exit_code == 1
    assert f"the group {name} does not exist or has no member" in result.stdout
    answer = json.loads(run(tmp_path, "check", "--skip-groups", "--json").stdout)
    assert (answer["valid"], answer["documents"], len(answer["rules"])) == (True, ["customer-data.yaml"], 4)


def test_check_lists_every_problem_with_its_line(tmp_path: Path, folder: Path) -> None:
    (folder / "bad.yaml").write_text("version: 1\nrules:\n- {id: a, then: maybe}\n- {id: b, thn: deny}\n")
    result = run(tmp_path, "check", "--skip-groups")
    assert result.exit_code == 1
    places = [":".join(line.split(":")[:2]) for line in result.stdout.splitlines()]
    assert places == ["bad.yaml:3", "bad.yaml:4", "bad.yaml:4"]
    answer = json.loads(run(tmp_path, "check", "--skip-groups", "--json").stdout)
    assert (answer["valid"], len(answer["problems"])) == (False, 3)


def test_check_of_a_folder_that_is_not_there_could_not_be_asked(tmp_path: Path) -> None:
    assert run(tmp_path, "check", str(tmp_path / "absent")).exit_code == 2


def test_a_policy_that_does_not_say_what_is_expected_fails(tmp_path: Path, folder: Path) -> None:
    text = (folder / "customer-data.yaml").read_text().replace("[drop, truncate,", "[truncate,").replace("lock, ", "")
    (folder / "customer-data.yaml").write_text(text)
    result = run(tmp_path, "test")
    assert result.exit_code == 1
    assert "drop table customers: expected the rules nothing-destructive to match, but only none did" in result.stdout
    assert "select * from orders for update: expected allow, got deny: no rule allows lock" in result.stdout


def test_tables_that_are_missing_or_wrong_could_not_be_asked(tmp_path: Path, folder: Path) -> None:
    (folder / "customer-data.expected.yaml").write_text("cases: [{sql: a}]")
    assert run(tmp_path, "test").exit_code == 2
    (folder / "customer-data.expected.yaml").unlink()
    assert run(tmp_path, "test").exit_code == 2


def test_explain_says_the_decision_and_why_each_rule_matched_or_not(tmp_path: Path, folder: Path) -> None:
    result = run(tmp_path, "explain", *ABOUT, "delete from stale_carts")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "HOLD: this changes every row of a table",
        "hint: wait for a member of hostagent-approvers, or add a WHERE",
        "approvers: hostagent-approvers",
        "rules: whole-table-needs-a-human, customer-secrets",
        "masks: customers.card_number partial, customers.email, customers.phone, detectors",
        "",
        "delete (full): delete, delete-without-where",
        "  touches relation stale_carts (write)",
        "  customer-secrets (mask, customer-data.yaml:28): matches",
        "  nothing-destructive (deny, customer-data.yaml:21): no: what.effects names none of delete, delete-without-where",
        "  support-daily-work (allow, customer-data.yaml:5): no: what.effects does not cover delete-without-where",
        "  whole-table-needs-a-human (hold, customer-data.yaml:11): matches",
    ]


def test_explain_judges_connect_and_several_statements(tmp_path: Path, folder: Path) -> None:
    result = run(tmp_path, "explain", "--json", *ABOUT, "connect")
    assert (result.exit_code, json.loads(result.stdout)["decision"]) == (0, "allow")
    several = json.loads(run(tmp_path, "explain", "--json", *ABOUT, "select 1; drop table x").stdout)
    assert (several["decision"], [statement["verb"] for statement in several["statements"]]) == (
        "deny",
        ["select", "drop table"],
    )


def test_explain_knows_identity_parameters_context_and_time(tmp_path: Path, folder: Path) -> None:
    (folder / "customer-data.yaml").write_text(
        "version: 1\n"
        "context: [{attributes: [freeze], file: /nowhere, max_age: 5}]\n"
        "rules:\n"
        "- id: all\n"
        "  who: {issuer: i, subject: s, groups: g, purpose: p, claims: {tenant: t}}\n"
        "  what: {effects: [read]}\n"
        "  when: {hours: '10:00-11:00', context: {freeze: off}, cel: \"operation.parameters == ['7']\"}\n"
        "  then: allow\n"
    )
    words = ["--issuer=i", "--subject=s", "--group=g", "--purpose=p", "--claim=tenant=t", "--parameter=7"]
    words += ["--context=freeze=off", "--at=2026-03-04T10:30:00Z"]
    assert run(tmp_path, "explain", *ABOUT, *words, "select $1").exit_code == 0
    for index in range(len(words)):
        fewer = words[:index] + words[index + 1 :]
        if words[index].startswith("--at"):
            fewer.append("--at=2026-03-04T11:30:00Z")
        assert run(tmp_path, "explain", *ABOUT, *fewer, "select $1").exit_code == 1


@pytest.mark.parametrize("words", [["--label", "env"], ["--at", "yesterday"]])
def test_explain_of_a_wrong_question_could_not_be_asked(tmp_path: Path, folder: Path, words: list[str]) -> None:
    assert run(tmp_path, "explain", *ABOUT, *words, "select 1").exit_code == 2
    assert run(tmp_path, "explain", *ABOUT, "-- only a comment").exit_code == 2


def test_schema_prints_the_published_schema(tmp_path: Path) -> None:
    assert json.loads(run(tmp_path, "schema").stdout) == json.loads((FOLDER / "schema.json").read_text())


def test_explain_takes_an_http_request(tmp_path: Path) -> None:
    about = ["--folder", str(EXAMPLES), "--workload", "triage-bot", "--target", "tracker", "--at", "2026-03-04T12:00:00Z"]
    about += ["--context", "change_freeze=false"]
    url = "https://tracker.internal/api/projects/crm/issues/7"
    answer = json.loads(run(tmp_path, "explain", "--json", *about, f"DELETE {url}").stdout)
    assert (answer["decision"], answer["rules"][0]) == ("hold", "tracker-deletion-needs-a-human")
    assert answer["statements"][0]["objects"] == ["url tracker.internal/api/projects/crm/issues/7 (write)"]
    words = ["--header", "content-type=application/json", f"POST {url}"]
    assert "tracker-comment-and-close" in json.loads(run(tmp_path, "explain", "--json", *about, *words).stdout)["rules"]
    refused = run(tmp_path, "explain", *about, "GET https://tracker.internal/a/%252e")
    assert (refused.exit_code, "percent-encoded twice" in refused.output) == (2, True)
