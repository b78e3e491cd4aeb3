"""A receive buffer that never copies a stream that arrives in whole messages, and copies any other at most three times."""

from __future__ import annotations


class ReceiveBuffer:
    """Holds the incomplete end of a stream until enough has arrived to be worth walking again."""

    __slots__ = ("_held", "_need")

    def __init__(self) -> None:
        """Start empty."""
        self._held = bytearray()
        self._need = 0

    def __len__(self) -> int:
        """Return how many bytes are held back."""
        return len(self._held)

    def push(self, data: bytes) -> bytes | None:
        """Return everything to walk now (held bytes, then ``data``), or None while the front message is incomplete."""
        held = self._held
        if not held:
            return data
        if len(held) + len(data) < self._need:
            held += data
            return None
        self._held = bytearray()
        return b"".join((held, data))

    def keep(self, rest: bytes, need: int) -> None:
        """Hold ``rest`` back until at least ``need`` bytes of it have arrived."""
        self._held = bytearray(rest)
        self._need = need

    def peek(self) -> bytes:
        """Return what is held back, and keep it."""
        return bytes(self._held)
