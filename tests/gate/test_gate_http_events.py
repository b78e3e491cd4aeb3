"""Event streams through the gate: masked event by event, however the bytes were cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.model.event import EventKind
from hostagent.policy import Policy
from tests.gate.gate_http import MASKED, Talk
from tests.policy.policy_world import policy

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-To: ann@example.com\r\nConnection: close\r\n\r\n"
_GET = b"GET /a HTTP/1.0\r\nHost: api.example\r\n\r\n"
_STREAM = (
    b'\xef\xbb\xbfid: 1\r\nevent: x@example.com\r\ndata: {"to": "ann\\u0040example.com",\r\ndata: "n": 4111111111111111}\r\n\r\n'
    b": keep alive\n\nretry: 10\ndata\ndata:bob@example.com\n\ndata: [DONE]\r\rdata: cut@example.com"
)
_SEEN = (
    b'id: 1\nevent: [masked:email]\ndata: {"to": "[masked:email]",\ndata: "n": 0}\n\n'
    b": keep alive\n\nretry: 10\ndata: \ndata: [masked:email]\n\ndata: [DONE]\n\ndata: [masked:email]\n"
)


def _talk(rules: object = MASKED) -> Talk:
    talk = Talk(rules)  # type: ignore[arg-type]
    talk.client(_GET)
    return talk


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(1, len(_STREAM) - 1), max_size=6))
def test_events_are_masked_alike_however_they_were_cut(cuts: set[int]) -> None:
    talk = _talk()
    talk.server(_HEAD)
    edges = [0, *sorted(cuts), len(_STREAM)]
    for start, stop in itertools.pairwise(edges):
        talk.server(_STREAM[start:stop])
    from hostagent.model.flow import Side
    from tests.gate.gate_rim import NOW

    talk.do(talk.gate.closed(Side.SERVER, NOW))
    head, _, body = talk.down.partition(b"\r\n\r\n")
    assert body == _SEEN
    assert b"X-To: [masked:email]" in head
    assert talk.records(EventKind.RESULT, "outcome") == [("ok",)]


def test_an_event_passes_as_soon_as_it_is_whole() -> None:
    talk = _talk()
    talk.server(_HEAD + b"data: one\n\ndata: tw")
    assert talk.down.endswith(b"\r\n\r\ndata: one\n\n")


@pytest.fixture(scope="module")
def places() -> Policy:
    """A rule that masks a place."""
    return policy('  - {id: people, then: allow, what: {http: {methods: GET}}, mask: {json: ["$..iban"]}}\n')


def test_places_are_masked_in_every_event(places: Policy) -> None:
    talk = _talk(places)
    talk.server(_HEAD + b'data: {"iban": "DE02", "n": 1}\n\ndata: [DONE]\n\n')
    assert talk.down.endswith(b'data: {"iban":"[masked]","n":1}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize("event", [b"data: DE02\n\n", b'data: {"iban": "DE02", "IBAN": 1}\n\n', b'data: "\xff"\n\n', b"data: " + b"x" * 1_100_000])
def test_an_event_that_cannot_be_masked_ends_the_stream(places: Policy, event: bytes) -> None:
    talk = _talk(places)
    talk.server(_HEAD)
    talk.server(event)
    assert talk.closed
    assert talk.down.endswith(b"\r\n\r\n"), "nothing after the head, which was sent"
    assert talk.records(EventKind.REFUSAL, "layer") == [("proxy",)]


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Content-Encoding: gzip"])
def test_a_stream_with_a_length_or_a_coding_is_refused(field: bytes) -> None:
    talk = _talk()
    talk.server(_HEAD.replace(b"X-To: ann@example.com", field) + b"data:")
    assert talk.problem()["status"] == 502
