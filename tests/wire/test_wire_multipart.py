"""Parts of a body as it streams by, however it is cut; and what first bytes show."""

from __future__ import annotations

import pytest

from hostagent.wire.magic import detected
from hostagent.wire.multipart import MultipartReader, Part

_HEAD = b'Content-Disposition: form-data; name="f"; filename="%b"\r\nContent-Type: Text/Plain; x=1\r\n\r\n'
_GOOD = b"--B\r\n" + _HEAD % b"a" + b"\r\n--b\r\n--\r\n--B\r\n" + b'Content-Disposition: form-data; name="g"\r\n\r\nx' + b"\r\n--B--\r\n"


class _Told:
    def __init__(self) -> None:
        self.parts: list[tuple[Part, bytes, bool]] = []

    def begin(self, part: Part) -> None:
        self.parts.append((part, b"", False))

    def content(self, content: bytes) -> None:
        part, before, _ = self.parts[-1]
        self.parts[-1] = (part, before + content, False)

    def end(self) -> None:
        self.parts[-1] = (*self.parts[-1][:2], True)


def read(body: bytes, size: int) -> tuple[_Told, MultipartReader]:
    told = _Told()
    reader = MultipartReader("B", told)
    for at in range(0, len(body), size):
        reader.feed(body[at : at + size])
    return told, reader


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_parts_are_the_same_however_the_body_is_cut(size: int) -> None:
    told, reader = read(_GOOD, size)
    assert (reader.done, reader.odd) == (True, False)
    assert told.parts == [(Part("a", "text/plain"), b"\r\n--b\r\n--", True), (Part(None, ""), b"x", True)]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("body", [b"preamble" + _GOOD, _GOOD + b"behind", b"--C\r\n\r\n", b"--B--\r\n", b"--B\r\n" + b"x" * 9000 + b"\r\n\r\n", _GOOD.replace(b"--B\r\n", b"--Bx\r\n"),
                                  _GOOD.replace(b'"a"', b"a"), b"--B\r\n\r\n\r\n" * 100_000])
def test_what_is_no_form_is_odd_and_nothing_is_kept_of_it_without_end(body: bytes, size: int) -> None:
    _, reader = read(body, size)
    assert reader.odd
    assert reader.size < 10_000


def test_a_body_without_its_end_is_not_done() -> None:
    told, reader = read(_GOOD[:-9], 5)
    assert (reader.done, reader.odd, told.parts[-1][2]) == (False, False, False)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [(b"PK\x03\x04x", "application/zip"), (b"\x7fELF\x02", "application/x-elf"), (b"x" * 257 + b"ustar\x00", "application/x-tar"),
     (b"PGCOPY\n\xff\r\n\x00", "application/x-postgresql-copy"), (b"a,b\n1,2\n", ""), (b"", "")],
)  # fmt: skip
def test_first_bytes_show_what_a_file_is(beginning: bytes, kind: str) -> None:
    assert detected(beginning) == kind
