"""Taking everything out of the kernel, also when no enforcerd runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hostagent.enforcer.bpf import kept, pins
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.confinement import unixdoors
from hostagent.enforcer.rules.firewall import remove_tables, tables_left
from hostagent.enforcer.scopes import installed

_FILES = ("enforcerd.sock",)


def remove_runtime(runtime: str) -> None:
    """Remove enforcerd's own files from the runtime folder."""
    for name in _FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(runtime, name).unlink()
    kept.clear(runtime)
    unixdoors.clear(runtime)


def residue(slice_name: str, table: str, runtime: str) -> list[str]:
    """Return what of a service is still there: cgroups, table or chains, eBPF pins, its request socket."""
    places = [Slice(slice_name).path, pins.home(table, slice_name), Path(runtime, "enforcerd.sock")]
    return [*(str(place) for place in places if place.exists()), *tables_left(table)]


def remove_everything(slice_name: str, table: str, runtime: str) -> list[str]:
    """End every governed process and remove cgroups, table and runtime files; return what was removed.

    Network namespaces and mounts belong to the processes and go with them.

    Raises:
        HostagentError: a process does not end, or nft refused. What could be removed is gone.
    """
    removed = []
    slice_ = installed(slice_name)
    for name in slice_.leaves():
        slice_.leaf(name).remove()
        removed.append(f"leaf {name}")
    removed.extend(pins.remove(pins.home(table, slice_name)))
    remove_tables(table, slice_.mount)
    removed.append(f"table inet {table}")
    if slice_.id:
        slice_.remove()
        removed.append(f"cgroup {slice_.path}")
    remove_runtime(runtime)
    return removed
