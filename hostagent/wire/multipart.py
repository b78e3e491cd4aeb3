"""The parts of a body as it streams by (RFC 2046 §5.1.1, RFC 7578), for counting: what is judged by its fields is read by ``forms``.

Layout::

    "--" boundary CRLF *(field CRLF) CRLF octets CRLF *("--" boundary CRLF ...) "--" boundary "--" [CRLF]

Anything else, more than 1000 parts, and text before or behind it, is not understood (``odd``), and says nothing of what passed.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

MAX_HEAD: Final = 8192
"""Bytes of one part's head."""

_MOST_PARTS: Final = 1000
_BLANK: Final = b"\r\n\r\n"
_FILE_NAME: Final = re.compile(rb'(?i);[ \t]*filename="((?:[^"\\\r\n]|\\.)*)"')
_KIND: Final = re.compile(rb"(?i)\r\ncontent-type:[ \t]*([^;\r\n]*)")


class Part(NamedTuple):
    """The head of a part. ``name`` is that of its file, None if it is none."""

    name: str | None
    media_type: str


class Parts(Protocol):
    """Whoever is told of the parts."""

    def begin(self, part: Part) -> None:
        """A part begins."""

    def content(self, content: bytes) -> None:
        """A piece of it."""

    def end(self) -> None:
        """It is over."""


class MultipartReader:
    """Tells ``parts`` of what it is fed. ``done``: the last boundary was seen; ``odd``: it is not what it says, and nothing more is told."""

    def __init__(self, mark: str, parts: Parts) -> None:
        """``mark`` is the boundary."""
        self._line = b"\r\n--" + mark.encode("ascii", "replace")
        self._parts = parts
        self._buffer = bytearray(b"\r\n")
        self._left = _MOST_PARTS
        self._head = True
        self._first = True
        self.done = False
        self.odd = False

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Look at a piece of the body."""
        if self.odd:
            return
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Take the next thing there is; False: there is none."""
        if self.done:
            self.odd = not b"\r\n".startswith(self._buffer)
            return False
        return self._heading() if self._head else self._inside()

    def _heading(self) -> bool:
        """Read from a boundary to the end of the head behind it."""
        size = len(self._line)
        if len(self._buffer) < size + 2:
            return False
        mark, behind = self._buffer[:size], self._buffer[size : size + 2]
        if mark == self._line and behind == b"--" and not self._first:
            self.done = True
            del self._buffer[: size + 2]
            return True
        stop = self._buffer.find(_BLANK, size, size + MAX_HEAD)
        if mark != self._line or behind != b"\r\n" or (stop < 0 and len(self._buffer) > size + MAX_HEAD):
            self.odd = True
            return False
        if stop < 0:
            return False
        part = _read(bytes(self._buffer[size:stop]))
        self._left -= 1
        if part is None or not self._left:
            self.odd = True
            return False
        self._parts.begin(part)
        del self._buffer[: stop + len(_BLANK)]
        self._head = self._first = False
        return True

    def _inside(self) -> bool:
        """Read content up to the next boundary, or what surely is none."""
        stop = self._buffer.find(self._line)
        if stop < 0:
            kept = min(len(self._buffer), len(self._line) - 1)
            stop = len(self._buffer) - kept
        else:
            self._head = True
        if stop:
            self._parts.content(bytes(self._buffer[:stop]))
            del self._buffer[:stop]
        if self._head:
            self._parts.end()
        return self._head


def _read(head: bytes) -> Part | None:
    """Return what ``head`` says; None if it names a file in a way that servers read differently."""
    disposition = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b"")
    named, kind = _FILE_NAME.search(disposition), _KIND.search(head)
    if named is None and b"filename" in head.lower():
        return None
    name = None if named is None else named[1].decode("utf-8", "replace")
    return Part(name, "" if kind is None else kind[1].decode("latin-1").strip().lower())
