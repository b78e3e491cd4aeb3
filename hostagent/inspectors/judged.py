"""What is judged, what came of it, and what is counted while it runs: one of each is looked at for nearly every message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from hostagent.model.operation import Completeness, Effect, Operation
from hostagent.model.verdict import Decision, Verdict
from hostagent.sql.statement import Statement

if TYPE_CHECKING:
    from hostagent.inspectors.ports import Detected, Masking

_DEFINING: Final = frozenset({Effect.CREATE, Effect.ALTER, Effect.DROP})


class Subject:
    """One text (or call) to be judged: its statements and operations, and the ruling they last got.

    ``refusal`` is set when the protocol itself forbids it whatever policy says. ``plain`` means that nothing in it depends
    on or changes the session's names. ``text`` is the exact source and is never stored.
    """

    __slots__ = ("operations", "plain", "refusal", "rows", "ruling", "statements", "text")

    def __init__(
        self,
        text: bytes,
        statements: tuple[Statement, ...],
        operations: tuple[Operation, ...],
        *,
        plain: bool = True,
        rows: bool = True,
        refusal: str = "",
    ) -> None:
        """Keep the parts; no ruling yet."""
        self.text = text
        self.statements = statements
        self.operations = operations
        self.plain = plain
        self.rows = rows
        self.refusal = refusal
        self.ruling: Ruling | None = None


class Ruling:
    """What the gate decided of a subject, with everything that enforcing it needs.

    ``epoch`` is the gate's mark of the policy, identity and catalogue it was decided under. ``lines`` are the parts of the
    statement records that do not change from run to run, one per operation. ``defines``: it may change the schema.
    ``answer`` is the inspector's own: what it learned of results under this ruling. ``recurs``: it allows, and is kept.
    """

    __slots__ = ("answer", "defines", "epoch", "exposed", "lines", "masking", "operations", "recurs", "statements", "verdict")

    def __init__(
        self,
        epoch: object,
        subject: Subject,
        operations: tuple[Operation, ...],
        verdict: Verdict,
        masking: Masking | None,
        exposed: int,
        lines: tuple[Mapping[str, object], ...],
    ) -> None:
        """Keep the parts."""
        self.epoch = epoch
        self.statements = subject.statements
        self.operations = operations
        self.verdict = verdict
        self.masking = masking
        self.exposed = exposed
        self.lines = lines
        self.answer: object = None
        self.recurs = verdict.decision is Decision.ALLOW and verdict.cacheable
        self.defines = any(
            each.completeness is not Completeness.FULL or each.effects & _DEFINING for each in operations
        )


class Trace:
    """One recorded statement on its way to its result; the inspector counts here."""

    __slots__ = ("_flow", "columns", "detections", "masked", "number", "rows", "size", "started")

    def __init__(self, flow: str, started: float, number: int) -> None:
        """Start with nothing counted. ``started`` is monotonic seconds; ``number`` is the statement's within its flow."""
        self._flow = flow
        self.number = number
        self.started = started
        self.rows = 0
        self.size = 0
        self.masked = 0
        self.detections: dict[str, int] | None = None
        self.columns: Sequence[Mapping[str, object]] = ()

    @property
    def statement(self) -> str:
        """The statement's id, as records have it."""
        return f"{self._flow}.{self.number}"

    def count(self, found: Detected) -> None:
        """Add what masking did."""
        self.masked += found.masked
        if found.detections:
            total = self.detections if self.detections is not None else {}
            for name, hits in found.detections.items():
                total[name] = total.get(name, 0) + hits
            self.detections = total
