"""HTTP/1.1 is read in one way or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.body import (
    ChunkedBody,
    CloseBody,
    SizedBody,
    build_chunk,
    build_last_chunk,
    request_body,
    response_body,
)
from hostagent.wire.http1.head import (
    RequestHead,
    ResponseHead,
    build_request,
    build_response,
    parse_request,
    parse_response,
    take_head,
)
from hostagent.wire.http1.location import canonical_path, locate, parse_authority, query_pairs, readings

_HOST = b"Host: api.example\r\n"

REFUSED_HEADS = [
    (b"GET / HTTP/1.1\nHost: api.example\n\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: api.example\nX: y\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: api.example\r\nX: a\rb\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: api.example\r\nX: a\0b\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: api.example\r\nX: a\x0bb\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: api.example\r\nX: a\r\n folded\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\n Host: api.example\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost : api.example\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nContent Length: 1\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\n: x\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nnocolon\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nContent_Length: 5\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n", "400"),
    (b"\r\nGET / HTTP/1.1\r\n\r\n", "400"),
    (b" GET / HTTP/1.1\r\n\r\n", "400"),
    (b"GET  / HTTP/1.1\r\n\r\n", "400"),
    (b"GET / HTTP/1.1 \r\n\r\n", "400"),
    (b"GET\t/\tHTTP/1.1\r\n\r\n", "400"),
    (b"get / HTTP/1.1\r\n\r\n", "400"),
    (b"GET /a b HTTP/1.1\r\n\r\n", "400"),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", "400"),
    (b"GET /\r\n\r\n", "400"),
    (b"GET / http/1.1\r\n\r\n", "400"),
    (b"PRI * HTTP/2.0\r\n\r\n", "505"),
    (b"GET / HTTP/1.2\r\n\r\n", "505"),
    (b"GET / HTTP/0.9\r\n\r\n", "505"),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", "414"),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", "431"),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, "431"),
]


@pytest.mark.parametrize(("head", "code"), REFUSED_HEADS)
def test_a_head_that_two_readers_could_take_differently_is_refused(head: bytes, code: str) -> None:
    with pytest.raises(RemoteWireError) as refused:
        raw = take_head(bytearray(head))
        assert raw is not None, "it is incomplete"
        parse_request(raw)
    assert refused.value.code == code


REFUSED_FRAMING = [
    ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["Content-Length: 5", "Content-Length: 5"],
    ["Content-Length: 5, 5"],
    ["Content-Length: +5"],
    ["Content-Length: 0x5"],
    ["Content-Length: -1"],
    ["Content-Length: 5 "[:-1] + "\t6"],
    ["Content-Length:"],
    ["Content-Length: 9999999999999999999"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked, identity"],
    ["Transfer-Encoding: identity"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: gzip, chunked"],
    ["Transfer-Encoding:"],
    ['Transfer-Encoding: "chunked"'],
    ["transfer-encoding: chunked;q=1"],
]


@pytest.mark.parametrize("lines", REFUSED_FRAMING, ids=" + ".join)
def test_a_body_whose_end_is_not_certain_is_refused(lines: list[str]) -> None:
    head = "POST / HTTP/1.1\r\n" + "\r\n".join(lines)
    with pytest.raises(RemoteWireError):
        request_body(parse_request(head.encode()))
    answer = "HTTP/1.1 200 OK\r\n" + "\r\n".join(lines)
    with pytest.raises(RemoteWireError):
        response_body(parse_response(answer.encode()), "GET")


def test_chunks_are_not_taken_from_http_1_0() -> None:
    with pytest.raises(RemoteWireError):
        request_body(parse_request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked"))


REFUSED_CHUNKS = [
    b"5;ext=1\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-1\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhell\r\n0\r\n\r\n",
    b"g\r\nhello\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\nhello",
    b"5\r\nhello\r\n0\r\nX: a\nY: b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
    b"5\r\nhello\r\n0\r\nAuthorization: x\r\n\r\n",
    b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n",
    b"5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
    b"0\r\nX: " + b"y" * 20_000,
]


def _read_whole(body: ChunkedBody, data: bytes) -> bytes:
    buffer = bytearray(data)
    content = body.read(buffer)
    assert body.done, "it is incomplete"
    return content + bytes(buffer)


@pytest.mark.parametrize("data", REFUSED_CHUNKS)
def test_chunks_that_two_readers_could_take_differently_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        _read_whole(ChunkedBody(), data)
    with pytest.raises(RemoteWireError):
        _in_pieces(ChunkedBody(), [data[i : i + 1] for i in range(len(data))])


def _in_pieces(body: ChunkedBody | SizedBody, pieces: list[bytes]) -> tuple[bytes, bytes]:
    buffer, content = bytearray(), b""
    for piece in pieces:
        buffer += piece
        content += body.read(buffer)
    assert body.done, "it is incomplete"
    return content, bytes(buffer)


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_every_way_of_splitting_a_chunked_body_reads_the_same(contents: list[bytes], data: st.DataObject) -> None:
    trailers = (("X-Sum", "1"), ("Y", ""))
    raw = b"".join(map(build_chunk, contents)) + build_last_chunk(trailers) + b"GET"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    body = ChunkedBody()
    assert _in_pieces(body, pieces) == (b"".join(contents), b"GET")
    assert body.trailers == trailers


def test_what_is_written_is_what_is_read() -> None:
    request = RequestHead("POST", "/a?b", 1, (("Host", "api.example"), ("X", "\xe4 y"), ("Empty", "")))
    raw = take_head(bytearray(build_request("POST", "/a?b", request.fields)))
    assert raw is not None
    assert parse_request(raw) == request
    response = ResponseHead(200, "All right", 1, (("X", "y"),))
    raw = take_head(bytearray(build_response(200, "All right", response.fields)))
    assert raw is not None
    assert parse_response(raw) == response


@pytest.mark.parametrize(
    ("method", "head", "kind"),
    [
        ("GET", "200 OK\r\nContent-Length: 5", SizedBody),
        ("GET", "200 OK\r\nTransfer-Encoding: Chunked", ChunkedBody),
        ("GET", "200 OK", CloseBody),
        ("GET", "200", CloseBody),
        ("HEAD", "200 OK\r\nContent-Length: 5", SizedBody),
        ("GET", "204 No Content", SizedBody),
        ("GET", "304 Not Modified\r\nContent-Length: 5", SizedBody),
        ("GET", "103 Early Hints", SizedBody),
    ],
)
def test_a_response_ends_where_the_rfc_says(method: str, head: str, kind: type) -> None:
    body = response_body(parse_response(f"HTTP/1.1 {head}".encode()), method)
    assert type(body) is kind
    if isinstance(body, SizedBody):
        assert body.done is not (method == "GET" and head.startswith("200"))


@pytest.mark.parametrize("line", ["HTTP/1.1 99 x", "HTTP/1.1 600 x", "HTTP/2 200 OK", "HTTP/1.1  200 OK", "ICY 200 OK", "HTTP/1.1 2000"])
def test_a_malformed_status_line_is_refused(line: str) -> None:
    with pytest.raises(RemoteWireError):
        parse_response(line.encode())


@pytest.mark.parametrize(
    ("raw", "canonical", "also"),
    [
        ("/", "/", ()),
        ("/a/./b/../c", "/a/c", ()),
        ("/a/%2e%2E/b", "/b", ()),
        ("/%61%7e", "/a~", ()),
        ("//a///b//", "/a/b/", ()),
        ("/a%2fb", "/a%2Fb", ("/a/b",)),
        ("/x;p=1/y", "/x;p=1/y", ("/x/y",)),
        ("/%c3%a4", "/%C3%A4", ()),
        ("/100%25", "/100%25", ()),
    ],
)
def test_a_path_has_one_canonical_form(raw: str, canonical: str, also: tuple[str, ...]) -> None:
    assert canonical_path(raw) == canonical
    assert canonical_path(canonical) == canonical
    assert readings(canonical)[1:] == also


@pytest.mark.parametrize(
    "raw",
    ["/../x", "/a/../../x", "/%00", "/%0d%0a", "/a%5cb", "/a\\b", "/a%252fb", "/%252e%252e/x", "/..%2fx", "/a/..;/b", "/.;x/", "/%ff", "/%c0%ae", "/%zz", "/%4", "/ä", '/"', "/a#b", "a"],
)  # fmt: skip
def test_a_path_that_servers_read_differently_is_refused(raw: str) -> None:
    with pytest.raises(RemoteWireError):
        canonical_path(raw)


@settings(deadline=None)
@given(st.text(alphabet="/.%2eEfF5cC;aä~", max_size=20))
def test_a_canonical_path_stays_as_it_is(text: str) -> None:
    try:
        path = canonical_path(f"/{text}")
    except RemoteWireError:
        return
    assert canonical_path(path) == path
    assert not any(piece in (".", "..") for form in readings(path) for piece in form.split("/"))


@pytest.mark.parametrize(
    ("target", "host", "url"),
    [
        ("/a?b=c", "API.example", "https://api.example/a?b=c"),
        ("/a", "api.example:443", "https://api.example/a"),
        ("/a", "api.example.:8443", "https://api.example:8443/a"),
        ("https://api.example/a", "api.example", "https://api.example/a"),
        ("HTTPS://api.example:443", "api.example", "https://api.example/"),
        ("/a", "[FD77::2]:8443", "https://[fd77::2]:8443/a"),
        ("/a?", "api.example", "https://api.example/a?"),
    ],
)
def test_a_location_is_put_together_from_target_and_host(target: str, host: str, url: str) -> None:
    assert locate("GET", target, host, "https").url == url


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        ("GET", "https://evil.example/a", "api.example"),
        ("GET", "http://api.example/a", "api.example"),
        ("GET", "https://user@api.example/a", "api.example"),
        ("GET", "api.example:443", "api.example"),
        ("GET", "*", "api.example"),
        ("GET", "/a#b", "api.example"),
        ("GET", '/a?"', "api.example"),
        ("GET", "/a?%zz", "api.example"),
        ("GET", "/", "api.example@evil"),
        ("GET", "/", "api.example:"),
        ("GET", "/", "api.example:99999"),
        ("GET", "/", "api example"),
        ("GET", "/", "[::1"),
        ("GET", "/", "[fe80::1%25eth0]"),
        ("GET", "/", ""),
        ("GET", "/", "äpi.example"),
    ],
)
def test_a_location_that_contradicts_itself_is_refused(method: str, target: str, host: str) -> None:
    with pytest.raises(RemoteWireError):
        locate(method, target, host, "https")


def test_a_query_is_decoded_once_and_not_at_all_where_servers_disagree() -> None:
    assert query_pairs("a=1&a=%32&b=x+y&c&%64=%2526") == (("a", "1"), ("a", "2"), ("b", "x y"), ("c", ""), ("d", "%26"))
    assert query_pairs("a=1;b=2") is None
    assert query_pairs("a=%ff") is None
    assert parse_authority("10.0.0.1:80", "http").written("http") == "10.0.0.1"
