"""bpf(2), as far as it is needed, and the perf_event_open(2) that a tracepoint program is attached through.

Each call raises OSError. Descriptors are the caller's to close. ``union bpf_attr``, ``struct bpf_link_info``: linux/bpf.h;
``struct perf_event_attr``: linux/perf_event.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from hostagent.enforcer import kernel
from hostagent.enforcer.syscalls import ARCHITECTURES

PROGRAM_CGROUP_SKB = 8
PROGRAM_CGROUP_SOCK = 9
PROGRAM_SOCK_OPS = 13
PROGRAM_CGROUP_SOCK_ADDR = 18
PROGRAM_TRACEPOINT = 5

ATTACH_INGRESS = 0
ATTACH_EGRESS = 1
ATTACH_SOCK_CREATE = 2
ATTACH_SOCK_OPS = 3
ATTACH_CONNECT4 = 10
ATTACH_CONNECT6 = 11
ATTACH_SENDMSG4 = 14
ATTACH_SENDMSG6 = 15
ATTACH_SOCK_RELEASE = 34
ATTACH_PERF_EVENT = 41
ATTACH_UNIX_CONNECT = 49
ATTACH_UNIX_SENDMSG = 50

_MAP_CREATE = 0
_MAP_LOOKUP = 1
_MAP_UPDATE = 2
_MAP_DELETE = 3
_MAP_NEXT_KEY = 4
_PROGRAM_LOAD = 5
_OBJECT_PIN = 6
_OBJECT_GET = 7
_PROGRAM_BY_ID = 13
_PROGRAM_ATTACH = 8
_INFO = 15
_PROGRAM_QUERY = 16
_MAP_LOOKUP_BATCH = 24
_LINK_CREATE = 28
_LINK_UPDATE = 29
_LINK_BY_ID = 30
_LINK_NEXT_ID = 31
_LINK_DETACH = 34
_ALLOW_MULTI = 2
_LINK_OF_CGROUP = 3
_ATTRIBUTES = 128
_BATCH = 4096
_BATCHES = 1024
_LOG_BYTES = 1 << 18
_PERF_TRACEPOINT = 2
_PERF_ATTRIBUTES = 112
_PERF_CLOSE_ON_EXEC = 8


class MapShape(NamedTuple):
    """What a map is; two with the same shape can take each other's place."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def create_map(name: str, shape: MapShape) -> int:
    """Return the descriptor of a new map."""
    attributes = struct.pack("=IIIIIII16s", *shape, 0, 0, name.encode()[:15])
    return _bpf(_MAP_CREATE, attributes, f"make map {name}")


def lookup(map_: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value at ``key``, None if there is none."""
    value = ctypes.create_string_buffer(value_size)
    try:
        _with_key(_MAP_LOOKUP, map_, key, value, 0)
    except FileNotFoundError:
        return None
    return value.raw


def update(map_: int, key: bytes, value: bytes) -> None:
    """Set the value at ``key``."""
    _with_key(_MAP_UPDATE, map_, key, ctypes.create_string_buffer(value, len(value)), 0)


def delete(map_: int, key: bytes) -> bool:
    """Remove ``key``; return whether it was there."""
    try:
        _with_key(_MAP_DELETE, map_, key, None, 0)
    except FileNotFoundError:
        return False
    return True


def keys(map_: int, key_size: int, limit: int = 1 << 20) -> Iterator[bytes]:
    """Yield the keys that are there; a map that changes meanwhile may repeat or miss some. At most ``limit``."""
    after: bytes | None = None
    for _ in range(limit):
        following = ctypes.create_string_buffer(key_size)
        try:
            _with_key(_MAP_NEXT_KEY, map_, after, following, 0)
        except FileNotFoundError:
            return
        after = following.raw
        yield after


def entries(map_: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a hash that are there, thousands with one call; one that changes meanwhile may repeat or miss some (Linux 5.6)."""
    keys_, values = ctypes.create_string_buffer(_BATCH * key_size), ctypes.create_string_buffer(_BATCH * value_size)
    place = ctypes.create_string_buffer(max(key_size, 8))
    begun = 0
    for _ in range(_BATCHES):
        addresses = (ctypes.addressof(each) for each in (place, keys_, values))
        attributes = struct.pack("=QQQQIIQQ", begun, *addresses, _BATCH, map_, 0, 0)
        buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
        last = False
        try:
            _call(_MAP_LOOKUP_BATCH, buffer, "map")
        except FileNotFoundError:  # these are the last
            last = True
        (count,) = struct.unpack_from("=I", buffer, 32)
        names, contents = keys_.raw, values.raw
        for number in range(count):
            yield names[number * key_size : (number + 1) * key_size], contents[number * value_size : (number + 1) * value_size]
        if last:
            return
        begun = ctypes.addressof(place)


def _with_key(command: int, map_: int, key: bytes | None, value: object, flags: int) -> None:
    buffer = None if key is None else ctypes.create_string_buffer(key, len(key))
    address = 0 if buffer is None else ctypes.addressof(buffer)
    attributes = struct.pack("=I4xQQQ", map_, address, 0 if value is None else ctypes.addressof(value), flags)  # type: ignore[arg-type]
    _bpf(command, attributes, "map")


def load(name: str, kind: int, code: bytes, licence: str, attach: int = 0) -> int:
    """Return the descriptor of a program that the kernel has checked.

    Args:
        name: for people; at most 15 characters.
        kind: one of ``PROGRAM_…``.
        code: eight bytes per instruction; maps are referred to by descriptor.
        licence: as MODULE_LICENSE; some helpers want one compatible with the GPL.
        attach: one of ``ATTACH_…``, for kinds that want to know it now.

    Raises:
        OSError: refused; the text ends with the verifier's last word.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    terms = ctypes.create_string_buffer(licence.encode())

    def attempt(log: ctypes.Array[ctypes.c_char] | None) -> int:
        place = (0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log))
        attributes = struct.pack(
            "=IIQQIIQII16sII",
            *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(terms)),
            *(*place, 0, 0, name.encode()[:15], 0, attach),
        )
        return _bpf(_PROGRAM_LOAD, attributes, f"load program {name}")

    try:
        return attempt(None)
    except OSError:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return attempt(log)
        except OSError as error:
            lines = [line for line in log.value.decode(errors="replace").splitlines() if line and "processed" not in line]
            said = f" ({lines[-1]})" if lines else ""
            raise OSError(error.errno, f"{error.strerror}{said}") from error


def attach(cgroup: int, program: int, kind: int) -> None:
    """Attach a program to a cgroup beside others, for as long as the cgroup is there."""
    _bpf(_PROGRAM_ATTACH, struct.pack("=IIII", cgroup, program, kind, _ALLOW_MULTI), "attach a cgroup program")


def attached(cgroup: int, kind: int) -> list[int]:
    """Return the ids of the programs attached to this very cgroup, in order."""
    count = 64
    identifiers = (ctypes.c_uint32 * count)()
    buffer = bytearray(struct.pack("=IIIIQI", cgroup, kind, 0, 0, ctypes.addressof(identifiers), count))
    answer = _bpf_answered(_PROGRAM_QUERY, bytes(buffer), "query programs")
    (found,) = struct.unpack_from("=I", answer, 24)
    return list(identifiers[:found])


def link(program: int, target: int, kind: int) -> int:
    """Return the descriptor of a link: the program runs at ``target`` (a cgroup or a perf event) while the link exists."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, target, kind, 0), "link a program")


def replace(link_: int, program: int) -> None:
    """Make another program run at a link, without a moment in which none or both do."""
    _bpf(_LINK_UPDATE, struct.pack("=III", link_, program, 0), "replace a program")


def links() -> Iterator[int]:
    """Yield a descriptor of every link of the host, closed again when the next is asked for."""
    number = 0
    while True:
        try:
            answer = _bpf_answered(_LINK_NEXT_ID, struct.pack("=II", number, 0), "next link")
        except FileNotFoundError:
            return
        (number,) = struct.unpack_from("=I", answer, 4)
        try:
            found = _bpf(_LINK_BY_ID, struct.pack("=I", number), "open a link")
        except FileNotFoundError:  # gone meanwhile
            continue
        try:
            yield found
        finally:
            os.close(found)


def detach(link_: int) -> None:
    """Take the program of a link off, whoever holds the link (Linux 5.9)."""
    _bpf(_LINK_DETACH, struct.pack("=I", link_), "detach a program")


def program_name(number: int) -> str:
    """Return the name that the program with this id was loaded under, empty when it is gone."""
    info = ctypes.create_string_buffer(256)
    try:
        program = _bpf(_PROGRAM_BY_ID, struct.pack("=I", number), "open a program")
    except FileNotFoundError:
        return ""
    try:
        _bpf(_INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)), "ask about a program")
    finally:
        os.close(program)
    return info.raw[64:80].split(b"\0", 1)[0].decode(errors="replace")


class LinkInfo(NamedTuple):
    """``cgroup`` is the id of the cgroup it hangs on, 0 when that is gone (or when it is not a cgroup's link)."""

    number: int
    program: int
    cgroup: int


def link_info(link_: int) -> LinkInfo:
    """Return what the kernel says about a link."""
    info = ctypes.create_string_buffer(128)
    _bpf(_INFO, struct.pack("=IIQ", link_, len(info), ctypes.addressof(info)), "ask about a link")
    kind, number, program, cgroup = struct.unpack_from("=IIIxxxxQ", info.raw)
    return LinkInfo(number, program, cgroup if kind == _LINK_OF_CGROUP else 0)


def map_shape(map_: int) -> MapShape:
    """Return the shape of a map."""
    info = ctypes.create_string_buffer(256)
    _bpf(_INFO, struct.pack("=IIQ", map_, len(info), ctypes.addressof(info)), "ask about a map")
    kind, _, key_size, value_size, max_entries, flags = struct.unpack_from("=IIIIII", info.raw)
    return MapShape(kind, key_size, value_size, max_entries, flags)


def pin(descriptor: int, path: str) -> None:
    """Keep a map, program or link alive under a name on a bpf filesystem."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJECT_PIN, struct.pack("=QII", ctypes.addressof(name), descriptor, 0), f"pin {path}")


def pinned(path: str) -> int:
    """Return a descriptor of what is pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJECT_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0), f"open {path}")


def tracepoint(number: int) -> int:
    """Return the descriptor of a perf event for the tracepoint: a program linked to it runs on every processor."""
    attributes = struct.pack("=IIQQQQQII", _PERF_TRACEPOINT, _PERF_ATTRIBUTES, number, 1, 0, 0, 0, 1, 0)
    buffer = ctypes.create_string_buffer(attributes, _PERF_ATTRIBUTES)
    call = ARCHITECTURES[os.uname().machine].numbers["perf_event_open"]
    arguments = (buffer, ctypes.c_int(-1), ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_ulong(_PERF_CLOSE_ON_EXEC))
    return kernel.system_call(call, *arguments, what="perf_event_open")


def _bpf(command: int, attributes: bytes, what: str) -> int:
    return _call(command, ctypes.create_string_buffer(attributes, _ATTRIBUTES), what)


def _bpf_answered(command: int, attributes: bytes, what: str) -> bytes:
    """Make a call whose answer the kernel writes into the attributes."""
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    _call(command, buffer, what)
    return buffer.raw


def _call(command: int, buffer: ctypes.Array[ctypes.c_char], what: str) -> int:
    # A longer structure than the kernel knows is fine as long as the rest is zero.
    number = ARCHITECTURES[os.uname().machine].numbers["bpf"]
    return kernel.system_call(number, ctypes.c_int(command), buffer, ctypes.c_uint(_ATTRIBUTES), what=what)
