"""What one user may take of enforcerd: real sockets, a clock that is an argument."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hostagent.enforcer.peers import Door, Peer
from hostagent.ipc import Role, State


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    """Forty connections of one unprivileged user."""
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(40)]
    made = [Peer(ours, proxy_uid=901) for ours, _ in ends]
    for each in made:
        each.uid, each.table.role = 5000, Role.USER
    yield made
    for ours, theirs in ends:
        ours.close()
        theirs.close()


def test_a_user_has_sixteen_connections_without_a_workload(peers: list[Peer]) -> None:
    door = Door()
    assert [door.enter(each, 0.0) for each in peers[:18]] == [True] * 16 + [False] * 2
    peers[0].table.state = State.RUNNING
    assert [door.enter(each, 0.0) for each in peers[18:20]] == [True, False]
    door.leave(peers[1])
    assert door.enter(peers[20], 0.0)


def test_root_and_the_proxy_are_not_counted(peers: list[Peer]) -> None:
    door = Door()
    for each in peers:
        each.table.role = Role.PROXY
    assert all(door.enter(each, 0.0) and door.allows(each, 0.0) for each in peers * 3)
    assert door.overdue(1000.0) == []


def test_requests_are_answered_at_a_rate(peers: list[Peer]) -> None:
    door = Door()
    assert [door.allows(peers[number % 40], 10.0) for number in range(42)] == [True] * 40 + [False] * 2
    assert [door.allows(peers[0], 10.5) for _ in range(4)] == [True, True, False, False]
    peers[0].table.state = State.RUNNING
    assert door.allows(peers[0], 10.5)


def test_who_asks_nothing_is_sent_away(peers: list[Peer]) -> None:
    door = Door()
    door.enter(peers[0], 0.0)
    door.enter(peers[1], 20.0)
    peers[2].table.state = State.RUNNING
    door.enter(peers[2], 0.0)
    assert (door.overdue(29.0), door.overdue(31.0)) == ([], [peers[0]])
