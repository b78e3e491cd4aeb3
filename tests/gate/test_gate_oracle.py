"""A denial leaves the session exactly where PostgreSQL's own error leaves it: the server itself is the oracle.

Each script runs twice: directly, with a statement that really fails (``FAIL``), and through the gate, with a statement in the
same place that policy denies (``DENY``). Message types, tags, rows and transaction states must be the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hostagent.wire.postgres.backend import parse_fields
from tests.gate.gate_rim import Relay, Rules, deny_words, make_context
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

Script = list[tuple[bytes, int]]
FLUSH = b"H\0\0\0\x04"

# Fails in the raw parser, as early as a denial does.
FAIL = "secret selec"
DENY = "select 'secret'"


def _scripts(bad: str) -> dict[str, Script]:
    ok = "select 1"
    return {
        "simple, outside": [(query(bad), 1), (query(ok), 1)],
        "simple, in a transaction": [
            (query("begin"), 1),
            (query(ok), 1),
            (query(bad), 1),
            (query(ok), 1),
            (query(bad), 1),
            (query("rollback"), 1),
            (query(ok), 1),
        ],
        "simple, savepoint": [
            (query("begin"), 1),
            (query("savepoint s"), 1),
            (query(bad), 1),
            (query("rollback to s"), 1),
            (query(ok), 1),
            (query("commit"), 1),
        ],
        "simple, several statements": [(query(f"select 1; {bad}; select 2"), 1), (query(ok), 1)],
        "simple, several in a transaction": [
            (query("begin"), 1),
            (query(f"select 1; {bad}"), 1),
            (query("commit"), 1),
        ],
        "simple, pipelined": [(query(ok) + query(bad) + query(ok), 3)],
        "extended, outside": [(run(bad) + SYNC, 1), (run(ok) + SYNC, 1)],
        "extended, in a transaction": [
            (run("begin") + SYNC, 1),
            (run(bad) + SYNC, 1),
            (run(ok) + SYNC, 1),
            (run("rollback") + SYNC, 1),
        ],
        "extended, in the middle of a pipeline": [
            (run(ok) + run(bad) + run(ok) + run(bad) + SYNC + run("select 2") + SYNC, 2),
            (run(ok) + SYNC, 1),
        ],
        "extended, two broken segments": [(run(bad) + SYNC + run(ok) + run(bad) + SYNC + run(ok) + SYNC, 3)],
        "extended, undoes what came before it in its segment": [
            (run("create temporary table gone (a int)") + run(bad) + SYNC, 1),
            (query("select count(*) from pg_class where relname = 'gone' and pg_table_is_visible(oid)"), 1),
        ],
        "extended, the unnamed statement survives": [
            (parse(ok) + SYNC, 1),
            (parse(bad, "other") + SYNC, 1),
            (query("begin"), 1),
            (query("commit"), 1),
        ],
        "extended, named statements before and after": [
            (parse("select 7", "seven") + SYNC, 1),
            (bind("seven") + execute() + parse(bad, "bad") + bind("bad") + execute() + SYNC, 1),
            (bind("seven") + describe("P") + execute() + SYNC, 1),
            (close("S", "seven") + close("S", "bad") + SYNC, 1),
        ],
        "extended, query after an error without sync is skipped": [(run(bad) + query(ok) + SYNC + query(ok), 2)],
        "extended, flush after an error": [(run(ok) + FLUSH + run(bad) + FLUSH + SYNC, 1)],
        "extended, an error of the server before the denial": [
            (run("select 1/0") + run(bad) + SYNC + run(bad) + SYNC, 2),
        ],
        "extended, portals with limits": [
            (
                parse("select generate_series(1, 5)")
                + bind()
                + execute("", 2)
                + execute("", 2)
                + run(bad)
                + execute("", 2)
                + SYNC,
                1,
            ),
        ],
    }


def _play(port: int, script: Script) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    with RawClient(port) as client:
        for data, times in script:
            found += client.ask(data, times)
    return [(kind, b"" if kind == "E" else body) for kind, body in found if kind != "N"]


@pytest.mark.parametrize("chunk", [65536, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", list(_scripts(DENY)))
def test_denial_equals_an_error_of_the_server(postgres_port: int, name: str, chunk: int) -> None:
    direct = _play(postgres_port, _scripts(FAIL)[name])
    rules = Rules(deny_words("secret"))
    with Relay(postgres_port, lambda: make_context(rules), chunk) as relay:
        governed = _play(relay.port, _scripts(DENY)[name])
    assert governed == direct
    assert any(event.fields.get("decision") == "deny" for event in relay.events())


@pytest.mark.parametrize("chunk", [65536, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", list(_scripts(DENY)))
def test_allowed_session_is_byte_for_byte_the_servers(postgres_port: int, name: str, chunk: int) -> None:
    rules = Rules(deny_words("nothing at all"))
    with Relay(postgres_port, lambda: make_context(rules), chunk) as relay, RawClient(relay.port) as client:
        governed = [client.ask(data, times) for data, times in _scripts(DENY)[name]]
    with RawClient(postgres_port) as client:
        direct = [client.ask(data, times) for data, times in _scripts(DENY)[name]]
    assert governed == direct


def test_denied_execute_after_a_hot_reload_equals_a_failing_execute(postgres_port: int) -> None:
    failing = "select 1 / (random() * 0)::int"
    fine = "select 1 / (random() * 0 + 1)::int"

    def play(port: int, text: str, between: Callable[[], None]) -> list[tuple[str, bytes]]:
        with RawClient(port) as client:
            found = client.ask(query("begin")) + client.ask(parse(text, "s") + bind("s", "p") + SYNC)
            between()
            found += client.ask(run("select 5") + execute("p") + run("select 6") + SYNC)
            found += client.ask(query("select 1")) + client.ask(query("rollback"))
        return [(kind, b"" if kind == "E" else body) for kind, body in found]

    direct = play(postgres_port, failing, lambda: None)
    context = make_context(Rules(deny_words("nothing")))

    def reload() -> None:
        context.policy.current = Rules(deny_words("random"), hash="1" * 64)  # type: ignore[assignment, misc]

    with Relay(postgres_port, lambda: context) as relay:
        governed = play(relay.port, fine, reload)
    assert governed == direct


def test_denial_names_rule_reason_and_next_step(postgres_port: int) -> None:
    with (
        Relay(postgres_port, lambda: make_context(Rules(deny_words("secret")))) as relay,
        RawClient(relay.port) as client,
    ):
        answer = client.ask(query("select 'secret'"))
    assert [kind for kind, _ in answer] == ["E", "Z"]
    fields = parse_fields(answer[0][1])
    assert fields == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "42501",
        "M": "hostagent: denied by rule deny-rule: test says deny",
        "D": "Matching rules: deny-rule; policy 000000000000.",
        "H": "Ask whoever owns the policy for a rule that allows this; the session goes on.",
    }
