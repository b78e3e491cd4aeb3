"""Event streams (WHATWG HTML §9.2), masked event by event.

Layout::

    [BOM] *(*(name [":" [" "] value] end) end)        end is CRLF, LF or CR

An event passes once it is whole. Its data is looked at as one document: JSON if it is that, text otherwise. A value that a server
spreads over several events (a word of a language model's answer each) shows in no event and so is not found.
"""

from __future__ import annotations

import re
from typing import Final

from hostagent.inspectors.judged import Trace
from hostagent.inspectors.ports import Detected, Masking
from hostagent.model.errors import RemoteWireError
from hostagent.wire.jsontext import parse

KIND: Final = "text/event-stream"
MAX_EVENT: Final = 1_048_576
"""Longest event, in bytes."""

_END: Final = re.compile(rb"\r\n|\n|\r")
_DONE: Final = b"[DONE]"
"""What language models' servers say at the end in place of JSON."""


def is_events(media_type: str) -> bool:
    """Return whether a body of that type is an event stream."""
    return media_type.partition(";")[0].strip().lower() == KIND


def masked_text(masking: Masking, data: bytes) -> tuple[bytes, Detected] | None:
    """Return ``data`` with everything masked, as JSON if it is that to every reader, and what was found; None: it cannot be."""
    kind = "application/json"
    try:
        parse(data)
    except ValueError:
        kind = "text/plain"
    return masking.document(kind, data) if masking.maskable(kind) else None


class Events:
    """Masks one stream."""

    def __init__(self, masking: Masking) -> None:
        """Begin before the first byte."""
        self._masking = masking
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._first = True

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer) + self._size

    def feed(self, content: bytes, trace: Trace | None, *, last: bool) -> bytes:
        """Return the masked form of the events that are whole; of all that is left if it is the ``last``.

        Raises:
            RemoteWireError: one cannot be masked, or is too long.
        """
        self._buffer += content
        parts: list[bytes] = []
        at = 0
        while (found := _END.search(self._buffer, at)) is not None:
            if found[0] == b"\r" and found.end() == len(self._buffer) and not last:
                break  # half of CRLF, perhaps
            line, at = self._buffer[at : found.start()], found.end()
            self._size += len(line)
            if line:
                self._lines.append(line)
            else:
                parts.append(self._event(trace) + b"\n")
        self._buffer = self._buffer[at:]
        if self.size > MAX_EVENT:
            raise RemoteWireError(f"an event of more than {MAX_EVENT} bytes cannot be masked", "502")
        if last:
            if self._buffer:
                self._lines.append(self._buffer)
                self._buffer = b""
            parts.append(self._event(trace))
        return b"".join(parts)

    def _event(self, trace: Trace | None) -> bytes:
        """Return the event that the kept lines make, without the empty line behind it."""
        lines, self._lines, self._size = self._lines, [], 0
        if self._first and lines:
            self._first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        said: list[bytes] = []
        data: list[bytes] = []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            else:
                said.append(self._text(line))
        if data:
            said += [b"data: " + line for line in self._data(b"\n".join(data), trace).split(b"\n")]
        return b"".join(line + b"\n" for line in said)

    def _text(self, line: bytes) -> bytes:
        try:
            return self._masking.text(line.decode()).encode()
        except UnicodeDecodeError:
            raise RemoteWireError("an event stream that is not UTF-8 cannot be masked", "502") from None

    def _data(self, data: bytes, trace: Trace | None) -> bytes:
        if data == _DONE:
            return data
        found = masked_text(self._masking, data)
        if found is None:
            raise RemoteWireError("an event that is not JSON in one reading, or not UTF-8, cannot be masked", "502")
        if trace is not None:
            trace.count(found[1])
        return found[0].replace(b"\r", b"\n")
