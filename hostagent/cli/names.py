"""Completes the names of declared workloads on the command line: the documents' file names; no document is parsed."""

from __future__ import annotations

from pathlib import Path

import click

from hostagent.model.errors import HostagentError


def workload_names(ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """Return the declared workloads whose names begin with what was typed; none where they cannot be read."""
    from hostagent.daemon.configfile import load_config

    try:
        found = Path(load_config(ctx.find_root().params.get("config")).workloads).glob("*.yaml")
        return sorted(path.stem for path in found if path.stem.startswith(typed))
    except (HostagentError, OSError):  # a half-typed line is no place for complaints
        return []
