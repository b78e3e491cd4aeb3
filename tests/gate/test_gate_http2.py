"""HTTP/2 through the gate, spoken by the h2 library on both outer ends: every stream is judged, nothing floods."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.approval import Book
from hostagent.gate import Gate
from hostagent.model.command import Close, Command, Connect, Detach, Forward, Hold, Withdraw
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Effect
from hostagent.model.ticket import Answer
from hostagent.model.verdict import MaskContent
from hostagent.wire.http2.meter import Goaway, Meter
from tests.gate.gate_http import PLAIN, Talk, by_path
from tests.gate.gate_rim import NOW, Rules, events
from tests.policy.policy_world import policy

TARGET = replace(PLAIN, http2=True)
GET = {":method": "GET", ":scheme": "http", ":authority": "api.example", ":path": "/a"}
POST = GET | {":method": "POST"}


class Talk2(Talk):
    """A gate between two ends of HTTP/2. ``got`` is what the client was told, ``asked`` what the target was."""

    def __init__(self, rules: Rules | None = None, *, answers: bool = True, **more: object) -> None:
        super().__init__(rules, TARGET, **more)  # type: ignore[arg-type]
        self.one = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False))
        self.two = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.one.initiate_connection()
        self.two.initiate_connection()
        self.got: list[Event] = []
        self.asked: list[Event] = []
        self.answers = answers
        self.meter = Meter(preface=False)
        self.told: list[Goaway] = []
        self.now = NOW
        self.move()

    def do(self, commands: list[Command]) -> None:  # type: ignore[override]
        """Carry out what the gate asks for, and let both ends take in what is for them."""
        self.commands += commands
        for command in commands:
            if isinstance(command, Connect):
                self.do(self.gate.connected(self.now))
            elif isinstance(command, Forward) and command.side is Side.CLIENT:
                frames, told = self.meter.pass_on(command.data, self.now)  # the library would take GOAWAY for the end of all
                self.told += told
                self.got += self.one.receive_data(frames)
            elif isinstance(command, Forward):
                for event in self.two.receive_data(command.data):
                    self.asked.append(event)
                    if isinstance(event, DataReceived):
                        self.two.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, StreamEnded) and self.answers:
                        self.two.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                        self.two.send_data(event.stream_id, b"ok", end_stream=True)

    def move(self) -> None:
        """Feed what the ends want to say, until they are silent."""
        while True:
            up, down = self.one.data_to_send(), self.two.data_to_send() if self.dialled else b""
            if up:
                self.do(self.gate.feed(Side.CLIENT, up, self.now))
            elif down:
                self.do(self.gate.feed(Side.SERVER, down, self.now))
            else:
                break

    @property
    def dialled(self) -> bool:
        return any(isinstance(command, Connect) for command in self.commands)

    def ask(self, head: dict[str, str] | list[tuple[str, str]], body: bytes | None = None, *, end: bool = True) -> int:
        stream = self.one.get_next_available_stream_id()
        self.one.send_headers(stream, list(head.items()) if isinstance(head, dict) else head, end_stream=body is None and end)
        self.move()
        if body is not None:
            for at in range(0, len(body), 16_384):
                self.one.send_data(stream, body[at : at + 16_384])
                self.move()
            if end:
                self.one.end_stream(stream)
        self.move()
        return stream

    def status(self, stream: int) -> str:
        return self.fields(stream).get(":status", "")

    def fields(self, stream: int) -> dict[str, str]:
        for event in self.got:
            if isinstance(event, ResponseReceived) and event.stream_id == stream:
                return {name.decode(): value.decode() for name, value in event.headers}
        return {}

    def body(self, stream: int) -> bytes:
        return b"".join(bytes(event.data) for event in self.got if isinstance(event, DataReceived) and event.stream_id == stream)

    def upstream(self) -> list[dict[str, str]]:
        return [dict(event.headers) for event in self.asked if isinstance(event, RequestReceived)]  # type: ignore[arg-type]


def test_streams_are_judged_one_by_one_and_rebuilt_with_our_credential() -> None:
    talk = Talk2()
    fine = talk.ask([*list((GET | {":path": "/x/../%61?q=1"}).items()), ("authorization", "Bearer mine"), ("x-forwarded-for", "1.1.1.1"), ("x-own", "2")])
    denied = talk.ask(POST | {":path": "/denied", "content-type": "text/plain"}, b"secret")
    again = talk.ask(GET)
    assert [talk.status(each) for each in (fine, denied, again)] == ["200", "403", "200"]
    assert talk.upstream()[0] == GET | {":path": "/a?q=1", "x-own": "2", "authorization": "Bearer ours"}
    assert len(talk.upstream()) == 2
    assert json.loads(talk.body(denied))["rule"] == "deny-rule"
    assert talk.body(fine) == b"ok"
    assert talk.records(EventKind.STATEMENT, "text", "decision") == [
        ("GET http://api.example/a?q=?", "allow"), ("POST http://api.example/denied", "deny"), ("GET http://api.example/a", "allow"),
    ]  # fmt: skip
    assert talk.records(EventKind.RESULT, "outcome", "tag") == [("ok", "200"), ("denied", "403"), ("ok", "200")]
    assert not talk.closed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ([*list(GET.items()), ("transfer-encoding", "chunked")], "400"),
        ([*list(GET.items()), ("connection", "x")], "400"),
        ([*list(GET.items()), ("upgrade", "websocket")], "400"),
        ([*list(GET.items()), ("te", "gzip")], "400"),
        ([*list(GET.items()), ("X-Upper", "1")], "400"),
        ([*list(GET.items()), ("x-a", "1\r\nhost: evil.example")], "400"),
        ([*list(GET.items()), ("x-a\r\nhost", "evil.example")], "400"),
        ([*list(GET.items()), ("x a", "1")], "400"),
        ([*list(GET.items()), ("content_length", "1")], "400"),
        ([*list(GET.items()), ("host", "other.example")], "400"),
        ([*list(GET.items()), (":path", "/denied")], "400"),
        ([("x", "y"), *GET.items()], "400"),
        (list((GET | {":authority": "other.example"}).items()), "421"),
        (list((GET | {":authority": "api.example:81"}).items()), "421"),
        (list((GET | {":scheme": "https"}).items()), "400"),
        (list((GET | {":path": "a"}).items()), "400"),
        (list((GET | {":path": "/a b"}).items()), "400"),
        (list((GET | {":path": "http://other.example/"}).items()), "400"),
        (list((GET | {":path": "/a/..%2f..%2fdenied"}).items()), "400"),
        (list((GET | {":method": "get"}).items()), "400"),
        (list((GET | {":method": "GET / HTTP/1.1\r\nx: y\r\n"}).items()), "400"),
        ([(":method", "CONNECT"), (":authority", "api.example")], "403"),
        (list((GET | {":method": "CONNECT", ":protocol": "websocket"}).items()), "403"),
        (list((GET | {":method": "TRACE"}).items()), "403"),
        ([*list(GET.items()), ("x-original-url", "/denied")], "403"),
        ([*list(GET.items()), ("expect", "more")], "417"),
    ],
)  # fmt: skip
def test_what_no_policy_can_allow_never_reaches_the_target(head: list[tuple[str, str]], status: str) -> None:
    talk = Talk2()
    assert talk.status(talk.ask(head)) == status
    assert (talk.upstream(), talk.closed) == ([], False)
    assert talk.records(EventKind.RESULT, "outcome") or talk.records(EventKind.REFUSAL, "reason")
    assert talk.status(talk.ask(GET)) == "200", "the connection goes on"


def _frames(*made: object) -> bytes:
    return b"".join(frame.serialize() for frame in made)  # type: ignore[attr-defined]


def _open(talk: Talk2, number: int, *flags: str, block: bytes | None = None) -> HeadersFrame:
    frame = HeadersFrame(number, talk.one.encoder.encode(list(GET.items())) if block is None else block)
    for flag in flags or ("END_HEADERS",):
        frame.flags.add(flag)
    return frame


def _rapid_reset(talk: Talk2) -> bytes:
    for _ in range(120):
        stream = talk.one.get_next_available_stream_id()
        talk.one.send_headers(stream, list(GET.items()))
        talk.one.reset_stream(stream)
    return bytes(talk.one.data_to_send())


FLOODS: list[tuple[str, Callable[[Talk2], bytes]]] = [
    ("a flood", _rapid_reset),
    ("a flood", lambda talk: _frames(*[PingFrame(0, b"12345678")] * 1100)),
    ("a flood", lambda talk: _frames(*[SettingsFrame(0, {})] * 1100)),
    ("a flood", lambda talk: _frames(_open(talk, 1), *[DataFrame(1, b"")] * 1100)),
    ("too many settings", lambda talk: SettingsFrame(0, dict.fromkeys(range(1000, 1040), 1)).serialize()),
    ("header block", lambda talk: _frames(_open(talk, 1, "END_STREAM", block=b""), *[ContinuationFrame(1, b"")] * 20)),
    ("header block", lambda talk: _frames(_open(talk, 1, "END_STREAM", block=b"x" * 16_000), *[ContinuationFrame(1, b"x" * 16_000)] * 5)),
    ("DenialOfService", lambda talk: _frames(_open(talk, 1, block=b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 10_000))),
    ("frame of 16777215 bytes", lambda talk: b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"),
    ("broken HTTP/2", lambda talk: _frames(DataFrame(7, b"x"))),
    ("broken HTTP/2", lambda talk: _frames(_open(talk, 1, "END_HEADERS"), _open(talk, 2))),
    ("broken HTTP/2", lambda talk: _frames(_open(talk, 1, "END_HEADERS", block=b"\xff\xff\xff\xff\xff\xff"))),
    ("does not begin", lambda talk: b"GET / HTTP/1.1\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "make"), FLOODS)
def test_floods_and_broken_frames_end_the_connection_with_a_row_that_says_why(reason: str, make: Callable[[Talk2], bytes]) -> None:
    talk = Talk2(answers=False)
    data = make(talk)
    if data.startswith(b"GET"):  # behind a TLS that agreed on h2
        talk = Talk.__new__(Talk2)
        Talk.__init__(talk, None, TARGET)
        talk.gate._inspector._choose("h2", "")  # type: ignore[attr-defined]
        talk.gate._inspector._open = True  # type: ignore[attr-defined]
    commands: list[Command] = []
    for at in range(0, len(data), 1000):
        commands += talk.gate.feed(Side.CLIENT, data[at : at + 1000], NOW)
    assert any(isinstance(command, Close) for command in commands)
    told = b"".join(command.data for command in commands if isinstance(command, Forward) and command.side is Side.CLIENT)
    assert bytes(GoAwayFrame(0).serialize()[3:4]) == told[-17:][3:4], "the last thing said is GOAWAY"
    assert any(reason in str(event.fields["reason"]) for event in events(commands, EventKind.REFUSAL))


def test_an_ordinary_peer_never_feels_the_limits() -> None:
    talk = Talk2()
    for at in range(40):
        talk.now = NOW + at / 100
        streams = [talk.ask(GET) for _ in range(20)]
        talk.one.ping(b"12345678")
        talk.move()
        assert {talk.status(each) for each in streams} == {"200"}
    assert not talk.closed


def test_no_peer_makes_us_remember_more_headers_than_we_want() -> None:
    talk = Talk2()
    talk.one.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**31})
    talk.two.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**31})
    talk.ask(GET)
    inner = talk.gate._inspector._inner  # type: ignore[attr-defined]
    assert (inner.client.connection.encoder.header_table_size, inner._server.connection.encoder.header_table_size) == (4096, 4096)


def test_bodies_stop_where_they_cannot_go_on_and_memory_stays_bounded() -> None:
    talk = Talk2(answers=False)
    stream = talk.ask(GET)
    [up] = [event.stream_id for event in talk.asked if isinstance(event, RequestReceived)]
    talk.two.send_headers(up, [(":status", "200")])
    sent = 0
    while room := min(talk.two.local_flow_control_window(up), 16_384):
        talk.two.send_data(up, b"x" * room)
        sent += room
        talk.move()
    assert 262_144 <= sent < 600_000, "our window, and what the client's took"
    assert talk.gate.weigh() < 700_000
    while not any(isinstance(event, StreamEnded) for event in talk.got):
        received = len(talk.body(stream))
        talk.one.acknowledge_received_data(min(received, 30_000), stream)
        talk.move()
        if sent < 2_000_000 and (room := min(talk.two.local_flow_control_window(up), 16_384)):
            talk.two.send_data(up, b"y" * room)
            sent += room
        elif sent >= 2_000_000:
            talk.two.end_stream(up)
        talk.move()
    assert len(talk.body(stream)) == sent
    body = b"z" * 60_000
    before = len(talk.asked)
    talk.ask(POST | {"content-type": "text/plain"}, body)
    assert b"".join(bytes(event.data) for event in talk.asked[before:] if isinstance(event, DataReceived)) == body


def test_a_response_is_masked_across_frames_and_trailers_are_looked_at() -> None:
    talk = Talk2(Rules(by_path, (MaskContent("mask-mail", frozenset({"email"})),)), answers=False)
    stream = talk.ask(GET | {"range": "bytes=0-9", "accept-encoding": "br"})
    assert ("range" in talk.upstream()[0], talk.upstream()[0]["accept-encoding"]) == (False, "identity")
    body = b'{"to": "ann@example.com"}'
    talk.two.send_headers(1, [(":status", "200"), ("content-type", "application/json"), ("etag", "x"), ("content-length", str(len(body)))])
    for at in range(len(body)):
        talk.two.send_data(1, body[at : at + 1])
        talk.move()
    talk.two.send_headers(1, [("x-mail", "bob@example.com"), ("x-key", "ours")], end_stream=True)
    talk.move()
    assert talk.body(stream) == b'{"to": "[masked:email]"}'
    assert (talk.fields(stream)["content-length"], "etag" in talk.fields(stream)) == ("24", False)
    [trailers] = [event for event in talk.got if isinstance(event, TrailersReceived)]
    assert dict(trailers.headers)[b"x-mail"] == b"[masked:email]"
    assert talk.records(EventKind.RESULT, "outcome", "masked_values") == [("ok", 1)]


def test_events_are_masked_one_by_one_while_the_stream_goes_on() -> None:
    talk = Talk2(Rules(by_path, (MaskContent("mask-mail", frozenset({"email"})),)), answers=False)
    stream = talk.ask(GET)
    talk.two.send_headers(1, [(":status", "200"), ("content-type", "text/event-stream")])
    for piece in (b"data: ann@exam", b"ple.com\r\n\r", b"\n: ping\n\n"):
        talk.two.send_data(1, piece)
        talk.move()
    assert talk.body(stream) == b"data: [masked:email]\n\n: ping\n\n"
    talk.two.end_stream(1)
    talk.move()
    assert talk.records(EventKind.RESULT, "outcome", "masked_values") == [("ok", 1)]


def test_an_echo_of_the_credential_is_hidden_across_frames() -> None:
    talk = Talk2(answers=False, secret="S3cret-of-the-proxy")
    stream = talk.ask(GET)
    talk.two.send_headers(1, [(":status", "200"), ("x-echo", "S3cret-of-the-proxy")])
    for piece in (b"you sent S3cret-", b"of-the-", b"proxy!"):
        talk.two.send_data(1, piece)
        talk.move()
    talk.two.end_stream(1)
    talk.move()
    assert talk.body(stream) == b"you sent " + b"*" * 19 + b"!"
    assert talk.fields(stream)["x-echo"] == "*" * 19


def test_streams_are_held_and_released_one_by_one() -> None:
    talk = Talk2(book=Book())
    first, second, other = talk.ask(POST | {":path": "/held/1", "content-type": "a/b"}, b"one"), talk.ask(GET | {":path": "/held/2"}), talk.ask(GET)
    tickets = [command.ticket for command in talk.commands if isinstance(command, Hold)]
    assert (talk.status(other), len(tickets), len(talk.upstream())) == ("200", 2, 1)
    assert "one" in tickets[0].operations[0].text
    talk.do(talk.gate.resume(Answer(tickets[1].ticket_id, granted=False, by="dana", reason="no"), NOW))
    talk.move()
    assert (talk.status(second), json.loads(talk.body(second))["ticket"]) == ("403", tickets[1].ticket_id)
    talk.do(talk.gate.resume(Answer(tickets[0].ticket_id, granted=True, by="dana", reason=""), NOW))
    talk.move()
    assert (talk.status(first), talk.upstream()[-1][":path"]) == ("200", "/held/1")
    third = talk.ask(GET | {":path": "/held/3"})
    fourth = talk.ask(GET | {":path": "/held/4"})
    talk.one.reset_stream(third)
    talk.move()
    assert [command.reason for command in talk.commands if isinstance(command, Withdraw)] == ["the client took the request back"]
    assert talk.gate.deadline == NOW + 60
    talk.do(talk.gate.tick(NOW + 100))
    talk.move()
    assert talk.status(fourth) == "403"
    assert len(talk.upstream()) == 2
    assert talk.records(EventKind.RESULT, "outcome") == [("ok",), ("denied",), ("ok",), ("withdrawn",), ("denied",)]


def test_a_stream_that_cannot_wait_is_told_its_ticket_and_its_repetition_is_released_once() -> None:
    talk = Talk2(book=(book := Book()), park_s=2.0)
    stream = talk.ask(GET | {":path": "/held/2"})
    [ticket] = [command.ticket for command in talk.commands if isinstance(command, Hold)]
    talk.do(talk.gate.tick(NOW + 2))
    talk.move()
    assert (talk.status(stream), json.loads(talk.body(stream))["type"]) == ("403", "urn:hostagent:held")
    assert any(isinstance(command, Detach) for command in talk.commands)
    kept = book.of(ticket.ticket_id)
    assert kept is not None
    book.answer(kept, Answer(ticket.ticket_id, granted=True, by="dana", reason=""), NOW)
    assert talk.status(talk.ask(GET | {":path": "/held/2"})) == "200"
    assert len(talk.upstream()) == 1


def test_a_target_out_of_line_ends_the_connection_and_one_that_goes_takes_nothing_new() -> None:
    talk = Talk2(answers=False)
    stream = talk.ask(GET)
    talk.do(talk.gate.feed(Side.SERVER, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 30_000, NOW))
    assert (talk.status(stream), talk.closed) == ("502", True)
    talk = Talk2(answers=False)
    first = talk.ask(GET)
    talk.do(talk.gate.feed(Side.SERVER, bytes(talk.two.data_to_send()) + GoAwayFrame(0, last_stream_id=1).serialize(), NOW))
    talk.two.send_headers(1, [(":status", "200")], end_stream=True)
    talk.do(talk.gate.feed(Side.SERVER, bytes(talk.two.data_to_send()), NOW))
    assert (talk.status(first), talk.closed, talk.told) == ("200", True, [Goaway(1, 0), Goaway(1, 0)])
    assert len(talk.upstream()) == 1


def test_a_reset_of_the_target_is_a_502_or_a_reset() -> None:
    talk = Talk2(answers=False)
    first, second = talk.ask(GET), talk.ask(GET)
    talk.two.reset_stream(1)
    talk.two.send_headers(3, [(":status", "200")])
    talk.two.reset_stream(3)
    talk.move()
    assert talk.status(first) == "502"
    assert [event.stream_id for event in talk.got if isinstance(event, StreamReset)] == [second]
    assert talk.records(EventKind.RESULT, "outcome") == [("error",), ("aborted",)]


GRPC = POST | {":path": "/helloworld.Greeter/SayHello", "content-type": "application/grpc", "te": "trailers"}


def test_a_grpc_call_passes_with_its_trailers_and_a_refused_one_is_told_as_grpc_does() -> None:
    talk = Talk2(answers=False)
    stream = talk.ask(GRPC, b"\0\0\0\0\2hi")
    assert talk.upstream()[0]["te"] == "trailers"
    talk.two.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    talk.two.send_data(1, b"\0\0\0\0\2ho")
    talk.two.send_headers(1, [("grpc-status", "0")], end_stream=True)
    talk.move()
    assert talk.body(stream) == b"\0\0\0\0\2ho"
    [trailers] = [event for event in talk.got if isinstance(event, TrailersReceived)]
    assert dict(trailers.headers) == {b"grpc-status": b"0"}
    for path, code in (("/denied.Greeter/SayHello", "7"), ("/held.Greeter/SayHello", "9"), ("/nonsense", "7")):
        refused = talk.ask(GRPC | {":path": path, "grpc-timeout": "4S"}, b"\0\0\0\0\2hi")
        if code == "9":
            assert talk.gate.deadline == NOW + 2, "half of the client's patience"
            talk.do(talk.gate.tick(NOW + 2))
            talk.move()
        assert (talk.status(refused), talk.fields(refused)["grpc-status"], talk.body(refused)) == ("200", code, b"")
        assert "hostagent" in talk.fields(refused)["grpc-message"]
    assert len(talk.upstream()) == 1


def test_the_preface_alone_decides_without_tls() -> None:
    talk = Talk(target=TARGET)
    talk.client(b"PR")
    talk.client(b"OPFIND /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
    assert talk.up.startswith(b"PROPFIND /a HTTP/1.1\r\n")
    assert isinstance(talk.gate, Gate)


def test_a_long_body_that_was_kept_and_then_passes_is_counted_once() -> None:
    talk = Talk2(policy("  - {{id: all, then: allow, what: {{effects: [{}]}}}}\n".format(", ".join(Effect))))  # type: ignore[arg-type]
    body = b"x=" + b"y" * 1_500_000
    stream = talk.ask(POST | {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}, body)
    assert talk.status(stream) == "200"
    assert b"".join(bytes(event.data) for event in talk.asked if isinstance(event, DataReceived)) == body
    assert talk.one.outbound_flow_control_window <= 1_048_576


def test_a_client_that_makes_us_reset_its_streams_withdraws_them_and_is_cut() -> None:
    talk = Talk2(answers=False)
    closed = False
    for number in range(1, 400, 2):
        data = _open(talk, number, "END_HEADERS", "END_STREAM").serialize() + DataFrame(number, b"late").serialize()
        closed = closed or any(isinstance(command, Close) for command in talk.gate.feed(Side.CLIENT, data, NOW))
    assert closed


_REQUESTS = [GET, POST | {"content-type": "text/plain"}, GET | {":path": "/held/1"}, GET | {":path": "/denied"}]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_bytes_of_either_side_make_it_fail(data: st.DataObject) -> None:
    talk = Talk2(answers=False)
    for head in data.draw(st.lists(st.sampled_from(_REQUESTS), min_size=1, max_size=4)):
        talk.ask(head, end=data.draw(st.booleans()))
    frame = st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40))
    for side, (size, kind, flags, stream, body) in data.draw(st.lists(st.tuples(st.sampled_from(list(Side)), frame), max_size=12)):
        length = len(body) if data.draw(st.booleans()) else size
        raw = length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
        for at in range(0, len(raw), 7):
            talk.gate.feed(side, raw[at : at + 7], NOW)
        talk.gate.tick(NOW + 1)
        assert talk.gate.weigh() < 10_000_000
    talk.gate.cut("the end", NOW)
    assert talk.gate.feed(Side.CLIENT, b"x", NOW) == []


def test_a_masked_grpc_response_is_refused_in_grpcs_own_form() -> None:
    talk = Talk2(Rules(by_path, (MaskContent("mask-mail", frozenset({"email"})),)), answers=False)
    stream = talk.ask(GRPC, b"\0\0\0\0\2hi")
    talk.two.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    talk.two.send_data(1, b"\0\0\0\0\x0fann@example.com")
    talk.move()
    assert (talk.fields(stream)["grpc-status"], talk.body(stream)) == ("14", b"")


def test_a_json_body_that_names_another_method_is_taken_back_before_its_end() -> None:
    talk = Talk2(answers=False)
    stream = talk.ask(POST | {"content-type": "application/json"}, b'{"a": 1, "_method": "DELETE"}')
    assert talk.status(stream) == "403"
    assert [event.stream_id for event in talk.asked if isinstance(event, StreamReset)] == [1]
    assert b"_method" not in b"".join(bytes(event.data) for event in talk.asked if isinstance(event, DataReceived))
    assert talk.status(talk.ask(POST | {"content-type": "text/plain"}, b"fine")) == "", "the connection goes on, and the target is asked"
    assert len(talk.upstream()) == 2
