"""What the kernel must hold before a program may start in a leaf: its cgroup, rules, listeners, and the proof that they hold."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hostagent.enforcer import canary, doors
from hostagent.enforcer.audit.auditor import Auditor
from hostagent.enforcer.bpf.programs import Programs
from hostagent.enforcer.fence import Fence
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.listeners import bind_free
from hostagent.enforcer.reporting.connects import register
from hostagent.enforcer.reporting.watch import RefusalWatch
from hostagent.enforcer.rules import backstop, ruleset
from hostagent.enforcer.settings import Settings
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)


class Preparation:
    """Prepares leaves. What it made is taken back by ``Governed.release``, also after a step failed."""

    def __init__(
        self,
        settings: Settings,
        programs: Programs,
        fence: Fence,
        auditor: Auditor,
        watch: RefusalWatch,
        live: Callable[[], list[Governed]],
    ) -> None:
        """``live`` returns every leaf that has not ended."""
        self._settings = settings
        self._programs = programs
        self._fence = fence
        self._auditor = auditor
        self._watch = watch
        self._live = live

    def prepare(self, governed: Governed) -> None:
        """Make leaf, rules and listeners, and prove that they hold.

        Raises:
            HostagentError: the fence does not hold, or something it needs cannot be had.
            OSError: the kernel refused a step.
        """
        governed.leaf.create()
        self._auditor.mark(governed)
        ports = self._settings.loopback_ports()
        with self._programs.proving(governed.leaf.id):
            self._fortify(governed, ports)
        register(self._programs, governed)
        doors.open_doors(governed, self._settings)
        governed.loopback_ports = ports
        self._watch.add(governed)

    def _fortify(self, governed: Governed, ports: frozenset[int]) -> None:
        if governed.isolated:
            governed.isolate(self._settings, ports)
        else:
            taken = [each.listeners.port for each in self._live() if each.listeners is not None and not each.isolated]
            governed.listeners = bind_free(self._settings.shared_ports, taken)
            governed.listeners.open()
            self._fence.load(self._live(), ports)
            canary.prove_leaf(governed.listeners, governed.enter, routed=False)
            self._watch.forget()
            self._back(governed)

    def _back(self, governed: Governed) -> None:
        """Put the second no behind the table. After the canary, which must be refused by the table alone."""
        try:
            backstop.attach(governed.leaf.path, ruleset.leaf_mark(governed.number))
        except OSError as error:
            governed.backstop = str(error)
            if not self._fence.table.owned:
                raise HostagentError(
                    "shared placement needs Linux 6.9 (a table that others cannot flush) or cgroup BPF, and this host has"
                    f" neither ({error}); use isolated placement"
                ) from error
            log.warning("leaf %s has no backstop: %s", governed.leaf.name, error)
