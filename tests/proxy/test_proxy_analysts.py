"""Long statements are understood beside the loop; one that cannot be is every effect."""

from __future__ import annotations

import asyncio

import pytest

from hostagent.model.operation import ALL_EFFECTS
from hostagent.proxy.analysts import Analysts
from hostagent.sql import Analysis, analyse

WAIT_S = 60
LONG = "insert into t values " + ",".join(["(1, 'ab')"] * 2000)


async def asked(analysts: Analysts, *questions: tuple[str, str]) -> list[tuple[str, Analysis]]:
    """Return the answers in the order in which they came, each with who asked."""
    answers: list[tuple[str, Analysis]] = []
    enough = asyncio.Event()

    def done(who: str, analysis: Analysis) -> None:
        answers.append((who, analysis))
        if len(answers) == len(questions):
            enough.set()

    for who, text in questions:
        analysts.analyse(who, text.encode(), lambda found, who=who: done(who, found))  # type: ignore[misc]
    async with asyncio.timeout(WAIT_S):
        await enough.wait()
    return answers


async def test_the_answer_is_what_analyse_says() -> None:
    async with asyncio.TaskGroup() as tasks:
        analysts = Analysts(tasks.create_task)
        assert await asked(analysts, ("bot", LONG), ("bot", "drop table t -- ä")) == [
            ("bot", analyse(LONG)),
            ("bot", analyse("drop table t -- ä")),
        ]
        analysts.stop()


async def test_who_asks_much_waits_behind_itself() -> None:
    async with asyncio.TaskGroup() as tasks:
        analysts = Analysts(tasks.create_task, processes=1)
        answers = await asked(analysts, *[("greedy", "select 1")] * 5, ("modest", "select 2"))
        assert [who for who, _ in answers].index("modest") <= 1
        analysts.stop()


async def test_a_text_whose_process_dies_counts_as_every_effect_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.TaskGroup() as tasks:
        analysts = Analysts(tasks.create_task, processes=1)
        with monkeypatch.context() as broken:
            broken.setattr("hostagent.proxy.analysts._COMMAND", ("/bin/sh", "-c", "read -r line; exit 1"))
            ((_, lost),) = await asked(analysts, ("bot", "select 1\n"))
        assert lost.error == "the statement takes too long to understand"
        assert [each.judged_effects for each in lost.statements] == [ALL_EFFECTS]
        assert await asked(analysts, ("bot", "select 1")) == [("bot", analyse("select 1"))]
        analysts.stop()


async def test_what_is_withdrawn_is_not_analysed() -> None:
    async with asyncio.TaskGroup() as tasks:
        analysts = Analysts(tasks.create_task, processes=1)
        gone: list[Analysis] = []
        analysts.analyse("bot", b"select 1", lambda _: None)
        analysts.analyse("bot", b"select 2", gone.append)
        analysts.withdraw("bot", gone.append)
        await asked(analysts, ("bot", "select 3"))
        assert gone == []
        analysts.stop()


async def test_after_a_text_that_took_much_memory_the_next_one_gets_a_process_of_its_own() -> None:
    large = "select " + ",".join(["1"] * 120_000)
    async with asyncio.TaskGroup() as tasks:
        analysts = Analysts(tasks.create_task, processes=1)
        answers = await asked(analysts, ("bot", large), ("bot", "select 1"))
        assert [found.error for _, found in answers] == ["", ""]
        analysts.stop()
