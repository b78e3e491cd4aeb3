"""``hostagent policy``: is a policy valid, does it say what is expected, and why does it say it.

Exit status of every command: 0 good (valid, as expected, allowed), 1 not good, 2 the question could not be asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hostagent.model.operation import Operation
    from hostagent.policy import Finding, Policy
    from hostagent.policy.expected import Case, Outcome

_GOOD, _NOT_GOOD, _NOT_ASKED = 0, 1, 2

_FOLDER = click.argument("folder", required=False, type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_GROUPS = click.option("--skip-groups", is_flag=True, help="Do not ask this host whether approver groups have members.")


@click.group()
def policy() -> None:
    """Check, test and explain policy."""


@policy.command("check")
@_FOLDER
@_JSON
@_GROUPS
@click.pass_context
def check_command(ctx: click.Context, folder: Path | None, as_json: bool, skip_groups: bool) -> None:
    """Say whether the documents in FOLDER (default: the configured one) would be loaded."""
    from hostagent.model.errors import DocumentError

    folder = _folder(ctx, folder)
    documents = _read(ctx, folder)
    try:
        loaded = _load(documents, check_groups=not skip_groups)
    except DocumentError as error:
        if as_json:
            click.echo(json.dumps({"valid": False, "problems": str(error).splitlines()}, indent=2))
        else:
            click.echo(str(error))
            click.echo(f"{folder}: refused; a running service keeps the policy it has", err=True)
        ctx.exit(_NOT_GOOD)
    if as_json:
        rules = [{"id": rule.id, "then": rule.action.value, "origin": rule.origin} for rule in loaded.rules]
        answer = {"valid": True, "hash": loaded.hash, "documents": sorted(documents), "rules": rules}
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{folder}: valid; {len(documents)} documents, {len(loaded.rules)} rules, hash {loaded.hash[:16]}")
    if not any(rule.action.value == "allow" for rule in loaded.rules):
        click.echo("no rule allows anything: everything is denied")


@policy.command("test")
@_FOLDER
@_JSON
@click.pass_context
def test_command(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Run the tables of expected verdicts (*.expected.yaml) in FOLDER (default: the configured one)."""
    from hostagent.model.errors import DocumentError

    folder = _folder(ctx, folder)
    tables = sorted(folder.glob("*.expected.yaml"))
    if not tables:
        click.echo(f"{folder}: no *.expected.yaml here", err=True)
        ctx.exit(_NOT_ASKED)
    outcomes: list[Outcome] = []
    for path in tables:
        try:
            outcomes.extend(_run_table(path))
        except (DocumentError, OSError, ValueError) as error:
            click.echo(str(error), err=True)
            ctx.exit(_NOT_ASKED)
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    if as_json:
        click.echo(json.dumps({"cases": len(outcomes), "wrong": [_outcome(item) for item in wrong]}, indent=2))
    else:
        for outcome in wrong:
            click.echo(f"{outcome.case.origin}: {outcome.case.name}: {outcome.wrong}")
        click.echo(f"{len(outcomes) - len(wrong)} of {len(outcomes)} verdicts as expected, in {len(tables)} tables")
    ctx.exit(_NOT_GOOD if wrong else _GOOD)


@policy.command("explain")
@click.option("--folder", type=click.Path(path_type=Path), help="Documents. [default: the configured folder]")
@click.option("--workload", required=True, help="Name of the workload.")
@click.option(
    "--target", "target_name", required=True, help="Name of the target; its document is used if there is one."
)
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label of the target, besides its document's.")
@click.option("--database", default="", help="Database of the session.")
@click.option("--user", default="", help="User name the client asks for.")
@click.option("--issuer", default="", help="Issuer of the identity.")
@click.option("--subject", default="", help="Subject of the identity.")
@click.option("--group", multiple=True, help="Group of the identity.")
@click.option("--purpose", default="", help="Purpose of the identity.")
@click.option("--claim", multiple=True, metavar="KEY=VALUE", help="Claim of the identity.")
@click.option("--header", multiple=True, metavar="NAME=VALUE", help="Header field of the request.")
@click.option("--body", default="", help="Body of the request; a header says of what type.")
@click.option("--parameter", multiple=True, help="Bind value, in order.")
@click.option("--context", "context_values", multiple=True, metavar="KEY=VALUE", help="Context attribute.")
@click.option("--at", metavar="TIME", help="When, as 2026-03-04T10:00:00Z. [default: now]")
@_JSON
@click.argument("sql")
@click.pass_context
def explain_command(ctx: click.Context, /, sql: str, as_json: bool, **about: object) -> None:
    """Say what policy says to SQL (or to the word "connect"), and for every rule why it matches or not.

    In place of SQL an HTTP request can be given: "GET https://api.example.com/v1/items?limit=10".
    """
    from hostagent.model.errors import DocumentError

    try:
        answer = _explain(ctx, sql, about)
    except (DocumentError, OSError, ValueError) as error:
        click.echo(str(error), err=True)
        ctx.exit(_NOT_ASKED)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        _print_explanation(answer)
    ctx.exit(_GOOD if answer["decision"] == "allow" else _NOT_GOOD)


@policy.command("schema")
def schema_command() -> None:
    """Print the JSON schema of policy documents, for editors."""
    from hostagent.policy import schema

    click.echo(json.dumps(schema(), indent=2, sort_keys=True))


def _folder(ctx: click.Context, folder: Path | None) -> Path:
    from hostagent.daemon.configfile import load_config

    return folder or Path(load_config(ctx.obj).policy)


def _read(ctx: click.Context, folder: Path) -> dict[str, str]:
    from hostagent.model.errors import DocumentError
    from hostagent.proxy.context import read_documents

    try:
        return read_documents(folder, trusted=False)
    except DocumentError as error:
        click.echo(str(error), err=True)
        ctx.exit(_NOT_ASKED)


def _load(documents: dict[str, str], *, check_groups: bool) -> Policy:
    import zoneinfo

    from hostagent.mask.detectors import DETECTORS
    from hostagent.policy import load
    from hostagent.proxy.context import unix_group_members

    members = unix_group_members if check_groups else None
    return load(documents, detectors=frozenset(DETECTORS), group_members=members, zone=zoneinfo.ZoneInfo)


def _run_table(path: Path) -> Sequence[Outcome]:
    from hostagent.policy.expected import parse_table, run_table

    own = path.name.replace(".expected.yaml", ".yaml")
    table = parse_table(path.name, path.read_text(encoding="utf-8"), own)
    documents = {name: (path.parent / name).read_text(encoding="utf-8") for name in table.documents}
    return run_table(_load(documents, check_groups=False), table, _case_operations)


def _case_operations(case: Case) -> list[Operation]:
    if case.request is not None:
        return [_request(case)]
    return _operations(case.sql or "", case.target.protocol, case.parameters, case.attributes)


def _request(case: Case) -> Operation:
    """Return the operation of a case's request, as its target's protocol has it."""
    from hostagent.inspectors.http.request import read_line

    fields, text = list(case.headers.items()), case.request or ""
    if case.target.protocol != "kubernetes":
        return read_line(text, fields, case.body)
    from hostagent.inspectors.kubernetes.line import read_line as read_kubernetes_line

    return read_kubernetes_line(text, fields, case.body)


def _operations(
    sql: str, protocol: str, parameters: tuple[str | None, ...], attributes: dict[str, str]
) -> list[Operation]:
    """Return the operations of ``sql``; ``connect`` is the start of a session."""
    from hostagent.model.operation import Effect, Operation
    from hostagent.sql import analyse

    if sql.strip().lower() == "connect":
        return [Operation(protocol, "connect", frozenset({Effect.CONNECT}), attributes=attributes)]
    found = [
        Operation(
            protocol,
            statement.verb,
            statement.effects,
            statement.resources,
            statement.completeness,
            statement.text,
            statement.redacted,
            statement.fingerprint,
            parameters,
            attributes,
        )
        for statement in analyse(sql).statements
    ]
    if not found:
        raise ValueError("there is no statement in the text")
    return found


def _explain(ctx: click.Context, sql: str, about: dict[str, object]) -> dict[str, object]:
    from hostagent.policy import combine
    from hostagent.policy.expected import describe, parse_table

    folder = _folder(ctx, about["folder"] if isinstance(about["folder"], Path) else None)
    loaded = _load(_read(ctx, folder), check_groups=False)
    case = parse_table("explain", json.dumps(_table(ctx, sql, about)), "").cases[0]
    judged = _case_operations(case)
    place = (case.identity, case.workload, case.target)
    verdict = combine([loaded.evaluate(*place, operation, case.context) for operation in judged])
    statements = [
        {
            "verb": operation.verb,
            "completeness": operation.completeness.value,
            "effects": sorted(operation.judged_effects),
            "objects": [f"{r.kind} {r.name} ({r.access})" for r in operation.resources],
            "rules": [_finding(finding) for finding in loaded.explain(*place, operation, case.context)],
        }
        for operation in judged
    ]
    return {
        "decision": verdict.decision.value,
        "rules": list(verdict.rules),
        "reason": verdict.reason,
        "hint": verdict.hint,
        "approvers": verdict.hold.approvers if verdict.hold else "",
        "masks": sorted({describe(obligation) for obligation in verdict.obligations}),
        "policy": verdict.policy,
        "statements": statements,
    }


def _table(ctx: click.Context, sql: str, about: dict[str, object]) -> dict[str, object]:
    """Return the one-line table of expected verdicts that asks the question of ``explain``."""
    import time
    from datetime import UTC, datetime

    protocol, labels = _declared_target(ctx, str(about["target_name"]))
    who = {key: about[key] for key in ("workload", "issuer", "subject", "purpose")}
    groups, parameters = about["group"], about["parameter"]
    where = {
        "target": about["target_name"],
        "protocol": protocol,
        "database": about["database"],
        "user": about["user"],
    }
    return {
        "cases": [
            {
                "who": {**who, "groups": list(_words(groups)), "claims": _pairs(about["claim"])},
                "where": {**where, "labels": {**labels, **_pairs(about["label"])}},
                **_question(sql, about["header"], str(about["body"])),
                "parameters": list(_words(parameters)),
                "context": _pairs(about["context_values"]),
                "at": about["at"] or datetime.fromtimestamp(time.time(), UTC).isoformat(),
                "expect": "allow",
            }
        ]
    }


def _question(text: str, headers: object, body: str) -> dict[str, object]:
    """SQL, or a request if it reads like one: no statement begins with a word and a URL."""
    if re.match(r"\s*\S+ https?://", text):
        return {"request": text, "headers": _pairs(headers), "body": body}
    return {"sql": text}


def _declared_target(ctx: click.Context, name: str) -> tuple[str, dict[str, str]]:
    from hostagent.daemon.configfile import load_config, load_targets

    found = load_targets(load_config(ctx.obj)).get(name)
    return (found.protocol, dict(found.labels)) if found else ("", {})


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, tuple) else ()


def _pairs(value: object) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in _words(value):
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word!r} is not KEY=VALUE")
        pairs[key] = text
    return pairs


def _finding(finding: Finding) -> dict[str, object]:
    return finding._asdict()


def _outcome(outcome: Outcome) -> dict[str, str]:
    case, verdict = outcome.case, outcome.verdict
    return {"case": case.name, "origin": case.origin, "got": verdict.decision.value, "wrong": outcome.wrong}


def _print_explanation(answer: dict[str, object]) -> None:
    click.echo(f"{str(answer['decision']).upper()}: {answer['reason']}")
    for label in ("hint", "approvers"):
        if answer[label]:
            click.echo(f"{label}: {answer[label]}")
    for label in ("rules", "masks"):
        words = answer[label]
        if isinstance(words, list) and words:
            click.echo(f"{label}: {', '.join(words)}")
    statements = answer["statements"]
    for statement in statements if isinstance(statements, list) else ():
        click.echo(f"\n{statement['verb']} ({statement['completeness']}): {', '.join(statement['effects'])}")
        for item in statement["objects"]:
            click.echo(f"  touches {item}")
        for finding in statement["rules"]:
            told = "matches" if finding["matched"] else f"no: {finding['why_not']}"
            click.echo(f"  {finding['rule']} ({finding['action']}, {finding['origin']}): {told}")
