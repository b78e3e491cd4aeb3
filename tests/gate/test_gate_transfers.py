"""Files on their way through the gate: each is a row with what passed, and rules decide on what is declared and on what comes."""

from __future__ import annotations

from hashlib import sha256

import pytest

from hostagent.approval import Book
from hostagent.model.catalogue import Catalogue
from hostagent.model.command import Hold
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Effect
from hostagent.model.ticket import Answer
from hostagent.model.verdict import Decision, MaskContent
from hostagent.wire.postgres.backend import (
    CopyShape,
    build_command_complete,
    build_copy_shape,
    build_error,
    build_ready,
)
from hostagent.wire.postgres.frontend import build_copy_data, build_copy_fail
from hostagent.wire.postgres.messages import Server
from tests.gate.gate_http import Talk
from tests.gate.gate_rim import NOW, Rules, events, feed, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, bind, describe, execute, parse, query
from tests.gate.test_gate_http2 import POST, Talk2
from tests.policy.policy_world import policy

_ALL = "  - {id: all, then: allow, what: {effects: [read, insert, update, execute, delete, import, export]}}\n"
_COLUMNS = ("direction", "name", "media_type", "size", "outcome")
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


def rules(more: str = "") -> Rules:
    """Return rules that allow everything but what ``more`` says."""
    return policy(_ALL + more)  # type: ignore[return-value]


def put(talk: Talk, body: bytes, path: str = "/files/a.bin", *, method: str = "PUT", kind: str = "application/octet-stream", chunk: int = 0) -> None:
    """Send a request with ``body``, chunked if ``chunk`` is its chunks' size."""
    framing = b"Transfer-Encoding: chunked" if chunk else b"Content-Length: %d" % len(body)
    kinds = f"Content-Type: {kind}\r\n" if kind else ""
    talk.client(f"{method} {path} HTTP/1.1\r\nHost: api.example\r\n{kinds}".encode() + framing + b"\r\n\r\n")
    for at in range(0, len(body), chunk or 65536):
        piece = body[at : at + (chunk or 65536)]
        talk.client(b"%x\r\n%b\r\n" % (len(piece), piece) if chunk else piece)
    if chunk:
        talk.client(b"0\r\n\r\n")


def get(talk: Talk, head: bytes, body: bytes, path: str = "/files/a.bin") -> None:
    """Ask for ``path`` and have the target answer."""
    talk.client(f"GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n".encode())
    talk.server(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    for at in range(0, len(body), 65536):
        talk.server(body[at : at + 65536])


@pytest.mark.parametrize("chunk", [0, 1000])
def test_an_upload_is_a_row_with_the_hash_of_what_the_target_got(chunk: int) -> None:
    talk, body = Talk(rules()), b"\x7fELF" + b"x" * 100_000
    put(talk, body, chunk=chunk)
    talk.server(_OK)
    assert talk.records(EventKind.TRANSFER, *_COLUMNS, "detected_type", "sha256", "declared_size", "rules", "statement") == [
        ("upload", "/files/a.bin", "application/octet-stream", len(body), "finished", "application/x-elf",
         sha256(body).hexdigest(), None if chunk else len(body), ["all"], "f.1"),
    ]  # fmt: skip


def test_an_upload_that_the_client_does_not_finish_is_recorded_as_cut() -> None:
    talk = Talk(rules())
    talk.client(b"PUT /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 10\r\n\r\nhalf")
    talk.do(talk.gate.closed(Side.CLIENT, NOW))
    assert talk.records(EventKind.TRANSFER, *_COLUMNS, "sha256") == [("upload", "/a", "", 4, "cut", sha256(b"half").hexdigest())]


@pytest.mark.parametrize(
    ("method", "kind", "body"),
    [("POST", "application/json", b'{"a":1}'), ("PUT", "application/json", b'{"a":1}'), ("POST", "application/x-www-form-urlencoded", b"a=1"), ("POST", "", b"a=1")],
)
def test_messages_are_no_files_unless_they_are_longer_than_anybody_looks_at(method: str, kind: str, body: bytes) -> None:
    talk = Talk(rules())
    put(talk, body, method=method, kind=kind)
    talk.server(_OK)
    assert talk.records(EventKind.TRANSFER, "name") == []
    talk = Talk(rules())
    put(talk, b'"' + b"x" * 1_100_000 + b'"', method="PUT", kind="application/json", chunk=60_000)
    assert talk.records(EventKind.TRANSFER, "size", "outcome") == [(1_100_002, "finished")]


def test_each_file_of_a_form_is_a_row() -> None:
    one, two = b"%PDF-1.7 \r\n--not the boundary", bytes(range(256)) * 6000
    part = b'--XX\r\nContent-Disposition: form-data; name="%b"%b\r\n%b\r\n'
    head = [part % (b"a", b"", b""), part % (b"f", b'; filename="one.pdf"', b"Content-Type: application/pdf\r\n"), part % (b"g", b'; filename="two"', b"")]
    for second in (b"short", two):  # kept and looked at, or passed as it comes
        talk = Talk(rules("  - {id: rest, then: allow, what: {effects: [" + ", ".join(Effect) + "]}}"))
        body = head[0] + b"text\r\n" + head[1] + one + b"\r\n" + head[2] + second + b"\r\n--XX--\r\n"
        put(talk, body, method="POST", kind="multipart/form-data; boundary=XX", chunk=7001)
        talk.server(_OK)
        assert talk.records(EventKind.TRANSFER, *_COLUMNS, "detected_type", "sha256") == [
            ("upload", "one.pdf", "application/pdf", len(one), "finished", "application/pdf", sha256(one).hexdigest()),
            ("upload", "two", "", len(second), "finished", "", sha256(second).hexdigest()),
        ]


@pytest.mark.parametrize("named", [b"; filename=k.db", b"; filename*=UTF-8''k.db", b"; FileName='k.db'", b""])
def test_a_long_form_is_a_row_however_it_names_what_is_in_it(named: bytes) -> None:
    small = b'--XX\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n'
    for before in (b"", small):
        talk = Talk(rules("  - {id: rest, then: allow, what: {effects: [" + ", ".join(Effect) + "]}}"))
        body = before + b'--XX\r\nContent-Disposition: form-data; name="f"%b\r\n\r\n' % named + b"x" * 1_100_000 + b"\r\n--XX--\r\n"
        put(talk, body, method="POST", kind="multipart/form-data; boundary=XX")
        assert talk.records(EventKind.TRANSFER, "direction", "size", "sha256") == [("upload", len(body), sha256(body).hexdigest())]


@pytest.mark.parametrize(
    ("head", "path", "name"),
    [
        (b"Content-Type: application/zip\r\n", "/files/a.zip", "/files/a.zip"),
        (b"Content-Type: text/plain\r\nContent-Disposition: attachment; filename=\"report 1.txt\"\r\n", "/x", "report 1.txt"),
        (b"Content-Type: application/json\r\nContent-Disposition: attachment; filename*=UTF-8''a%20%C3%A4.json; filename=a.json\r\n", "/x", "a ä.json"),
        (b"Content-Type: application/json\r\n", "/v2/team/app/blobs/sha256:abc1", "team/app@sha256:abc1"),
        (b"Content-Type: text/plain\r\nx-amz-request-id: 1\r\nETag: \"1\"\r\n", "/bucket/key", "/bucket/key"),
    ],
)  # fmt: skip
def test_a_download_is_a_row_with_the_hash_of_what_the_client_got(head: bytes, path: str, name: str) -> None:
    talk, body = Talk(rules()), b"PK\x03\x04" + b"y" * 200_000
    get(talk, head + b"Content-Length: %d\r\n" % len(body), body, path)
    kind = head.split(b"\r\n")[0].partition(b": ")[2].decode()
    assert talk.records(EventKind.TRANSFER, *_COLUMNS, "sha256", "masked") == [
        ("download", name, kind, len(body), "finished", sha256(body).hexdigest(), False)
    ]


def test_a_download_that_ends_early_is_recorded_as_cut() -> None:
    talk = Talk(rules())
    get(talk, b"Content-Type: application/zip\r\nContent-Length: 10\r\n", b"half")
    talk.do(talk.gate.closed(Side.SERVER, NOW))
    assert talk.records(EventKind.TRANSFER, *_COLUMNS) == [("download", "/files/a.bin", "application/zip", 4, "cut")]


def test_of_a_masked_download_what_the_client_got_is_hashed_never_what_was_masked() -> None:
    talk = Talk(Rules(lambda _: Decision.ALLOW, (MaskContent("mail", frozenset({"email"})),)))
    get(talk, b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\nContent-Length: 14\r\n", b"me@example.com")
    shown = talk.down.partition(b"\r\n\r\n")[2]
    assert b"example" not in shown
    assert talk.records(EventKind.TRANSFER, "masked", "sha256", "outcome") == [(True, sha256(shown).hexdigest(), "finished")]


_UPLOADS = "  - {id: no, then: deny, what: {transfer: {direction: upload%s}}}"


@pytest.mark.parametrize(
    ("more", "kind", "path", "body", "chunk", "passes"),
    [
        ("", "application/octet-stream", "/a", b"x", 0, False),
        ("", "application/json", "/a", b'{"a":1}', 0, True),
        ("", "application/json", "/a", b"not what it says", 0, False),  # a file is a file, whatever it is called
        ("", "application/xml", "/a", b"<a/>", 0, False),
        (", names: '*.pem'", "application/octet-stream", "/keys/My.PEM", b"x", 0, False),
        (", names: '*.pem'", "application/octet-stream", "/keys/a.txt", b"x", 0, True),
        (", names: a.txt", "application/octet-stream", "/keys/a.txt", b"x", 0, False),
        (", names: '*.pem'", "multipart/form-data; boundary=X", "/a", b'--X\r\nContent-Disposition: form-data; name="f"; filename="k.pem"\r\n\r\nx\r\n--X--', 0, False),
        (", names: '*.pem'", "multipart/form-data; boundary=X", "/a", b'--X\r\nContent-Disposition: form-data; name="f"; filename="k.txt"\r\n\r\nx\r\n--X--', 0, True),
        (", media_types: image/*", "Image/PNG; q=1", "/a", b"x", 0, False),
        (", media_types: image/*", "application/octet-stream", "/a", b"x", 0, True),
        (", media_types: image/*", "", "/a", b"\x00", 0, False),  # nobody says what it is
        (", size_over: 1KiB", "application/octet-stream", "/a", b"x" * 1024, 0, True),
        (", size_over: 1KiB", "application/octet-stream", "/a", b"x" * 1025, 0, False),
        (", size_over: 1KiB", "application/octet-stream", "/a", b"x" * 1024, 100, True),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_rules_decide_on_what_an_upload_declares(more: str, kind: str, path: str, body: bytes, chunk: int, passes: bool, version: int) -> None:
    talk = (Talk if version == 1 else Talk2)(rules(_UPLOADS % more))
    if isinstance(talk, Talk2):
        head = POST | {":path": path} | ({"content-type": kind} if kind else {}) | ({} if chunk else {"content-length": str(len(body))})
        assert talk.status(talk.ask(head, body)) == ("200" if passes else "403")
    else:
        put(talk, body, path, method="POST", kind=kind, chunk=chunk)
        assert (body in talk.up if not chunk else b"POST" in talk.up) is passes
        assert (b"403 Forbidden" in talk.down) is not passes
        if not passes:
            assert talk.problem()["rule"] == "no"
    denied = [outcome for (outcome,) in talk.records(EventKind.TRANSFER, "outcome") if outcome == "denied"]
    assert denied == ([] if passes else ["denied"])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("rule", [_UPLOADS % ", size_over: 1000", "  - {id: no, then: allow, what: {effects: [insert, execute], transfer: {direction: upload, max_size: 1000}}}"])
def test_an_upload_that_does_not_say_how_long_it_is_is_cut_where_a_rule_ends_it(rule: str, version: int) -> None:
    by = policy(_ALL + rule if "deny" in rule else rule)
    talk = (Talk if version == 1 else Talk2)(by)  # type: ignore[arg-type]
    body = b"Q" * 700
    if isinstance(talk, Talk2):
        stream = talk.ask(POST | {":path": "/files/a.bin", "content-type": "application/zip"}, body, end=False)
        talk.one.send_data(stream, body)
        talk.move()
        assert talk.status(stream) == "403"
    else:
        put(talk, body * 3, method="POST", chunk=700)
        assert (talk.up.count(b"Q"), talk.up.endswith(b"0\r\n\r\n"), talk.closed) == (700, False, True)
        assert "1000 bytes" in str(talk.problem()["reason"])
    assert talk.records(EventKind.TRANSFER, "size", "outcome", "sha256") == [(700, "cut", sha256(body).hexdigest())]


_DOWNLOADS = "  - {id: no, then: deny, what: {transfer: {direction: download%s}}}"


@pytest.mark.parametrize(
    ("more", "head", "body", "passes"),
    [
        ("", b"Content-Type: application/zip", b"x", False),
        ("", b"Content-Type: application/json", b"{}", True),
        (", names: '*.db'", b'Content-Type: text/plain\r\nContent-Disposition: attachment; filename="crm.DB"', b"x", False),
        (", names: '*.db'", b"Content-Type: application/zip", b"x", True),
        (", media_types: application/zip", b"Content-Type: application/zip", b"x", False),
        (", size_over: 10", b"Content-Type: application/zip", b"x" * 10, True),
        (", size_over: 10", b"Content-Type: application/zip", b"x" * 11, False),
    ],
)
def test_rules_decide_on_what_a_response_declares(more: str, head: bytes, body: bytes, passes: bool) -> None:
    talk = Talk(rules(_DOWNLOADS % more))
    get(talk, head + b"\r\nContent-Length: %d\r\n" % len(body), body)
    assert talk.down.endswith(b"\r\n\r\n" + body) is passes
    if not passes:
        assert talk.problem()["rule"] == "no"
        assert talk.records(EventKind.TRANSFER, "outcome", "size", "sha256", "rules") == [("denied", 0, "", ["no", "all"])]
        assert talk.records(EventKind.RESULT, "outcome", "tag") == [("denied", "403")]


@pytest.mark.parametrize(("kind", "more", "most"), [("application/zip", ", size_over: 1000", 1000), ("application/json", "", 1_048_576)])
def test_a_response_that_does_not_say_how_long_it_is_is_cut_where_a_rule_ends_it(kind: str, more: str, most: int) -> None:
    """A message becomes a file when it is longer than one: so long it may be."""
    talk = Talk(rules(_DOWNLOADS % more))
    piece = b"Q" * 500
    get(talk, f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n".encode(), b"")
    for _ in range(most // 500 + 2):
        talk.server(b"1f4\r\n" + piece + b"\r\n")
    assert (most - 500 < talk.down.count(b"Q") <= most, talk.closed) == (True, True)
    assert [(size <= most, outcome) for size, outcome in talk.records(EventKind.TRANSFER, "size", "outcome")] in ([(True, "cut")], [])  # type: ignore[operator]
    assert [reason for (reason,) in talk.records(EventKind.REFUSAL, "reason") if "rule no" in str(reason)]


def test_who_may_only_download_files_gets_no_other_answer() -> None:
    talk = Talk(policy("  - {id: files, then: allow, what: {effects: read, transfer: {direction: download, max_size: 5}}}"))  # type: ignore[arg-type]
    get(talk, b"Content-Type: application/zip\r\nContent-Length: 1\r\n", b"x")
    assert talk.down.endswith(b"x")
    get(talk, b"Content-Type: application/json\r\nContent-Length: 2\r\n", b"{}")
    assert talk.records(EventKind.RESULT, "outcome") == [("ok",), ("denied",)]


_ZIP = b"Content-Type: application/zip\r\nContent-Length: %d\r\n"


@pytest.mark.parametrize("granted", [True, False])
def test_a_response_that_a_rule_holds_gives_a_ticket_and_passes_once_when_it_is_asked_for_again(granted: bool) -> None:
    by, book = rules("  - {id: ask, then: hold, approvers: a, what: {transfer: {direction: download}}}"), Book()
    first = Talk(by, book=book)
    get(first, _ZIP % 1, b"x")
    assert (first.problem()["type"], first.problem()["rule"], first.closed) == ("urn:hostagent:held", "ask", True)
    assert first.records(EventKind.TRANSFER, "outcome", "size") == [("denied", 0)]
    [ticket] = [command.ticket for command in first.commands if isinstance(command, Hold)]
    assert "application/zip, of 1 bytes" in ticket.operations[0].text
    waits = Talk(by, book=book)
    get(waits, _ZIP % 1, b"x")
    assert waits.problem()["ticket"] == ticket.ticket_id
    assert not any(isinstance(command, Hold) for command in waits.commands)
    kept = book.of(ticket.ticket_id)
    assert kept is not None
    book.answer(kept, Answer(ticket.ticket_id, granted=granted, by="alice", reason="no"), NOW)
    other = Talk(by, book=book)
    get(other, _ZIP % 2, b"xy")
    assert [type(command) for command in other.commands if isinstance(command, Hold)] == [Hold], "another file is another question"
    again, more = Talk(by, book=book), Talk(by, book=book)
    for talk in (again, more):
        get(talk, _ZIP % 1, b"x")
    assert again.down.endswith(b"\r\n\r\nx") is granted
    assert not more.down.endswith(b"\r\n\r\nx")


# -- COPY ----------------------------------------------------------------------------------------------------------------

_IN = build_copy_shape(Server.COPY_IN, CopyShape(0, (0,)))
_OUT = build_copy_shape(Server.COPY_OUT, CopyShape(0, (0,)))
_DONE, _SAID = b"c\0\0\0\x04", build_command_complete("COPY 3") + build_ready(b"I")


def copy_in(by: object, *pieces: bytes, end: bytes = _DONE) -> tuple[list[object], bytes, object]:
    """Have a client copy ``pieces``; return the commands, what the server got of the stream, and the session."""
    _, session = make_session(make_context(by))
    session.feed(Side.CLIENT, query("copy public.t from stdin (format csv)"), NOW)
    session.feed(Side.SERVER, _IN, NOW)
    out = [command for piece in pieces for command in session.feed(Side.CLIENT, build_copy_data(piece), NOW)]
    out += session.feed(Side.CLIENT, end, NOW)
    return out, sent(out, Side.SERVER), session  # type: ignore[return-value]


def test_copy_in_and_out_are_rows_with_the_hash_of_the_stream() -> None:
    out, got, session = copy_in(rules(), b"1,a\n2,", b"b\n", b"3,c\n")
    out += session.feed(Side.SERVER, _SAID, NOW)  # type: ignore[attr-defined]
    assert got.endswith(_DONE)
    row = events(out, EventKind.TRANSFER)[0].fields  # type: ignore[arg-type]
    assert [row[each] for each in (*_COLUMNS, "sha256", "rules")] == [
        "upload", "public.t", "text/csv", 12, "finished", sha256(b"1,a\n2,b\n3,c\n").hexdigest(), ["all"],
    ]  # fmt: skip
    whole = _OUT + build_copy_data(b"1\ta\n") * 3000 + build_copy_data(b"") + build_copy_data(b"x" * 9000) + _DONE + _SAID
    for size in (len(whole), 7, 4096):
        _, talk = make_session(make_context(rules()))
        talk.feed(Side.CLIENT, query("copy (select 1) to stdout"), NOW)
        found = [event for at in range(0, len(whole), size) for event in events(feed(talk, Side.SERVER, whole[at : at + size], NOW), EventKind.TRANSFER)]
        assert [found[0].fields[each] for each in (*_COLUMNS, "sha256")] == [
            "download", "(query)", "text/tab-separated-values", 21000, "finished", sha256(b"1\ta\n" * 3000 + b"x" * 9000).hexdigest(),
        ]  # fmt: skip


def test_a_masked_copy_is_hashed_as_the_client_gets_it() -> None:
    by = Rules(lambda _: Decision.ALLOW, (MaskContent("mail", frozenset({"email"})),))
    _, session = make_session(make_context(by, Catalogue({}, frozenset(), ("public",), {}, "v1")))
    session.feed(Side.CLIENT, query("copy t to stdout"), NOW)
    out = feed(session, Side.SERVER, _OUT + build_copy_data(b"me@example.com\n") + _DONE + _SAID, NOW)
    row = events(out, EventKind.TRANSFER)[0].fields
    assert (row["masked"], row["sha256"] == sha256(b"me@example.com\n").hexdigest(), row["outcome"]) == (True, False, "finished")


def test_copy_data_that_does_not_wait_for_the_server_is_counted_in_the_extended_protocol_too() -> None:
    _, session = make_session(make_context(rules("  - {id: no, then: deny, what: {transfer: {direction: upload, size_over: 10}}}")))
    session.feed(Side.CLIENT, parse("copy public.t from stdin", "s") + bind("s") + describe("P") + execute() + SYNC, NOW)
    session.feed(Side.SERVER, b"1\0\0\0\x042\0\0\0\x04n\0\0\0\x04" + _IN, NOW)
    session.feed(Side.CLIENT, build_copy_data(b"123456") + _DONE + SYNC, NOW)
    session.feed(Side.SERVER, _SAID, NOW)
    early = bind("s") + describe("P") + execute() + SYNC + build_copy_data(b"123456")
    out = session.feed(Side.CLIENT, early, NOW)
    out += feed(session, Side.SERVER, b"2\0\0\0\x04n\0\0\0\x04" + _IN, NOW)
    out += session.feed(Side.CLIENT, build_copy_data(b"123456"), NOW)
    assert sent(out, Side.SERVER).startswith(early)
    assert b"lets no more than 10 bytes" in sent(out, Side.SERVER)[len(early) :]


def test_copy_data_far_behind_its_request_ends_the_session() -> None:
    """Each message of it would cost a look at all that is between."""
    _, session = make_session(make_context(rules()))
    session.feed(Side.CLIENT, parse("copy public.t from stdin", "s") + bind("s") + execute() + SYNC * 90, NOW)
    assert sent(session.feed(Side.CLIENT, build_copy_data(b"1"), NOW), Side.SERVER) == build_copy_data(b"1")
    out = session.feed(Side.CLIENT, SYNC * 20 + build_copy_data(b"2"), NOW)
    assert sent(out, Side.SERVER) == SYNC * 20
    assert b"copy data behind more than 100 messages" in sent(out, Side.CLIENT)


@pytest.mark.parametrize("early", [False, True])
def test_copy_in_beyond_what_a_rule_lets_pass_fails_at_the_server_and_nothing_of_it_stays(early: bool) -> None:
    by = rules("  - {id: no, then: deny, what: {transfer: {direction: upload, size_over: 10}}}")
    if early:  # the client does not wait for the server's word
        _, session = make_session(make_context(by))
        text = query("copy public.t from stdin (format csv)")
        out = session.feed(Side.CLIENT, text + build_copy_data(b"12345\n") * 3 + _DONE, NOW)
        got = sent(out, Side.SERVER).removeprefix(text)
        out += session.feed(Side.SERVER, _IN, NOW)
    else:
        out, got, session = copy_in(by, b"12345\n", b"12345\n", b"12345\n")  # type: ignore[assignment]
    word = b"hostagent: rule no lets no more than 10 bytes of an upload pass"
    assert got == build_copy_data(b"12345\n") + build_copy_fail(word)
    failed = build_error({"S": "ERROR", "C": "57014", "M": "COPY from stdin failed"}) + build_ready(b"I")
    out += session.feed(Side.SERVER, failed, NOW)
    row = events(out, EventKind.TRANSFER)[0].fields
    assert (row["size"], row["outcome"]) == (6, "cut")
    after = session.feed(Side.CLIENT, query("select 1"), NOW)
    assert sent(after, Side.SERVER) == query("select 1")


def test_copy_out_beyond_what_a_rule_lets_pass_ends_the_session() -> None:
    _, session = make_session(make_context(rules("  - {id: no, then: deny, what: {transfer: {direction: download, size_over: 10}}}")))
    session.feed(Side.CLIENT, query("copy t to stdout"), NOW)
    session.feed(Side.SERVER, _OUT + build_copy_data(b"12345\n"), NOW)
    out = feed(session, Side.SERVER, build_copy_data(b"12345\n"), NOW)
    assert b"12345" not in sent(out, Side.CLIENT)
    assert b"C42501" in sent(out, Side.CLIENT)
    assert [event.fields["outcome"] for event in events(out, EventKind.TRANSFER)] == ["cut"]


@pytest.mark.parametrize(("names", "denied"), [("public.t", True), ("t", False), ("'*.t'", True), ("other", False)])
def test_a_copy_can_be_denied_by_what_is_copied(names: str, denied: bool) -> None:
    _, session = make_session(make_context(rules(f"  - {{id: no, then: deny, what: {{transfer: {{direction: upload, names: {names}}}}}}}")))
    out = session.feed(Side.CLIENT, query("copy public.t from stdin"), NOW)
    assert [event.fields["decision"] for event in events(out, EventKind.STATEMENT)] == ["deny" if denied else "allow"]
    assert [event.fields["outcome"] for event in events(out, EventKind.TRANSFER)] == ["denied"] * denied
