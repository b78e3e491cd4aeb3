"""JSON, JSON paths and forms: one reading or none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.wire.forms import Field, boundary, parse_multipart, parse_urlencoded
from hostagent.wire.jsonpath import find, parse_path, replace
from hostagent.wire.jsontext import JSON, Number, build, parse, scalar_text

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "ä b", "c.d"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None)
@given(_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_built_means_what_was_read(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert json.loads(build(parse(text.encode()))) == value


def test_numbers_keep_their_spelling_and_blanks_and_escapes_go() -> None:
    assert build(parse(b'{ "a":[1.10, 1E400, -0,123456789012345678901234567890], "\\u0062": "\\u00e4\\/\\n" }')) == (
        '{"a":[1.10,1E400,-0,123456789012345678901234567890],"b":"ä/\\n"}'.encode()
    )


@pytest.mark.parametrize(
    "text",
    [
        *(b'{"a":1,"a":1}', b'{"a":1,"A":1}', b'{"k":1,"\xe2\x84\xaa":1}', b"NaN", b"[Infinity]", b"[-Infinity]", b"01", b"+1", b"1.", b"[1,]", b"{}{}"),
        *(b"\xef\xbb\xbf{}", b"{} // x", b"{'a':1}", b'"\\ud800"', b'{"\\udfff":1}', b'"a\\u0000"', b'"a\nb"', b'"\xff"', b'"\xed\xa0\x80"', b"", b" "),
        *("{}".encode("utf-16"), b"[" * 65 + b"]" * 65, b"[" * 100_000, b'{"a":' * 100_000, b"\xc2\xa0{}"),
    ],
)  # fmt: skip
def test_what_two_readers_could_take_differently_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_the_deepest_document_is_read_and_built_and_escapes_are_the_usual_ones() -> None:
    deepest = b"[" * 63 + b'{"a":1}' + b"]" * 63
    assert build(parse(deepest)) == deepest
    with pytest.raises(ValueError, match="too deep"):
        build([parse(deepest)])
    text = "".join(map(chr, range(1, 256))) + "\u2028\U0001f600"
    assert build(text).decode() == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    ("literal", "text"),
    [("1", "1"), ("1.0", "1"), ("1e3", "1000"), ("-0", "0"), ("0.5", "0.5"), ("9007199254740993", "9007199254740993"), ("1e400", "inf")],
)
def test_numbers_are_compared_by_value(literal: str, text: str) -> None:
    assert scalar_text(Number(literal)) == text


DOCUMENT = b'{"a":{"b":[{"id":1,"Token":"x"},{"id":2}]},"token":["y"],"n o":3,"id":0}'


@pytest.mark.parametrize(
    ("path", "strict", "loose"),
    [
        ("$.id", ["0"], ["0"]),
        ("$.ID", [], ["0"]),
        ("$.a.b[1].id", ["2"], ["2"]),
        ("$.a.b[*].id", ["1", "2"], ["1", "2"]),
        ("$..id", ["0", "1", "2"], ["0", "1", "2"]),
        ("$..token", [None], [None, "x"]),
        ('$["n o"]', ["3"], ["3"]),
        ("$.token[*]", ["y"], ["y"]),
        ("$.a.*[0].id", ["1"], ["1"]),
        ("$.id.b", [], []),
        ("$.a[0]", [], []),
    ],
)
def test_a_path_names_places(path: str, strict: list[str | None], loose: list[str | None]) -> None:
    document = parse(DOCUMENT)
    assert [scalar_text(each) for each in find(parse_path(path), document, loose=False)] == strict
    assert [scalar_text(each) for each in find(parse_path(path), document, loose=True)] == loose

    def change(_: JSON) -> JSON:
        return "gone"

    changed = replace(parse_path(path), parse(DOCUMENT), change)
    assert all(each == "gone" for each in find(parse_path(path), changed, loose=True))


@pytest.mark.parametrize("text", ["a", "", "$.", "$[-1]", "$[01]", "$[?(@.a)]", "$.a[0:2]", "$..", "$[a]", "$.a b", "$['a']", "$[0,1]", "$.1"])
def test_a_path_of_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a JSON path"):
        parse_path(text)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=%20x+y&a=", (Field("a", "1"), Field("b", " x y"), Field("a", ""))),
        (b"a", (Field("a", ""),)),
        (b"a=1;b=2", None),
        (b"a=%zz", None),
        (b"a=%ff", None),
        (b"a=\xc3\xa4", None),
        (b"a=1\r\n", None),
        pytest.param(b"&" * 1_000_000, None, id="more fields than anybody sends"),
    ],
)
def test_a_form_is_read_in_one_way_or_none(body: bytes, fields: tuple[Field, ...] | None) -> None:
    assert parse_urlencoded(body) == fields


def _multipart(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--X\r\n" + part + b"\r\n" for part in parts) + b"--X" + end


_PART = b'Content-Disposition: form-data; name="a"\r\n\r\n1'


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (_multipart(_PART, b'Content-Type: text/csv\r\ncontent-disposition: form-data; name="f"; filename="x.csv"\r\n\r\n\xff\r\n'), (Field("a", "1"), Field("f", None, "x.csv", "text/csv"))),
        (_multipart(), ()),
        (b"preamble\r\n" + _multipart(_PART), None),
        (_multipart(_PART) + b"more", None),
        (_multipart(_PART, end=b""), None),
        (_multipart(_PART).replace(b"\r\n", b"\n"), None),
        (_multipart(b"Content-Disposition: form-data; name=a\r\n\r\n1"), None),
        (_multipart(b"Content-Disposition: form-data; name*=utf-8''a\r\n\r\n1"), None),
        (_multipart(b'Content-Disposition: form-data; name="a"; name="b"\r\n\r\n1'), None),
        (_multipart(b'Content-Disposition: form-data; name="%61"\r\n\r\n1'), None),
        (_multipart(b'Content-Disposition: form-data;\r\n name="a"\r\n\r\n1'), None),
        (_multipart(_PART[:-1] + b"--X"), None),
        (_multipart(b"Content-Transfer-Encoding: base64\r\n" + _PART), None),
        (_multipart(b'Content-Disposition: form-data; name="b"\r\n' + _PART), None),
        (_multipart(b"\r\n1"), None),
        (_multipart(b'Content-Disposition: form-data; name="a"\n\r\n\r\n1'), None),
    ],
)  # fmt: skip
def test_parts_of_a_form_are_read_in_one_way_or_none(body: bytes, fields: tuple[Field, ...] | None) -> None:
    assert parse_multipart(body, "X") == fields


@pytest.mark.parametrize(
    ("parameters", "found"),
    [([" boundary=X"], "X"), ([' Boundary="a b"'], "a b"), ([" boundary=X", " boundary=Y"], None), ([" boundary*=X"], None), ([], None), ([" boundary="], None)],
)  # fmt: skip
def test_a_boundary_is_the_only_one(parameters: list[str], found: str | None) -> None:
    assert boundary(parameters) == found
