"""What programs and enforcerd hand to each other, in Python: the twin of ``bpf/layout.h``.

``assertions`` turns these tables into C that is compiled with every program, so a size or an offset that differs is a compile
error and no program of that text is ever loaded.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

VERSION = 1
"""Of the meaning of maps and records. Raise it when a field changes its meaning but not its place."""

FLAG_PROVING = 1
FLAG_SHARED = 2
FLAG_NO_UNIX = 4

RECORD_REFUSAL = 1
RECORD_FLOW = 2

RECORD_FORK = 16
RECORD_EXEC = 17
RECORD_EXIT = 18

LEAF_CONNECTIONS = 8192
"""How many sockets of one leaf are remembered at a time."""

LEAF_PROCESSES = 8192
"""How many processes of one leaf are followed at a time."""

LOSSES = ("refusals", "events", "tuples", "processes")
"""What the places of map ``losses`` count."""

_AF_INET = 2
_AF_INET6 = 10


class Record:
    """One C structure: its name and fields, in order, each with a ``struct`` format; ``=`` order, no padding."""

    def __init__(self, name: str, fields: Iterable[tuple[str, str]]) -> None:
        """See the class."""
        self.name = name
        self.fields = tuple(fields)
        self.format = "=" + "".join(form for _, form in self.fields)
        self.size = struct.calcsize(self.format)

    def offsets(self) -> Mapping[str, int]:
        """Return each field's place in bytes."""
        places, position = {}, 0
        for name, form in self.fields:
            places[name] = position
            position += struct.calcsize(f"={form}")
        return places

    def pack(self, *values: object) -> bytes:
        """Return the bytes of a structure with these values."""
        return struct.pack(self.format, *values)

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """Return the fields of a structure at the beginning of ``data``.

        Raises:
            struct.error: too short.
        """
        values = struct.unpack_from(self.format, data)
        return {name: value for (name, _), value in zip(self.fields, values, strict=True)}


_TUPLE = (("netns", "Q"), ("family", "I"), ("sport", "H"), ("dport", "H"), ("saddr", "16s"), ("daddr", "16s"))
_TASK = (("tgid", "I"), ("tid", "I"), ("uid", "I"), ("gid", "I"), ("comm", "16s"))
_IMAGE = (("start_ns", "Q"), ("image", "I"))
_HEADING = (("kind", "I"), ("reason", "I"), ("at_ns", "Q"), ("leaf", "Q"), ("netns", "Q"), ("cookie", "Q"), *_TASK)

LEAF_RULE = Record("leaf_rule", [("netns", "Q"), ("flags", "I"), ("number", "I")])
TUPLE = Record("tuple", _TUPLE)
ORIGIN = Record("origin", [("leaf", "Q"), ("netns", "Q"), ("at_ns", "Q"), *_TASK, *_IMAGE, ("pending", "I"), ("tuple", f"{TUPLE.size}s")])
HEADING = Record("heading", _HEADING)
REFUSAL = Record(
    "refusal", [("heading", f"{HEADING.size}s"), ("family", "I"), ("type", "I"), ("protocol", "I"), ("port", "I"), ("addr", "16s")]
)
FLOW = Record("flow", [("heading", f"{HEADING.size}s"), ("tuple", f"{TUPLE.size}s"), *_IMAGE, ("established", "I")])
IMAGE = Record("image", [("start_ns", "Q"), ("leaf", "Q"), ("count", "I"), ("threaded", "I")])
FORK = Record("fork", [("heading", f"{HEADING.size}s"), ("parent_start_ns", "Q"), ("parent_image", "I"), ("child", "I")])
WORD_COUNT = 16
WORD_SIZE = 64
WORDS = Record("words", [("count", "I"), ("unread", "I"), ("more", "I"), ("gap", "I"), ("word", f"{WORD_COUNT * WORD_SIZE}s")])
EXEC = Record(
    "exec", [("heading", f"{HEADING.size}s"), *_IMAGE, ("gap", "I"), ("filename", "256s"), ("words", f"{WORDS.size}s")]
)
END = Record("end", [("heading", f"{HEADING.size}s"), ("start_ns", "Q")])


RECORDS: list[Record] = [LEAF_RULE, TUPLE, ORIGIN, HEADING, REFUSAL, FLOW, IMAGE, FORK, WORDS, EXEC, END]
"""Every structure of ``bpf/layout.h``."""

_CONSTANTS = {
    "FLAG_PROVING": FLAG_PROVING,
    "FLAG_SHARED": FLAG_SHARED,
    "FLAG_NO_UNIX": FLAG_NO_UNIX,
    "LEAF_CONNECTIONS": LEAF_CONNECTIONS,
    "LEAF_PROCESSES": LEAF_PROCESSES,
    "RECORD_REFUSAL": RECORD_REFUSAL,
    "RECORD_FLOW": RECORD_FLOW,
    "LOST_REFUSALS": LOSSES.index("refusals"),
    "LOST_EVENTS": LOSSES.index("events"),
    "LOST_TUPLES": LOSSES.index("tuples"),
    "LOST_PROCESSES": LOSSES.index("processes"),
    "RECORD_FORK": RECORD_FORK,
    "RECORD_EXEC": RECORD_EXEC,
    "RECORD_EXIT": RECORD_EXIT,
    "WORDS": WORD_COUNT,
    "WORD": WORD_SIZE,
}


def assertions(records: Iterable[Record] = RECORDS) -> str:
    """Return C that compiles only if the structures and constants of the text are those of this module."""
    lines = [f'_Static_assert({name} == {value}, "{name}");' for name, value in _CONSTANTS.items()]
    for record in records:
        lines.append(f'_Static_assert(sizeof(struct {record.name}) == {record.size}, "size of {record.name}");')
        lines.extend(
            f'_Static_assert(__builtin_offsetof(struct {record.name}, {name}) == {place}, "{record.name}.{name}");'
            for name, place in record.offsets().items()
        )
    return "\n".join(lines) + "\n"


class Heading(NamedTuple):
    """What every record begins with. ``at_ns`` counts since boot (CLOCK_BOOTTIME); ``comm`` is what the process says it is."""

    kind: int
    reason: int
    at_ns: int
    leaf: int
    netns: int
    cookie: int
    tgid: int
    tid: int
    uid: int
    gid: int
    comm: str


def heading(data: bytes) -> Heading:
    """Return the heading of a record.

    Raises:
        struct.error: too short to be one.
    """
    *numbers, comm = struct.unpack_from(HEADING.format, data)
    return Heading._make((*numbers, text(comm)))


def text(data: bytes) -> str:
    """Return a C string; what is not UTF-8 is escaped."""
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def address(family: int, data: bytes) -> str:
    """Return an address of a record as text, empty for a family without one."""
    if family == _AF_INET:
        return str(ipaddress.IPv4Address(data[:4]))
    if family == _AF_INET6:
        return str(ipaddress.IPv6Address(data[:16]))
    return ""
