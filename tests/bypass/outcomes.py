"""What must have come of each attempt, exactly or as a pattern. Where shared placement differs, ``SHARED`` says so."""

from __future__ import annotations

import re

_CLOSED = "closed"
_REFUSED_COMMAND = re.compile(r"failed|absent")
_CALLS = (
    *("setns", "pidfd_getfd", "ptrace", "process_vm_readv", "mount", "umount2", "pivot_root", "chroot", "open_tree"),
    *("fsopen", "mount_setattr", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "kcmp"),
    *("open_by_handle_at", "init_module", "kexec_load", "reboot", "syslog", "iopl", "swapon", "fanotify_init"),
    *("settimeofday", "sethostname", "open_tree_attr"),
)
_COMMANDS = (
    *("systemd-run", "systemd-run-user", "busctl", "resolvectl", "docker", "podman", "at", "crontab", "nft", "iptables", "conntrack"),
    *("nsenter", "ip-netns"),
)

EXPECTED: dict[str, str | re.Pattern[str]] = {
    **{f"tcp4-{port}": _CLOSED for port in (1, 22, 80, 443, 5433, 6379, 8888, 65535)},
    "tcp6-443": _CLOSED,
    "tcp-mapped-443": _CLOSED,
    "tcp-compatible-443": _CLOSED,
    "tcp-bindtodevice-lo": _CLOSED,
    "tcp-bindtodevice-host": "ENODEV",
    "tcp-mark": "EPERM",
    "tcp-transparent": "EPERM",
    "tcp-repair": "EPERM",
    "tcp-ulp-smc": "ENOENT",
    "tcp-source-route": "EPERM",
    # A kernel with mobile IPv6 takes the header; the redirected dial then gets no answer.
    "tcp-routing-header": re.compile("EINVAL|timeout"),
    "tcp-foreign-source": _CLOSED,
    "tcp-nonblocking": _CLOSED,
    "tcp-threads": _CLOSED,
    "tcp-own-relay": _CLOSED,
    "tcp-fastopen": re.compile("EINPROGRESS|closed"),
    "tcp-listener-direct": re.compile(r"((ECONNREFUSED|closed|ENETUNREACH) ?)+"),
    "memfd-exec": "status 0 closed",
    **{f"udp4-{port}": "EPERM" for port in (123, 443, 853, 5353, 9999)},
    "udp6-443": "EPERM",
    "udp-mapped-443": "EPERM",
    "udp-connected": "EPERM",
    "udp-broadcast": "EPERM",
    "udp-multicast": "EPERM",
    "udp6-multicast": "EPERM",
    "udp-segmented": "EPERM",
    "udp-source-53": "EACCES",
    "udp-encapsulation": re.compile("ENOPROTOOPT|EPERM"),
    "dns-tunnel-txt": "rcode 3 answers 0",
    "dns-tunnel-null": "rcode 3 answers 0",
    "dns-tunnel-tcp": "rcode 3 answers 0",
    "dns-below-target": "rcode 3 answers 0",
    "dns-many-labels": "rcode 3 answers 0",
    "dns-own-resolver": "gai -2",
    **{f"dns-target-{kind}": "rcode 0 answers 1" for kind in ("a", "aaaa", "tcp")},
    "dns-target-txt": "rcode 0 answers 0",
    "dns-port-raw-data": "ok sent",  # to the policy DNS, which records it as no question
    "dns-rebinding": re.compile(r"answers 10\.77\.0\.2( fd77::2)? then closed"),
    **dict.fromkeys(("http-other-host", "http-connect", "http-smuggled", "http-websocket", "http-h2c", "socks5", "postgres-elsewhere"), _CLOSED),
    **dict.fromkeys(("tls-fronted", "tls-nameless", "tls-odd-port", "tls-encrypted-name", "dns-over-https", "dns-over-tls"), _CLOSED),
    "target-other-port": _CLOSED,
    # The proxy itself says so in PostgreSQL's words, or hangs up.
    **{name: re.compile(r"closed|answered b'E'") for name in ("target-http", "target-connect", "target-socks5")},
    "families": "1/1 1/2 1/3 1/5 10/1/0 10/1/6 10/2/0 10/2/17 16/2/0 16/3/0 2/1/0 2/1/6 2/2/0 2/2/17",
    "families-pair": "1/1 1/2 1/3 1/5",
    **{f"socket-{name}": "EPROTONOSUPPORT" for name in ("mptcp", "sctp")},
    **{f"socket-{name}": "EPERM" for name in ("raw-icmp", "raw-icmp6", "raw-any", "ping")},
    **{
        f"socket-{name}": "EAFNOSUPPORT"
        for name in ("packet", "packet-datagram", "vsock", "alg", "rds", "netfilter", "sock-diag", "xdp", "tipc", "smc")
    },
    "foreign-architectures": "-1 -1 -1 status 0",
    **{f"call-{name}": "EPERM" for name in _CALLS},
    **{f"call-{name}": "ENOSYS" for name in ("io_uring_setup", "io_uring_enter", "clone3")},
    **{f"unshare-{name}": "EPERM" for name in ("time", "mount", "cgroup", "uts", "ipc", "user", "pid", "net")},
    **{f"clone-{name}": "EPERM" for name in ("mount", "cgroup", "uts", "ipc", "user", "pid", "net")},
    **{f"setuid-{uid}": "EPERM" for uid in (0, 901, 902, 1901)},
    "setgroups": "EPERM",
    "setuid-made": "EPERM EPERM EPERM",
    "setuid-programs": re.compile(r"(\w+=(FAILED|absent)? ?)+"),
    "capabilities": "0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 1 2",
    "processes": "",
    "signals": "",
    "descriptors": re.compile(r"0:pipe 1:pipe 2:pipe\s*"),
    "service-folders": "",
    "service-files": "",
    "service-sockets": "",
    "writable-places": "/dev/shm /tmp /var/tmp",
    "proc-writable": "",
    "devices": "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero",
    "device-made": "EPERM",
    "cgroup-escape": "0::/",
    "terminal-injection": "EPERM EPERM EPERM EPERM",
    "privileged-ports": "",
    "fork-bomb": re.compile(r"EAGAIN \d+"),
    "limits": re.compile(r"\(4096, 4096\) \(1, 1\) .*"),
    **{f"doors-{name}": "shut" for name in ("resolvers", "managers", "terminals", "engines", "databases")},
    "abstract-socket": "ECONNREFUSED",
    "abstract-descriptor": "ECONNREFUSED",
    "path-descriptor": "shut",
    "doors-odd": "shut",
    "doors-twice": "shut",
    "far-names": "ENOENT ENOENT",
    "second-proc": "",
    "fifos": "EACCES EACCES EACCES",
    "call-seccomp-listener": "EPERM EPERM",
    **{f"command-{name}": _REFUSED_COMMAND for name in _COMMANDS},
    "left-behind": "nothing",
    "path-by-loader": _CLOSED,
    "path-by-proc-root": _CLOSED,
    "argv-spoofed": _CLOSED,
    "comm-spoofed": _CLOSED,
    "exec-after-connect": _CLOSED,
    "fork-shares-socket": _CLOSED,
    "short-lived": "statuses [0]",
    "legitimate-query": "rows (True,)",
}

SHARED: dict[str, str | re.Pattern[str]] = {
    "tcp-compatible-443": "ENETUNREACH",
    "tcp-bindtodevice-lo": "timeout",
    "tcp-bindtodevice-host": "timeout",
    # With eBPF a program refuses before the kernel finds no route.
    "udp-broadcast": re.compile("ENETUNREACH|EPERM"),
    "udp-multicast": re.compile("ENETUNREACH|EPERM"),
    "dns-tunnel-null": "ENETUNREACH",
    "abstract-socket": "EPERM",
    "abstract-descriptor": "EPERM",
}


def matches(attempt: str, placement: str, outcome: str) -> bool:
    """Whether ``outcome`` is what must come of ``attempt`` in ``placement``."""
    expected = SHARED.get(attempt, EXPECTED[attempt]) if placement == "shared" else EXPECTED[attempt]
    return bool(expected.fullmatch(outcome)) if isinstance(expected, re.Pattern) else outcome == expected
