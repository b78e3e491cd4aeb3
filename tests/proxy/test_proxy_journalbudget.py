"""How much of the journal a workload may fill: counted to the byte, refused, stopped, and free again with time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hostagent.model.event import Event, EventKind
from hostagent.model.rows import StatementRow
from hostagent.model.verdict import Decision
from hostagent.policy import PolicyContext
from hostagent.policy.loader import empty
from hostagent.proxy.journalbudget import JournalBudget, QuotaError, Refusing, Step

MIB = 1 << 20


class Written:
    """A journal in which every event takes ``each`` bytes."""

    def __init__(self, each: int) -> None:
        self.written = 0
        self.each = each
        self.events: list[Event] = []

    def append(self, events: Sequence[Event]) -> None:
        self.events += events
        self.written += self.each * len(events)


def event(workload: str, kind: EventKind = EventKind.STATEMENT, text: str = "") -> Event:
    return Event(kind, 1, "f", workload, {"text": text})


def make(each: int, *, budget: int = 16, kept: int = 64) -> tuple[Written, JournalBudget, list[tuple[str, Step]]]:
    journal, told = Written(each), list[tuple[str, Step]]()
    made = JournalBudget(journal, budget, kept)
    made.changed = lambda workload, step: told.append((workload, step))
    return journal, made, told


def test_a_workload_is_refused_beyond_its_budget_then_stopped_and_others_go_on() -> None:
    journal, budget, told = make(MIB // 2)
    for _ in range(32):
        budget.append([event("bad")])
    assert (told, budget.reason("bad")) == ([], "")
    budget.append([event("bad")])
    assert told == [("bad", Step.REFUSED)]
    assert "16 MiB an hour" in budget.reason("bad")
    budget.append([event("bad"), event("bad")])
    assert told[-1] == ("bad", Step.STOPPED)
    before = journal.written
    for kind in (EventKind.STATEMENT, EventKind.CONNECTION, EventKind.LOGIN, EventKind.HOLD):
        with pytest.raises(QuotaError):
            budget.append([event("good"), event("bad", kind)])
    assert journal.written == before
    budget.append([event("bad", EventKind.CLOSE)])  # how things end is always told
    budget.append([event("good")])
    assert (budget.step("good"), len(journal.events)) == (Step.FREE, 37)


def test_what_was_used_comes_back_with_time_and_not_to_and_fro() -> None:
    _, budget, told = make(MIB)
    for _ in range(18):
        budget.append([event("bad")])
    assert [step for _, step in told] == [Step.REFUSED, Step.STOPPED]
    budget.passed(360, 1 << 40)  # 1.6 of 18 MiB: below what stops, but it stays stopped
    assert budget.step("bad") is Step.STOPPED
    budget.passed(360, 1 << 40)
    assert (budget.step("bad"), told[-1]) == (Step.FREE, ("bad", Step.FREE))
    budget.append([event("bad")])


def test_while_the_disk_is_nearly_full_those_that_write_little_go_on() -> None:
    _, budget, told = make(MIB)
    for _ in range(8):
        budget.append([event("much")])
    budget.append([event("little")])
    budget.passed(0, 63 * MIB)
    assert told == [("much", Step.STOPPED)]
    assert "less than 64 MiB are free" in budget.reason("much")
    budget.append([event("little")])
    assert budget.report() == {"budget_mib": 4, "tight": True, "workloads": {"much": {"mib": 8.0, "step": "stopped"}, "little": {"mib": 2.0, "step": "free"}}}
    budget.passed(0, 65 * MIB)
    assert told[-1] == ("much", Step.FREE)


def test_a_new_budget_counts_at_once() -> None:
    _, budget, told = make(MIB)
    for _ in range(8):
        budget.append([event("bad")])
    budget.configure(4, 0)
    budget.passed(0, 0)
    assert told == [("bad", Step.STOPPED)]


def test_of_an_append_for_several_each_is_counted_about_what_is_its_own() -> None:
    _, budget, _ = make(MIB)
    rows = [Event(EventKind.STATEMENT, 1, "f", name, {}, StatementRow(1, "f", 1, "d", 0, values)) for name, values in (("a", ()), ("b", ("x" * 10_000,)))]
    budget.append([*rows, event(""), event("a", text="y" * 30_000)])
    used = {name: line["mib"] for name, line in budget.report()["workloads"].items()}  # type: ignore[attr-defined]
    assert used == {"a": 3.0, "b": 1.0}


def test_what_is_written_for_the_first_time_of_a_statement_that_may_come_again_is_its_own_workloads() -> None:
    _, budget, _ = make(MIB)
    long = Event(EventKind.STATEMENT, 1, "f", "a", {"text": "x" * 100_000}, StatementRow(1, "f", 1, "d", 0, ()))
    again = Event(EventKind.STATEMENT, 1, "f", "b", {"text": "x" * 100_000}, StatementRow(1, "f", 1, "d", 0, ()))
    again.row.like = 7  # type: ignore[union-attr]  # as the chain writes what stands in the segment already
    budget.append([long, again])
    used = {name: line["mib"] for name, line in budget.report()["workloads"].items()}  # type: ignore[attr-defined]
    assert used == {"a": 2.0, "b": 0.0}


def test_what_a_refused_workload_asks_is_denied_with_the_reason_and_the_hash_of_the_policy_in_force() -> None:
    policy = empty()
    source = Refusing(lambda: policy, "its budget is used up", lambda: PolicyContext(1.0))
    verdict = source.current.evaluate(None, "", None, None, None)  # type: ignore[arg-type]
    assert (verdict.decision, verdict.reason, verdict.policy) == (Decision.DENY, "its budget is used up", policy.hash)
    assert "journal_per_workload_mib" in verdict.hint
