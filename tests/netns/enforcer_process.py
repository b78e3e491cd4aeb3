"""enforcerd under test: the real ``Server`` with documents from the command line and a journal of JSON lines.

``python -m tests.netns.enforcer_process SETTINGS-JSON``. Keys: runtime, proxy_uid, slice, table, journal, ca, workloads
(a list of mappings with ``name`` and any other field of the model's ``Workload``), loopback_ports, hidden; optional: plain_table, bpf,
unix_targets, quarantine_file, firewall.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostagent.daemon.notify import Notifier
from hostagent.enforcer import Server, Settings
from hostagent.model.errors import JournalError
from hostagent.model.event import Event
from hostagent.model.flow import Placement
from hostagent.model.workload import Inbound, SharedPath, Workload


class Lines:
    """A journal of one JSON object per line. A folder beside it called ``full`` makes every append fail."""

    def __init__(self, path: str) -> None:
        self.path = path

    def append(self, events: Sequence[Event]) -> None:
        if os.path.exists(f"{self.path}.full"):
            raise JournalError("no space left on device")
        with open(self.path, "a") as file:
            file.writelines(json.dumps({"kind": event.kind, "workload": event.workload, **event.fields}) + "\n" for event in events)


def workload(document: dict[str, Any]) -> Workload:
    fields = dict(document)
    fields["placement"] = Placement(fields.get("placement", "isolated"))
    fields["launchers"] = frozenset(fields.get("launchers", ["root"]))
    fields["paths"] = tuple(SharedPath(path, writable) for path, writable in fields.get("paths", []))
    fields["trust_files"] = tuple(fields.get("trust_files", []))
    fields["inbound"] = tuple(Inbound(port) for port in fields.get("inbound", []))
    return Workload(**fields)


def loopback_ports(given: dict[str, Any]) -> list[int]:
    file = given.get("loopback_ports_file")
    ports: list[int] = json.loads(Path(file).read_text()) if file else given["loopback_ports"]
    return ports


def main(text: str) -> None:
    given = json.loads(text)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    os.makedirs(given["runtime"], exist_ok=True)
    notifier = Notifier()
    settings = Settings(
        runtime=given["runtime"],
        proxy_uid=given["proxy_uid"],
        proxy_gid=given["proxy_uid"],
        uid_first=given["uid_first"],
        journal=Lines(given["journal"]),
        workloads=lambda: {each["name"]: workload(each) for each in given["workloads"]},
        loopback_ports=lambda: frozenset(loopback_ports(given)),
        ca_file=given["ca"],
        hidden=tuple(given["hidden"]),
        slice_name=given["slice"],
        table=given["table"],
        unix_targets=lambda: tuple(given.get("unix_targets", [])),
        plain_table=given.get("plain_table", False),
        quarantine_file=given.get("quarantine_file", ""),
        firewall=given.get("firewall", "auto"),
        verify_every_s=given.get("verify_every_s", 0.0),
        verify_freeze=given.get("verify_freeze", False),
        bpf=given.get("bpf", "auto"),
        store=notifier if notifier.listening else None,
    )
    Server(settings).run(lambda: print("ready", flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
