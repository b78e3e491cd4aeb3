"""What C and Python say of each other's structures is the same, by the C compiler's word; and the ring is read as it is written."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest

from hostagent.enforcer.bpf import layout, objects
from hostagent.enforcer.bpf.layout import Record
from hostagent.enforcer.bpf.table import PROGRAMS
from hostagent.model.errors import HostagentError

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def built() -> objects.Objects:
    return objects.compiled(objects.source(2))


def test_every_program_of_the_table_is_compiled(built: objects.Objects) -> None:
    assert {row.name for row in PROGRAMS} == set(built.code)
    assert {row.name for row in PROGRAMS if row.tracepoint} == {row.name for row in PROGRAMS if row.tracepoint in built.tracepoints}


def test_maps_hold_the_structures_that_python_packs(built: objects.Objects) -> None:
    shapes = dict(built.maps)
    sizes = {name: (shape.key_size, shape.value_size) for name, shape in shapes.items()}
    assert sizes["leaves"] == (8, layout.LEAF_RULE.size)
    assert sizes["by_cookie"] == (8, layout.ORIGIN.size)
    assert sizes["by_tuple"] == (layout.TUPLE.size, 8)
    assert (sizes["taken"], sizes["pruned"], sizes["followed"]) == ((8, 8), (8, 8), (8, 8))
    assert min(shapes[name].max_entries for name in ("by_cookie", "by_tuple")) >= 16 * layout.LEAF_CONNECTIONS
    assert shapes["tasks"].max_entries >= 16 * layout.LEAF_PROCESSES
    assert shapes["losses"].max_entries >= len(layout.LOSSES)


def test_what_means_deny_is_a_plain_hash_that_evicts_nothing(built: objects.Objects) -> None:
    plain_hash, denying = 1, ("leaves", "by_cookie", "taken", "pruned")
    assert {name: shape.type for name, shape in built.maps if name in denying} == dict.fromkeys(denying, plain_hash)


@pytest.mark.parametrize("name", [record.name for record in layout.RECORDS])
def test_a_structure_that_differs_does_not_compile(name: str) -> None:
    record = next(each for each in layout.RECORDS if each.name == name)
    first, second, *rest = record.fields
    swapped = Record(name, [second, first, *rest]) if first[1] != second[1] else Record(name, [*record.fields, ("more", "I")])
    right, wrong = layout.assertions([record]), layout.assertions([swapped])
    with pytest.raises(HostagentError, match=name):
        objects.compiled(objects.source(2).replace(layout.assertions(), right + wrong))


def test_a_record_is_read_back_as_it_was_packed() -> None:
    data = layout.HEADING.pack(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, b"bash\0garbage")
    assert layout.heading(data) == layout.Heading(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, "bash")
    with pytest.raises(struct.error):
        layout.heading(data[:-1])


@pytest.mark.parametrize(
    ("family", "data", "expected"),
    [(2, bytes([192, 0, 2, 1]) + bytes(12), "192.0.2.1"), (10, bytes(15) + b"\1", "::1"), (1, bytes(16), "")],
)
def test_addresses_are_read_by_family(family: int, data: bytes, expected: str) -> None:
    assert layout.address(family, data) == expected


def test_without_bcc_the_reason_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(objects, "INTERPRETER", sys.executable)  # the virtual environment's has none
    with pytest.raises(HostagentError, match="apt-get install python3-bpfcc"):
        objects.compiled("int one(void *ctx) { return 1; }", [])


def test_a_text_that_does_not_compile_names_the_line() -> None:
    with pytest.raises(HostagentError, match=r"bpf/network\.c:1.*undeclared"):
        objects.compiled(objects.source(2).replace('#line 1 "bpf/network.c"\n', '#line 1 "bpf/network.c"\nint bad(void *ctx) { return nothing; }\n'))


def test_the_compiler_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nTMPDIR={tmp_path}/work exec /usr/bin/python3 "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(objects, "INTERPRETER", str(program))
    assert objects.compiled(objects.source(2)).tracepoints
    assert list((tmp_path / "work").iterdir()) == []


def test_objects_are_the_same_each_time(built: objects.Objects) -> None:
    assert dataclasses.asdict(objects.compiled(objects.source(2))) == dataclasses.asdict(built)
