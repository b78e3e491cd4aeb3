"""exec and attach of a Kubernetes API through the gate: WebSockets whose typed streams pass, counted and hashed."""

from __future__ import annotations

from hashlib import sha256

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from hostagent.inspectors.http.websocket import accept
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision, MaskContent
from tests.gate.gate_http import Talk
from tests.gate.gate_rim import NOW, Rules
from tests.gate.test_gate_kubernetes import CLUSTER, ask, status

_EXEC = "/api/v1/namespaces/prod/pods/web/exec?command=sh&command=-c&command=id&stdin=true&stdout=true"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {_KEY}", "Sec-WebSocket-Version: 13")


def allow(_: Operation) -> Decision:
    """Allow everything."""
    return Decision.ALLOW


def opening(target: str = _EXEC, protocols: str = "v5.channel.k8s.io, v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dGhlaXJz") -> bytes:
    """Return what a client asks."""
    return ask("GET", target, *_UPGRADE, f"Sec-WebSocket-Protocol: {protocols}")


class Shell(Talk):
    """A talk with an open exec; ``one`` and ``two`` are its outer ends."""

    def __init__(self) -> None:
        super().__init__(Rules(allow), target=CLUSTER, secret="S3cret-of-the-proxy")
        self.one, self.two = Connection(ConnectionType.CLIENT), Connection(ConnectionType.SERVER)
        self.client(opening())
        key = next(line.partition(": ")[2] for line in self.up.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        fields = ["HTTP/1.1 101 X", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept(key)}"]
        self.server("\r\n".join([*fields, "Sec-WebSocket-Protocol: v5.channel.k8s.io", "", ""]).encode())
        self.heads = {Side.CLIENT: len(self.down), Side.SERVER: len(self.up)}

    def got(self, side: Side) -> list[object]:
        """Return the data and close codes that ``side`` received."""
        end = self.one if side is Side.CLIENT else self.two
        end.receive_data((self.down if side is Side.CLIENT else self.up)[self.heads[side] :])
        return [each.code if isinstance(each, CloseConnection) else each.data for each in end.events()]  # type: ignore[attr-defined]

    def rows(self) -> list[tuple[object, ...]]:
        """Return what was recorded of the streams."""
        return self.records(EventKind.TRANSFER, "direction", "name", "size", "sha256", "outcome")


def test_streams_pass_both_ways_and_each_is_a_row() -> None:
    shell = Shell()
    assert b"bearer" not in shell.up
    assert b"Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n" in shell.up
    shell.client(shell.one.send(BytesMessage(b"\x00ls\n")) + shell.one.send(BytesMessage(b'\x04{"Width":80,"Height":24}')) + shell.one.send(TextMessage("\0w")))
    shell.client(shell.one.send(BytesMessage(b"\xff\x00")))
    shell.server(shell.two.send(BytesMessage(b"\x01")) + shell.two.send(BytesMessage(b"\x01uid=0", message_finished=False)) + shell.two.send(BytesMessage(b"\n")))
    shell.server(shell.two.send(BytesMessage(b"\x02oops")) + shell.two.send(BytesMessage(b'\x03{"status":"Success"}')) + shell.two.send(CloseConnection(1000)))
    assert shell.got(Side.SERVER) == [b"\x00ls\n", b'\x04{"Width":80,"Height":24}', "\0w", b"\xff\x00", 1000]
    assert shell.got(Side.CLIENT)[:4] == [b"\x01", b"\x01uid=0\n", b"\x02oops", b'\x03{"status":"Success"}']
    where = _EXEC.partition("?")[0]
    parts = [("upload", "stdin", b"ls\nw"), ("upload", "resize", b'{"Width":80,"Height":24}'), ("download", "stdout", b"uid=0\n"), ("download", "stderr", b"oops")]
    parts.append(("download", "error", b'{"status":"Success"}'))
    expected = [(way, f"{where}:{name}", len(data), sha256(data).hexdigest(), "finished") for way, name, data in parts]
    assert shell.rows() == expected
    assert shell.records(EventKind.STATEMENT, "verb", "effects", "parameters") == [
        ("get", ["execute", "insert", "read"], ["sh", "-c", "id", "true", "true"])
    ]


def test_each_message_is_one_frame_however_it_came() -> None:
    """The API server reads frames, not messages: what stands first in a second frame it would take for a channel."""
    shell = Shell()
    sent = shell.one.send(BytesMessage(b"\x00" + b"a" * 70_000, message_finished=False)) + shell.one.send(BytesMessage(b"\x04b"))
    for at in range(0, len(sent), 8192):
        shell.client(sent[at : at + 8192])
    assert (shell.up[shell.heads[Side.SERVER]], len(shell.got(Side.SERVER)[0])) == (0x82, 70_003)  # type: ignore[arg-type]
    shell.do(shell.gate.closed(Side.CLIENT, NOW))
    assert [(row[1], row[2]) for row in shell.rows()] == [(f"{_EXEC.partition('?')[0]}:stdin", 70_002)]


def test_a_client_that_goes_leaves_a_row_of_what_passed() -> None:
    shell = Shell()
    shell.server(shell.two.send(BytesMessage(b"\x01half")))
    shell.do(shell.gate.closed(Side.CLIENT, NOW))
    assert [(row[2], row[4]) for row in shell.rows()] == [(4, "aborted")]


@pytest.mark.parametrize(("side", "message"), [(Side.CLIENT, b"\x01x"), (Side.CLIENT, b"\x07x"), (Side.SERVER, b"\x00x"), (Side.SERVER, b"\x03" + b"x" * 70_000)])
def test_a_channel_that_is_none_or_comes_from_the_wrong_side_ends_it(side: Side, message: bytes) -> None:
    shell = Shell()
    (shell.client if side is Side.CLIENT else shell.server)((shell.one if side is Side.CLIENT else shell.two).send(BytesMessage(message)))
    assert (shell.closed, [each for each in shell.got(side.other) if isinstance(each, bytes | str)]) == (True, [])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (opening(protocols="base64.channel.k8s.io"), "none of the sub-protocols"),
        (opening("/api/v1/namespaces/prod/pods/web/portforward?ports=80", "v4.channel.k8s.io"), "over a WebSocket is not understood"),
        (opening("/api/v1/namespaces/prod/pods/web/portforward", "SPDY/3.1+portforward.k8s.io"), "over a WebSocket is not understood"),
        (opening("/api/v1/pods?watch=1", "v4.channel.k8s.io"), "over a WebSocket is not understood"),
        (opening("/api/v1/namespaces/prod/pods/web/proxy/ws", "v4.channel.k8s.io"), "over a WebSocket is not understood"),
        (opening("/version", "v4.channel.k8s.io"), "over a WebSocket is not understood"),
    ],
)
def test_a_websocket_that_is_not_understood_is_not_opened(asked: bytes, words: str) -> None:
    session = Talk(Rules(allow), target=CLUSTER)
    session.client(asked)
    assert (session.up, words in str(status(session)["message"])) == (b"", True)


def test_where_a_rule_masks_no_stream_is_opened() -> None:
    session = Talk(Rules(allow, (MaskContent("mails", frozenset({"email"})),)), target=CLUSTER)
    session.client(opening())
    assert (session.up, "cannot be masked" in str(status(session)["message"])) == (b"", True)
