"""The journal's format: event framing, hash chain, signed checkpoints, and the verifier. Pure.

Lives here: bytes in, bytes or precise faults out. May not live here: files, clocks, threads, keys (a signing and a
verifying function are handed in). The file that this format is written to is ``hostagent.daemon.journalfile``; who
reads it is ``hostagent.recording``. The format is described in ``README.md`` beside this file.
"""

from __future__ import annotations

from hostagent.journal.chain import Chain, ChainState
from hostagent.journal.format import FORMAT_VERSION, GENESIS, CheckpointLine, EventLine, SegmentHeader
from hostagent.journal.verify import Accepted, Fault, FaultKind, Scan, Verifier, counted, events_in

__all__ = [
    "FORMAT_VERSION",
    "GENESIS",
    "Accepted",
    "Chain",
    "ChainState",
    "CheckpointLine",
    "EventLine",
    "Fault",
    "FaultKind",
    "Scan",
    "SegmentHeader",
    "Verifier",
    "counted",
    "events_in",
]
