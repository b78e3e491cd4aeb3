"""What one step of the loop may do to the next ones, and an end that comes before the beginning."""

from __future__ import annotations

import os
import selectors
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hostagent.enforcer.cgroup import Leaf
from hostagent.enforcer.confinement.launch import Process
from hostagent.enforcer.governed import Account, Governed, Stage
from hostagent.enforcer.launchers import Launchers
from hostagent.enforcer.leaves import Leaves
from hostagent.enforcer.listeners import bind_free
from hostagent.enforcer.reporting.attempts import AttemptWatch
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.server import still_registered
from hostagent.enforcer.verify.verification import Own
from hostagent.ipc import Launch
from hostagent.model.errors import HostagentError
from hostagent.model.workload import Workload


@pytest.mark.parametrize("then", ["closed", "number taken", "number registered"])
def test_a_source_that_was_closed_earlier_in_its_batch_is_not_asked(then: str) -> None:
    """A leaf that ends with others of its sources ready: they are closed by the first of them."""
    with selectors.DefaultSelector() as selector:
        ours, theirs = socket.socketpair()
        with theirs:
            selector.register(ours, selectors.EVENT_READ)
            theirs.send(b"x")
            ((key, _),) = selector.select(1)
            assert still_registered(selector, key)
            selector.unregister(ours)
            if then == "closed":
                ours.close()
                assert not still_registered(selector, key)
                return
            number = ours.fileno()
            os.dup2(theirs.fileno(), number)
            if then == "number registered":
                selector.register(number, selectors.EVENT_READ)
            assert not still_registered(selector, key)
            ours.close()


class _NoEvidence:
    """Takes a launch and forgets it."""

    def launch(self, governed: Governed) -> None:
        pass


class _NoOutput:
    """Of a program of ours; nobody asks for its output here."""

    def started(self, output: int) -> None:
        raise AssertionError(output)


class _Cgroup:
    """Counts how often everything inside is ended."""

    name = "w-1"

    def __init__(self) -> None:
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1

    def occupied(self) -> None:
        pass


class _Stuck:
    """A leaf in which something does not end."""

    def remove(self) -> None:
        raise HostagentError("cannot be removed")


def _governed(leaf: object, **fields: Any) -> Governed:
    account = Account(61001, 61001, "w", "/", "/bin/sh", own=True)
    request = Launch("w", ["true"], {}, "/", tty=False)
    return Governed(cast("Leaf", leaf), Workload(name="w", launchers=frozenset()), "root", request, account, 1, **fields)


def test_a_leaf_that_cannot_be_removed_keeps_no_port_and_no_descriptor() -> None:
    """Its workload could never be launched again: the inbound port would be taken."""
    listeners = bind_free(range(47310, 47330), ())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    governed = _governed(_Stuck(), listeners=listeners, network=network, process=Process(os.getpid(), ours))
    with theirs, pytest.raises(HostagentError):
        governed.release()
    assert (governed.listeners, governed.network, ours.fileno(), listeners.descriptors) == (None, -1, -1, [])


@pytest.mark.parametrize(("reason", "kills"), [("quarantined by root", 1), ("", 0)])
def test_an_end_that_came_before_the_first_process_was_in_its_leaf_is_made_good(reason: str, kills: int) -> None:
    """Between the fork and the leaf nothing finds it: a kill or a quarantine of that moment must not be forgotten."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        cgroup = _Cgroup()
        governed = _governed(cgroup, stage=Stage.STARTING, process=Process(os.getpid(), ours), reason=reason)
        theirs.send(b"here")
        Leaves._reported(Leaves.__new__(Leaves), governed)
        assert (cgroup.kills, governed.main_pid) == (kills, os.getpid())


@pytest.mark.parametrize("report", [b"calls", b"masked /run/x", b"started 1 /bin/true"])
def test_a_report_whose_descriptors_did_not_come_ends_its_leaf_and_nobody_else(report: bytes) -> None:
    """As when a process has as many as it may: the kernel leaves them out."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        cgroup = _Cgroup()
        governed = _governed(cgroup, stage=Stage.STARTING, process=Process(os.getpid(), ours))
        theirs.send(report)
        leaves = Leaves.__new__(Leaves)
        leaves.attempts = cast("AttemptWatch", SimpleNamespace(hear_calls=None, hear_dials=None))
        leaves._evidence = cast("Evidence", _NoEvidence())
        leaves._launchers, leaves._own = Launchers(), {governed.leaf.name: cast("Own", _NoOutput())}
        leaves._reported(governed)
        assert (cgroup.kills, "could not be heard" in governed.reason) == (1, True)
