"""Frames on their way to the protocol's library: walked by their headers, counted, and refused before they cost anything.

Layout (RFC 9113 §4.1)::

    frame   Int24 length · Byte type · Byte flags · Int32 stream (the first bit is not used) · length octets

A peer has a *credit*: what makes work and moves nothing costs one (SETTINGS, PING, PRIORITY, RST_STREAM, WINDOW_UPDATE, empty DATA,
unknown frames), a reset of a stream more. Credit comes back with time and with every frame that we send, so that an ordinary
peer never feels it. A header block has a longest size and a greatest number of frames. GOAWAY is not passed on but returned:
the library takes it for the end of all streams, which it is not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hostagent.model.errors import RemoteWireError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 §3.4)."""
MAX_FRAME: Final = 16_384
"""Longest frame that we take: the protocol's default, which we never raise."""
MAX_BLOCK: Final = 65_536
"""Longest header block, in bytes as they come."""
MAX_CREDIT: Final = 1000.0
CREDIT_PER_S: Final = 100.0
RESET_COSTS: Final = 10
"""A client may open and reset a hundred streams at once, then ten a second (CVE-2023-44487)."""

_HEADER: Final = 9
_MAX_BLOCK_FRAMES: Final = 16
_MAX_SETTINGS: Final = 32 * 6
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 5, 7, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_ENHANCE_YOUR_CALM: Final = "ENHANCE_YOUR_CALM"


class Goaway(NamedTuple):
    """The peer takes no more streams; those above ``last`` were not looked at (RFC 9113 §6.8)."""

    last: int
    code: int


class Meter:
    """Counts one peer's frames."""

    def __init__(self, *, preface: bool) -> None:
        """``preface``: a client's bytes, which begin with one."""
        self._preface = len(PREFACE) if preface else 0
        self._buffer = bytearray()
        self._credit = MAX_CREDIT
        self._at: float | None = None
        self._block = self._block_frames = 0

    @property
    def size(self) -> int:
        """How many bytes of an unfinished frame are kept."""
        return len(self._buffer)

    def earn(self, frames: int) -> None:
        """We sent so many frames, each of which a peer may answer."""
        self._credit = min(MAX_CREDIT, self._credit + 2 * frames)

    def pass_on(self, data: bytes, now: float) -> tuple[bytes, list[Goaway]]:
        """Return the whole frames that are there, for the library, and what was taken out.

        Raises:
            RemoteWireError: a frame too long (FRAME_SIZE_ERROR), a flood (ENHANCE_YOUR_CALM), or out of order (PROTOCOL_ERROR).
        """
        if self._at is not None:
            self._credit = min(MAX_CREDIT, self._credit + CREDIT_PER_S * max(0.0, now - self._at))
        self._at = now
        self._buffer += data
        if self._preface:
            head = bytes(self._buffer[: len(PREFACE)])
            if not PREFACE.startswith(head):
                raise RemoteWireError("an HTTP/2 connection does not begin as one", "PROTOCOL_ERROR")
            if len(head) < len(PREFACE):
                return b"", []
        at, self._preface = self._preface, 0
        passed = [bytes(self._buffer[:at])]
        told: list[Goaway] = []
        while (end := self._frame(at)) > at:
            frame = bytes(self._buffer[at:end])
            if frame[3] == _GOAWAY:
                told.append(_goaway(frame))
            else:
                passed.append(frame)
            at = end
        del self._buffer[:at]
        return b"".join(passed), told

    def _frame(self, at: int) -> int:
        """Return where the frame at ``at`` ends, having counted it; ``at`` if not all of it is there."""
        buffer = self._buffer
        if len(buffer) < at + _HEADER:
            return at
        length, kind = int.from_bytes(buffer[at : at + 3], "big"), buffer[at + 3]
        if length > MAX_FRAME:
            raise RemoteWireError(f"an HTTP/2 frame of {length} bytes, where at most {MAX_FRAME} were agreed on", "FRAME_SIZE_ERROR")
        end = at + _HEADER + length
        if len(buffer) < end:
            return at
        self._count(kind, buffer[at + 4], length)
        return end

    def _count(self, kind: int, flags: int, length: int) -> None:
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            first = kind != _CONTINUATION
            self._block = length + (0 if first else self._block)
            self._block_frames = 1 + (0 if first else self._block_frames)
            if self._block > MAX_BLOCK or self._block_frames > _MAX_BLOCK_FRAMES:
                raise RemoteWireError("an HTTP/2 header block is too long, or in too many pieces", _ENHANCE_YOUR_CALM)
            return
        if kind == _DATA and (length or flags & _END_STREAM):
            return
        if kind == _SETTINGS and length > _MAX_SETTINGS:
            raise RemoteWireError("an HTTP/2 SETTINGS frame with too many settings", _ENHANCE_YOUR_CALM)
        self.charge(RESET_COSTS if kind == _RST_STREAM else 1)

    def charge(self, cost: float) -> None:
        """Take ``cost`` from the peer's credit.

        Raises:
            RemoteWireError: there is none left.
        """
        self._credit -= cost
        if self._credit < 0:
            raise RemoteWireError("a flood of HTTP/2 frames that move nothing, or of streams that are reset", _ENHANCE_YOUR_CALM)


def _goaway(frame: bytes) -> Goaway:
    if len(frame) < _HEADER + 8:
        raise RemoteWireError("a malformed HTTP/2 GOAWAY", "FRAME_SIZE_ERROR")
    return Goaway(int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF, int.from_bytes(frame[13:17], "big"))
