"""Sinks: listen on every interesting port of the database host and write down whatever arrives.

Run as a program with the log's path; prints ``listening`` when all ports are bound. Also captures packets, so that a datagram
to a port without a listener, an ICMP payload or a raw packet is seen as well.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys

TCP_PORTS = (22, 53, 80, 443, 5433, 6379, 8888, 9999, 65535)
UDP_PORTS = (53, 123, 443, 5433, 5353, 9999)
_ETH_P_ALL = 3


def main(path: str) -> None:
    """Serve until interrupted."""
    selector = selectors.DefaultSelector()
    log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open for the life of the process
    for port in TCP_PORTS:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, port))
            listener.listen()
            selector.register(listener, selectors.EVENT_READ, ("accept", port))
    for port in UDP_PORTS:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            receiver = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            receiver.bind((address, port))
            selector.register(receiver, selectors.EVENT_READ, ("udp", port))
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    capture.bind(("stage1", _ETH_P_ALL))
    selector.register(capture, selectors.EVENT_READ, ("packet", 0))
    print("listening", flush=True)
    while True:
        for key, _ in selector.select():
            kind, port = key.data
            source = key.fileobj
            assert isinstance(source, socket.socket)
            if kind == "accept":
                connection, peer = source.accept()
                log.write(f"tcp {port} connection from {peer[0]}\n")
                selector.register(connection, selectors.EVENT_READ, ("tcp", port))
            elif kind == "tcp":
                data = source.recv(65536)
                if data:
                    log.write(f"tcp {port} {data!r}\n")
                else:
                    selector.unregister(source)
                    source.close()
            elif kind == "udp":
                data, peer = source.recvfrom(65536)
                log.write(f"udp {port} from {peer[0]} {data!r}\n")
            else:
                packet, address = source.recvfrom(65536)
                if address[2] == 0 and (line := _suspicious(packet, address[1])):
                    log.write(line)


def _suspicious(packet: bytes, ethertype: int) -> str:
    """Return a line for any incoming packet that is neither PostgreSQL's nor neighbour discovery."""
    if ethertype == 0x0800 and len(packet) >= 20:
        header = (packet[0] & 15) * 4
        protocol = packet[9]
    elif ethertype == 0x86DD and len(packet) >= 40:
        header, protocol = 40, packet[6]
        if protocol in (0, 58):  # hop-by-hop (multicast listener reports) and ICMPv6 neighbour discovery
            if protocol == 58 and packet[40] in (128, 129):
                return f"packet icmpv6 type {packet[40]} {packet[header:]!r}\n"
            return ""
    else:
        return ""
    if protocol == 6 and len(packet) >= header + 4:
        destination: int = struct.unpack_from(">H", packet, header + 2)[0]
        return "" if destination == 5432 else f"packet tcp to port {destination}\n"
    return f"packet protocol {protocol} {packet[header:]!r}\n"


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(0)
