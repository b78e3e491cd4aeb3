"""Responses without end whose lines are documents of their own (a watch of Kubernetes, a log that is followed), masked line by line.

A line passes once it is whole. A value that is spread over several lines shows in none and so is not found.
"""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.judged import Trace
from hostagent.inspectors.ports import Masking
from hostagent.model.errors import RemoteWireError

MAX_LINE: Final = 4_194_304
"""Longest line, in bytes."""


class Lines:
    """Masks one stream."""

    def __init__(self, masking: Masking, kind: str) -> None:
        """Begin before the first byte. ``kind`` is the media type of a line."""
        self._masking = masking
        self._kind = kind
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer)

    def feed(self, content: bytes, trace: Trace | None, *, last: bool) -> bytes:
        """Return the masked form of the lines that are whole; of all that is left if it is the ``last``.

        Raises:
            RemoteWireError: one cannot be masked, or is too long.
        """
        seen = len(self._buffer)
        self._buffer += content
        end = self._buffer.rfind(b"\n", seen) + 1
        if len(self._buffer) - end > MAX_LINE:
            raise RemoteWireError(f"a line of more than {MAX_LINE} bytes cannot be masked", "502")
        whole = bytes(self._buffer[:end])
        del self._buffer[:end]
        if last and self._buffer:
            whole += bytes(self._buffer)
            self._buffer.clear()
        return b"\n".join([self._line(line, trace) for line in whole.split(b"\n")])

    def _line(self, line: bytes, trace: Trace | None) -> bytes:
        if not line.strip():
            return line
        found = self._masking.document(self._kind, line)
        if found is None:
            raise RemoteWireError("a line that is not what its type says cannot be masked", "502")
        if trace is not None:
            trace.count(found[1])
        return found[0]
