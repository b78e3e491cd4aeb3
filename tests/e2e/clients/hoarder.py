"""A hostile client, speaking the protocol by itself: ``hoarder.py WHAT CONNECTIONS``; says how it ended on its last line.

unfinished: each connection begins a message of 200 MiB and sends 4 MiB of it. prepared: each prepares statements without end.
statements: each sends texts of 100,000 statements. It goes on until everything was refused, or told to stop by the end of its input.
"""

import socket
import struct
import sys
import threading

WHAT, CONNECTIONS = sys.argv[1], int(sys.argv[2])
ended = []


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


def signed_in() -> socket.socket:
    made = socket.create_connection(("crm.internal", 5432), timeout=60)
    body = struct.pack(">i", 196608) + b"user\0crm_app\0database\0crm\0client_encoding\0UTF8\0\0"
    made.sendall(struct.pack(">i", len(body) + 4) + body)
    heard = b""
    while not heard.endswith(b"Z\0\0\0\5I"):
        data = made.recv(65536)
        if not data:
            raise OSError("refused")
        heard += data
    return made


def prepare(made: socket.socket, number: int) -> None:
    for base in range(0, 100_000, 200):
        texts = (f"select {base + n}, '{number}-{base + n}'".encode() for n in range(200))
        made.sendall(b"".join(message(b"P", b"s%d\0" % (base + n) + text + b"\0\0\0") for n, text in enumerate(texts)) + message(b"S", b""))
        while not made.recv(65536).endswith(b"Z\0\0\0\5I"):
            pass


def work(number: int) -> None:
    try:
        made = signed_in()
        if WHAT == "unfinished":
            made.sendall(b"Q" + struct.pack(">i", 200 << 20))
            made.sendall(b"x" * (4 << 20))
            made.recv(1)
        elif WHAT == "prepared":
            prepare(made, number)
        else:
            threading.Thread(target=drain, args=(made,), daemon=True).start()
            while True:
                made.sendall(message(b"Q", b"select 1;" * 100_000 + b"\0"))
    except OSError as error:
        ended.append(str(error))


def drain(made: socket.socket) -> None:
    while made.recv(1 << 20):
        pass


threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CONNECTIONS)]
for thread in threads:
    thread.start()
print("begun", flush=True)
sys.stdin.readline()
print(f"ended {len(ended)}", flush=True)
