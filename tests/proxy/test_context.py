"""The policy folder and the context providers, with real files and a real loopback server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from hostagent.model.errors import DocumentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.policy import ContextProvider, ContextValue, empty, load
from hostagent.proxy.context import PolicyStore, read_documents, unix_group_members
from hostagent.proxy.providers import Providers, from_file

NOW = 1_772_625_600.0
READS = "version: 1\nrules:\n- {id: reads, what: {effects: [read]}, then: allow}\n"
WRITES = "version: 1\nrules:\n- {id: writes, what: {effects: [insert]}, then: allow}\n"


class Rows:
    """A journal that keeps what it is given, or fails."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.full = False

    def append(self, events: Sequence[Event]) -> None:
        if self.full:
            raise JournalError("no space left")
        self.events.extend(events)

    def outcomes(self) -> list[object]:
        return [event.fields["outcome"] for event in self.events]


def nobody(_: str) -> frozenset[str]:
    return frozenset()


def make(folder: Path, rows: Rows, group_members: Callable[[str], frozenset[str]] = nobody) -> PolicyStore:
    return PolicyStore(folder, rows, detectors=frozenset({"card"}), clock=lambda: NOW, group_members=group_members)


@contextlib.asynccontextmanager
async def watched(store: PolicyStore) -> AsyncIterator[None]:
    """Run ``store`` in the background."""
    task = asyncio.create_task(store.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until ``condition`` holds; far longer than it takes on a busy machine."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_until_a_policy_is_loaded_everything_is_denied(tmp_path: Path) -> None:
    assert make(tmp_path, Rows()).current.hash == empty().hash


def test_a_folder_is_loaded_as_one_rule_set_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    (tmp_path / "b.yml").write_text(WRITES)
    (tmp_path / "a.expected.yaml").write_text("not policy")
    (tmp_path / ".hidden.yaml").write_text("not policy")
    (tmp_path / "notes.txt").write_text("not policy")
    rows = Rows()
    store = make(tmp_path, rows)
    assert store.reload()
    assert [rule.id for rule in store.current.rules] == ["reads", "writes"]
    fields = {"outcome": "loaded", "policy": store.current.hash, "documents": ["a.yaml", "b.yml"], "reason": ""}
    assert rows.events == [Event(EventKind.POLICY, int(NOW * 1e9), "", "", fields)]


def test_a_wrong_set_is_refused_whole_and_the_last_good_one_stays(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    rows = Rows()
    store = make(tmp_path, rows)
    store.reload()
    good = store.current
    (tmp_path / "b.yaml").write_text(WRITES.replace("insert", "inzert"))
    (tmp_path / "a.yaml").write_text(WRITES)
    assert not store.reload()
    assert store.current is good
    assert rows.outcomes() == ["loaded", "refused"]
    assert rows.events[1].fields["policy"] == good.hash
    assert "b.yaml:3" in str(rows.events[1].fields["reason"])


def test_a_folder_that_is_gone_keeps_the_last_good_set_and_an_empty_one_denies(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "a.yaml").write_text(READS)
    store = make(folder, Rows())
    store.reload()
    good = store.current
    folder.rename(tmp_path / "elsewhere")
    assert not store.reload()
    assert store.current is good
    folder.mkdir()
    assert store.reload()
    assert store.current.rules == ()


def test_a_hold_rule_is_refused_until_its_group_has_a_member(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\nrules:\n- {id: ask, then: hold, approvers: dba}\n")
    members: dict[str, frozenset[str]] = {}
    store = make(tmp_path, Rows(), group_members=lambda name: members.get(name, frozenset()))
    assert not store.reload()
    assert "no approver is configured" in store.problem
    members["dba"] = frozenset({"alice"})
    assert store.reload()
    assert store.problem == ""


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_documents_that_others_may_write_are_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    (tmp_path / "a.yaml").chmod(mode)
    with pytest.raises(DocumentError, match="nobody else may write it"):
        read_documents(tmp_path)
    assert read_documents(tmp_path, trusted=False) == {"a.yaml": READS}
    (tmp_path / "a.yaml").chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(DocumentError, match="nobody else may write it"):
        read_documents(tmp_path)


def test_a_policy_whose_loading_cannot_be_recorded_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    rows = Rows()
    rows.full = True
    store = make(tmp_path, rows)
    with pytest.raises(JournalError):
        store.reload()
    assert store.current.rules == ()
    rows.full = False
    assert store.reload()
    assert store.current.hash == load({"a": READS}).hash


async def test_a_changed_folder_counts_without_a_restart_and_a_bad_change_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    rows = Rows()
    store = make(tmp_path, rows)
    store.reload()
    async with watched(store):
        before = store.current
        (tmp_path / "a.yaml").write_text(WRITES)
        await until(lambda: store.current is not before)
        assert [rule.id for rule in store.current.rules] == ["writes"]
        good = store.current
        (tmp_path / "a.yaml").write_text("version: 1\nrules: [{id: x, then: maybe}]")
        await until(lambda: rows.outcomes() == ["loaded", "loaded", "refused"])
        assert store.current is good
        (tmp_path / "new").write_text(READS)
        (tmp_path / "new").rename(tmp_path / "a.yaml")
        await until(lambda: [rule.id for rule in store.current.rules] == ["reads"])
    assert rows.outcomes() == ["loaded", "loaded", "refused", "loaded"]


async def test_a_file_that_is_still_being_written_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    rows = Rows()
    store = make(tmp_path, rows)
    store.reload()
    async with watched(store):
        for number in range(60):  # longer than two looks, never twice the same
            (tmp_path / "a.yaml").write_text(READS + f"# line {number}\n")
            await asyncio.sleep(0.01)
        assert rows.outcomes() == ["loaded"]


async def test_a_change_that_cannot_be_recorded_ends_the_watch_so_that_the_process_can_stop(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(READS)
    rows = Rows()
    store = make(tmp_path, rows)
    store.reload()
    rows.full = True
    (tmp_path / "a.yaml").write_text(WRITES)
    with pytest.raises(ExceptionGroup) as failed:
        async with asyncio.timeout(5):
            await store.run()
    assert failed.value.subgroup(JournalError) is not None
    assert [rule.id for rule in store.current.rules] == ["reads"]


def test_members_of_a_unix_group_are_those_listed_and_those_of_whom_it_is_the_primary_group() -> None:
    assert "root" in unix_group_members("root")
    assert unix_group_members("no-such-group-here") == frozenset()


def file_provider(path: Path) -> ContextProvider:
    return ContextProvider(("freeze", "level", "absent"), str(path), "", 60.0)


@pytest.mark.parametrize(
    ("name", "text"), [("c.json", '{"freeze": "off", "level": 3, "x": 1}'), ("c.yaml", "freeze: off\nlevel: 3")]
)
def test_a_file_says_its_attributes_and_is_as_old_as_it_was_written(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    os.utime(path, (NOW - 50, NOW - 50))
    said = {"freeze": ContextValue("off", NOW - 50), "level": ContextValue(3, NOW - 50)}
    assert from_file(file_provider(path), NOW) == said
    os.utime(path, (NOW + 5000, NOW + 5000))
    assert from_file(file_provider(path), NOW)["freeze"].at == NOW


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"freeze": ["off"], "level": null}', '{"freeze": "' + "x" * 70_000 + '"}', "\udcff"]
)
def test_a_file_that_is_no_good_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert from_file(file_provider(path), NOW) == {}
    assert from_file(file_provider(tmp_path / "absent"), NOW) == {}


def test_a_file_that_everybody_may_write_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"freeze": "off"}')
    assert from_file(file_provider(path), NOW) != {}
    path.chmod(0o666)
    assert from_file(file_provider(path), NOW) == {}


def test_a_loaded_policy_finds_the_attributes_of_its_files_at_once(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    context.write_text('{"freeze": "off"}')
    os.utime(context, (NOW, NOW))
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"version: 1\ncontext: [{{attributes: [freeze], file: {context}}}]\nrules: []\n")
    store = make(folder, Rows())
    store.reload()
    assert store.context.now == NOW
    assert store.context.values == {"freeze": ContextValue("off", NOW)}
    (folder / "a.yaml").write_text("version: 1\nrules: []\n")
    store.reload()
    assert store.context.values == {}


async def test_a_file_is_read_again_when_it_changes_and_forgotten_when_it_is_gone(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    context.write_text('{"freeze": "off"}')
    providers = Providers(lambda: NOW)
    providers.configure([ContextProvider(("freeze",), str(context))])
    context.write_text('{"freeze": "on"}')
    await providers.ask()
    assert providers.values["freeze"].value == "on"
    context.unlink()
    await providers.ask()
    assert providers.values == {}


class Service:
    """A loopback HTTP server whose whole answer is ``answer``."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.never = asyncio.Event()
        self.hang = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if self.hang:
            await self.never.wait()
        writer.write(self.answer)
        await writer.drain()
        writer.close()


def ok(body: object) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(body).encode()


@contextlib.asynccontextmanager
async def serving(service: Service) -> AsyncIterator[Providers]:
    """Serve and yield providers that ask this service for ``freeze``."""
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    providers = Providers(lambda: NOW)
    providers.configure([ContextProvider(("freeze",), "", f"http://localhost:{port}/context?a=b", 60.0)])
    try:
        yield providers
    finally:
        service.never.set()
        server.close()


async def test_a_service_is_asked_over_loopback() -> None:
    service = Service(ok({"freeze": True, "other": 1}))
    async with serving(service) as providers:
        await providers.ask()
        assert providers.values == {"freeze": ContextValue(value=True, at=NOW)}
        assert service.requests[0].startswith(b"GET /context?a=b HTTP/1.0\r\nHost: localhost:")
        await providers.ask()
        assert len(service.requests) == 1  # not due again yet


@pytest.mark.parametrize("uptime", [0.0, 0.1, 1000.7, 8192.3, 9600.1, 20_000.9, 123_456.7, 10_000_000.3])
@pytest.mark.parametrize("max_age", [0.5, 1.0, 2.0, 5.0, 7.0, 60.0])
async def test_a_service_is_asked_at_once_however_long_the_host_is_up(
    uptime: float, max_age: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = ContextProvider(url="http://localhost:1/", max_age=max_age, attributes=("freeze",))
    providers = Providers(lambda: NOW)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: uptime)
        assert providers._is_due(provider)
        assert not providers._is_due(provider)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n",
        b"HTTP/1.0 500 Oops\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n[1]",
        b"HTTP/1.0 200 OK\r\n\r\nnot json",
        b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 200_000,
        b"garbage",
        b"",
        ok({"freeze": {"nested": 1}}),
    ],
)
async def test_an_answer_that_is_no_good_says_nothing(answer: bytes) -> None:
    async with serving(Service(answer)) as providers:
        await providers.ask()
        assert providers.values == {}


async def test_a_service_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostagent.proxy.providers.TIMEOUT_S", 0.05)
    service = Service(b"")
    service.hang = True
    async with serving(service) as providers, asyncio.timeout(2):
        await providers.ask()
        assert providers.values == {}


def test_policy_ignores_what_a_service_said_too_long_ago() -> None:
    rules = (
        "version: 1\ncontext: [{attributes: [freeze], url: 'http://127.0.0.1:1/', max_age: 60}]\n"
        "rules: [{id: a, what: {effects: [read]}, when: {context: {freeze: off}}, then: allow}]\n"
    )
    assert load({"a": rules}).providers == (ContextProvider(("freeze",), "", "http://127.0.0.1:1/", 60.0),)
