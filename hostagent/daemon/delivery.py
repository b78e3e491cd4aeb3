"""Gets the targets' secrets to ``proxyd`` under systemd, from memory to memory.

``hostagent-proxyd.service`` has ``LoadCredential=hostagent-targets:/run/hostagent-secrets.sock``: before it starts the process,
systemd connects there, which starts one ``hostagent-secrets@.service`` as root. That reads what the target documents name and
writes it to the connection; systemd puts it where only proxyd reads it, in memory that is never swapped. No file in between.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hostagent.daemon.configfile import load_config, load_targets
from hostagent.daemon.credentials import gather, seal
from hostagent.model.errors import DocumentError, HostagentError

NAME = "hostagent-targets"


def delivered() -> int | None:
    """Return a descriptor of what ``seal`` made, as systemd put it down for this process; None if it was not asked to.

    Raises:
        DocumentError: there are none, because whoever was to deliver them could not; its own log says why.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    place = Path(folder) / NAME
    if not folder or not place.exists():
        return None
    if place.stat().st_size:
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    raise DocumentError("the targets' secrets could not be read: journalctl -u 'hostagent-secrets@*' says which and why")


def main() -> None:
    """Write the secrets of every target to standard output, which is the connection (hostagent-secrets@.service).

    A secret that cannot be had is a problem of its target alone.
    """
    try:
        config = load_config()
        secrets = gather(load_targets(config), config)
    except (HostagentError, OSError) as error:
        sys.exit(f"<3>{error}")
    for target, problem in secrets.problems.items():
        sys.stderr.write(f"<3>{target}: {problem}\n")
    with os.fdopen(seal(secrets), "rb") as sealed:
        sys.stdout.buffer.write(sealed.read())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
