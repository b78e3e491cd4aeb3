from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.model.errors import RemoteWireError
from hostagent.wire.tls_hello import ClientHello, read_client_hello


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(data, 2)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(b"\0" + vector(name, 2), 2))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(name, 1) for name in names), 2))


def message(extensions: bytes | None = b"", *, session: bytes = b"", ciphers: bytes = b"\x13\x01", compression: bytes = b"\0") -> bytes:
    body = b"\3\3" + b"r" * 32 + vector(session, 1) + vector(ciphers, 2) + vector(compression, 1)
    if extensions is not None:
        body += vector(extensions, 2)
    return b"\1" + vector(body, 3)


def record(fragment: bytes) -> bytes:
    return b"\x16\3\1" + vector(fragment, 2)


FULL = message(
    server_name(b"DB.Internal.") + alpn(b"postgresql", b"h2") + extension(43, vector(b"\3\4\3\3", 1)) + extension(0xFE0D, b"x")
)
EXPECTED = ClientHello("db.internal", ("postgresql", "h2"), (0x0304, 0x0303), True)


def test_hello_in_one_record() -> None:
    assert read_client_hello(record(FULL)) == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 50])
def test_hello_over_several_records(size: int) -> None:
    parts = [FULL[i : i + size] for i in range(0, len(FULL), size)]
    data = b"".join(record(part) for part in parts)
    if len(parts) > 64:
        with pytest.raises(RemoteWireError, match="too many records"):
            read_client_hello(data)
    else:
        assert read_client_hello(data) == EXPECTED


@pytest.mark.parametrize("data", [record(FULL), record(FULL[:40]) + record(FULL[40:])])
def test_incomplete_hello_is_waited_for(data: bytes) -> None:
    assert [read_client_hello(data[:n]) for n in range(len(data))] == [None] * len(data)
    assert read_client_hello(data + b"later") == EXPECTED


def test_hello_without_extensions() -> None:
    assert read_client_hello(record(message(None))) == ClientHello("", (), (0x0303,), False)


@pytest.mark.parametrize(
    "data",
    [
        b"\x17\3\1\0\1x",
        b"\x16\2\1\0\1x",
        b"\x16\3\1\0\0",
        b"\x16\3\1\x40\1",
        record(b"\2" + vector(b"", 3)),
        record(b"\1\1\0\1"),
        record(FULL + b"x"),
        record(b"\1" + vector(b"", 3)),
        record(message(session=b"s" * 33)),
        record(message(ciphers=b"")),
        record(message(ciphers=b"\x13\1\0")),
        record(message(compression=b"")),
        record(message(server_name(b"a") + server_name(b"b"))),
        record(message(extension(0, vector(b"\0" + vector(b"a", 2) + b"\0" + vector(b"b", 2), 2)))),
        record(message(server_name(b""))),
        record(message(server_name(b"a b"))),
        record(message(server_name(b"\xc3\xa4"))),
        record(message(alpn(b""))),
        record(message(extension(16, vector(b"", 2) + b"x"))),
        record(message(extension(43, b"\3\3\4"))),
        record(message(b"\0\0\0")),
        record(message()[:-1] + b"\7"),
        record(FULL[:40]) + b"\x15\3\1\0\2xx",
    ],
)
def test_malformed_hello_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        read_client_hello(data)


def test_hello_of_openssl_is_read() -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["postgresql"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="db.internal")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    assert read_client_hello(outgoing.read()) == ClientHello("db.internal", ("postgresql",), (0x0304, 0x0303), False)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_refused_or_waited_for(data: bytes) -> None:
    for candidate in (data, b"\x16\3\1" + data, record(b"\1" + vector(data, 3))):
        try:
            read_client_hello(candidate)
        except RemoteWireError as error:
            assert str(error)
