"""The rules, line by line: what nft is given for a known host."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.enforcer.rules import iptables, ruleset

GOLDEN = Path(__file__).parent / "golden"
LEAVES = [
    ruleset.SharedLeaf("governed.slice/bot-1", 1, 700, 701),
    ruleset.SharedLeaf("governed.slice/bot-2", 2, 702, 703),
]
CASES = {
    "isolated": ruleset.isolated("hostagent", 901, 902, [5432, 3306], 5),
    "shared": ruleset.shared("hostagent", "governed.slice", 1, LEAVES, [5432], 5),
    "shared-empty": ruleset.shared("hostagent", "governed.slice", 1, [], [], 5),
}

XTABLES = {family.program: iptables.isolated(family, 901, 902, [5432, 3306], 5) for family in iptables.FAMILIES} | {
    f"{family.program}-host": iptables.host(family, "hostagent-fence", "governed.slice", 5, present)
    for family, present in zip(
        iptables.FAMILIES,
        (["-P OUTPUT ACCEPT"], ["-P OUTPUT ACCEPT", f"-A {iptables.jump('hostagent-fence', 'governed.slice')}", "-A OUTPUT -j others"]),
        strict=True,
    )
}


@pytest.mark.parametrize("name", sorted(XTABLES))
def test_the_rules_for_iptables_are_the_ones_that_were_read_and_agreed(name: str) -> None:
    assert XTABLES[name] == (GOLDEN / f"{name}.rules").read_text()


@pytest.mark.parametrize(
    ("before", "stands"),
    [
        ([], True),
        ([f"-A {iptables.jump('other-fence', 'other.slice')}"], True),
        (["-A OUTPUT -j others"], False),
        ([f"-A {iptables.jump('theirs', 'outer.slice')}"], False),
        (['-A OUTPUT -m cgroup ! --path "other.slice" -j theirs'], False),
        (['-A OUTPUT -m cgroup --path "other.slice" -p tcp -j theirs', "-A OUTPUT -j others"], False),
    ],
)
def test_on_iptables_only_what_cannot_meet_the_slice_stands_before_its_fence(before: list[str], stands: bool) -> None:
    """Two services on one host would otherwise push each other out of the first place without an end."""
    slice_path = "outer.slice/governed.slice"
    own = f"-A {iptables.jump('hostagent-fence', slice_path)}"
    assert iptables.in_force(["-P OUTPUT ACCEPT", *before, own], "hostagent-fence", slice_path) is stands
    assert not iptables.in_force(["-P OUTPUT ACCEPT", *before], "hostagent-fence", slice_path)


def test_on_iptables_nothing_gets_out_before_anything_is_redirected_and_a_reload_changes_the_redirection_alone() -> None:
    for family in iptables.FAMILIES:
        before, after = (iptables.isolated(family, 901, 902, ports, 5) for ports in ([], [3306]))
        assert before.index("*filter") < before.index("*nat")
        assert before.partition("*nat")[0] == after.partition("*nat")[0]
        assert ":OUTPUT DROP" in before.partition("*nat")[0]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_rules_are_the_ones_that_were_read_and_agreed(name: str) -> None:
    assert CASES[name] == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_reload_never_deletes_or_declares_the_table(name: str) -> None:
    lines = CASES[name].splitlines()
    assert lines[0] == "flush table inet hostagent"
    assert [line for line in lines if line.startswith(("delete", "add table", "destroy", "table"))] == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_user_and_no_foreign_mark_is_exempt(name: str) -> None:
    assert "skuid" not in CASES[name]
    accepts = [line for line in CASES[name].splitlines() if line.endswith(" accept") and "mark" in line]
    assert [line for line in accepts if "@own_mark" not in line and "@leaf_mark" not in line and " guard " not in line] == []


def test_a_rate_limit_only_ever_limits_the_record_never_the_refusal() -> None:
    for text in CASES.values():
        limited = [line for line in text.splitlines() if "limit rate" in line]
        assert [line for line in limited if not line.endswith("snaplen 128")] == []


def test_levels_follow_the_slices_depth() -> None:
    text = ruleset.shared("hostagent", "outer.slice/governed.slice", 2, LEAVES, [], 5)
    assert 'socket cgroupv2 level 2 "outer.slice/governed.slice" jump' in text
    assert "socket cgroupv2 level 3 map @tcp_port" in text
