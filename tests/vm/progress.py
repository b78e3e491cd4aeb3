"""What a person sees while it goes on, with the time since the start."""

from __future__ import annotations

import time


class PhaseError(Exception):
    """A phase did not come to its end; the text says which and why."""


class Progress:
    """Prints one line per step."""

    def __init__(self) -> None:
        """The clock starts now."""
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Print ``text`` with minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        print(f"[{minutes:02}:{seconds:02}] {text}", flush=True)
