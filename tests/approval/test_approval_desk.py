"""Every transition of a ticket, and everyone who may not cause it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hostagent.approval import ApprovalRefused, Approver, Desk
from hostagent.approval.desk import REMEMBERED
from hostagent.model.identity import Identity
from hostagent.model.operation import Effect, Operation
from hostagent.model.ticket import Answer, Ticket

NOW = 1_800_000_000.0
DELETE = Operation("postgres", "DELETE", frozenset({Effect.DELETE_ALL}), text="delete from customers")
TICKET = Ticket(
    ticket_id="3f2a11", flow_id="f1", workload="bot", launcher="lee", identity=Identity("https://i", "bot", NOW + 600), target="crm",
    database="crm", user="crm_app", operations=(DELETE,), digest="ab12" * 16, rule="hold-deletes", reason="bulk delete",
    approvers="dba", created_at=NOW, expires_at=NOW + 60,
)  # fmt: skip
DANA = Approver("dana", 1901, frozenset({"dana", "dba"}), governed=False)
KIM = Approver("kim", 1903, frozenset({"kim", "dba"}), governed=False)
LEE = Approver("lee", 1902, frozenset({"lee", "dba"}), governed=False)
ROOT = Approver("root", 0, frozenset({"root"}), governed=False)
STRANGER = Approver("sam", 1904, frozenset({"sam"}), governed=False)
GOVERNED = replace(DANA, governed=True)
NAMELESS = Approver("", 4711, frozenset({"dba"}), governed=False)


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.open(TICKET)
    return made


def refusal(
    desk: Desk, approver: Approver, granted: bool = True, now: float = NOW, ticket: str = "3f2a11", digest: str = ""
) -> str:
    before = desk.pending(now)
    with pytest.raises(ApprovalRefused) as caught:
        desk.answer(ticket, approver, granted, "", now, digest)
    assert desk.pending(now) == before, "a refused answer changes nothing"
    return str(caught.value)


def test_an_approver_grants(desk: Desk) -> None:
    assert desk.answer("3f2a11", DANA, True, "fine", NOW) == Answer("3f2a11", True, "dana", "fine")
    assert desk.pending(NOW) == ()


def test_an_approver_denies(desk: Desk) -> None:
    assert desk.answer("3f2a11", DANA, False, "no", NOW) == Answer("3f2a11", False, "dana", "no")
    assert desk.pending(NOW) == ()


@pytest.mark.parametrize(
    ("approver", "wanted"),
    [
        (LEE, "lee launched workload bot and cannot approve for it"),
        (GOVERNED, "a governed process has no part in approvals"),
        (STRANGER, "sam is not in group dba, which rule hold-deletes names for this"),
        (ROOT, "root is not in group dba, which rule hold-deletes names for this"),
        (NAMELESS, "uid 4711 has no account on this host, so an approval could not be put to a name"),
    ],
)
def test_who_may_not_grant(desk: Desk, approver: Approver, wanted: str) -> None:
    assert refusal(desk, approver) == wanted


@pytest.mark.parametrize("approver", [GOVERNED, STRANGER, ROOT])
def test_who_may_not_even_deny(desk: Desk, approver: Approver) -> None:
    refusal(desk, approver, granted=False)


def test_root_as_launcher_cannot_grant_even_in_the_group() -> None:
    desk = Desk()
    desk.open(replace(TICKET, launcher="root"))
    assert "root launched workload bot" in refusal(desk, replace(ROOT, groups=frozenset({"dba"})))


@pytest.mark.parametrize("approver", [LEE, NAMELESS])
def test_refusing_needs_no_second_person(desk: Desk, approver: Approver) -> None:
    assert desk.answer("3f2a11", approver, False, "", NOW).granted is False


def test_with_an_unknown_launcher_nobody_can_grant() -> None:
    desk = Desk()
    desk.open(replace(TICKET, launcher=""))
    assert "not known who launched" in refusal(desk, DANA)


def test_without_a_named_group_nobody_is_entitled() -> None:
    desk = Desk()
    desk.open(replace(TICKET, approvers=""))
    assert "is not in group" in refusal(desk, replace(DANA, groups=frozenset({""})))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_a_ticket_is_answered_once(desk: Desk, first: bool, second: bool) -> None:
    desk.answer("3f2a11", DANA, first, "", NOW)
    outcome = "approved" if first else "denied"
    for approver in (DANA, KIM):
        assert refusal(desk, approver, second) == f"ticket 3f2a11 was {outcome} by dana"
    assert desk.withdraw("3f2a11", "gone") is False
    assert desk.expire(NOW + 1000) == ()


def test_an_expired_ticket_cannot_be_granted_even_before_it_is_swept(desk: Desk) -> None:
    assert refusal(desk, DANA, now=NOW + 60) == "ticket 3f2a11 has expired"
    assert desk.pending(NOW + 60) == ()
    assert desk.expire(NOW + 59.9) == ()
    assert desk.expire(NOW + 60) == (Answer("3f2a11", False, "", "nobody answered in time"),)
    assert desk.expire(NOW + 60) == ()
    assert refusal(desk, DANA) == "ticket 3f2a11 was expired"


def test_a_withdrawn_ticket_cannot_be_granted(desk: Desk) -> None:
    assert desk.withdraw("3f2a11", "the client left") is True
    assert desk.withdraw("3f2a11", "again") is False
    assert refusal(desk, DANA) == "ticket 3f2a11 was withdrawn: the client left"
    assert desk.expire(NOW + 1000) == ()


def test_an_unknown_ticket_cannot_be_answered(desk: Desk) -> None:
    assert refusal(desk, DANA, ticket="ffff") == "there is no ticket 'ffff'"
    assert refusal(desk, DANA, ticket="") == "there is no ticket ''"
    assert desk.withdraw("ffff", "x") is False


def test_the_same_id_cannot_come_twice(desk: Desk) -> None:
    with pytest.raises(ApprovalRefused):
        desk.open(TICKET)
    desk.answer("3f2a11", DANA, False, "", NOW)
    with pytest.raises(ApprovalRefused):
        desk.open(TICKET)


def test_a_digest_that_is_named_must_be_the_tickets(desk: Desk) -> None:
    assert "not that of this ticket" in refusal(desk, DANA, digest="ab12ab13")
    assert "at least 8 hexadecimal digits" in refusal(desk, DANA, digest="ab1")
    assert "at least 8 hexadecimal digits" in refusal(desk, DANA, digest="ab12ab1*")
    assert "not that of this ticket" in refusal(desk, DANA, digest=TICKET.digest + "00")
    assert desk.answer("3f2a11", DANA, True, "", NOW, digest="AB12AB12").granted


def test_a_ticket_is_found_by_the_beginning_of_its_id_if_that_is_unique(desk: Desk) -> None:
    other = replace(TICKET, ticket_id="3f9900", created_at=NOW + 1)
    foreign = replace(TICKET, ticket_id="3f2b00", approvers="network", created_at=NOW + 2)
    desk.open(other)
    desk.open(foreign)
    assert desk.find("3f2", DANA, NOW) == TICKET
    assert refusal(desk, DANA, ticket="3f") == "several tickets begin '3f'"
    assert "is not in group network" in refusal(desk, DANA, ticket="3f2b00")
    assert desk.pending(NOW) == (TICKET, other, foreign)
    assert desk.pending(NOW, DANA) == (TICKET, other)
    assert desk.pending(NOW, STRANGER) == desk.pending(NOW, GOVERNED) == ()
    assert desk.next_expiry() == NOW + 60


def test_of_ended_tickets_nothing_but_the_outcome_is_kept() -> None:
    desk = Desk()
    for number in range(REMEMBERED + 5):
        desk.open(replace(TICKET, ticket_id=f"t{number}"))
        desk.answer(f"t{number}", DANA, False, "", NOW)
    assert len(desk._ended) == REMEMBERED
    assert set(desk._ended.values()) == {"denied by dana"}
    assert refusal(desk, DANA, ticket="t0") == "there is no ticket 't0'"


PEOPLE = st.sampled_from([DANA, KIM, LEE, ROOT, STRANGER, GOVERNED, NAMELESS])
IDS = st.sampled_from(["t1", "t2", "t3"])


class DeskMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: each ticket ends at most once, and only the entitled can grant it."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.now = NOW
        self.opened: dict[str, Ticket] = {}
        self.ends: dict[str, int] = {}

    @rule(ticket_id=IDS, launcher=st.sampled_from(["lee", "dana", ""]), lasts=st.integers(1, 20))
    def open(self, ticket_id: str, launcher: str, lasts: int) -> None:
        ticket = replace(
            TICKET, ticket_id=ticket_id, launcher=launcher, created_at=self.now, expires_at=self.now + lasts
        )
        try:
            self.desk.open(ticket)
        except ApprovalRefused:
            assert ticket_id in self.opened
        else:
            assert ticket_id not in self.opened
            self.opened[ticket_id] = ticket

    @rule(ticket_id=IDS, person=PEOPLE, granted=st.booleans(), digest=st.sampled_from(["", TICKET.digest, "00000000"]))
    def answer(self, ticket_id: str, person: Approver, granted: bool, digest: str) -> None:
        try:
            answer = self.desk.answer(ticket_id, person, granted, "", self.now, digest)
        except ApprovalRefused:
            return
        ticket = self.opened[ticket_id]
        self.ends[ticket_id] = self.ends.get(ticket_id, 0) + 1
        assert not person.governed
        assert "dba" in person.groups
        assert self.now < ticket.expires_at
        assert digest != "00000000"
        if answer.granted:
            assert person.user not in ("", ticket.launcher)
            assert ticket.launcher

    @rule(ticket_id=IDS)
    def withdraw(self, ticket_id: str) -> None:
        if self.desk.withdraw(ticket_id, "x"):
            self.ends[ticket_id] = self.ends.get(ticket_id, 0) + 1

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for answer in self.desk.expire(self.now):
            assert not answer.granted
            self.ends[answer.ticket_id] = self.ends.get(answer.ticket_id, 0) + 1

    @invariant()
    def each_ends_at_most_once_and_is_pending_otherwise(self) -> None:
        assert all(count == 1 for count in self.ends.values())
        waiting = {ticket.ticket_id for ticket in self.desk.pending(self.now)}
        assert waiting == self.opened.keys() - self.ends.keys()


TestDeskMachine = DeskMachine.TestCase
