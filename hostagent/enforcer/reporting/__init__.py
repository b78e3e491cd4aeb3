"""Rows: enforcerd's own events, what the kernel refused, and which program started which. Nothing here decides."""
