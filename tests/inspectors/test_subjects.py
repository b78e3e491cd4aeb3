"""A statement means what its own text says, whatever similar statement was understood before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.inspectors.postgres.subjects import Subjects, template

_SELECT = b"select balance from accounts where number = "


@pytest.mark.parametrize(
    ("mild", "harsh"),
    [
        (b"delete from t where 0 < 0", b"delete from t where 0 < 1"),
        (b"delete from t where 0 <> 0", b"delete from t where 1 <> 2"),
        (b"update t set a = 0 where 0 > 0", b"update t set a = 5 where 1 > 0"),
        (b"delete from t where id = 0 or 0 > 0", b"delete from t where id = 7 or 1 > 0"),
    ],
)
def test_a_condition_of_zeros_is_no_pattern_for_one_that_is_always_true(mild: bytes, harsh: bytes) -> None:
    subjects = Subjects({})
    assert template(harsh) == mild
    before = [each.effects for each in subjects.of(mild).operations]
    after = [each.effects for each in subjects.of(harsh).operations]
    assert after == [each.effects for each in Subjects({}).of(harsh).operations]
    assert before != after


def test_texts_that_differ_in_a_number_only_share_what_they_mean() -> None:
    subjects = Subjects({})
    first = subjects.of(_SELECT + b"1")
    assert all(subjects.of(_SELECT + b"%d" % number) is first for number in (7, 10**17, 1))
    assert len(list(subjects.kept())) == 1


@given(st.lists(st.text("0123456789.aé'-+ /*(", max_size=22).map(str.encode), min_size=1, max_size=6))
def test_no_text_is_taken_for_another_that_means_something_else(ends: list[bytes]) -> None:
    subjects = Subjects({})
    for end in (b"1", b"2", *ends):
        text = _SELECT + end
        found = subjects.of(text)
        assert found.text == text or template(found.text) == template(text)
