"""Who makes the proxy keep too much loses the session that does, and nobody else's."""

from __future__ import annotations

from hostagent.proxy.memory import MIB, Keeper, Memory


class Session:
    """Ends when it is told to."""

    def __init__(self, memory: list[Memory], workload: str) -> None:
        self._memory = memory
        self.workload = workload
        self.ended = ""

    def keeps(self, mib: float) -> None:
        self._memory[0].note(self.workload, self, int(mib * MIB))

    def cut(self, reason: str) -> None:
        self.ended = reason
        self._memory[0].forget(self.workload, self)


def stage(each: int, everybody: int, *workloads: str) -> tuple[Memory, list[str], list[Session]]:
    told: list[str] = []

    def refused(_session: Keeper, reason: str) -> None:
        told.append(reason)

    memory = Memory(lambda: (each, everybody), refused)
    return memory, told, [Session([memory], workload) for workload in workloads]


def test_the_session_that_goes_over_its_workloads_budget_ends() -> None:
    memory, told, (large, small, other) = stage(10, 100, "greedy", "greedy", "modest")
    other.keeps(9)
    large.keeps(9)
    assert memory.full("modest") is False
    small.keeps(0.5)
    assert memory.full("greedy")
    small.keeps(1.5)
    assert told == ["the memory budget of workload greedy (10 MiB) is used up"]
    assert (bool(small.ended), large.ended, other.ended) == (True, "", "")
    assert (memory.total, memory.full("greedy")) == (18 * MIB, False)


def test_when_all_is_used_the_largest_session_of_the_largest_workload_ends_whoever_asked() -> None:
    memory, told, (first, second, other) = stage(10, 15, "greedy", "greedy", "modest")
    first.keeps(6)
    second.keeps(3)
    other.keeps(7)
    assert [bool(each.ended) for each in (first, second, other)] == [True, False, False]
    assert told == ["the proxy's memory (15 MiB) is used up, and workload greedy uses the most of it"]
    assert memory.total == 10 * MIB


def test_what_is_over_counts_no_more() -> None:
    memory, _, (session,) = stage(10, 100, "bot")
    session.keeps(5)
    session.cut("left")
    assert memory.total == 0
    session.cut("again")
    assert memory.total == 0
