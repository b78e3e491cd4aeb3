"""WebSockets through the gate: opened only where policy says so, every message judged, recorded and masked."""

from __future__ import annotations

import json

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from hostagent.inspectors.http.websocket import accept
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.policy import Policy
from tests.gate.gate_http import Talk
from tests.gate.gate_rim import NOW
from tests.policy.policy_world import policy

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_OPEN = (
    f"GET /chat HTTP/1.1\r\nHost: api.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {_KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: a, b\r\nAuthorization: mine\r\n\r\n"
).encode()
_RULES = """\
  - {id: read, then: allow, what: {http: {methods: GET}}}
  - {id: chat, then: allow, what: {http: {methods: WEBSOCKET, paths: /chat}}}
  - {id: no-drops, then: deny, reason: no drops, what: {http: {methods: WEBSOCKET, body: {json: {$.op: drop}}}}}
"""
_MASK = "  - {id: mails, then: mask, mask: {detectors: [email]}}\n"


@pytest.fixture(scope="module")
def rules() -> Policy:
    """A WebSocket is allowed, and in it everything but drops."""
    return policy(_RULES)


class Chat(Talk):
    """A talk with an open WebSocket; ``one`` and ``two`` are its outer ends."""

    def __init__(self, rules: object, *, opened: bool = True) -> None:
        super().__init__(rules, secret="S3cret-of-the-proxy")  # type: ignore[arg-type]
        self.one, self.two = Connection(ConnectionType.CLIENT), Connection(ConnectionType.SERVER)
        self.client(_OPEN)
        if opened:
            self.server(self.answer())
            self.seen = dict.fromkeys(Side, 0)
            self.take(Side.CLIENT, self.down.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.take(Side.SERVER, self.up.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    def take(self, side: Side, head: bytes) -> None:
        self.seen[side] = len(head)

    def answer(self, *fields: str) -> bytes:
        key = next(line.partition(": ")[2] for line in self.up.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        lines = ["HTTP/1.1 101 X", "Upgrade: WebSocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept(key)}", *fields, "", ""]
        return "\r\n".join(lines).encode()

    def say(self, *events: Event, size: int = 1_000_000) -> None:
        data = b"".join(self.one.send(event) for event in events)
        for at in range(0, len(data), size):
            self.client(data[at : at + size])

    def tell(self, *events: Event) -> None:
        self.server(b"".join(self.two.send(event) for event in events))

    def got(self, side: Side) -> list[Event]:
        """Return what ``side``'s outer end received since the last call."""
        data = (self.down if side is Side.CLIENT else self.up)[self.seen[side] :]
        self.seen[side] += len(data)
        end = self.one if side is Side.CLIENT else self.two
        end.receive_data(data)
        return list(end.events())


def test_a_websocket_is_opened_with_a_key_of_ours_and_messages_pass_both_ways() -> None:
    chat = Chat(policy(_RULES.rpartition("  - ")[0]))
    head = chat.up.partition(b"\r\n\r\n")[0].decode()
    assert "Authorization: Bearer S3cret-of-the-proxy" in head
    assert "mine" not in head
    assert _KEY not in head
    assert "Extensions" not in head
    assert f"Sec-WebSocket-Accept: {accept(_KEY)}".encode() in chat.down
    chat.say(TextMessage('{"op": ', message_finished=False), Ping(b"x"), TextMessage('"add"}'), BytesMessage(b"\0\1"), size=3)
    assert chat.got(Side.SERVER) == [TextMessage('{"op":"add"}'), BytesMessage(bytearray(b"\0\1"))]
    assert chat.got(Side.CLIENT) == [Pong(bytearray(b"x"))]
    chat.tell(TextMessage("you are S3cret-of", message_finished=False), TextMessage("-the-proxy"), BytesMessage(b"\2"))
    said = chat.got(Side.CLIENT)
    assert "".join(event.data for event in said if isinstance(event, TextMessage)) == "you are " + "*" * 19
    chat.say(CloseConnection(1000, "bye, with a secret"))
    assert chat.got(Side.SERVER) == [CloseConnection(1000, "")]
    assert chat.closed
    rows = chat.records(EventKind.STATEMENT, "verb", "text", "decision")
    url = "WEBSOCKET http://api.example/chat"
    assert rows == [
        ("WEBSOCKET", url, "allow"), ("WEBSOCKET", f"{url} [text message, 13 bytes]", "allow"), ("WEBSOCKET", f"{url} [binary message, 2 bytes]", "allow"),
    ]  # fmt: skip
    assert chat.records(EventKind.RESULT, "outcome", "tag") == [("ok", "sent"), ("ok", "sent"), ("ok", "101")]


@pytest.mark.parametrize("message", [TextMessage('{"op": "drop"}'), TextMessage('{"OP":"drop"}'), TextMessage("drop it"), BytesMessage(b'{"op": "add"}')])
def test_a_message_that_is_or_may_be_denied_ends_the_websocket(rules: Policy, message: Event) -> None:
    chat = Chat(rules)
    chat.say(message, TextMessage('{"op": "add"}'))
    if message == BytesMessage(b'{"op": "add"}') or message == TextMessage("drop it"):
        assert "no-drops" in str(chat.records(EventKind.STATEMENT, "rules"))
    assert [event for event in chat.got(Side.SERVER) if not isinstance(event, CloseConnection)] == []
    [closed] = chat.got(Side.CLIENT)
    assert isinstance(closed, CloseConnection)
    assert (closed.code, "rule no-drops: no drops" in str(closed.reason)) == (1008, True)
    assert chat.records(EventKind.RESULT, "outcome", "tag")[0] == ("denied", "1008")
    assert chat.closed


def test_what_a_rule_masks_is_masked_across_fragments_and_binary_does_not_pass() -> None:
    chat = Chat(policy(_RULES + _MASK))
    chat.tell(TextMessage('{"to": "ann@exam', message_finished=False), TextMessage('ple.com"}'), TextMessage("bob@example.com"))
    assert chat.got(Side.CLIENT) == [TextMessage('{"to": "[masked:email]"}'), TextMessage("[masked:email]")]
    chat.tell(BytesMessage(b"ann@example.com"))
    [closed] = chat.got(Side.CLIENT)
    assert isinstance(closed, CloseConnection)
    assert (closed.code, chat.closed) == (1003, True)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x81\x02hi", 1002), (b"\xc1\x80\0\0\0\0", 1002), (b"\x81\x82\0\0\0\0\xff\xff", 1007), (b"\x89\xfe\x01\0\0\0\0\0", 1002), (b"\x83\x80\0\0\0\0", 1002), (b"GET / HTTP/1.1\r\n\r\n", 1002)],
)  # fmt: skip
def test_broken_frames_end_the_websocket_with_a_row(rules: Policy, data: bytes, code: int) -> None:
    chat = Chat(rules)
    chat.client(data)
    [closed] = [event for event in chat.got(Side.CLIENT) if isinstance(event, CloseConnection)]
    assert (closed.code, chat.closed) == (code, True)
    assert "broken WebSocket" in str(chat.records(EventKind.REFUSAL, "reason"))


def test_a_message_too_long_to_be_looked_at_is_refused_in_little_memory(rules: Policy) -> None:
    chat = Chat(rules)
    for _ in range(1100):
        chat.say(BytesMessage(b"x" * 1000, message_finished=False))
    [closed] = chat.got(Side.CLIENT)
    assert isinstance(closed, CloseConnection)
    assert (closed.code, len(chat.up) < 1000) == (1009, True)
    assert chat.gate.weigh() < 2_000_000


@pytest.mark.parametrize(
    "opening",
    [
        _OPEN.replace(b"/chat", b"/other"),
        _OPEN.replace(b"Version: 13", b"Version: 8"),
        _OPEN.replace(_KEY.encode(), b"short"),
        _OPEN.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        _OPEN.replace(b"keep-alive, Upgrade", b"keep-alive"),
        _OPEN.replace(b"GET", b"POST"),
        _OPEN.replace(b"Authorization: mine", b"Content-Length: 5"),
        b"WEBSOCKET /chat HTTP/1.1\r\nHost: api.example\r\n\r\n",
    ],
)
def test_what_no_rule_allows_or_is_no_websocket_is_a_clear_403(rules: Policy, opening: bytes) -> None:
    talk = Talk(rules)  # type: ignore[arg-type]
    talk.client(opening)
    assert (talk.problem()["status"], talk.up) == (403, b"")


@pytest.mark.parametrize("change", [b"Sec-WebSocket-Accept: x", b"Upgrade: h2c", b"Sec-WebSocket-Extensions: permessage-deflate\r\nX: y", b"Sec-WebSocket-Protocol: c\r\nX: y"])
def test_a_target_that_opens_something_else_gets_nothing_more(rules: Policy, change: bytes) -> None:
    chat = Chat(rules, opened=False)
    name = change.partition(b":")[0]
    lines = [line for line in chat.answer().split(b"\r\n")[:-2] if not line.startswith(name)]
    chat.server(b"\r\n".join([*lines, change, b"", b""]) + b"\x81\x02hi")
    assert (chat.problem()["status"], chat.closed) == (502, True)


def test_an_ordinary_answer_to_the_opening_is_one(rules: Policy) -> None:
    chat = Chat(rules, opened=False)
    chat.server(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
    assert chat.down.endswith(b"\r\n\r\nno")
    chat.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
    assert b"GET /a HTTP/1.1" in chat.up
    assert json.dumps(chat.records(EventKind.RESULT, "outcome", "tag")) == '[["error", "401"]]'
    assert chat.gate.closed(Side.CLIENT, NOW)
