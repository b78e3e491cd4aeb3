"""``recorderd``: journals in, DuckDB out. Never on the data path; stopped or slow, it loses nothing."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import threading
import time
from pathlib import Path

from hostagent.daemon import logs
from hostagent.daemon.configfile import load_started
from hostagent.daemon.notify import Notifier
from hostagent.recording.exporter import Exporter
from hostagent.recording.metrics import Tally
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store

log = logging.getLogger(__name__)

_POLL_S = 0.2
_PAUSE_AFTER_ERROR_S = 2.0
_LAST_READING_S = 2.0
_NICE = 10
# Every event is a few objects that live for one batch and are in no cycle: looking through them is a quarter of reading.
_GARBAGE = 200_000


def run(journal: Path, evidence: Path, stop: threading.Event, ready_fd: int | None = None, metrics: str = "") -> None:
    """Record until ``stop`` is set; then read what is left, for a few seconds at most, publish, and close.

    Writes one line to ``ready_fd`` when the first turn is done: the published database exists. ``metrics`` is the loopback
    address to serve counters on; empty: nowhere.
    """
    notifier = Notifier()
    with contextlib.ExitStack() as kept:
        store = kept.enter_context(Store(evidence))
        tally = Tally() if metrics else None
        recorder = Recorder(journal, store, tally=tally)
        if tally is not None:
            exporter = Exporter(metrics, lambda: tally.render(time.time_ns()))
            exporter.start()
            kept.callback(exporter.stop)
        ready = False
        while not stop.is_set():
            more = _turn(recorder, stop)
            notifier.alive()
            if not ready:
                notifier.ready()
                ready = True
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
                ready_fd = None
            if not more:
                stop.wait(_POLL_S)
        # Whoever restarts the service waits for this: what is left after a while, the next one reads.
        last = time.monotonic() + _LAST_READING_S
        recorder.drain(lambda: time.monotonic() >= last)
        store.publish()


def _turn(recorder: Recorder, stop: threading.Event) -> bool:
    """Do one turn; answers whether to look again at once. A full disk is waited out: the journal keeps everything.

    An error of DuckDB ends the process: the next one reads again from what was committed.
    """
    try:
        turn = recorder.turn(time.monotonic())
    except OSError as error:
        log.critical("recording has stopped for now: %s", error)
        stop.wait(_PAUSE_AFTER_ERROR_S)
        return False
    return turn.more


def _give_way() -> None:
    """Let the data path go first when processors are short: what is not recorded yet is safe in the journal."""
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # where the kernel schedules by session, only this counts
        Path("/proc/self/autogroup").write_text(f"{_NICE}\n", encoding="ascii")


def main() -> None:
    """Run from the command line (``hostagent up`` and systemd do)."""
    parser = argparse.ArgumentParser(prog="recorderd", description=__doc__)
    parser.add_argument("--config")
    parser.add_argument("--ready-fd", type=int)
    arguments = parser.parse_args()
    logs.configure("recorderd")
    config = load_started(arguments.config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    os.umask(0o027)
    gc.set_threshold(_GARBAGE)
    _give_way()
    run(Path(config.journal), Path(config.evidence), stop, arguments.ready_fd, config.metrics.listen)


if __name__ == "__main__":
    main()
