"""A workload that does what it is told, line by line, on as many connections as it is told: the hands of a test inside.

Reads one JSON object per line: ``{"on": NAME, "do": "connect" | "sql" | "cancel" | "drop" | "close", …}`` and answers each with
one. Connections work at the same time; what a connection is told is done in order.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time

import psycopg


class Line:
    """One connection and the thread that uses it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: queue.Queue[dict[str, object]] = queue.Queue()
        self.connection: psycopg.Connection | None = None
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        while True:
            order = self.orders.get()
            started = time.monotonic()
            try:
                answer = self.obey(order)
            except psycopg.Error as error:
                closed = self.connection is None or self.connection.closed
                answer = {"error": error.sqlstate, "message": str(error), "closed": bool(closed)}
            except Exception as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            say({"on": self.name, "id": order["id"], "seconds": round(time.monotonic() - started, 3), **answer})

    def obey(self, order: dict[str, object]) -> dict[str, object]:
        if order["do"] == "connect":
            self.connection = psycopg.connect(str(order.get("dsn", "")), autocommit=True, prepare_threshold=None)
            self.connection.add_notice_handler(lambda diag: say({"on": self.name, "notice": diag.message_primary}))
            return {"connected": True}
        assert self.connection is not None
        if order["do"] == "sql":
            cursor = self.connection.execute(str(order["sql"]), order.get("values") or None)
            rows = cursor.fetchall() if cursor.description else None
            return {"rows": rows, "tag": cursor.statusmessage, "status": self.connection.info.transaction_status.name}
        self.connection.close()
        return {"closed": True}


def say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()


def main() -> None:
    lines: dict[str, Line] = {}
    say({"ready": os.getpid()})
    for text in sys.stdin:
        order = json.loads(text)
        line = lines.setdefault(order["on"], Line(order["on"])) if order["on"] not in lines else lines[order["on"]]
        if order["do"] == "cancel":
            assert line.connection is not None
            line.connection.cancel()
            say({"on": order["on"], "id": order["id"], "cancelled": True})
        elif order["do"] == "drop":  # as a crashing client does: no Terminate, no close_notify, a reset
            assert line.connection is not None
            descriptor = line.connection.fileno()
            with socket.socket(fileno=os.dup(descriptor)) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                same.shutdown(socket.SHUT_RDWR)
            say({"on": order["on"], "id": order["id"], "dropped": True})
        else:
            line.orders.put(order)


main()
