"""The uids of workloads: each run of tests has its own.

The kernel counts what one user may have (processes, pipes, inotify watches) over all namespaces, so two runs beside each other whose
workloads had the same uid would take them away from each other: a fork bomb of one leaves the other none.
"""

import os

COUNT = 1000
FIRST_UID = 1_000_000 + os.getpid() % 1000 * COUNT
"""Where the uids of this run's workloads begin (``enforcement.uid_first``)."""
