"""Every attack by number: what is tried, which layer stops it, and which mechanism must write the row. Rows are never deleted.

The numbers 1 to 52 are those of the issue; ``R`` numbers are regressions that stand beside them. An attack is a list of attempts
of the hostile program (one leaf of its own per attack and placement, so that its rows are its own), or tests that need somebody
outside, marked with the number, or both.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.enforcer.confinement.landlock import can_close_fifos, can_scope
from tests.stage.service import FIREWALL

BOTH = ("isolated", "shared")
HERE = ("isolated",) if FIREWALL == "iptables" else BOTH
"""The placements of this run: iptables alone cannot hold shared placement, which is then refused."""
_SPACES = ("time", "mount", "cgroup", "uts", "ipc", "user", "pid", "net")


@dataclass(frozen=True)
class Attack:
    """One attack.

    ``rows`` are the layers that each must have written at least one refusal of this leaf (``nft/bpf``: whichever is asked first; nft
    stands for whichever firewall there is), ``admission`` a refused launch, ``service`` what the service says of itself; empty with ``why`` saying why nothing can be written. ``shared_rows`` differs where given. ``machine`` says what only a whole machine (a virtual one) can show; what is
    tried here is then a stand-in.
    """

    number: str
    name: str
    tried: str
    layer: str
    attempts: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    shared_rows: tuple[str, ...] | None = None
    why: str = ""
    placements: tuple[str, ...] = BOTH
    machine: str = ""

    @property
    def label(self) -> str:
        """The name of its tests."""
        return f"{self.number}-{self.name}"

    def rows_in(self, placement: str) -> tuple[str, ...]:
        """The layers that must have written in ``placement``."""
        return self.shared_rows if placement == "shared" and self.shared_rows is not None else self.rows


def _a(number: str, name: str, tried: str, layer: str, attempts: str = "", rows: str = "", why: str = "", **more: object) -> Attack:
    return Attack(number, name, tried, layer, tuple(attempts.split()), tuple(rows.split()), why=why, **more)  # type: ignore[arg-type]


_NOTHING_TO_SEE = "what is looked for is not there; nothing of ours is asked"
_OUTSIDE = "tried from outside, where there is nothing of ours to refuse it"
_KERNEL = "the kernel's own permission check, which tells nobody"
_READ_ONLY = "the kernel refuses (EROFS), which tells nobody"

ATTACKS: tuple[Attack, ...] = (
    _a("1", "direct-tcp", "TCP straight to an address, blocking, non-blocking, 50 threads at once", "nft redirect",
       "tcp4-5433 tcp-nonblocking tcp-threads tcp-foreign-source tcp-source-route tcp-routing-header tcp-ulp-smc", "proxy"),
    _a("2", "odd-ports", "TCP to ports 1, 22, 80, 443, 6379, 8888, 65535", "nft redirect",
       "tcp4-1 tcp4-22 tcp4-80 tcp4-443 tcp4-6379 tcp4-8888 tcp4-65535", "proxy"),
    _a("3", "ipv6", "TCP to an IPv6 address", "nft redirect (inet family)", "tcp6-443", "proxy"),
    _a("4", "mapped-address", "TCP to v4-mapped and v4-compatible IPv6 addresses", "nft redirect", "tcp-mapped-443 tcp-compatible-443", "proxy"),
    _a("5", "quic", "UDP 443, IPv4, IPv6, mapped", "nft fence", "udp4-443 udp6-443 udp-mapped-443", "nft/bpf"),
    _a("6", "other-udp", "UDP to 123, 853, 5353, 9999; connected, segmented, broadcast, multicast, encapsulated", "nft fence",
       "udp4-123 udp4-853 udp4-5353 udp4-9999 udp-connected udp-broadcast udp-multicast udp6-multicast udp-encapsulation udp-segmented"
       " udp-source-53", "nft/bpf"),
    _a("7", "dns-tunnel-direct", "DNS with data in the name to a server of its own: TXT, NULL, TCP, no DNS at all", "redirect + policy DNS",
       "dns-tunnel-txt dns-tunnel-null dns-tunnel-tcp dns-port-raw-data", "dns"),
    _a("8", "dns-tunnel-resolver", "data in names asked of its own resolver, and below a target's name", "policy DNS, decided before resolved",
       "dns-own-resolver dns-below-target dns-many-labels dns-target-a dns-target-aaaa dns-target-tcp dns-target-txt", "dns"),
    _a("9", "local-resolvers", "systemd-resolved, nscd, avahi, D-Bus, sssd over their unix sockets", "view: absent or masked",
       "doors-resolvers command-resolvectl command-busctl", "mount", machine="the real systemd-resolved"),
    _a("10", "doh-dot", "DNS over HTTPS, TLS and QUIC", "redirect; no target of that name", "dns-over-https dns-over-tls", "proxy"),
    _a("11", "domain-fronting", "TLS with a target's name in SNI to another server", "proxy: the address decides", "tls-fronted", "proxy"),
    _a("12", "name-and-address-differ", "a target's name in Host or a PostgreSQL login to another's address; DNS rebinding",
       "proxy dials checked addresses only", "http-other-host postgres-elsewhere target-other-port dns-rebinding", "proxy"),
    _a("13", "tls-without-name", "TLS without SNI, with an outer name, on odd ports", "proxy: no target", "tls-nameless tls-encrypted-name tls-odd-port",
       "proxy"),
    _a("14", "relay-inside", "a relay of its own; a program run from a memory file", "the leaf is the identity, not the program",
       "tcp-own-relay memfd-exec", "proxy"),
    _a("15", "tunnel-inside", "CONNECT, SOCKS, smuggled requests, WebSocket, h2c; also to a real target", "proxy: not the protocol, closed",
       "http-connect http-smuggled http-websocket http-h2c socks5 target-http target-connect target-socks5", "proxy"),
    _a("16", "own-listener", "dial the leaf's own listener on every loopback address", "nft fence", "tcp-listener-direct", "nft/bpf"),
    _a("17", "other-listener", "dial another leaf's listener", "nft fence", rows="nft/bpf"),
    _a("18", "outsider-dials-listener", "a program outside dials a leaf's listener", "nft guard; no route", shared_rows=("nft",), why=_OUTSIDE),
    _a("19", "mark", "SO_MARK, IP_TRANSPARENT, SO_BINDTODEVICE to match an exemption", "no exemption exists; seccomp, no capability",
       "tcp-mark tcp-transparent tcp-bindtodevice-lo tcp-bindtodevice-host", "seccomp"),
    _a("20", "become-proxy", "setuid to root, proxy, recorder, others; setgroups; set-user-id programs, made and found",
       "seccomp, no_new_privs, nosuid", "setuid-0 setuid-901 setuid-902 setuid-1901 setgroups setuid-programs setuid-made capabilities", "seccomp"),
    _a("21", "raw-ip", "raw IP, ICMP, SCTP sockets", "seccomp", "socket-raw-icmp socket-raw-icmp6 socket-raw-any socket-ping socket-sctp", "seccomp"),
    _a("22", "packet-socket", "AF_PACKET, raw and datagram", "seccomp", "socket-packet socket-packet-datagram", "seccomp"),
    _a("23", "odd-families", "every socket family 0 to 45, every type and protocol; pairs", "seccomp",
       "families families-pair socket-vsock socket-alg socket-rds socket-xdp socket-tipc socket-smc socket-sock-diag", "seccomp"),
    _a("24", "io-uring", "io_uring_setup, io_uring_enter", "seccomp", "call-io_uring_setup call-io_uring_enter", "seccomp"),
    _a("25", "fast-open", "MSG_FASTOPEN", "nft redirect", "tcp-fastopen", "proxy"),
    _a("26", "mptcp", "an MPTCP socket", "seccomp", "socket-mptcp", "seccomp"),
    _a("27", "foreign-architecture", "32-bit call gate, x32 numbers", "seccomp", "foreign-architectures", "seccomp"),
    _a("28", "tcp-repair", "TCP_REPAIR", "seccomp, no capability", "tcp-repair", "seccomp"),
    _a("29", "passed-socket", "be handed a connected socket over a unix path or abstract address; pidfd_getfd, ptrace, /proc of others",
       "no channel: masks, network namespace or Landlock, seccomp", "descriptors path-descriptor abstract-descriptor call-pidfd_getfd"
       " call-process_vm_readv", "mount seccomp"),
    _a("30", "connected-before", "a connection from before the launch", "launch only: descriptors closed, nothing attaches", "descriptors",
       why="a launch closes them; nothing is attempted"),
    _a("31", "leave-cgroup", "write cgroup.procs, clone3 into a cgroup", "no cgroup files in view; seccomp", "cgroup-escape call-clone3 unshare-cgroup",
       "seccomp"),
    _a("32", "systemd-run", "systemd-run, system and user; StartTransientUnit over D-Bus", "view: absent or masked",
       "doors-managers command-systemd-run command-systemd-run-user", "mount", machine="the real systemd and D-Bus"),
    _a("33", "at-cron", "at, crontab, units, .bashrc and authorized_keys to be run later outside", "read-only view, own home",
       "command-at command-crontab left-behind", why=_READ_ONLY, machine="the real at and cron daemons"),
    _a("34", "users-sockets", "tmux, screen, ssh ControlMaster, ssh-agent and gpg-agent sockets of a user", "own uid, private /tmp, masked",
       "doors-terminals", "mount"),
    _a("35", "container-engines", "docker, podman, containerd, cri-o, libvirt sockets", "view: absent or masked",
       "doors-engines command-docker command-podman", "mount", machine="a real engine's socket"),
    _a("36", "new-namespaces", "unshare and clone of all eight namespaces", "seccomp",
       " ".join([f"unshare-{name}" for name in _SPACES] + [f"clone-{name}" for name in _SPACES if name != "time"]), "seccomp"),
    _a("37", "join-namespaces", "setns, nsenter, ip netns", "seccomp", "call-setns command-nsenter command-ip-netns", "seccomp"),
    _a("38", "flush-from-inside", "nft flush, iptables -F, conntrack -F; mount, bpf, modules, kexec and other calls of root", "seccomp, no capability",
       "command-nft command-iptables command-conntrack socket-netfilter " + " ".join(f"call-{name}" for name in (
           *("ptrace", "mount", "umount2", "pivot_root", "chroot", "open_tree", "fsopen", "mount_setattr", "bpf", "perf_event_open"),
           *("userfaultfd", "keyctl", "add_key", "kcmp", "open_by_handle_at", "init_module", "kexec_load", "reboot", "syslog", "iopl"),
           *("swapon", "fanotify_init", "settimeofday", "sethostname", "open_tree_attr"))), "seccomp"),
    _a("39", "flush-from-outside", "another tool's `nft flush ruleset` and reloads, under load", "owned table or watch + backstop", rows="nft/bpf proxy"),
    _a("40", "kill-us", "kill -9 of proxyd and of enforcerd, under load", "rules stay, listeners shut", rows="proxy service"),
    _a("41", "squat-ports", "bind 53, 80, 443 and the listeners' ports, also while the proxy is dead", "reserved ports, kept listeners",
       "privileged-ports", why=_KERNEL),
    _a("42", "leaf-recreated", "the leaf's cgroup removed and made anew by the same path", "fence on the slice; map by id", placements=("shared",),
       rows="nft/bpf"),
    _a("43", "inbound", "somebody outside connects to a port that the workload listens on", "nft inbound; no route", shared_rows=("nft",), why=_OUTSIDE),
    _a("44", "targets-sockets", "unix sockets of PostgreSQL and MySQL; loopback addresses of targets", "view: absent or masked; redirect",
       "doors-databases", "mount"),
    _a("45", "knock", "an outsider's datagram first, then the secret as its reply", "no reply exception", placements=("shared",), rows="nft/bpf"),
    _a("46", "others-dnat", "another table's DNAT of the sink's address, TCP and UDP", "own redirect first; fence asks for the leaf's own port", rows="nft/bpf proxy"),
    _a("47", "conntrack-flush", "`conntrack -F` all the time, under load", "fence", rows="nft/bpf proxy"),
    _a("48", "slice-recreated", "the slice's cgroup removed and made anew", "loaded id compared with the live one", placements=("shared",), rows="nft/bpf service"),
    _a("49", "abstract-sockets", "an abstract unix socket of the host", "network namespace; Landlock (Linux 6.12) or BPF in shared placement",
       "abstract-socket", why=_KERNEL),
    _a("50", "late-socket", "a unix socket made outside, in view, after the launch", "auditor masks it", rows="audit"),
    _a("51", "terminal-injection", "TIOCSTI, TIOCLINUX, TIOCSETD, with high bits set; foreign terminals", "seccomp, own devpts",
       "terminal-injection devices device-made", "seccomp"),
    _a("52", "standard-descriptors", "a socket, a device or a terminal of the launcher on descriptors 0 to 2", "launch: pipes or a terminal of ours",
       "descriptors", why="a launch replaces them; nothing is attempted"),
    _a("R1", "short-lived", "hundreds of processes that connect and are gone", "the listener is the identity", "short-lived", "proxy"),
    _a("R2", "exec-after-connect", "connect as one program, be another at look-up", "the listener is the identity", "exec-after-connect", "proxy"),
    _a("R3", "fork-shares-socket", "a child uses its dead parent's connection", "the listener is the identity", "fork-shares-socket", "proxy"),
    _a("R4", "spoofed-names", "argv and comm of trusted programs", "names decide nothing", "argv-spoofed comm-spoofed", "proxy"),
    _a("R5", "path-tricks", "run through ld-linux and /proc/self/root", "paths decide nothing", "path-by-loader path-by-proc-root", "proxy"),
    _a("R6", "other-processes", "read, trace, signal processes outside; our folders, files and sockets", "pid namespace, seccomp, view",
       "processes signals call-ptrace service-folders service-files", "seccomp"),
    _a("R7", "conntrack-untracked", "another table's NOTRACK rules", "fence accepts only what was redirected", rows="nft/bpf", placements=("shared",)),
    _a("R8", "log-overflow", "dial refused ports without end", "rows are counted; nothing depends on them", rows="proxy", placements=("isolated",)),
    _a("R9", "fork-bomb", "processes without end; memory of private folders", "RLIMIT_NPROC, sizes", "fork-bomb limits", why=_KERNEL),
    _a("R10", "control-sockets", "our own request sockets", "view", "service-sockets", why=_NOTHING_TO_SEE),
    _a("R11", "writable-places", "write to anything but the private folders; /proc/sys, /sys", "read-only view", "writable-places proc-writable",
       why=_READ_ONLY),
    _a("R12", "reload-under-load", "policy and rules reloaded while a workload dials", "one transaction", rows="proxy"),
    _a("R13", "links-in-declared-paths", "a launcher makes a declared path or trust file a link to another's", "links of root only", rows="admission",
       placements=("isolated",)),
    _a("R14", "taken-over-proxy", "the proxy's uid puts links, pipes and devices where root reads; looks into our processes", "plain files; not dumpable",
       rows="admission", placements=("isolated",)),
    _a("R15", "request-flood", "any user: hundreds of connections, thousands of requests, garbage, descriptors", "limits per user", why="who asks too much is answered so; a row for each would be the flood",
       placements=("isolated",)),
    _a("R16", "container-image", "an image's files as a workload's root: links out of it, sockets in it, and the attacks above from inside",
       "the same view, rules and filter, inside the image", rows="proxy dns seccomp mount"),
    _a("R17", "fifo", "a FIFO of the host's in view that everybody may write to, in and below a read-only view", "Landlock (Linux 5.19)", "fifos",
       why=_KERNEL),
    _a("R18", "odd-names", "sockets of the host whose names are no text: line ends, spaces, bytes that are no UTF-8", "masked like any other",
       "doors-odd", "mount"),
    _a("R19", "own-notifier", "a seccomp listener of its own, which would be asked instead of ours", "seccomp",
       "call-seccomp-listener", why="a listener's answer cannot be asked for its own refusal: the filter denies by itself"),
    _a("R20", "mounted-twice", "sockets of the host by another mount of their folder: a chroot's /run, a folder that a container serves in",
       "masked wherever a mount shows it", "doors-twice", "mount"),
    _a("R21", "far-names", "a secret as the name of a file that is looked up in a FUSE file system of the host's; a second /proc",
       "not in view: only file systems of this host are", "far-names second-proc", why=_NOTHING_TO_SEE),
)  # fmt: skip

OPEN = {
    **dict.fromkeys((("29", "shared"), ("49", "shared")), (can_scope, "abstract unix sockets of the host are within its reach")),
    **dict.fromkeys((("R17", "isolated"), ("R17", "shared")), (can_close_fifos, "a FIFO of the host's that others may write to is a way out")),
}
"""By attack and placement: what a kernel must be able to for it to be stopped, and what is said at the launch where it cannot."""

BY_NUMBER = {each.number: each for each in ATTACKS}
