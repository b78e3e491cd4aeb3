"""The request table: every message both ways, what is not one, and who may send what when."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.ipc import (
    MAXIMUM_PACKET,
    Admit,
    Admitted,
    Attach,
    Attached,
    Body,
    Draw,
    Drawn,
    Exited,
    Failed,
    Kill,
    Killed,
    Launch,
    Launched,
    Leave,
    Listen,
    Listening,
    Packet,
    Quarantine,
    Quarantined,
    Release,
    Released,
    Reload,
    Reloaded,
    Renew,
    Renewed,
    Retire,
    Retired,
    Role,
    Signal,
    Signalled,
    State,
    Status,
    StatusReport,
    Table,
    Uninstall,
    Uninstalled,
    Verified,
    Verify,
    decode,
    encode,
)
from hostagent.ipc.codec import NUMBERS
from hostagent.model.errors import LocalWireError, RemoteWireError

LAUNCH = Launch("bot", ["psql", "-c", "select 1"], {"A": "b"}, "/tmp", True, 24, 80)
EXAMPLES: list[Body] = [
    Failed("no", 77),
    LAUNCH,
    Launched("bot-1", 42),
    Signal(15),
    Signalled(),
    Status(),
    StatusReport({"proxy": "p", "leaves": []}),
    Kill("bot", "why"),
    Killed(["bot-1"]),
    Quarantine("bot", "why"),
    Quarantined(["bot-1"]),
    Release("bot"),
    Released(),
    Verify(),
    Verified({"isolated: raw socket": "made"}, ["isolated: raw socket"], 1_200_000),
    Uninstall(),
    Uninstalled(["table"]),
    Reload(),
    Reloaded(),
    Reloaded(["target crm-db: new"], ["metrics.listen"], "no"),
    Renew(),
    Renewed(["target crm-db: new"]),
    Attach("proxyd-0"),
    Attached(["bot-1"]),
    Admit("bot", "root", "bot-1", again=True),
    Admitted(True, "", 1.5, "s", {"issuer": "i", "groups": ["a"]}),
    Listen("bot-1", "bot", "isolated", 901, 902, [5432]),
    Listen("bot-1", "bot", "isolated", 901, 902, [], ["/run/s"], 64000, [("127.0.0.1", 8080)]),
    Draw("bot-1"),
    Drawn("bot-1"),
    Leave(),
    Listening("bot-1"),
    Retire("bot-1"),
    Retired("bot-1"),
    Exited("bot-1", -9, "killed"),
]


@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: type(body).__name__)
def test_every_message_survives_the_way_there(body: Body) -> None:
    assert decode(encode(7, body)) == Packet(7, body)


def test_every_number_has_an_example() -> None:
    assert {type(body) for body in EXAMPLES} == set(NUMBERS.values())


def test_requests_are_even_and_answers_odd() -> None:
    answers = {type(body) for body in EXAMPLES if type(body).__name__.endswith(("ed", "Drawn", "Listening", "Report"))}
    odd = {body for number, body in NUMBERS.items() if number % 2}
    assert odd == answers - {Failed}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([2, 1]),
        msgspec.msgpack.encode([98, 1, {}]),
        msgspec.msgpack.encode([4, 1, {"number": "fifteen"}]),
        msgspec.msgpack.encode([4, 1, {"number": 15, "also": 1}]),
        msgspec.msgpack.encode([4, "one", {"number": 15}]),
        msgspec.msgpack.encode([8, 1, {}]),
        encode(1, Status()) + b"\x00",
        b"x" * (MAXIMUM_PACKET + 1),
    ],
)
def test_what_is_not_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        decode(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_protocols_error(data: bytes) -> None:
    try:
        packet = decode(data)
    except RemoteWireError:
        return
    assert isinstance(packet, Packet)


def test_a_message_too_large_for_a_packet_is_our_error() -> None:
    with pytest.raises(LocalWireError, match="over the limit"):
        encode(1, Launch("bot", ["x" * MAXIMUM_PACKET], {}, "/", False))


PERMITTED: dict[tuple[Role, State], set[type[Body]]] = {
    (Role.ROOT, State.FRESH): {Launch, Status, Kill, Quarantine, Release, Uninstall, Reload, Verify},
    (Role.USER, State.FRESH): {Launch, Status},
    (Role.PROXY, State.FRESH): {Attach},
    (Role.ROOT, State.RUNNING): {Signal},
    (Role.USER, State.RUNNING): {Signal},
    (Role.ROOT, State.ENDED): {Signal},
    (Role.USER, State.ENDED): {Signal},
}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", [state for state in State if state is not State.ATTACHED])
@pytest.mark.parametrize("body", EXAMPLES, ids=lambda body: type(body).__name__)
def test_only_what_the_table_permits_is_permitted(role: Role, state: State, body: Body) -> None:
    table = Table(role)
    table.state = state
    if type(body) in PERMITTED.get((role, state), set()):
        table.permit(1, body)
    else:
        with pytest.raises(RemoteWireError, match="not permitted"):
            table.permit(1, body)


def test_an_attached_proxy_may_ask_for_sockets_at_any_time() -> None:
    table = Table(Role.PROXY)
    table.state = State.ATTACHED
    table.asked(101, Admitted)
    table.permit(101, Draw("bot-1"))
    table.permit(101, Admitted(True))
    with pytest.raises(RemoteWireError):
        table.permit(102, Drawn("bot-1"))


def test_an_attached_proxy_may_only_answer_what_it_was_asked_and_once() -> None:
    table = Table(Role.PROXY)
    table.state = State.ATTACHED
    table.asked(101, Admitted)
    table.asked(102, Listening)
    for packet_id, body in ((101, Listening("x")), (7, Admitted(True)), (102, LAUNCH), (102, Kill("bot"))):
        with pytest.raises(RemoteWireError):
            table.permit(packet_id, body)
    table.asked(103, Admitted)
    table.permit(103, Admitted(True))
    with pytest.raises(RemoteWireError, match="answers nothing"):
        table.permit(103, Admitted(True))
    table.asked(104, Listening)
    table.permit(104, Failed("no"))
