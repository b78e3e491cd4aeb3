"""System call numbers that the workload's filter names, per architecture (uapi asm/unistd_64.h, asm-generic/unistd.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: its audit number, system calls by name, and whether the x32 numbers exist on it."""

    audit: int
    numbers: Mapping[str, int]
    x32: bool = False


ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2")
"""Answered "no such system call", for which every library has a way round: they would hide others from the filter."""

WATCHED_ABSENT = frozenset({"io_uring_setup"})
"""Of these, calls that are worth a row: without a ring the others have nothing to work on, and clone3 is every thread's start."""

MODES = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mknod": 1, "mknodat": 2, "creat": 1}
"""Calls that set a file's mode, and which argument it is."""

OPENS = {"open": 1, "openat": 2}
"""Calls that may make a file, and which argument holds the flags; the mode is the one after."""

IDENTITIES = {"setuid": 1, "setgid": 1, "setreuid": 2, "setregid": 2, "setresuid": 3, "setresgid": 3, "setgroups": 0}
"""Calls that change the account, and how many ids they take. The kernel refuses them anyhow; so that it is known, we do."""

LIMITS = ("setrlimit", "prlimit64")
"""Calls that set a resource limit. That of core files must stay 1: the one value at which the kernel starts no program for them (core(5))."""

OPTIONS = {1: (36,), 0: (19,), 41: (75,), 6: (19,)}
"""Socket options by level that would leave the rules or forge a connection, all needing a capability that a workload never has:
SO_MARK, IP_TRANSPARENT, IPV6_TRANSPARENT, TCP_REPAIR."""

REFUSED = (
    *("setns", "pidfd_getfd", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp"),
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "open_tree_attr", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "open_by_handle_at"),
    *("init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime", "sethostname"),
    *("setdomainname", "syslog", "lookup_dcookie", "nfsservctl", "iopl", "ioperm", "uselib", "vhangup", "fanotify_init"),
)
"""Answered EPERM."""

# fmt: off
X86_64 = Architecture(0xC000003E, {
    "socket": 41, "clone": 56, "unshare": 272, "ioctl": 16, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "clone3": 435, "setns": 308, "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312, "mount": 165, "umount2": 166, "pivot_root": 155,
    "chroot": 161, "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248,
    "request_key": 249, "open_by_handle_at": 304, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "create_module": 174, "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168,
    "acct": 163, "quotactl": 179, "quotactl_fd": 443, "settimeofday": 164, "clock_settime": 227, "sethostname": 170,
    "setdomainname": 171, "syslog": 103, "lookup_dcookie": 212, "nfsservctl": 180, "iopl": 172, "ioperm": 173,
    "uselib": 134, "vhangup": 153, "fanotify_init": 300, "open_tree_attr": 467, "socketpair": 53, "openat2": 437,
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "mknod": 133, "mknodat": 259, "creat": 85, "open": 2,
    "openat": 257, "seccomp": 317, "setsockopt": 54, "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114,
    "setgroups": 116, "setresuid": 117, "setresgid": 119, "setrlimit": 160, "prlimit64": 302,
}, x32=True)

AARCH64 = Architecture(0xC00000B7, {
    "socket": 198, "clone": 220, "unshare": 97, "ioctl": 29, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "clone3": 435, "setns": 268, "pidfd_getfd": 438, "ptrace": 117, "process_vm_readv": 270,
    "process_vm_writev": 271, "process_madvise": 440, "kcmp": 272, "mount": 40, "umount2": 39, "pivot_root": 41,
    "chroot": 51, "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "keyctl": 219, "add_key": 217,
    "request_key": 218, "open_by_handle_at": 265, "init_module": 105, "finit_module": 273, "delete_module": 106,
    "kexec_load": 104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60,
    "quotactl_fd": 443, "settimeofday": 170, "clock_settime": 112, "sethostname": 161, "setdomainname": 162, "syslog": 116,
    "lookup_dcookie": 18, "nfsservctl": 42, "vhangup": 58, "fanotify_init": 262, "open_tree_attr": 467,
    "socketpair": 199, "openat2": 437, "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "mknodat": 33, "openat": 56,
    "seccomp": 277, "setsockopt": 208, "setregid": 143, "setgid": 144, "setreuid": 145, "setuid": 146, "setresuid": 147,
    "setresgid": 149, "setgroups": 159, "setrlimit": 164, "prlimit64": 261,
})
# fmt: on

ARCHITECTURES: Mapping[str, Architecture] = {"x86_64": X86_64, "aarch64": AARCH64}
"""By ``os.uname().machine``. A machine that is not here cannot launch workloads."""
