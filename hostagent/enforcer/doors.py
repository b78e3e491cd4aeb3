"""What a leaf has beside its six listeners: unix sockets of targets."""

from __future__ import annotations

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.unixdoors import clear, unix_doors

__all__ = ["clear", "open_doors"]


def open_doors(governed: Governed, settings: Settings) -> None:
    """Make and open them, as part of the leaf's listeners from now on.

    Raises:
        OSError: the kernel refused a step.
    """
    assert governed.listeners is not None
    governed.unix = unix_doors(settings.runtime, settings.unix_targets())
    governed.listeners.doors.extend(governed.unix)
    for door in governed.listeners.doors:
        door.open()
