"""A reload at enforcerd: everything is read before anything changes, and whoever asked is always told what came of it."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hostagent.enforcer.renewal import Renewal
from hostagent.enforcer.settings import Reread
from hostagent.ipc import Failed, Reloaded, Renew, Renewed
from hostagent.model.errors import DocumentError


class Host:
    """Leaves, verification and an attached proxy, as far as a reload touches them."""

    def __init__(self, *, attached: bool = True) -> None:
        self.done: list[object] = []
        self.asked: list[tuple[int, object]] = []
        self.proxy: Host | None = self if attached else None
        self.verification = SimpleNamespace(configure=lambda every, freeze: self.done.append((every, freeze)))
        self.told: list[Reloaded] = []
        self.handed: list[int] = []
        self.wrong = ""

    def reload(self) -> None:
        self.done.append("rules")

    def ask(self, number: int, body: object, _answer: object, descriptors: list[int]) -> bool:
        self.asked.append((number, body))
        assert os.fstat(descriptors[0])
        return True

    def reread(self) -> Reread:
        if self.wrong:
            raise DocumentError(self.wrong)
        self.handed.append(os.memfd_create("secrets"))
        return Reread(self.handed[-1], 5.0, verify_freeze=True)


def _renewal(host: Any) -> Renewal:
    return Renewal(SimpleNamespace(reread=host.reread), host)  # type: ignore[arg-type]


def _closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Renewed(["a"], ["b"]), Reloaded(["a"], ["b"])),
        (Renewed(problem="no"), Reloaded(problem="no")),
        (Failed("broken"), Reloaded(problem="broken")),
    ],
)
def test_what_the_proxy_says_is_what_the_asker_hears(answer: Renewed | Failed, result: Reloaded) -> None:
    host = Host()
    renewal = _renewal(host)
    renewal.begin(host.told.append)
    [(number, body)] = host.asked
    assert (body, host.done, host.told, _closed(host.handed[0])) == (Renew(), ["rules", (5.0, True)], [], True)
    assert renewal.answered(number, answer)
    assert renewal.answered(number, answer)  # again: nobody waits for it any more
    assert not renewal.answered(7, answer)
    assert host.told == [result]


def test_a_document_that_is_wrong_changes_nothing() -> None:
    host = Host()
    host.wrong = "crm-db:2: hostz: unknown key"
    with pytest.raises(DocumentError):
        _renewal(host).begin(host.told.append)
    assert (host.done, host.asked, host.told) == ([], [], [])


def test_without_a_proxy_the_rules_are_loaded_and_that_is_said() -> None:
    host = Host(attached=False)
    _renewal(host).begin(host.told.append)
    assert (host.done[0], "not attached" in host.told[0].notes[0], _closed(host.handed[0])) == ("rules", True, True)


@pytest.mark.parametrize("gone", [True, False])
def test_a_proxy_that_goes_or_says_nothing_is_not_waited_for(gone: bool) -> None:
    host = Host()
    renewal = _renewal(host)
    renewal.begin(host.told.append)
    renewal.tick(time.monotonic())
    assert host.told == []
    if gone:
        host.proxy = None
    renewal.tick(time.monotonic() + (0 if gone else 60))
    assert "did not say" in host.told[0].problem
