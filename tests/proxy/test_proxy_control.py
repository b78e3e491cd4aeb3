"""The control socket: who calls is the kernel's word, unknown calls and governed callers get a clear no."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from hostagent.proxy.control import Caller, Control, Refused


async def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    for line in lines:
        writer.write(line + b"\n")
    writer.write_eof()
    answers = [json.loads(line) for line in (await reader.read()).splitlines()]
    writer.close()
    await writer.wait_closed()
    return answers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_the_caller_is_who_the_kernel_says(path: Path) -> None:
    control = Control(str(path), "governed.slice")
    callers: list[Caller] = []

    async def whoami(caller: Caller, args: Mapping[str, object]) -> object:
        callers.append(caller)
        return {"args": dict(args)}

    control.on("whoami", whoami)
    await control.start()
    answers = await ask(path, b'{"call": "whoami", "args": {"user": "somebody else"}}')
    await control.stop()
    assert answers == [{"ok": True, "result": {"args": {"user": "somebody else"}}}]
    assert (callers[0].pid, callers[0].uid, callers[0].user) == (os.getpid(), os.geteuid(), pwd.getpwuid(os.geteuid()).pw_name)
    assert not callers[0].governed
    assert not path.exists()


async def test_what_is_no_call_gets_a_clear_no_and_the_connection_lives(path: Path) -> None:
    control = Control(str(path), "governed.slice")

    def refuse(_caller: Caller, _args: Mapping[str, object]) -> object:
        raise Refused("not today")

    control.on("refuse", refuse)
    await control.start()
    answers = await ask(
        path, b"not json", b"[]", b'{"call": "unknown"}', b'{"call": "refuse", "args": 1}', b'{"call": "refuse"}'
    )
    await control.stop()
    assert [answer["ok"] for answer in answers] == [False] * 5
    assert answers[-1]["error"] == "not today"


async def test_a_process_in_the_slice_is_told_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    name = own.partition("::")[2].strip("/").split("/")[-1]
    control = Control(str(path), name)  # this test's own cgroup stands for the slice ("" is the root's name)
    control.on("secrets", lambda _caller, _args: "everything")
    await control.start()
    answers = await ask(path, b'{"call": "secrets"}')
    await control.stop()
    assert answers == [{"ok": False, "error": "governed processes have no control over their governor"}]


async def test_a_line_without_end_is_cut_off(path: Path) -> None:
    control = Control(str(path), "governed.slice")
    await control.start()
    assert await ask(path, b"x" * 200_000) == []
    await control.stop()
