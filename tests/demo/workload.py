"""A small AI-agent-like program: its own process tree, ordinary drivers, a wrong password, no idea of hostagent.

Run by the system's python with Debian's psycopg2. Prints one JSON object per line, which the demo turns into prose.
"""

import json
import os
import socket
import subprocess
import sys

import psycopg2

HOST, ROOT_CERTIFICATE = sys.argv[1], sys.argv[2]
V4, V6 = sys.argv[3], sys.argv[4]
DSN = f"host={HOST} dbname=crm user=crm_app password=wrong sslmode=verify-full sslrootcert={ROOT_CERTIFICATE}"


def say(step, **facts):
    print(json.dumps({"step": step, **facts}, default=str), flush=True)


def ask(cursor, statement):
    try:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else None
        return {"statement": statement, "rows": rows, "tag": cursor.statusmessage}
    except psycopg2.Error as error:
        return {"statement": statement, "error": error.pgcode, "message": str(error).strip()}


def converse():
    connection = psycopg2.connect(DSN)
    connection.autocommit = True
    cursor = connection.cursor()
    say("allowed", **ask(cursor, "select id, item, amount from orders where status = 'open' order by id limit 3"))
    say("masked", **ask(cursor, "select id, name, email, card_number from customers order by id limit 3"))
    say("masked-note", **ask(cursor, "select body from notes order by id"))
    say("denied", **ask(cursor, "drop table customers"))
    say("after-denial", **ask(cursor, "select count(*) from orders"))
    connection.autocommit = False
    say("transaction", **ask(cursor, "update orders set status = 'checked' where id = 1"))
    say("held", **ask(cursor, "delete from stale_carts"))
    same = ask(cursor, "select txid_current_if_assigned() is not null")
    connection.commit()
    say("committed", **same)
    connection.close()


def psql_in_a_shell():
    command = f"psql -X -At '{DSN}' -c \"select name || ' lives in ' || country from customers where id = 1\""
    result = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    say("psql", output=result.stdout.strip() or result.stderr.strip())


def attempt(name, function):
    try:
        say("attempt", name=name, outcome=function())
    except OSError as error:
        say("attempt", name=name, outcome=f"refused by the kernel: {error.strerror}")


def tcp(address, port):
    def dial():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect((address, port))
            try:
                connection.sendall(b"secret data over tcp\n")
                answer = connection.recv(100)
            except ConnectionError:
                answer = b""
            return f"answered {answer!r}" if answer else "accepted by the proxy, closed by verdict"

    return dial


def udp(address, port):
    def send():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"secret data over udp", (address, port))
            return "sent"

    return send


def raw():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
        sender.sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", (V4, 0))
        return "sent"


def packet():
    with socket.socket(17, socket.SOCK_RAW, 3):
        return "opened"


def listening_ports():
    ports = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path) as table:
            for line in list(table)[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def go_round():
    attempt("another TCP port (sink:5433)", tcp(V4, 5433))
    attempt("TCP over IPv6 (sink:9999)", tcp(V6, 9999))
    attempt("UDP (sink:9999)", udp(V4, 9999))
    attempt("QUIC's port over IPv6 (sink:443/udp)", udp(V6, 443))
    attempt("raw ICMP", raw)
    attempt("packet socket", packet)
    for port in listening_ports()[:2]:
        attempt(f"the listener's own port ({port})", tcp("127.0.0.1", port))


if __name__ == "__main__":
    with open("/proc/self/cgroup") as file:
        cgroup = file.read().strip()
    say("start", pid=os.getpid(), uid=os.getuid(), cgroup=cgroup.splitlines()[-1])
    converse()
    psql_in_a_shell()
    go_round()
