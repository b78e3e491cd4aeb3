"""Stands in for proxyd at the rim: attaches to enforcerd, admits, serves listeners, and writes down what arrives.

Run as the proxy's user: ``python -m tests.netns.standin_proxy SOCKET LOG``. Every accepted connection is answered with one line
``leaf original-destination`` and, if it had one, an original destination equal to the listener itself is logged as "direct".
A workload called "unwanted" is refused.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import sys
import time

from hostagent.ipc import (
    MAXIMUM_DESCRIPTORS,
    MAXIMUM_PACKET,
    Admit,
    Admitted,
    Attach,
    Listen,
    Listening,
    Retire,
    Retired,
    decode,
    encode,
)
from hostagent.model.workload import CANARY


class StandIn:
    def __init__(self, path: str, log: str) -> None:
        self.log = open(log, "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
        self.selector = selectors.DefaultSelector()
        self.leaves: dict[str, list[socket.socket]] = {}
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.connect(path)
        self.link.send(encode(1, Attach("standin")))
        self.selector.register(self.link, selectors.EVENT_READ, self.hear)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data()

    def write(self, **row: object) -> None:
        self.log.write(json.dumps(row) + "\n")

    def hear(self) -> None:
        data, fds, _, _ = socket.recv_fds(self.link, MAXIMUM_PACKET, MAXIMUM_DESCRIPTORS)
        if not data:
            raise SystemExit(0)
        packet = decode(data)
        match packet.body:
            case Admit(workload=workload, launcher=launcher, leaf=leaf, again=again):
                self.write(asked="admit", workload=workload, launcher=launcher, leaf=leaf, again=again)
                wanted = workload != "unwanted"
                identity = {"issuer": "test", "subject": workload}
                answer = Admitted(wanted, "" if wanted else "no valid identity", time.time() + 60, "s1", identity)
                self.link.send(encode(packet.id, answer))
            case Listen(leaf=leaf):
                self.serve(packet.body, [socket.socket(fileno=fd) for fd in fds])
                self.link.send(encode(packet.id, Listening(leaf)))
            case Retire(leaf=leaf):
                for each in self.leaves.pop(leaf, []):
                    self.selector.unregister(each)
                    each.close()
                self.link.send(encode(packet.id, Retired(leaf)))
            case other:
                self.write(heard=type(other).__name__)

    def serve(self, request: Listen, sockets: list[socket.socket]) -> None:
        self.leaves[request.leaf] = sockets
        for each in sockets:
            each.setblocking(False)
            if each.type == socket.SOCK_STREAM:
                self.selector.register(each, selectors.EVENT_READ, lambda each=each: self.accept(request.leaf, each))
            else:
                self.selector.register(each, selectors.EVENT_READ, lambda each=each: self.answer(request.leaf, each))

    def accept(self, leaf: str, listener: socket.socket) -> None:
        try:
            connection, peer = listener.accept()
        except OSError:  # shut by enforcerd
            return
        with connection:
            if listener.family == socket.AF_UNIX:
                self.write(leaf=leaf, unix=listener.getsockname())
                with contextlib.suppress(BrokenPipeError):  # it left without waiting
                    connection.sendall(f"{leaf} unix\n".encode())
                return
            destination = original(connection)
            self.write(leaf=leaf, tcp=destination, peer=peer[0], port=listener.getsockname()[1])
            if not leaf.startswith(CANARY):
                connection.sendall(f"{leaf} {destination}\n".encode())

    def answer(self, leaf: str, receiver: socket.socket) -> None:
        data, peer = receiver.recvfrom(4096)
        self.write(leaf=leaf, dns=data.decode(errors="replace"))
        if leaf.startswith(CANARY):
            receiver.sendto(data[:2] + b"\x81\x85" + data[4:], peer)
            return
        receiver.sendto(b"answer to " + data, peer)


def original(connection: socket.socket) -> str:
    if connection.family == socket.AF_INET6:
        raw = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
        return f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{struct.unpack('>H', raw[2:4])[0]}"
    raw = connection.getsockopt(socket.IPPROTO_IP, 80, 16)
    return f"{socket.inet_ntoa(raw[4:8])}:{struct.unpack('>H', raw[2:4])[0]}"


if __name__ == "__main__":
    StandIn(sys.argv[1], sys.argv[2]).run()
