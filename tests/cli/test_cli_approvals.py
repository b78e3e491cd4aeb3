"""``hostagent approvals`` and ``hostagent identity`` against the real control socket, and what they say when something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from click.testing import CliRunner, Result

from hostagent.approval import ApprovalRefused, Approver, Desk, describe
from hostagent.cli import main
from hostagent.cli.control import ControlError, ask_at
from hostagent.model.identity import Identity
from hostagent.model.operation import Effect, Operation
from hostagent.model.ticket import Answer, Ticket
from hostagent.proxy.control import Caller, Control, Refused

OPERATION = Operation(
    "postgres", "DELETE", frozenset({Effect.DELETE_ALL}), text="delete from customers -- \u202e\x1b[2J"
)
SELF = pwd.getpwuid(os.geteuid()).pw_name


def ticket(**changes: object) -> Ticket:
    now = time.time()
    made = Ticket(
        ticket_id="3f2a11", flow_id="f1", workload="bot", launcher="someone", identity=Identity("https://i", "bot", now + 600),
        target="crm", database="crm", user="crm_app", operations=(OPERATION,), digest="ab12" * 16, rule="hold-deletes",
        reason="bulk delete", approvers="dba", created_at=now, expires_at=now + 60,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


class Service:
    """The control socket with a desk behind it, in a thread with its own event loop."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk()
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, Mapping[str, object]]] = []
        self.groups = frozenset({"dba"})
        runtime = folder / "run"
        (runtime / "proxyd").mkdir(parents=True)
        self.socket = runtime / "proxyd" / "control.sock"
        self.config = folder / "hostagent.toml"
        self.config.write_text(f'[paths]\nruntime = "{runtime}"\n')
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._control = Control(str(self.socket), "no-such.slice")
        for call, handler in {
            "approvals.list": lambda caller, _: [
                describe(t, time.time()) for t in self.desk.pending(time.time(), self._who(caller))
            ],
            "approvals.show": lambda caller, args: describe(
                self.desk.find(str(args["ticket"]), self._who(caller), time.time()), time.time()
            ),
            "approvals.answer": self._answered,
            "identity.list": self._noted(
                "identity.list", [{"workload": "bot", "state": "valid", "subject": "b\x1b[2J", "issuer": "i"}]
            ),
            "identity.revoke": self._noted("identity.revoke", {}),
            "identity.restore": self._noted("identity.restore", {}),
        }.items():
            self._control.on(call, self._refusing(handler))
        asyncio.run_coroutine_threadsafe(self._control.start(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _stop(self) -> None:
        await self._control.stop()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        await asyncio.gather(*others, return_exceptions=True)

    def _who(self, caller: Caller) -> Approver:
        return Approver(caller.user, caller.uid, self.groups, caller.governed)

    def _answered(self, caller: Caller, args: Mapping[str, object]) -> object:
        reason, digest = str(args["reason"]), str(args["digest"])
        answer = self.desk.answer(
            str(args["ticket"]), self._who(caller), args["granted"] is True, reason, time.time(), digest
        )
        self.answers.append(answer)
        return {}

    def _noted(self, call: str, result: object) -> Callable[[Caller, Mapping[str, object]], object]:
        def handler(_: Caller, args: Mapping[str, object]) -> object:
            self.asked.append((call, args))
            return result

        return handler

    @staticmethod
    def _refusing(handler: Callable[..., object]) -> Callable[[Caller, Mapping[str, object]], object]:
        def wrapped(caller: Caller, args: Mapping[str, object]) -> object:
            try:
                return handler(caller, args)
            except ApprovalRefused as refusal:
                raise Refused(str(refusal)) from refusal

        return wrapped

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), *words])


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as made:
        yield made


def test_nothing_waiting_is_said_so(service: Service) -> None:
    assert service.run("approvals", "list").output == "Nothing is waiting for your approval.\n"
    assert service.run("approvals", "list", "--json").output == "[]\n"


def test_a_held_operation_is_listed_shown_and_approved(service: Service) -> None:
    service.desk.open(ticket())
    listed = service.run("approvals", "list")
    assert "3f2a11" in listed.output
    assert "bot → crm  [hold-deletes]" in listed.output
    shown = service.run("approvals", "show", "3f2a")
    assert "    | delete from customers -- ⟦U+202E⟧⟦U+001B⟧[2J\n" in shown.output
    assert "Approve it:  hostagent approvals approve 3f2a11" in shown.output
    assert "\x1b" not in listed.output + shown.output
    done = service.run("approvals", "approve", "3f2a", "--reason", "agreed")
    assert (done.exit_code, done.output) == (0, "Approved 3f2a11: it runs now, once.\n")
    assert service.answers == [Answer("3f2a11", True, SELF, "agreed")]
    again = service.run("approvals", "approve", "3f2a11")
    assert (again.exit_code, again.output) == (1, f"Error: ticket 3f2a11 was approved by {SELF}\n")


def test_json_is_exact_and_harmless(service: Service) -> None:
    service.desk.open(ticket())
    for words in (("list",), ("show", "3f2a11")):
        output = service.run("approvals", *words, "--json").output
        assert output.isascii()
        assert "\x1b" not in output
        found = json.loads(output)
        described = found[0] if isinstance(found, list) else found
        assert described["operations"][0]["text"] == OPERATION.text


def test_a_denial_carries_its_reason(service: Service) -> None:
    service.desk.open(ticket())
    assert service.run("approvals", "deny", "3f2a", "--reason", "not today").output == "Denied 3f2a11.\n"
    assert service.answers == [Answer("3f2a11", False, SELF, "not today")]


def test_the_launcher_cannot_approve(service: Service) -> None:
    service.desk.open(ticket(launcher=SELF))
    done = service.run("approvals", "approve", "3f2a11")
    assert (done.exit_code, done.output) == (1, f"Error: {SELF} launched workload bot and cannot approve for it\n")
    assert service.answers == []


def test_whoever_is_not_in_the_group_sees_nothing(service: Service) -> None:
    service.desk.open(ticket())
    service.groups = frozenset()
    assert service.run("approvals", "list").output == "Nothing is waiting for your approval.\n"
    assert service.run("approvals", "show", "3f2a11").exit_code == 1
    assert service.run("approvals", "approve", "3f2a11").exit_code == 1
    assert service.answers == []


def test_a_digest_that_is_not_the_tickets_approves_nothing(service: Service) -> None:
    service.desk.open(ticket())
    done = service.run("approvals", "approve", "3f2a11", "--digest", "ffffffff")
    assert (done.exit_code, service.answers) == (1, [])
    assert "look at it again" in done.output


def test_watching_shows_each_ticket_once(service: Service) -> None:
    service.desk.open(ticket())
    output = service.run("approvals", "watch", "--seconds", "0.05").output
    assert output.count("Ticket      3f2a11") == 1


def test_identities_are_listed_revoked_and_restored(service: Service) -> None:
    assert service.run("identity", "list").output == "bot: valid, subject b⟦U+001B⟧[2J of i\n"
    assert json.loads(service.run("identity", "list", "--json").output)[0]["workload"] == "bot"
    assert service.run("identity", "revoke", "bot", "--reason", "leak").exit_code == 0
    assert service.run("identity", "restore", "bot").exit_code == 0
    assert service.asked[2:] == [
        ("identity.revoke", {"workload": "bot", "reason": "leak"}),
        ("identity.restore", {"workload": "bot"}),
    ]


@pytest.mark.parametrize("words", [("approvals", "--help"), ("approvals", "approve", "--help"), ("identity", "--help")])
def test_help_needs_no_service(words: tuple[str, ...], tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["--config", str(tmp_path / "absent"), *words]).exit_code == 0


# -- when something is wrong ---------------------------------------------------------------------------------------------


def problem(path: Path) -> str:
    with pytest.raises(ControlError) as caught:
        ask_at(str(path), "approvals.list")
    return str(caught.value).replace(str(path), "SOCKET")


def test_a_missing_socket_says_how_to_start(tmp_path: Path) -> None:
    wanted = "SOCKET does not exist: is the service running (`hostagent up`), and is this its configuration (--config)?"
    assert problem(tmp_path / "control.sock") == wanted


def test_a_dead_socket_says_so(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert problem(path) == "nobody listens at SOCKET: the service has stopped; start it with `hostagent up`"
    path.unlink()
    path.write_text("")
    assert "SOCKET" in problem(path)


@pytest.mark.parametrize(
    "answer", [b"", b"\n", b"[]\n", b"{}\n", b"no json\n", b'{"ok": 1}\n', b'{"ok": "true", "result": 1}\n']
)
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        assert problem(path).startswith(("the service gave no answer", "the service refused and gave no reason"))
        server.join(5)


def test_an_unknown_call_is_refused(service: Service) -> None:
    with pytest.raises(ControlError, match="unknown call 'nothing'"):
        ask_at(str(service.socket), "nothing")
