"""What systemd hears of a process, and what its journal gets."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hostagent.daemon.logs import JournalHandler
from hostagent.daemon.notify import Notifier


def _listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(5)
    return made


def test_ready_and_watchdog_are_heard_and_no_child_inherits_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _listener(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")
        notifier = Notifier()
        assert notifier.interval_s == 5.0
        notifier.ready()
        notifier.alive()
        notifier.alive()  # too soon to say it again
        notifier.stopping("told to")
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1\nSTATUS=told to"]
        again = Notifier()
        again.ready()
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_descriptors_are_kept_by_name_and_found_by_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _listener(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        read, write = os.pipe()
        notifier.keep("leaf-1.scope", [read, write])
        notifier.drop("leaf-1.scope")
        text, kept, _, _ = socket.recv_fds(manager, 200, 10)
        assert (text, len(kept)) == (b"FDSTORE=1\nFDPOLL=0\nFDNAME=leaf-1.scope", 2)
        assert manager.recv(200) == b"FDSTOREREMOVE=1\nFDNAME=leaf-1.scope"
        for descriptor in (*kept, read, write):
            os.close(descriptor)
    code = "import fcntl, os\nfrom hostagent.daemon.notify import Notifier\nfound = Notifier().take()\n"
    code += "print(found, fcntl.fcntl(3, fcntl.F_GETFD), 'LISTEN_FDS' in os.environ)"
    start = 'export LISTEN_FDS=2 LISTEN_FDNAMES=leaf:leaf LISTEN_PID=$$; exec "$0" -c "$1" 3</dev/null 4</dev/null'
    done = subprocess.run(["/bin/sh", "-c", start, sys.executable, code], capture_output=True, text=True, check=True)
    assert done.stdout == "{'leaf': [3, 4]} 1 False\n"


def test_a_journal_entry_has_priority_and_fields_also_when_its_text_has_lines(tmp_path: Path) -> None:
    with _listener(tmp_path / "journal") as journal, contextlib.closing(JournalHandler("proxyd", str(tmp_path / "journal"))) as handler:
        logger = logging.Logger("hostagent.test")  # noqa: LOG001 - one of its own, without the process's handlers
        logger.addHandler(handler)
        logger.error("first\nsecond", extra={"flow": "f1"})
        entry = journal.recv(4000)
    assert entry.startswith(b"MESSAGE\n\x0c\0\0\0\0\0\0\0first\nsecond\nPRIORITY=3\nSYSLOG_IDENTIFIER=hostagent-proxyd\n")
    assert b"\nHOSTAGENT_FLOW=f1\n" in entry


def test_without_a_journal_the_line_has_the_priority_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("hostagent.test")  # noqa: LOG001
    with contextlib.closing(JournalHandler("proxyd", str(tmp_path / "nobody"))) as handler:
        logger.addHandler(handler)
        logger.warning("hello")
    assert capsys.readouterr().err == "<4>hello\n"
