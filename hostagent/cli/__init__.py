"""The command line. Commands live one noun per module and import what is heavy inside themselves."""

from __future__ import annotations

from hostagent.cli.main import main

__all__ = ["main"]
