"""The root rim: everything that changes the kernel for a workload, and nothing that reads what it says.

Namespaces, cgroups, the nft table, listeners, launching and hardening, refusal evidence, killing. Synchronous, one selectors
loop, no threads. It never reads from a connection, parses nothing above IP, TCP and UDP headers, and imports no protocol and
no policy code. ``Settings`` says what it needs; ``Server`` is the process.
"""

from __future__ import annotations

from hostagent.enforcer.server import Server
from hostagent.enforcer.settings import Settings

__all__ = ["Server", "Settings"]
