"""Exit statuses that commands share; README.md of this folder lists them all. Numbers above 63 are those of sysexits.h."""

from __future__ import annotations

import click

FAILED = 1
"""The answer is no, or it did not work; the message says why."""

EXISTS = 73
"""EX_CANTCREAT: there is such a file already, and it was left as it is."""

WRONG_DOCUMENT = 78
"""EX_CONFIG: the configuration or a document is wrong; nothing was written or changed."""

NOT_PERMITTED = 77
"""EX_NOPERM: this user may not, or the workload was not admitted."""


class Stop(click.ClickException):
    """Ends a command with a message and an exit status of its own."""

    def __init__(self, message: str, status: int) -> None:
        """``status`` is one of the above."""
        super().__init__(message)
        setattr(self, "exit_code", status)  # noqa: B010 - click declares it for the class, and reads it from the instance
