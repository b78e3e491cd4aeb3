"""hostagent: a host enforcer for AI agents.

The packages are floors of one house; imports go down only (checked by import-linter):
``cli`` → ``daemon`` → ``proxy | enforcer | recording`` → ``gate`` →
``inspectors | policy | mask | identity | approval`` → ``sql | wire | ipc | journal | documents`` → ``model``.
Everything from ``gate`` down is synchronous and pure: no socket, no clock, no logging, no file.
"""

__version__ = "0.1.0"
