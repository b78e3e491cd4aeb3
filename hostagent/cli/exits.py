"""Exit statuses that commands share; README.md of this folder lists them all. Numbers above 63 are those of sysexits.h."""

from __future__ import annotations

FAILED = 1
"""The answer is no, or it did not work; the message says why."""

EXISTS = 73
"""EX_CANTCREAT: there is such a file already, and it was left as it is."""

WRONG_DOCUMENT = 78
"""EX_CONFIG: the configuration or a document is wrong; nothing was written or changed."""
