"""The chain: what is written verifies, and nothing that was changed does."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.journal import GENESIS, Chain, ChainState, Fault, FaultKind, Verifier, counted, events_in
from hostagent.model.errors import UnwritableEventError
from hostagent.model.event import Event, EventKind
from hostagent.model.rows import ResultRow, StatementRow


def event(number: int, text: str = "select $1") -> Event:
    return Event(EventKind.STATEMENT, 1_000 + number, "f1", "bot", {"statement": f"s{number}", "text": text})


def sign(text: bytes) -> bytes:
    """A keyed hash stands in for Ed25519: the floor only carries signatures."""
    return sha256(b"key" + text).digest()


def verify(key: bytes, signature: bytes, text: bytes) -> bool:
    return key == b"K" and signature == sha256(b"key" + text).digest()


def segment(events: int = 5) -> bytes:
    chain = Chain("proxyd-0", "host-1")
    data = chain.header(1, 7, b"K")
    for number in range(events):
        data += chain.frame([event(number)])
    return data + chain.checkpoint(9, sign)


def faults(data: bytes, key: bytes = b"K") -> list[tuple[FaultKind, int]]:
    verifier = Verifier("proxyd-0", key=key, verify=verify)
    return [(fault.kind, fault.seq) for fault in verifier.scan(data, 1, 0).faults]


def changed(data: bytes, change: str) -> bytes:
    lines = data.splitlines(keepends=True)
    if change == "edit":
        lines[3] = lines[3].replace(b"select $1", b"select $2")
    elif change == "delete":
        del lines[3]
    elif change == "reorder":
        lines[3], lines[4] = lines[4], lines[3]
    elif change == "duplicate":
        lines.insert(3, lines[3])
    elif change == "garbage":
        lines.insert(3, b"hello\n")
    elif change == "last event":
        del lines[-2]
    return b"".join(lines)


def test_a_line_is_type_hash_and_json_payload() -> None:
    chain = Chain("proxyd-0", "host-1")
    line = chain.frame([event(0)])
    payload = (
        b'{"seq":1,"kind":"statement","at":1000,"flow":"f1","workload":"bot",'
        b'"fields":{"statement":"s0","text":"select $1"}}'
    )
    digest = sha256(b"\x00" + GENESIS + payload)
    assert line == b"E " + digest.hexdigest().encode() + b" " + payload + b"\n"
    assert chain.state == ChainState(1, digest.digest())


def test_what_was_written_verifies_to_the_same_state() -> None:
    chain = Chain("proxyd-0", "host-1")
    data = chain.header(1, 7, b"K") + chain.frame([event(1), event(2)]) + chain.checkpoint(9, sign, closed=True)
    verifier = Verifier("proxyd-0", verify=verify)
    scan = verifier.scan(data, 1, 0)
    assert (scan.faults, scan.consumed, verifier.state) == ([], len(data), chain.state)
    assert [(item.line.seq, item.line.kind, item.line.at) for item in scan.events] == [
        (1, "statement", 1001),
        (2, "statement", 1002),
    ]
    assert [(item.count, item.closed) for item in scan.checkpoints] == [(2, True)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("none", []),
        ("edit", [(FaultKind.EDITED, 3)]),
        ("delete", [(FaultKind.MISSING, 3)]),
        ("reorder", [(FaultKind.MISSING, 3), (FaultKind.BACKWARDS, 3), (FaultKind.MISSING, 4)]),
        ("duplicate", [(FaultKind.BACKWARDS, 3)]),
        ("garbage", [(FaultKind.SYNTAX, 3)]),
        ("last event", [(FaultKind.CHECKPOINT, 4)]),
    ],
)
def test_every_change_is_named_with_its_place(change: str, expected: list[tuple[FaultKind, int]]) -> None:
    assert faults(changed(segment(), change)) == expected


def test_a_fault_says_where() -> None:
    data = segment()
    edited = changed(data, "edit")
    offset = len(b"".join(data.splitlines(keepends=True)[:3]))
    assert Verifier("proxyd-0").scan(edited, 1, 0).faults == [
        Fault(
            FaultKind.EDITED, 1, offset, 3, "the hash of event 3 does not follow from the line before and its own bytes"
        ),
    ]


def test_a_whole_rewritten_history_fails_the_signature() -> None:
    chain = Chain("proxyd-0", "host-1")
    forged = chain.header(1, 7, b"K") + chain.frame([event(1, "select 'innocent'")])
    forged += chain.checkpoint(9, lambda text: sha256(b"other" + text).digest())
    assert faults(forged) == [(FaultKind.SIGNATURE, 1)]


def test_another_key_than_the_trusted_one_is_a_fault() -> None:
    chain = Chain("proxyd-0", "host-1")
    assert faults(chain.header(1, 7, b"Z"), key=b"K") == [(FaultKind.KEY, 1)]


def test_a_checkpoint_without_its_signature_is_a_fault() -> None:
    chain = Chain("proxyd-0", "host-1")
    assert faults(chain.header(1, 7, b"K") + chain.checkpoint(9)) == [(FaultKind.SIGNATURE, 0)]


def test_a_fork_is_a_fault_and_its_events_are_still_read() -> None:
    chain = Chain("proxyd-0", "host-1")
    data = chain.header(1, 7) + chain.frame([event(1)])
    fork = chain.state
    data += chain.frame([event(2), event(3)])
    chain.state = fork
    data += chain.frame([event(20)])
    scan = Verifier("proxyd-0").scan(data, 1, 0)
    assert [(item.kind, item.seq) for item in scan.faults] == [(FaultKind.BACKWARDS, 2)]
    assert [item.line.seq for item in scan.events] == [1, 2, 3, 2]


def test_a_second_segment_continues_the_first_and_a_missing_one_shows() -> None:
    chain = Chain("proxyd-0", "host-1")
    first = chain.header(1, 1) + chain.frame([event(1)])
    second = chain.header(2, 2) + chain.frame([event(2)])
    third = chain.header(3, 3) + chain.frame([event(3)])
    whole = Verifier("proxyd-0")
    assert [whole.scan(data, number, 0).faults for number, data in ((1, first), (2, second), (3, third))] == [
        [],
        [],
        [],
    ]
    holed = Verifier("proxyd-0")
    holed.scan(first, 1, 0)
    assert [(item.kind, item.seq) for item in holed.scan(third, 3, 0).faults] == [(FaultKind.MISSING, 2)]


def test_a_header_of_another_writer_or_place_is_a_fault() -> None:
    other = Chain("enforcerd", "host-1")
    scan = Verifier("proxyd-0").scan(other.header(1, 1), 2, 0)
    assert [(item.kind, item.detail) for item in scan.faults] == [
        (FaultKind.HEADER, "segment header: it is of writer 'enforcerd'; it says segment 1")
    ]


def test_an_unfinished_line_is_left_for_later_and_torn_when_nothing_follows() -> None:
    data = segment()
    cut = data[:-20]
    verifier = Verifier("proxyd-0")
    scan = verifier.scan(cut, 1, 0)
    rest = cut[scan.consumed :]
    assert (scan.faults, cut[: scan.consumed].endswith(b"\n"), b"\n" in rest) == ([], True, False)
    torn = verifier.torn(rest, 1, scan.consumed)
    assert torn is not None
    assert torn.kind is FaultKind.TORN


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_can_be_changed_unseen(position: int, flip: int) -> None:
    data = bytearray(segment())
    data[position % len(data)] ^= flip
    verifier = Verifier("proxyd-0", key=b"K", host="host-1", verify=verify)
    scan = verifier.scan(bytes(data), 1, 0)
    assert scan.faults or scan.consumed < len(data)


@given(st.lists(st.integers(0, 400), max_size=6))
def test_any_split_of_the_bytes_reads_the_same(cuts: list[int]) -> None:
    data = segment()
    whole = Verifier("proxyd-0", verify=verify)
    expected = whole.scan(data, 1, 0)
    verifier = Verifier("proxyd-0", verify=verify)
    offset, events, problems = 0, [], []
    for end in [*sorted(cuts), len(data)]:
        scan = verifier.scan(data[offset:end], 1, offset)
        offset += scan.consumed
        events += scan.events
        problems += scan.faults
    assert (events, problems, offset, verifier.state) == (expected.events, expected.faults, len(data), whole.state)


@given(
    st.text(st.characters(codec=None)),
    st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.binary(), st.text())),
)
def test_any_text_becomes_one_readable_line(text: str, more: dict[str, object]) -> None:
    chain = Chain("proxyd-0", "host-1")
    line = chain.frame([Event(EventKind.DNS, 1, text, "bot", {"name": text, **more})])
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line[67:])["seq"] == 1


def test_an_event_that_is_no_json_is_refused_and_moves_nothing() -> None:
    chain = Chain("proxyd-0", "host-1")
    loop: dict[str, object] = {}
    loop["self"] = loop
    with pytest.raises(UnwritableEventError):
        chain.frame([event(1), Event(EventKind.DNS, 1, "", "", loop)])
    assert chain.state == ChainState()


ASKED = {"verb": "select", "text": "select ?"}
CAME = {"outcome": "ok", "columns": []}


def asked(number: int, *, workload: str = "bot", parameter: str = "1") -> Event:
    row = StatementRow(1_000 + number, "f1", number, "d" * 8, 0, [parameter])
    return Event(EventKind.STATEMENT, row.at, row.flow, workload, ASKED, row)


def came(number: int) -> Event:
    row = ResultRow(2_000 + number, "f1", number, "SELECT 1", 1, 12, 5)
    return Event(EventKind.RESULT, row.at, row.flow, "bot", CAME, row)


def kinds(data: bytes) -> bytes:
    return b"".join(line[:1] for line in data.splitlines())


def test_what_events_share_is_written_once_and_then_one_line_holds_what_is_each_ones_own() -> None:
    chain = Chain("proxyd-0", "host-1")
    first = chain.frame([asked(1), came(1)])
    assert (kinds(first), b'"verb":"select"' in first, b'"statement":"f1.1"' in first) == (b"EE", True, True)
    line = chain.frame([came(2), asked(3)])
    payload = (
        b'{"seq":3,"events":[{"at":2002,"flow":"f1","statement":2,"tag":"SELECT 1","rows":1,"bytes":12,"elapsed_us":5,"like":2},'
        b'{"at":1003,"flow":"f1","statement":3,"digest":"dddddddd","parameters":["1"],"like":1}]}'
    )
    head = bytes.fromhex(first.splitlines()[-1][2:66].decode())
    assert line == b"B " + sha256(b"\x03" + head + payload).hexdigest().encode() + b" " + payload + b"\n"
    verifier = Verifier("proxyd-0")
    scan = verifier.scan(first + line, 1, 0)
    assert (scan.faults, verifier.state, [(each.line.seq, each.last, each.rows) for each in scan.events]) == (
        [],
        chain.state,
        [(1, 1, 0), (2, 2, 0), (3, 4, 2)],
    )
    assert (counted(scan.events), sum(map(events_in, (first + line).splitlines()))) == (4, 4)


def test_other_events_keep_their_place_between_batches() -> None:
    chain = Chain("proxyd-0", "host-1")
    chain.frame([asked(1)])
    data = chain.frame([asked(2), asked(3), event(4), asked(5)])
    assert (kinds(data), chain.state.seq) == (b"BEB", 5)


def test_nothing_refers_beyond_its_segment_nor_to_what_may_not_have_been_written_nor_to_another_workload() -> None:
    chain = Chain("proxyd-0", "host-1")
    chain.frame([asked(1)])
    assert kinds(chain.frame([asked(2, workload="other")])) == b"E"
    assert kinds(chain.frame([asked(3, workload="other")])) == b"B"
    chain.header(2, 7)
    assert kinds(chain.frame([asked(4)])) == b"E"
    before = chain.state
    assert kinds(chain.frame([asked(5), came(5)])) == b"BE"
    chain.back_to(before)
    assert kinds(chain.frame([asked(5), came(5)])) == b"EE"
    with pytest.raises(UnwritableEventError):
        chain.frame([Event(EventKind.LOGIN, 1, "f1", "bot", {"x": nested(200)})])
    assert kinds(chain.frame([asked(6)])) == b"E"


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else "\ud800"


def test_a_long_batch_becomes_several_lines_and_an_odd_character_spoils_nothing() -> None:
    chain = Chain("proxyd-0", "host-1")
    data = chain.frame([asked(1)])
    data += chain.frame([asked(number, parameter="x" * 60_000) for number in range(2, 12)])
    data += chain.frame([asked(12, parameter="\ud800")])
    scan = Verifier("proxyd-0").scan(data, 1, 0)
    assert (kinds(data), scan.faults, counted(scan.events)) == (b"EBBBBB", [], 12)
    assert data.endswith(b'"parameters":["?"],"like":1}]}\n')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((b"", b""), []),
        ((b"SELECT 1", b"SELECT 2"), [(FaultKind.EDITED, 3)]),
        ((b'"seq":3', b'"seq":4'), [(FaultKind.MISSING, 3), (FaultKind.BACKWARDS, 5)]),
        ((b'"events":[', b'"events":[{},'), [(FaultKind.EDITED, 3), (FaultKind.BACKWARDS, 5)]),
        ((b"B ", b"E "), [(FaultKind.SYNTAX, 3), (FaultKind.MISSING, 3)]),
    ],
)
def test_every_change_of_a_batch_is_named(change: tuple[bytes, bytes], expected: list[tuple[FaultKind, int]]) -> None:
    chain = Chain("proxyd-0", "host-1")
    first, batch, last = chain.frame([asked(1), came(1)]), chain.frame([came(2), asked(3)]), chain.frame([event(5)])
    assert faults(first + batch.replace(*change, 1) + last) == expected


def test_a_batch_of_nothing_is_no_line() -> None:
    payload = b'{"seq":1,"events":[]}'
    line = b"B " + sha256(b"\x03" + GENESIS + payload).hexdigest().encode() + b" " + payload + b"\n"
    assert faults(line) == [(FaultKind.SYNTAX, 1)]


def test_a_journal_of_the_first_format_is_read_and_one_of_the_future_is_named() -> None:
    for form, expected in ((1, []), (3, [(FaultKind.HEADER, 1)])):
        payload = b'{"format":%d,"writer":"proxyd-0","host":"h","segment":1,"seq":0,"previous":"%b","key":"","at":7}' % (form, b"00" * 32)
        line = b"H " + sha256(b"\x01" + GENESIS + payload).hexdigest().encode() + b" " + payload + b"\n"
        verifier = Verifier("proxyd-0")
        assert ([(fault.kind, fault.seq) for fault in verifier.scan(line, 1, 0).faults], verifier.format) == (expected, form)
