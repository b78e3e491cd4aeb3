"""The other end of the wire: serves TCP and UDP on a few ports, and writes down every frame that carries somebody's data.

``python -m tests.netns.sink DEVICE LOG``, inside its network namespace. Left out: ARP, and ICMPv6 of neighbours and groups, which
the kernel sends by itself.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys

_KERNELS_OWN = {130, 131, 132, 133, 134, 135, 136, 143}
PORTS = (443, 5432, 9999)


def main(device: str, log_path: str) -> None:
    log = open(log_path, "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((device, 0))
    selector = selectors.DefaultSelector()
    selector.register(wire, selectors.EVENT_READ)
    servers: dict[int, socket.socket] = {}
    for port in PORTS:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            server = socket.socket(socket.AF_INET6, kind)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                server.listen()
            servers[server.fileno()] = server
            selector.register(server, selectors.EVENT_READ)
    log.write(json.dumps({"ready": True}) + "\n")
    while True:
        for key, _ in selector.select():
            server_ = servers.get(key.fd)
            if server_ is None:
                frame, address = wire.recvfrom(65536)
                if address[2] == socket.PACKET_OUTGOING or ours(frame):
                    continue
                log.write(json.dumps({"frame": frame.hex()}) + "\n")
            elif server_.type == socket.SOCK_STREAM:
                server_.accept()[0].close()
            else:
                server_.recvfrom(65536)


def ours(frame: bytes) -> bool:
    (kind,) = struct.unpack_from(">H", frame, 12)
    if kind == 0x0806:
        return True
    if kind == 0x86DD:
        # Group reports carry a hop-by-hop header of eight bytes before ICMPv6.
        start = 62 if frame[20] == 0 else 54
        return frame[20] in (0, 58) and frame[start] in _KERNELS_OWN
    return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
