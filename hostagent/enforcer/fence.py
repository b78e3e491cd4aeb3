"""The host's own table: the fence round the slice, and the redirection of leaves in shared placement.

The slice's kernel id is part of it: rules hold ids, so a slice that was removed and made again is not fenced until the rules
are loaded again, and nothing is admitted meanwhile.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from hostagent.enforcer import canary
from hostagent.enforcer.bpf.programs import Programs
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.rules import ruleset
from hostagent.enforcer.rules.firewall import choose
from hostagent.enforcer.settings import Settings


class Fence:
    """Keeps the table in step with the slice and its shared leaves."""

    def __init__(self, settings: Settings, slice_: Slice, programs: Programs) -> None:
        """Nothing is loaded until ``load``.

        ``removed`` says that the table is gone because we took it down, ``rules`` what it was last filled with.

        ``programs`` stand aside while the table proves itself.

        Raises:
            HostagentError: no firewall works here.
        """
        self.firewall = choose(settings.firewall)
        self.table = self.firewall.host_table(settings, slice_.name, slice_.mount)
        self._settings = settings
        self._slice = slice_
        self._programs = programs
        self._loaded_id = 0
        self._loopback_ports: frozenset[int] = frozenset()
        self.removed = False
        self.rules = ""

    @property
    def current(self) -> bool:
        """Whether the rules name the slice as it is now, and are still there as far as that can be seen."""
        return self._loaded_id != 0 and self._loaded_id == self._slice.id and self.table.intact()

    @property
    def stale(self) -> bool:
        """Whether the rules that were proven name a slice that is not there any more."""
        return self._loaded_id not in (0, self._slice.id)

    def load(self, leaves: Iterable[Governed], loopback_ports: frozenset[int]) -> None:
        """Load the rules anew and prove that an unknown leaf is refused.

        Raises:
            HostagentError: refused by nft, or the fence does not hold (then it is not ``current``).
        """
        self._load(leaves, loopback_ports, anew=False)
        self._loopback_ports = loopback_ports

    def restore(self, leaves: Iterable[Governed]) -> float:
        """Load the rules as they were, after something else changed them; return the seconds until they were in force.

        The ports of loopback targets are the last ones loaded: no document that happens to be wrong may be in the way.

        Raises:
            HostagentError: as ``load``; the fence is not ``current``.
        """
        self._loaded_id = 0
        return self._load(leaves, self._loopback_ports, anew=True)

    def tampering(self) -> list[str]:
        """Return who else changed the table since the last call; always empty where it is owned."""
        if self.table.watch is None:
            return []
        found = self.table.watch.read()
        return [] if self.table.owned or self.removed else found

    def _load(self, leaves: Iterable[Governed], loopback_ports: frozenset[int], *, anew: bool) -> float:
        began = time.monotonic()
        self._slice.create()
        identifier = self._slice.id
        shared = [
            ruleset.SharedLeaf(each.leaf.rule_path, each.number, each.listeners.port, each.listeners.dns_port)
            for each in leaves
            if not each.isolated and each.listeners is not None
        ]
        text = ruleset.shared(
            self._settings.table,
            self._slice.name,
            self._slice.level,
            shared,
            loopback_ports,
            self._settings.log_group,
            self._settings.shared_ports,
        )
        self.table.load(text, anew=anew)
        self.rules = text
        took = time.monotonic() - began
        self._loaded_id = 0
        unknown = self._slice.leaf(f"canary-{secrets.token_hex(4)}")
        unknown.create()
        try:
            with self._programs.proving(unknown.id):
                canary.prove_slice(unknown.enter)
        finally:
            unknown.remove()
        self._loaded_id = identifier
        return took

    def remove(self) -> None:
        """Take the table down."""
        self.table.remove()
        self.removed = True
        self._loaded_id = 0
