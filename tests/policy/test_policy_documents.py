"""Documents: what is refused, with which words and line, and what the rule set's hash means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.documents.source import read
from hostagent.model.errors import DocumentError
from hostagent.model.operation import ALL_EFFECTS
from hostagent.model.verdict import MaskContent
from hostagent.policy import load, schema

FOLDER = Path(__file__).parents[2] / "policy"
HEAD = "version: 1\nrules:\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 2", "d.yaml:1: version: Input should be 1"),
        ("rules: []", "d.yaml:1: version: this key is required"),
        ("- a", "d.yaml:1: expected a mapping of keys to values"),
        ("version: 1\nrule: []", "d.yaml:2: rule: unknown key"),
        (HEAD + "- {id: a, then: deny, where: {tarqet: x}}", "d.yaml:3: rules.0.where.tarqet: unknown key"),
        (HEAD + "- id: a\n  then: deny\n  who:\n    workload:\n", "d.yaml:6: 'workload' has no value;"),
        (HEAD + "- id: a\n  then: deny\n  id: b", "d.yaml:5: the key 'id' is given twice"),
        (HEAD + "- id: a\n  then: on", "d.yaml:4: rules.0.then: Input should be"),
        (HEAD + "- {id: a, then: deny, what: {effects: [reed]}}", "d.yaml:3: rules.0.what.effects.0: Input should be"),
        (HEAD + "- {id: a, then: deny, what: {effects: []}}", "d.yaml:3: rules.0.what.effects: "),
        (HEAD + "- {id: a, then: deny, who: {groups: []}}", "d.yaml:3: rules.0.who.groups: "),
        (HEAD + "- {id: a b, then: deny}", "d.yaml:3: rules.0.id: "),
        (HEAD + "- {id: a, then: deny, what: {http: {body: {json: {a: b}}}}}", "d.yaml:3: rules.0.what.http.body.json.a"),
        (HEAD + "- {id: a, then: mask, mask: {json: '$.a[?x]'}}", "d.yaml:3: rules.0.mask.json"),
        (HEAD + "- {id: a, then: deny, what: {http: {body: {}}}}", "d.yaml:3: rules.0.what.http.body: give either json or form"),
        (HEAD + "- {then: deny}", "d.yaml:3: rules.0.id: this key is required"),
        (HEAD + "- {id: a, then: allow}", "d.yaml:3: rules.0: an allow rule must name the effects it allows"),
        (HEAD + "- {id: a, then: hold}", "d.yaml:3: rules.0: a rule holds and no approver is configured"),
        (HEAD + "- {id: a, then: deny, approvers: x}", "d.yaml:3: rules.0: approvers belongs to hold rules only"),
        (HEAD + "- {id: a, then: deny, timeout: 3}", "d.yaml:3: rules.0: timeout belongs to hold rules only"),
        (HEAD + "- {id: a, then: hold, approvers: x, timeout: '9'}", "d.yaml:3: rules.0.timeout: "),
        (HEAD + "- {id: a, then: hold, approvers: x, timeout: 0}", "d.yaml:3: rules.0.timeout: "),
        (
            HEAD + "- {id: a, then: mask, what: {objects: [t]}, mask: {detectors: all}}",
            "d.yaml:3: rules.0: a mask rule is about all that a session returns",
        ),
        (HEAD + "- {id: a, then: mask}", "d.yaml:3: rules.0: a mask rule must say what to mask"),
        (
            HEAD + "- {id: a, then: mask, mask: {transform: redact}}",
            "d.yaml:3: rules.0.mask: name columns, detectors, json or kubernetes",
        ),
        (HEAD + "- {id: a, then: deny, mask: {detectors: all}}", "d.yaml:3: rules.0: a deny rule has nothing to mask"),
        (
            HEAD + "- {id: a, then: mask, mask: {detectors: [cart]}}",
            "d.yaml:3: rule a: no detector 'cart'; there are card",
        ),
        (
            HEAD + "- {id: a, then: mask, mask: {detectors: all, transform: x}}",
            "d.yaml:3: rule a: no transform 'x'; there are",
        ),
        (
            HEAD + "- {id: a, then: mask, mask: {columns: [{table: t, column: c, transform: x}]}}",
            "d.yaml:3: rule a: no transform 'x'; there are",
        ),
        (HEAD + "- {id: a, then: deny}\n- {id: a, then: deny}", "d.yaml:4: rule a: the id is already used at d.yaml:3"),
        (
            HEAD + "- {id: a, then: deny, when: {hours: 9-5}}",
            "d.yaml:3: rules.0.when.hours: '9-5' is not a span of time",
        ),
        (
            HEAD + "- {id: a, then: deny, when: {hours: '09:00-09:00'}}",
            "d.yaml:3: rules.0.when.hours: 09:00-09:00 is empty",
        ),
        (HEAD + "- {id: a, then: deny, when: {days: monday}}", "d.yaml:3: rules.0.when.days: 'monday' is not a day"),
        (HEAD + "- {id: a, then: deny, when: {timezone: Mars}}", "d.yaml:3: rule a: there is no time zone 'Mars'"),
        (
            HEAD + "- id: a\n  then: deny\n  when: {context: {freeze: on}}",
            "d.yaml:5: rule a: no context provider declares the attribute freeze",
        ),
        ("version: 1\ncontext: [{attributes: [a]}]", "d.yaml:2: context.0: give exactly one of file and url"),
        ("version: 1\ncontext: [{attributes: [a], file: x}]", "d.yaml:2: context.0.file: "),
        (
            "version: 1\ncontext: [{attributes: [a], url: 'http://127.0.0.1/'}]",
            "d.yaml:2: context.0: a url needs max_age",
        ),
        (
            "version: 1\ncontext: [{attributes: [a], url: 'http://10.0.0.1/', max_age: 9}]",
            "d.yaml:2: context.0.url: ",
        ),
        (
            "version: 1\ncontext: [{attributes: [a], url: 'http://localhost.evil.example/', max_age: 9}]",
            "d.yaml:2: context.0.url: ",
        ),
        (
            "version: 1\ncontext:\n- {attributes: [a], file: /x}\n- {attributes: [a], file: /y}",
            "d.yaml:4: the context attribute a already comes from somewhere else",
        ),
        ("version: 1\nrules: [", "d.yaml:3: did not find"),
        ("version: 1\n---\nversion: 1", "d.yaml:2: "),
        (HEAD + "- &r {id: a, then: deny}\n- *r", "d.yaml:3: anchors and aliases are not used"),
        ("version: !!python/object:os.system 1", "d.yaml:1: the tag"),
        ("version: !x 1", "d.yaml:1: the tag !x is not used"),
        ("a: " + "[" * 40 + "]" * 40, "d.yaml:1: nested too deeply"),
        ("a: " + "[" * 100_000, "d.yaml:1: "),
        ("? [a]\n: b", "d.yaml:1: a key must be a word"),
        ("a: " + "x" * 1_100_000, "d.yaml:1: the document is larger than"),
        ("a: \x01", "d.yaml:1: "),
    ],
)
def test_a_wrong_document_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        load({"d.yaml": text}, detectors=frozenset({"card"}))
    assert str(refused.value).startswith(problem)


EXAMPLE = (FOLDER / "examples" / "customer-data.yaml").read_text(encoding="utf-8")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["read", "deny", "all"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "then", "who", "what", "when", "mask", "effects", "cel", "hours", "columns", "x"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(st.text() | st.lists(values, max_size=2).map(lambda rules: json.dumps({"version": 1, "rules": rules})))
def test_any_text_is_either_taken_or_refused_with_a_line(text: str) -> None:
    try:
        load({"d": text})
    except DocumentError as refused:
        assert all(line.startswith("d:") for line in str(refused).splitlines())


@given(st.data())
def test_a_document_that_lost_or_gained_a_piece_never_fails_otherwise(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(EXAMPLE)))
    stop = data.draw(st.integers(start, min(len(EXAMPLE), start + 60)))
    piece = data.draw(st.text(max_size=3) | st.sampled_from(["&a ", "*a", "!!x ", "- ", "{", "\t", "? "]))
    try:
        load({"d": EXAMPLE[:start] + piece + EXAMPLE[stop:]})
    except DocumentError as refused:
        assert str(refused)


def test_every_problem_of_every_document_is_listed() -> None:
    with pytest.raises(DocumentError) as refused:
        load({"b": HEAD + "- {id: x, then: no}", "a": HEAD + "- {id: x, then: deny}\n- {id: x, then: deny}", "c": "?"})
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["b", "c", "a"]


def test_a_rule_that_holds_for_a_group_without_members_is_refused() -> None:
    text = HEAD + "- {id: ask, then: hold, approvers: dba}"
    members = {"dba": frozenset({"alice"})}
    load({"d": text}, group_members=lambda group: members.get(group, frozenset()))
    with pytest.raises(DocumentError, match="no approver is configured: the group dba does not exist or has no member"):
        load({"d": text}, group_members=lambda _: frozenset())


def test_words_that_yaml_1_1_takes_for_something_else_stay_words() -> None:
    value = read("d", "a: [on, off, yes, no, 22:30, 2026-01-01, 0x1F, 017, '', ~x, .5, 1.0, -3, true, False]").value
    assert value == {
        "a": ["on", "off", "yes", "no", "22:30", "2026-01-01", "0x1F", "017", "", "~x", 0.5, 1.0, -3, True, False]
    }


def test_empty_text_is_an_empty_mapping() -> None:
    assert read("d", "# nothing\n").value == {}


def test_detectors_all_means_every_detector_there_is() -> None:
    text = HEAD + "- {id: m, then: mask, mask: {detectors: all}}"
    names = frozenset({"card", "iban"})
    assert load({"d": text}, detectors=names).rules[0].obligations == (MaskContent("m", names),)
    assert load({"d": text}).rules[0].obligations == (MaskContent("m", frozenset({"all"})),)


def test_the_hash_is_of_the_meaning_not_of_the_text() -> None:
    one = load({"a": HEAD + "- {id: x, then: deny, what: {effects: [drop, read]}}\n- {id: y, then: deny}"})
    two = load(
        {
            "b": "# comment\n" + HEAD + "- id: y\n  then: deny",
            "c": HEAD + "- id: x\n  what: {effects: [read, drop]}\n  then: deny",
        }
    )
    other = load({"a": HEAD + "- {id: x, then: deny, what: {effects: [drop]}}\n- {id: y, then: deny}"})
    assert one.hash == two.hash
    assert one.hash != other.hash
    assert len(one.hash) == 64


def test_a_hash_changes_with_every_part_of_a_rule() -> None:
    variants = [
        "then: deny",
        "then: deny, reason: r",
        "then: deny, hint: r",
        "then: deny, who: {workload: w}",
        "then: deny, who: {groups: w}",
        "then: deny, where: {database: w}",
        "then: deny, what: {objects: w}",
        "then: deny, what: {verbs: w}",
        "then: deny, when: {days: mon}",
        "then: deny, when: {cel: 'true'}",
        "then: hold, approvers: a",
        "then: hold, approvers: b",
        "then: hold, approvers: a, timeout: 3",
        "then: mask, mask: {detectors: [card]}",
        "then: mask, mask: {detectors: [card], transform: hash}",
    ]
    hashes = {load({"d": f"{HEAD}- {{id: x, {variant}}}"}).hash for variant in variants}
    assert len(hashes) == len(variants)


def test_the_published_schema_is_the_one_of_the_models() -> None:
    assert json.loads((FOLDER / "schema.json").read_text(encoding="utf-8")) == json.loads(json.dumps(schema()))


def test_the_schema_offers_no_empty_values() -> None:
    assert '"null"' not in json.dumps(schema())


def test_the_default_policy_has_no_rule() -> None:
    assert load({"default.yaml": (FOLDER / "default.yaml").read_text(encoding="utf-8")}).rules == ()


def test_allow_all_names_every_effect_there_is() -> None:
    (rule,) = load({"d": (FOLDER / "examples" / "allow-all.yaml").read_text(encoding="utf-8")}).rules
    assert rule.effects == ALL_EFFECTS
