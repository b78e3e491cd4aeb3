"""The pure parts of the root rim: what is read from the kernel, and what is written for people."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.enforcer.cgroup import find_mount
from hostagent.enforcer.confinement.environment import environment
from hostagent.enforcer.confinement.lookups import lookup_order
from hostagent.enforcer.confinement.unixsockets import found_at
from hostagent.enforcer.confinement.unixsockets import parse as parse_sockets
from hostagent.enforcer.reporting.redaction import redact
from hostagent.enforcer.rules.refusals import Refused, Tally, parse, parse_headers
from hostagent.model.errors import HostagentError
from hostagent.model.flow import Endpoint

UDP4 = bytes.fromhex("45000020000040004011") + b"\0\0" + socket.inet_aton("10.0.0.1") + socket.inet_aton("192.0.2.1") + struct.pack(">HHHH", 5000, 443, 12, 0)
TCP6 = b"\x60\0\0\0\0\x14\x06\x40" + socket.inet_pton(10, "2001:db8::2") + socket.inet_pton(10, "2001:db8::1") + struct.pack(">HH", 6000, 5432) + b"\0" * 16


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (UDP4, ("udp", Endpoint("10.0.0.1", 5000), Endpoint("192.0.2.1", 443))),
        (TCP6, ("tcp", Endpoint("2001:db8::2", 6000), Endpoint("2001:db8::1", 5432))),
        (UDP4[:9] + b"\x01" + UDP4[10:20], ("icmp", Endpoint("10.0.0.1", 0), Endpoint("192.0.2.1", 0))),
        (UDP4[:9] + b"\xfd" + UDP4[10:20], ("ip-protocol-253", Endpoint("10.0.0.1", 0), Endpoint("192.0.2.1", 0))),
        (UDP4[:19], None),
        (b"", None),
        (b"\x50" * 40, None),
    ],
)
def test_headers_say_what_was_refused(packet: bytes, expected: object) -> None:
    assert parse_headers(packet) == expected


def _nflog(payload: bytes, mark: int | None) -> bytes:
    attributes = b"" if mark is None else struct.pack("=HH", 8, 2) + struct.pack(">I", mark)
    attributes += struct.pack("=HH", 4 + len(payload), 9) + payload + b"\0" * (-len(payload) % 4)
    body = struct.pack(">BBH", 2, 0, 5) + attributes
    return struct.pack("=IHHII", 16 + len(body), 0x400, 0, 0, 0) + body


def test_log_messages_carry_packet_and_mark() -> None:
    data = _nflog(UDP4, 0x68610001) + _nflog(TCP6, None)
    assert list(parse(data)) == [
        Refused("udp", Endpoint("10.0.0.1", 5000), Endpoint("192.0.2.1", 443), 0x68610001),
        Refused("tcp", Endpoint("2001:db8::2", 6000), Endpoint("2001:db8::1", 5432), 0),
    ]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_log_reader(data: bytes) -> None:
    list(parse(data))
    list(parse(_nflog(data, 1)))


def test_refusals_are_counted_by_destination_and_taken_once() -> None:
    tally = Tally()
    refused = Refused("udp", Endpoint("10.0.0.1", 5000), Endpoint("192.0.2.1", 443), 0)
    for _ in range(3):
        tally.add("bot-1", refused)
    tally.add("bot-2", refused)
    rows = [(leaf, fields["destination"], fields["count"]) for leaf, fields in tally.take()]
    assert rows == [("bot-1", "192.0.2.1:443", 3), ("bot-2", "192.0.2.1:443", 1)]
    assert tally.take() == []


def test_a_flood_of_destinations_is_bounded_and_none_is_lost() -> None:
    tally = Tally()
    for port in range(2000):
        tally.add("bot-1", Refused("udp", Endpoint("10.0.0.1", 1), Endpoint("192.0.2.1", port), 0))
    rows = tally.take()
    assert len(rows) == 513
    assert sum(int(str(fields["count"])) for _, fields in rows) == 2000


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["psql", "-h", "db.example", "-p", "5432"], ["psql", "-h", "db.example", "-p", "<4 characters>"]),
        (["psql", "-c", "select card from customers"], ["psql", "-c", "<26 characters>"]),
        (["psql", "postgresql://u:hunter2@db/x"], ["psql", "<27 characters>"]),
        (["x", "--password", "hunter2", "--verbose", "yes"], ["x", "--password", "<7 characters>", "--verbose", "yes"]),
        (["x", "--api-token=abc", "--mode=fast"], ["x", "--api-token=<3 characters>", "--mode=fast"]),
        (["x", "4111111111111111", "a@b.example"], ["x", "<16 characters>", "<11 characters>"]),
        (["x", "ghp_0123456789abcdefghij"], ["x", "<24 characters>"]),
        (["x", "MYSECRET=1", "A=b"], ["x", "<10 characters>", "<3 characters>"]),
    ],
)
def test_command_lines_are_recorded_without_values(argv: list[str], expected: list[str]) -> None:
    assert redact(argv) == expected


def test_a_long_command_line_is_cut() -> None:
    assert redact(["x"] + ["a"] * 100)[-1] == "<37 more>"


def test_cgroup_v2_is_found_wherever_it_is_mounted() -> None:
    info = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 - cgroup2 cgroup2 rw\n"
    assert find_mount(info) == "/sys/fs/cgroup/unified"
    with pytest.raises(HostagentError, match="not mounted"):
        find_mount(info.splitlines()[0])


def test_names_are_looked_up_in_files_and_dns_only() -> None:
    text = "# comment: hosts\npasswd: files systemd\nhosts: files mdns4_minimal [NOTFOUND=return] resolve dns\nservices: db files\n"
    assert lookup_order(text) == (
        "# comment: hosts\npasswd: files\nhosts: files dns\nservices: db files\ngroup: files\nshadow: files\ngshadow: files\n"
    )


def test_socket_paths_are_read_from_the_kernels_table() -> None:
    text = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000072393b43: 00000003 00000000 00000000 0001 03  1059\n"
        "00000000149ac6e4: 00000002 00000000 00010000 0001 01 12557 /run/a b.sock\n"
        "000000001a4c2aba: 00000002 00000000 00010000 0001 01  1060 @abstract/name\n"
        "000000001a4c2abb: 00000002 00000000 00000000 0002 01   106 /dev/log\n"
        "000000001a4c2abc: 00000002 00000000 00010000 0001 01   107 relative/x.sock\n"
    )
    assert parse_sockets(text) == {"/run/a b.sock", "/dev/log", "relative/x.sock"}


def test_the_environment_names_no_socket_of_the_launchers_and_the_document_wins() -> None:
    result = environment(
        {"PATH": "/bin", "SSH_AUTH_SOCK": "/run/x", "HOME": "/root", "SSL_CERT_FILE": "/own.pem", "LANG": "C"},
        {"LANG": "de"},
        name="bot",
        home="/tmp/home",
        shell="/bin/sh",
        bundle="/bundle.pem",
    )
    assert result == {
        "PATH": "/bin",
        "LANG": "de",
        "HOME": "/tmp/home",
        "USER": "bot",
        "LOGNAME": "bot",
        "SHELL": "/bin/sh",
        "SSL_CERT_FILE": "/own.pem",
        "REQUESTS_CA_BUNDLE": "/bundle.pem",
        "CURL_CA_BUNDLE": "/bundle.pem",
        "NODE_EXTRA_CA_CERTS": "/bundle.pem",
        "GIT_SSL_CAINFO": "/bundle.pem",
        "AWS_CA_BUNDLE": "/bundle.pem",
        "PIP_CERT": "/bundle.pem",
        "CARGO_HTTP_CAINFO": "/bundle.pem",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/bundle.pem",
    }


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("here", {"one/here", "two/here"}),
        ("/one/here", {"one/here"}),
        ("in/deep", {"two/in/deep"}),
        ("../two/./in/deep", {"two/in/deep"}),
        ("link/here", {"two/here"}),
        ("gone/here", set()),
        ("absent", set()),
    ],
)
def test_what_a_name_can_mean_is_found_in_every_place(tmp_path: Path, name: str, mean: set[str]) -> None:
    (tmp_path / "two/in").mkdir(parents=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/link").symlink_to("../two")
    with contextlib.ExitStack() as kept:
        for each in ("one/here", "two/here", "two/in/deep"):
            kept.enter_context(socket.socket(socket.AF_UNIX)).bind(str(tmp_path / each))
        others = [f"d{number}/x" for number in range(20)]  # with so many, folders are listed
        for names in ([name], [name, *others]):
            found = found_at(names, [str(tmp_path), str(tmp_path / "one"), str(tmp_path / "two"), "/no/such"])
            assert {str(Path(path).relative_to(tmp_path)) for path, called in found.items() if name in called} == mean


def test_a_name_with_odd_line_ends_is_one_name() -> None:
    table = "Num\nffff: 00000002 00000000 00010000 0001 01 7 /a\x0bb\x85c\n"
    assert parse_sockets(table) == {"/a\x0bb\x85c"}
