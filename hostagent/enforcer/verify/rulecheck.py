"""Whether the rules in force are the ones that were loaded: what is listed of them, compared with the same rules loaded elsewhere.

Runs in a throw-away child, because each listing is a program of its own: enforcerd goes on meanwhile. Elsewhere is a network
namespace that nobody is in.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from hostagent.enforcer import kernel
from hostagent.enforcer.rules import network, xtables
from hostagent.enforcer.rules.firewall import Firewall
from hostagent.enforcer.rules.iptables import FAMILIES
from hostagent.model.errors import HostagentError

_CHILD_S = 60
_MAXIMUM = 65_536
_CGROUP_ROOT = "/sys/fs/cgroup"
_COUNTERS = re.compile(r" ?\[\d+:\d+\]$")


class Loaded(NamedTuple):
    """Rules that should be in force in ``network`` (a namespace's descriptor, -1 for the host's own).

    ``load`` loads the same into the namespace that the process is in; equal ``key``: equal rules.
    """

    name: str
    network: int
    key: Hashable
    load: Callable[[], None]


class RuleCheck:
    """One comparison under way; ``fileno`` becomes readable when there is something to ``hear``."""

    def __init__(self, firewall: Firewall, table: str, cgroup_mount: str, loaded: Sequence[Loaded]) -> None:
        """Begin."""
        self._read, write = os.pipe()
        self._heard = b""
        self.pid = kernel.fork()
        if self.pid == 0:
            _child(write, firewall, table, cgroup_mount, loaded)
        os.close(write)

    def finished(self) -> bool:
        """Take what the child has said; return whether it is done. Never waits."""
        while select.select([self._read], [], [], 0)[0]:
            chunk = os.read(self._read, _MAXIMUM)
            if not chunk:
                return True
            self._heard += chunk[: _MAXIMUM - len(self._heard)]
        return False

    def outcomes(self) -> dict[str, str]:
        """Return for each name ``as loaded`` or what is wrong; empty if the child died."""
        try:
            found: dict[str, str] = json.loads(self._heard)
        except ValueError:
            return {}
        return found

    def close(self) -> None:
        """Let go; the child ends by itself."""
        os.close(self._read)


def _child(write: int, firewall: Firewall, table: str, cgroup_mount: str, loaded: Sequence[Loaded]) -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(_CHILD_S)
        kept = sorted({0, 1, 2, write, *(each.network for each in loaded if each.network >= 0)})
        for below, above in itertools.pairwise(kept):
            os.closerange(below + 1, above)
        kernel.close_from(kept[-1] + 1)
        os.write(write, json.dumps(compare(firewall, table, cgroup_mount, loaded)).encode())
    except BaseException as error:  # noqa: BLE001 - told, and nothing may run on
        os.write(write, json.dumps({each.name: f"cannot be looked at: {error}" for each in loaded[:1]}).encode())
    finally:
        os._exit(0)


def compare(firewall: Firewall, table: str, cgroup_mount: str, loaded: Sequence[Loaded]) -> dict[str, str]:
    """Return ``as loaded`` or what is wrong, for each. Changes the calling process's mounts and needs to be its only thread."""
    if cgroup_mount != _CGROUP_ROOT:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(cgroup_mount, _CGROUP_ROOT, "", kernel.MS_BIND)

    def listed(descriptor: int) -> list[str]:
        if descriptor >= 0:
            with kernel.in_network(descriptor):
                return listed(-1)
        return _xtables_listing() if firewall is Firewall.IPTABLES else _listing(table)

    def expected(load: Callable[[], None]) -> list[str]:
        scratch = network.create()
        try:
            with kernel.in_network(scratch):
                load()
            return listed(scratch)
        finally:
            os.close(scratch)

    known: dict[Hashable, list[str]] = {}
    outcomes: dict[str, str] = {}
    for each in loaded:
        if each.key not in known:
            known[each.key] = expected(each.load)
        try:
            there = listed(each.network)
        except (OSError, HostagentError) as error:  # the leaf ended meanwhile, or its table is gone
            outcomes[each.name] = f"cannot be listed: {error}"
            continue
        outcomes[each.name] = "as loaded" if there == known[each.key] else _difference(known[each.key], there)
    return outcomes


def _xtables_listing() -> list[str]:
    """Return the rules of both families, without comments and counters."""
    lines = [line for family in FAMILIES for line in xtables.run(f"{family.program}-legacy-save").splitlines()]
    return [_COUNTERS.sub("", line) for line in lines if not line.startswith("#")]


def _listing(table: str) -> list[str]:
    """Return the lines of the table without counters, flags and the mark of who loaded it last; elements in order."""
    command = ["nft", "--stateless", "list", "table", "inet", table]
    done = subprocess.run(command, text=True, capture_output=True, timeout=_CHILD_S, check=False)
    if done.returncode != 0:
        raise HostagentError(done.stderr.strip()[:200])
    lines: list[str] = []
    skipping = False
    for line in done.stdout.replace(",\n", ", ").splitlines():
        words = (line.partition("#")[0] if line.startswith("table ") else line).split()  # the owner's name is a comment
        if words[:2] == ["chain", "loaded"]:
            skipping = True
        if not skipping and words and words[0] != "flags":
            lines.append(_ordered(words))
        skipping = skipping and words != ["}"]
    return lines


def _ordered(words: list[str]) -> str:
    text = " ".join(words)
    if not text.startswith("elements = {"):
        return text
    return "elements " + " ".join(sorted(element.strip() for element in text[12:].rstrip("} ").split(",")))


def _difference(expected: list[str], there: list[str]) -> str:
    missing = [line for line in expected if line not in there]
    added = [line for line in there if line not in expected]
    if missing:
        return f"changed: missing `{missing[0][:120]}`"
    return f"changed: added `{added[0][:120]}`" if added else "changed: another order"
