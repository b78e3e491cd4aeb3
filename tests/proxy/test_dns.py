from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvloop

from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.target import Login, Target
from hostagent.proxy.dns import PolicyDNS, Resolver, forbidden_answer
from hostagent.wire.dns import Code, build_frame

CRM = Target("crm", "postgres", ("crm.internal", "10.0.0.9"), 5432, Login("app"))
WALL = 1_700_000_000_000_000_000


def question(name: str, kind: int = 1, identifier: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return identifier.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"


def rcode(reply: bytes) -> Code:
    return Code(reply[3] & 0xF)


def addresses(reply: bytes) -> list[str]:
    count = int.from_bytes(reply[6:8], "big")
    if not count:
        return []
    size = int.from_bytes(reply[-6:-4], "big") if reply[-6:-4] == b"\0\4" else 16
    record = 12 + size
    records = [reply[len(reply) - (count - i) * record :][:record] for i in range(count)]
    return [socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, r[12:]) for r in records]


@dataclass
class Memory:
    """A journal in memory that can be made to fail."""

    events: list[Event] = field(default_factory=list)
    broken: bool = False

    def append(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise JournalError("disk full")
        self.events.extend(events)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


NAMES = {"crm.internal": ("10.0.0.2", "fd77::2", "10.0.0.3"), "four.internal": ("10.0.0.4",), "lost.internal": ()}


class Stage:
    def __init__(self, names: Mapping[str, Sequence[str]] = NAMES, families: Iterable[int] = (4, 6)) -> None:
        self.journal = Memory()
        self.clock = Clock()
        self.dns = PolicyDNS(
            lambda: names,
            lambda: frozenset(families),
            self.journal,
            workload="bot",
            leaf="leaf-1",
            clock=self.clock,
            wall_ns=lambda: WALL,
        )


def dns_event(name: str, kind: str, outcome: str, answers: list[str], reason: str = "") -> Event:
    fields = {"name": name, "type": kind, "outcome": outcome, "answers": answers, "reason": reason, "leaf": "leaf-1"}
    return Event(EventKind.DNS, WALL, "", "bot", fields)


def test_name_of_a_target_is_answered_and_recorded() -> None:
    stage = Stage()
    reply = stage.dns.answer(question("CRM.internal"))
    assert (rcode(reply), addresses(reply)) == (Code.NOERROR, ["10.0.0.2", "10.0.0.3"])
    assert stage.journal.events == [dns_event("crm.internal", "A", "answered", ["10.0.0.2", "10.0.0.3"])]


def test_each_family_gets_its_own_addresses() -> None:
    assert addresses(Stage().dns.answer(question("crm.internal", 28))) == ["fd77::2"]


@pytest.mark.parametrize("kind", [15, 16, 28, 33, 65, 255])
def test_name_without_such_records_has_no_data(kind: int) -> None:
    reply = Stage().dns.answer(question("four.internal", kind))
    assert (rcode(reply), addresses(reply)) == (Code.NOERROR, [])


def test_family_that_this_host_cannot_reach_is_kept_back() -> None:
    reply = Stage(families=[4]).dns.answer(question("crm.internal", 28))
    assert (rcode(reply), addresses(reply)) == (Code.NOERROR, [])


@pytest.mark.parametrize("name", ["evil.test", "c2VjcmV0.crm.internal", "internal", "crm.internal.evil.test", "localhost"])
def test_unknown_name_does_not_exist_and_is_recorded(name: str) -> None:
    stage = Stage()
    assert rcode(stage.dns.answer(question(name))) is Code.NXDOMAIN
    assert stage.journal.events == [dns_event(name.lower(), "A", "refused", [], "no target has this name")]


def test_target_that_does_not_resolve_is_a_failure_and_not_a_missing_name() -> None:
    stage = Stage()
    assert rcode(stage.dns.answer(question("lost.internal"))) is Code.SERVFAIL
    assert stage.journal.events[0].fields["outcome"] == "refused"


def test_malformed_question_is_recorded() -> None:
    stage = Stage()
    assert rcode(stage.dns.answer(question("crm.internal") + b"x")) is Code.FORMERR
    assert stage.dns.answer(b"x") == b""
    assert [event.fields["outcome"] for event in stage.journal.events] == ["refused", "refused"]


def test_nothing_is_answered_that_cannot_be_recorded() -> None:
    stage = Stage()
    stage.journal.broken = True
    assert stage.dns.answer(question("crm.internal")) == b""
    assert stage.dns.answer(question("evil.test")) == b""


def test_flood_is_recorded_as_a_count() -> None:
    stage = Stage()
    for number in range(120):
        assert rcode(stage.dns.answer(question(f"x{number}.evil.test"))) is Code.NXDOMAIN
    assert len(stage.journal.events) == 50
    stage.clock.now += 10
    stage.dns.answer(question("crm.internal"))
    refusal, answered = stage.journal.events[50:]
    assert refusal == Event(
        EventKind.REFUSAL,
        WALL,
        "",
        "bot",
        {
            "layer": "dns",
            "leaf": "leaf-1",
            "source": "",
            "destination": "",
            "transport": "",
            "reason": "DNS questions beyond the rate that is recorded one by one",
            "count": 70,
        },
    )
    assert answered.fields["outcome"] == "answered"


def test_rest_of_a_flood_is_recorded_at_the_end() -> None:
    stage = Stage()
    for _ in range(51):
        stage.dns.answer(question("evil.test"))
    stage.dns.stop()
    assert stage.journal.events[-1].fields["count"] == 1


# -- over sockets, on both event loops -------------------------------------------------------------------------------------


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    def run(loop: str) -> None:
        (uvloop.run if loop == "uvloop" else asyncio.run)(test())

    run.__name__ = test.__name__
    return pytest.mark.parametrize("loop", ["asyncio", "uvloop"])(run)


def bound(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    if kind is socket.SOCK_STREAM:
        made.listen()
    return made


@on_both_loops
async def test_datagrams_are_answered_from_the_address_that_was_asked() -> None:
    stage = Stage()
    serving = bound(socket.SOCK_DGRAM)
    address = serving.getsockname()
    await stage.dns.start([serving])
    for identifier in range(3):
        reply, source = await asyncio.to_thread(ask, address, question("crm.internal", identifier=identifier))
        assert (reply[:2], source) == (identifier.to_bytes(2, "big"), address)
        assert addresses(reply) == ["10.0.0.2", "10.0.0.3"]
    stage.dns.stop()


def ask(address: tuple[str, int], message: bytes) -> tuple[bytes, tuple[str, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(message, address)
        return asking.recvfrom(4096)


@on_both_loops
async def test_streams_are_answered_message_by_message() -> None:
    stage = Stage()
    serving = bound(socket.SOCK_STREAM)
    host, port = serving.getsockname()
    await stage.dns.start([], [serving])
    reader, writer = await asyncio.open_connection(host, port)
    both = build_frame(question("crm.internal")) + build_frame(question("evil.test", identifier=8))
    for byte in both:
        writer.write(bytes([byte]))
    async with asyncio.timeout(5):
        first = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        second = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    assert (rcode(first), rcode(second)) == (Code.NOERROR, Code.NXDOMAIN)
    writer.close()
    stage.dns.stop()


@on_both_loops
async def test_stream_with_an_impossible_length_is_reset() -> None:
    stage = Stage()
    serving = bound(socket.SOCK_STREAM)
    host, port = serving.getsockname()
    await stage.dns.start([], [serving])
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"\xff\xff")
    async with asyncio.timeout(5):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
    stage.dns.stop()


@on_both_loops
async def test_stream_ends_after_a_hundred_questions() -> None:
    stage = Stage()
    serving = bound(socket.SOCK_STREAM)
    host, port = serving.getsockname()
    await stage.dns.start([], [serving])
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(build_frame(question("crm.internal")) * 100)
    async with asyncio.timeout(5):
        everything = await reader.read(-1)
    one = len(build_frame(stage.dns.answer(question("crm.internal"))))
    assert len(everything) == 100 * one
    writer.close()
    stage.dns.stop()


# -- the resolver ----------------------------------------------------------------------------------------------------------


class Zone:
    """Answers lookups from a table; a missing name fails."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): list(found) for name, found in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Iterable[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError("Name or service not known")
        return self.names[host]


def resolver(zone: Zone, *targets: Target) -> tuple[Resolver, Clock]:
    clock = Clock()
    return Resolver(lambda: targets, lookup=zone, clock=clock), clock


async def test_targets_names_are_resolved_and_nothing_else() -> None:
    zone = Zone(crm_internal=["10.0.0.2", "fd77::2", "10.0.0.2", "::ffff:10.0.0.5"], evil_test=["10.6.6.6"])
    known, _ = resolver(zone, CRM)
    assert known.names == {"crm.internal": ()}
    await known.refresh()
    assert known.names == {"crm.internal": ("10.0.0.2", "fd77::2", "10.0.0.5")}
    assert zone.asked == ["crm.internal"]


async def test_only_addresses_that_belong_to_the_target_may_be_dialled() -> None:
    known, _ = resolver(Zone(crm_internal=["10.0.0.2"]), CRM)
    await known.refresh()
    hosts = [known.host_of(CRM, address) for address in ("10.0.0.2", "10.0.0.9", "10.0.0.1")]
    assert hosts == ["crm.internal", "10.0.0.9", None]


async def test_failed_lookup_keeps_the_last_good_answer() -> None:
    zone = Zone(crm_internal=["10.0.0.2"])
    known, _ = resolver(zone, CRM)
    await known.refresh()
    zone.names.clear()
    await known.refresh()
    assert known.names == {"crm.internal": ("10.0.0.2",)}


async def test_old_address_may_be_dialled_for_a_while_but_is_not_given_out() -> None:
    zone = Zone(crm_internal=["10.0.0.2"])
    known, clock = resolver(zone, CRM)
    await known.refresh()
    zone.names["crm.internal"] = ["10.0.0.3"]
    await known.refresh()
    assert known.names == {"crm.internal": ("10.0.0.3",)}
    assert known.host_of(CRM, "10.0.0.2") == "crm.internal"
    clock.now += 301
    assert known.host_of(CRM, "10.0.0.2") is None


async def test_target_that_was_removed_is_forgotten() -> None:
    targets = [CRM]
    known = Resolver(lambda: targets, lookup=Zone(crm_internal=["10.0.0.2"]), clock=Clock())
    await known.refresh()
    targets.clear()
    await known.refresh()
    targets.append(CRM)
    assert known.names == {"crm.internal": ()}
    assert known.host_of(CRM, "10.0.0.2") is None


async def test_same_name_of_two_targets_has_the_addresses_of_both() -> None:
    other = replace(CRM, name="crm-admin", port=5433)
    known, _ = resolver(Zone(crm_internal=["10.0.0.2"]), CRM, other)
    await known.refresh()
    assert known.names == {"crm.internal": ("10.0.0.2",)}
    assert known.names_of([other]) == {"crm.internal": ("10.0.0.2",)}


async def test_name_that_is_led_elsewhere_is_not_followed() -> None:
    evil = ["127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "224.0.0.1", "0.0.0.0", "100.100.100.200", "::ffff:127.0.0.1"]
    known, _ = resolver(Zone(crm_internal=[*evil, "10.0.0.2"]), CRM)
    await known.refresh()
    assert known.names == {"crm.internal": ("10.0.0.2",)}
    assert [known.host_of(CRM, address) for address in evil] == [None] * len(evil)


@pytest.mark.parametrize(
    ("hosts", "host", "address", "forbidden"),
    [
        (("crm.internal",), "crm.internal", "10.0.0.2", False),
        (("crm.internal",), "crm.internal", "192.168.1.1", False),
        (("crm.internal",), "crm.internal", "8.8.8.8", False),
        (("crm.internal",), "crm.internal", "2001:db8::1", False),
        (("crm.internal",), "crm.internal", "127.0.0.53", True),
        (("crm.internal", "127.0.0.53"), "crm.internal", "127.0.0.53", False),
        (("localhost",), "localhost", "127.0.0.1", False),
        (("localhost",), "localhost", "::1", False),
        (("crm.internal",), "crm.internal", "169.254.169.254", True),
        (("crm.internal", "169.254.169.254"), "crm.internal", "169.254.169.254", False),
        (("crm.internal",), "crm.internal", "fd00:ec2::254", True),
        (("crm.internal",), "crm.internal", "168.63.129.16", True),
        (("crm.internal",), "crm.internal", "ff02::1", True),
        (("crm.internal",), "crm.internal", "::", True),
        (("crm.internal",), "crm.internal", "255.255.255.255", True),
        (("crm.internal",), "crm.internal", "nonsense", True),
    ],
)
def test_what_a_name_may_mean(hosts: tuple[str, ...], host: str, address: str, forbidden: bool) -> None:
    assert bool(forbidden_answer(replace(CRM, hosts=hosts), host, address)) is forbidden


async def test_system_lookup_knows_this_host() -> None:
    known = Resolver(lambda: [replace(CRM, hosts=("localhost",))])
    await known.refresh()
    assert "127.0.0.1" in known.names["localhost"]


def test_name_of_a_target_that_policy_closes_does_not_exist_and_the_record_says_why() -> None:
    stage = Stage()
    dns = PolicyDNS(
        dict,
        lambda: frozenset({4}),
        stage.journal,
        workload="bot",
        leaf="leaf-1",
        wall_ns=lambda: WALL,
        withheld=lambda name: name in NAMES,
    )
    assert dns.answer(question("crm.internal")) == Stage(names={}).dns.answer(question("crm.internal"))
    reason = "policy allows this workload nothing at the target with this name"
    assert stage.journal.events == [dns_event("crm.internal", "A", "refused", [], reason)]
