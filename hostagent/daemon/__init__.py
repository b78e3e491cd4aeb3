"""The processes: ``enforcerd``, ``proxyd``, ``recorderd``, and ``up``, which runs all three in the foreground.

Here files are opened, privileges dropped and signals handled; what the processes *do* lives in ``enforcer``, ``proxy`` and
``recording``.
"""

from __future__ import annotations

UNINSTALLED = 20
"""Enforcerd's exit status after an uninstall: whoever supervises it must not start it again."""
