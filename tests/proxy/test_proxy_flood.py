"""Refused dials without end: some rows, then counts, none lost."""

from __future__ import annotations

import asyncio

from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint
from hostagent.proxy.flood import Flood


def test_beyond_the_rate_refusals_are_counted_by_destination_and_none_is_lost() -> None:
    written: list[Event] = []

    async def dial() -> int:
        flood = Flood("bot-1", "bot", written.extend)
        taken = sum(flood.takes(Endpoint("10.0.0.1", 1 + number % 200), "no target") for number in range(5000))
        flood.flush()
        assert not flood.takes(Endpoint("10.0.0.1", 1), "no target")
        flood.flush()
        return taken

    taken = asyncio.run(dial())
    assert taken == 4900
    assert sum(int(str(event.fields["count"])) for event in written) == taken
    assert len(written) == 65
    assert {(event.kind, event.workload, event.fields["layer"]) for event in written} == {(EventKind.REFUSAL, "bot", "proxy")}


def test_a_counted_refusal_says_how_it_was_dialled() -> None:
    written: list[Event] = []

    async def dial() -> None:
        flood = Flood("bot-1", "bot", written.extend)
        for number in range(104):
            flood.takes(Endpoint("/run/postgresql/.s.PGSQL.5432", 0) if number % 2 else Endpoint("10.0.0.1", 1), "no target")
        flood.flush()

    asyncio.run(dial())
    assert {(event.fields["destination"], event.fields["transport"], event.fields["count"]) for event in written} == {
        ("/run/postgresql/.s.PGSQL.5432", "unix", 2),
        ("10.0.0.1:1", "tcp", 2),
    }
