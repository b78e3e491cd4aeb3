"""Whatever a client sends: the target, read by another reader than ours, gets the requests that were recorded as allowed, and no other."""

from __future__ import annotations

import http.client
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.model.event import EventKind
from tests.gate.gate_http import Talk

_HOST = b"Host: api.example\r\n"
_PIECES = st.sampled_from(
    [
        *(b"GET /a HTTP/1.1\r\n", b"POST /b HTTP/1.1\r\n", b"GET /denied HTTP/1.1\r\n", b"PUT /denied HTTP/1.0\r\n"),
        *(b"HEAD http://api.example/c HTTP/1.1\r\n", b"POST /b%2f..%2fdenied HTTP/1.1\r\n", b"GET /d HTTP/1.1\n"),
        *(_HOST, _HOST + b"\r\n", b"Host:api.example\r\n\r\n", b"Host: evil\r\n"),
        *(b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Content-Length: 0\r\n", b"Content-Length:5 \r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:\tChunked\r\n", b"Transfer-Encoding: x\r\n"),
        *(b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Content-Length, Host\r\n", b"X: y\r\n", b" folded\r\n"),
        *(b"\r\n", b"\n", b"\r", b" ", b"\0", b"hello", b"5\r\nhello\r\n", b"5;x\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"),
        b"GET /denied HTTP/1.1\r\nHost: api.example\r\n\r\n",
    ]
)
_ORDINARY = st.sampled_from(
    [
        b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"GET /denied HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"POST /b HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\n\r\nhello",
        b"POST /b HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PUT /denied HTTP/1.1\r\n" + _HOST + b"Content-Length: 55\r\n\r\nGET /denied/inside HTTP/1.1\r\nHost: api.example\r\n\r\n12345",
        b"PUT /e HTTP/1.1\r\n" + _HOST + b"Content-Length: 45\r\n\r\nGET /inside HTTP/1.1\r\nHost: api.example\r\n\r\n12",
    ]
)


def _as_python_reads_it(data: bytes) -> list[str]:
    """Return what the reader of Python's own server finds: ``METHOD PATH`` of each request, in order."""
    stream = io.BytesIO(data)
    found = []
    while line := stream.readline():
        found.append(" ".join(line.decode("latin-1").split()[:2]))
        fields = http.client.parse_headers(stream)
        if fields.get("Transfer-Encoding") == "chunked":
            while size := int(stream.readline() or b"0", 16):
                stream.read(size + 2)
            while stream.readline().strip():
                pass
        else:
            stream.read(int(fields.get("Content-Length") or 0))
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(_ORDINARY, _PIECES), max_size=14), st.booleans())
def test_the_target_gets_what_was_allowed_and_nothing_else(pieces: list[bytes], whole: bool) -> None:
    talk = Talk()
    answered = 0
    for piece in [b"".join(pieces)] if whole else pieces:
        talk.client(piece)
        while not talk.closed and (sent := talk.up.count(b"Authorization: Bearer ours")) > answered:
            answered = sent
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    rows = talk.records(EventKind.STATEMENT, "decision", "text")
    allowed = [str(text).replace("http://api.example", "") for decision, text in rows if decision == "allow"]
    assert _as_python_reads_it(talk.up) == allowed
    assert not any("denied" in request for request in allowed)
    assert b"denied" not in talk.up.replace(b"GET /denied/inside", b"")


def test_a_request_inside_a_body_is_a_body() -> None:
    talk = Talk()
    talk.client(b"POST /b HTTP/1.1\r\n" + _HOST + b"Content-Length: 43\r\n\r\nGET /denied HTTP/1.1\r\nHost: api.example\r\n\r\n" + b"GET")
    assert _as_python_reads_it(talk.up) == ["POST /b"]
