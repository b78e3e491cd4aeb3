"""What is one statement's own in an event whose other fields many events share; see ``Event.row``.

Field names are those of the event, but ``statement`` is its number within the flow. What is left out has its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class StatementRow(msgspec.Struct, omit_defaults=True, gc=False):
    """One run of a statement that policy allows. ``like`` is the journal's, set as it is written."""

    at: int
    flow: str
    statement: int
    digest: str
    ordinal: int = 0
    parameters: Sequence[str | None] = ()
    like: int = 0

    def fields(self, shared: Mapping[str, object]) -> dict[str, object]:
        """Return all fields of the event."""
        return {
            "statement": f"{self.flow}.{self.statement}",
            "ordinal": self.ordinal,
            **shared,
            "digest": self.digest,
            "parameters": self.parameters,
            "ticket": "",
        }


class ResultRow(msgspec.Struct, omit_defaults=True, gc=False):
    """How one statement ended that had a result. ``like`` is the journal's, set as it is written."""

    at: int
    flow: str
    statement: int
    tag: str
    rows: int = 0
    bytes: int = 0
    elapsed_us: int = 0
    masked_values: int = 0
    detections: Mapping[str, int] | None = None
    like: int = 0

    def fields(self, shared: Mapping[str, object]) -> dict[str, object]:
        """Return all fields of the event."""
        return {
            "statement": f"{self.flow}.{self.statement}",
            "tag": self.tag,
            "rows": self.rows,
            "bytes": self.bytes,
            **shared,
            "masked_values": self.masked_values,
            "detections": self.detections or {},
            "elapsed_us": self.elapsed_us,
        }


Row = StatementRow | ResultRow
