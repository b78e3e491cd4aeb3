"""Becoming somebody, or somewhere else."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from attempts import LIBC, SINK_4, attempt, name_of, syscall

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

for _call, _number in _SYSCALLS.items():
    attempt(f"call-{_call}")(lambda number=_number: syscall(number, 0, 0, 0, 0, 0))  # type: ignore[misc]
for _space, _flag in _NAMESPACES.items():
    attempt(f"unshare-{_space}")(lambda flag=_flag: syscall(272, flag))  # type: ignore[misc]
    if _space != "time":
        attempt(f"clone-{_space}")(lambda flag=_flag: _clone(flag))  # type: ignore[misc]


@attempt("call-seccomp-listener")
def _listener() -> str:
    """SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER, alone and with WAIT_KILLABLE_RECV."""
    return " ".join(syscall(317, 1, flags, 0) for flags in (8, 0x28))


def _clone(flag: int) -> str:
    pid = LIBC.syscall(56, ctypes.c_long(flag | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"ok {pid}" if pid > 0 else errno.errorcode[ctypes.get_errno()]


for _uid in (0, 901, 902, 1901):
    attempt(f"setuid-{_uid}")(lambda uid=_uid: syscall(117, uid, uid, uid))  # type: ignore[misc]


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
            made.append(name_of(error))
    return " ".join(made)


@attempt("capabilities")
def _capabilities() -> str:
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return " ".join(lines[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"))


@attempt("cgroup-escape")
def _cgroup_escape() -> str:
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")[:-1]:
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
    return " ".join([syscall(16, 0, request, 0) for request in (0x5412, 0x541C, 0x5423, 0x5412 | 1 << 40)])
