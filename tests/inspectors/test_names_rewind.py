"""Names of statements and portals after failures: as if what failed had never been sent, whatever was sent behind it."""

from __future__ import annotations

from collections import deque
from unittest.mock import Mock

from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.inspectors.postgres.conversation import Conversation, Entry, Kind
from hostagent.inspectors.postgres.names import Change
from hostagent.inspectors.postgres.subjects import Subjects

_SENT = st.lists(st.lists(st.tuples(st.sampled_from([b"", b"a", b"b"]), st.booleans()), max_size=3), min_size=1, max_size=7)


@settings(max_examples=300, deadline=None)
@given(sent=_SENT, skipped=st.lists(st.integers(0, 2), min_size=7, max_size=7), failing=st.lists(st.booleans(), min_size=7, max_size=7))
def test_names_are_as_if_what_failed_had_never_been_sent(sent: list[list[tuple[bytes, bool]]], skipped: list[int], failing: list[bool]) -> None:
    talk = Conversation(Mock(), Subjects({}))
    spaces = talk.names.statements
    made: list[list[tuple[bytes, object]]] = []
    for undo in sent:
        entry = Entry(Kind.PARSE, 0)
        values = [(name, object() if value else None) for name, value in undo]
        entry.undo = [Change(spaces, name, value) for name, value in values]
        for change in entry.undo:
            change.make()
        talk.queue.append(entry)
        made.append(values)
    left = deque(made)
    stands: dict[bytes, object] = {}
    for gone, fails in zip(skipped, failing, strict=True):
        if not talk.queue:
            break
        entry, values = talk.queue.popleft(), left.popleft()
        if not fails:
            _play(stands, [values])
            continue
        more = [talk.queue.popleft() for _ in range(min(gone, len(talk.queue)))]
        for _ in more:
            left.popleft()
        talk.rewind(entry, -1, more, certain=True)
        assert dict(spaces) == _play(dict(stands), left)


def _play(names: dict[bytes, object], made: object) -> dict[bytes, object]:
    """Return ``names`` after the changes ``made``."""
    for values in made:  # type: ignore[attr-defined]
        for name, value in values:
            if value is None:
                names.pop(name, None)
            else:
                names[name] = value
    return names
