"""A connection that speaks HTTP through the gate, for the tests: what each side sent and got, and what was recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hostagent.gate import Gate
from hostagent.model.command import Close, Command, Connect
from hostagent.model.event import EventKind
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.model.operation import Operation
from hostagent.model.target import Login, Target, UpstreamTLS
from hostagent.model.verdict import Decision, MaskContent
from tests.gate.gate_rim import NOW, Rules, events, make_context, sent

_PLACE = Endpoint("10.0.0.1", 80)
PLAIN = Target("api", "http", ("api.example", "10.0.0.1"), 80, Login("", None, "bearer"), UpstreamTLS.DISABLE)


def by_path(operation: Operation) -> Decision:
    """Deny what has ``denied`` in its path, hold what has ``held``."""
    path = operation.attributes.get("path", "")
    return Decision.DENY if "denied" in path else Decision.HOLD if "held" in path else Decision.ALLOW


class Talk:
    """A gate, and everything it asked for; the upstream connection is there as soon as it is asked for."""

    def __init__(
        self,
        rules: Rules | None = None,
        target: Target = PLAIN,
        secret: str | None = "ours",
        leaf: str = "leaf",
        **more: object,
    ) -> None:
        flow = Flow("f", "bot", leaf, _PLACE, _PLACE)
        more = {"park_s": 100.0, **more}
        context = make_context(rules or Rules(by_path), target=target, secret=secret, flow=flow, **more)
        self.gate = Gate(context)
        self.commands: list[Command] = []

    def do(self, commands: Sequence[Command]) -> None:
        """Note ``commands``, and connect if they ask for it."""
        self.commands += commands
        if any(isinstance(command, Connect) for command in commands):
            self.do(self.gate.connected(NOW))

    def client(self, data: bytes) -> None:
        """Bytes arrive from the client."""
        self.do(self.gate.feed(Side.CLIENT, data, NOW))

    def server(self, data: bytes) -> None:
        """Bytes arrive from the target."""
        self.do(self.gate.feed(Side.SERVER, data, NOW))

    @property
    def up(self) -> bytes:
        """What the target got."""
        return sent(self.commands, Side.SERVER)

    @property
    def down(self) -> bytes:
        """What the client got."""
        return sent(self.commands, Side.CLIENT)

    @property
    def closed(self) -> bool:
        """Whether the gate ended the connection."""
        return any(isinstance(command, Close) for command in self.commands)

    def records(self, kind: EventKind, *names: str) -> list[tuple[object, ...]]:
        """Return the fields ``names`` of every event of ``kind``."""
        return [tuple(event.fields[name] for name in names) for event in events(self.commands, kind)]

    def problem(self) -> dict[str, object]:
        """Return the first problem document that the client got."""
        body = self.down.partition(b"application/problem+json")[2].partition(b"\r\n\r\n")[2]
        found: dict[str, object] = json.loads(body.partition(b"\n")[0])
        return found


MASKED = Rules(by_path, (MaskContent("mask-mail", frozenset({"email", "card"})),))


def answer(body: bytes, *fields: bytes, kind: bytes = b"application/json") -> bytes:
    """Return a response."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *fields, b"", body]
    return b"\r\n".join(lines)
