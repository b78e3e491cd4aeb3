"""Is this host ready? Each check says what was found, why it matters, and the command that mends it. Nothing is changed."""

from __future__ import annotations

import enum
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.bpf import objects, pins
from hostagent.enforcer.cgroup import find_mount
from hostagent.enforcer.confinement import landlock
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.rules import backstop, iptables, network, nft, ruleset, xtables
from hostagent.enforcer.rules.refusals import PacketLog
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.model.errors import HostagentError

_MINIMUM = (5, 15)
_TIMEOUT_S = 20.0


class State(enum.StrEnum):
    """``WARN``: it works, weaker or at risk. ``FAIL``: nothing is governed, or not as the documents say, until it is mended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``why`` and ``fix`` (a command, or an advice) are there where ``state`` is not ok."""

    id: str
    state: State
    detail: str
    why: str = ""
    fix: str = ""


def found(id_: str, good: bool, detail: str, why: str, fix: str, *, otherwise: State = State.FAIL) -> Check:
    """Return the finding: ok, or ``otherwise`` with the reason and the command."""
    return Check(id_, State.OK, detail) if good else Check(id_, otherwise, detail, why, fix)


def examine(users: Iterable[str], table: str = "hostagent") -> list[Check]:
    """Return every check's finding about the host. Needs root; network checks run in a throw-away namespace.

    Args:
        users: the accounts of the unprivileged processes.
        table: the name of our own nft table.
    """
    if os.geteuid() != 0:
        return [Check("root", State.FAIL, "not root", "most of what is looked at can be seen by root alone", "sudo hostagent doctor")]
    checks = [_kernel(), _architecture(), _cgroup(), _program("setpriv", "util-linux"), *_firewall(), _owner()]
    checks += [
        _try("kernel.cgroup-bpf", _backstop, _BACKSTOP, "a kernel with CONFIG_CGROUP_BPF", otherwise=State.WARN),
        _try("kernel.nflog", _log, _REFUSED, "modprobe nfnetlink_log nft_log"),
        _try("kernel.confinement", _launch_parts, _CONFINE, "run outside of a container, or give it CAP_SYS_ADMIN (docker run --privileged)"),
        _landlock(),
        *_ebpf(),
        *_switches(),
        *_others(table),
    ]
    for name in users:
        checks.extend(_user(name))
    checks.append(_bundle())
    checks.extend(_java())
    return checks


_FENCE = "without it no fence can be loaded, and so no workload is started"
_BACKSTOP = "in shared placement nothing stands behind the nft table while somebody else may change it (before Linux 6.9)"
_REFUSED = "what the rules refuse would leave no record"
_CONFINE = "a workload is started in namespaces of its own, with its mounts read-only and its system calls filtered"


def _kernel() -> Check:
    release = os.uname().release
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    wanted = ".".join(map(str, _MINIMUM))
    why = "before 5.15 there are no idmapped mounts, and mount_setattr and nft lack what the confinement needs"
    return found("kernel.version", version >= _MINIMUM, release, why, f"boot a kernel of {wanted} or newer (apt-get install linux-image-amd64)")


def _architecture() -> Check:
    machine = os.uname().machine
    why = "system calls are refused by number, and the numbers of this architecture are not known"
    return found("kernel.architecture", machine in ARCHITECTURES, machine, why, f"a machine of {', '.join(ARCHITECTURES)}")


def _cgroup() -> Check:
    try:
        return Check("cgroup.v2", State.OK, find_mount(kernel.text_of("/proc/self/mountinfo")))
    except HostagentError as error:
        why = "a workload is the cgroup it was started in; without the unified hierarchy nothing can be told apart"
        return Check("cgroup.v2", State.FAIL, str(error), why, "mount -t cgroup2 none /sys/fs/cgroup")


def _firewall() -> list[Check]:
    """nftables, with what it must be able to do; where it does not work and iptables does, that is no fault."""
    fix = "modprobe -a nf_tables nft_socket nft_redir nft_reject_inet nft_fib_inet nft_log; else a kernel with CONFIG_NFT_SOCKET and its kin"
    checks = [_program("nft", "nftables"), _try("nft.features", _rules, _FENCE, fix)]
    if all(each.state is State.OK for each in checks):
        return checks
    other = _try("iptables.instead", _iptables, _FENCE, "apt-get install nftables")
    return [other] if other.state is State.OK else [*checks, other]


def _owner() -> Check:
    """Can the table be owned, so that no other program can change it?"""
    why = "another program with CAP_NET_ADMIN (`nft flush ruleset`, a firewall's reload) can take the rules down; it is noticed and mended"
    return _try("nft.owner", _owned, why, "a kernel of 6.9 or newer owns its table (bookworm-backports)", otherwise=State.WARN)


def _program(name: str, package: str) -> Check:
    path = shutil.which(name)
    return found(f"tool.{name}", path is not None, path or "missing", _FENCE, f"apt-get install {package}")


def _landlock() -> Check:
    if landlock.can_scope():
        return Check("kernel.landlock", State.OK, "scopes and FIFOs")
    detail = "FIFOs, no scopes (before Linux 6.12)" if landlock.can_close_fifos() else "none"
    why = "in shared placement abstract unix sockets of the host are within a workload's reach" + (
        "" if landlock.can_close_fifos() else "; a FIFO of the host's that others may write to is a way out"
    )
    fix = "isolated placement needs no scopes; else a kernel of 6.12 or newer with landlock in lsm= (cat /sys/kernel/security/lsm)"
    return Check("kernel.landlock", State.WARN, detail, why, fix)


def _ebpf() -> list[Check]:
    """Nothing needs the programs: their absence is weaker, and no failure."""
    why = "the boundary is the same, but rows do not say which process connected, and there is no second no behind the rules"
    fix = "apt-get install python3-bpfcc linux-headers-amd64"
    try:
        objects.compiled(objects.source(2))
    except (HostagentError, OSError) as error:
        return [Check("bpf.compiler", State.WARN, str(error), why, fix)]
    fs = [line.split()[1] for line in kernel.text_of("/proc/mounts").splitlines() if line.split()[2] == "bpf"]
    present = str(pins.MOUNT) in fs or "\tbpf\n" in kernel.text_of("/proc/filesystems")
    return [
        Check("bpf.compiler", State.OK, f"compiles with {objects.header_folders()[0]}"),
        found("bpf.fs", present, "mounted" if fs else "mounted when needed", why, "a kernel with CONFIG_BPF_SYSCALL", otherwise=State.WARN),
        _try("kernel.tracefs", _tracefs, why, "a kernel with CONFIG_FTRACE and CONFIG_EVENT_TRACING", otherwise=State.WARN),
    ]


def _switches() -> list[Check]:
    """Kernel settings that keep users of this host apart from each other."""
    checks = []
    for path, least, why in (
        ("kernel/yama/ptrace_scope", 1, "a workload that runs as a login user (user:) could be read by that user's other programs"),
        ("kernel/unprivileged_bpf_disabled", 1, "any user of this host may load BPF programs into the kernel that does the enforcing"),
    ):
        name = path.replace("/", ".")
        try:
            value = int(kernel.text_of(f"/proc/sys/{path}"))
        except (OSError, ValueError):
            checks.append(Check(f"sysctl.{name}", State.OK, "not on this kernel"))
            continue
        fix = f"echo {name}={least} > /etc/sysctl.d/50-hostagent.conf && sysctl --system"
        checks.append(found(f"sysctl.{name}", value >= least, str(value), why, fix, otherwise=State.WARN))
    return checks


def _others(table: str) -> list[Check]:
    """Other firewalls: they cannot open the fence, but a reload of theirs may take an unowned table away for a moment."""
    nft_path = shutil.which("nft")
    if nft_path is None:
        return []
    done = subprocess.run([nft_path, "list", "tables"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    tables = [line.removeprefix("table ") for line in done.stdout.splitlines()]
    others = [name for name in tables if name != f"inet {table}"]
    why = "they stay in force beside ours: both must let a connection pass. `flush ruleset` in /etc/nftables.conf empties ours too, where it is not owned"
    fix = "in /etc/nftables.conf flush your own tables by name instead of `flush ruleset`"
    return [found("firewall.others", not others, ", ".join(others) or "none", why, fix, otherwise=State.WARN)]


def _user(name: str) -> list[Check]:
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        fix = f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
        return [Check(f"user.{name}", State.FAIL, "missing", "what faces workloads runs as an account of its own, without any power", fix)]
    return [found(f"user.{name}", account.pw_uid != 0, f"uid {account.pw_uid}", "it must not be root", "name another in [users]"), _program_of(account)]


def _program_of(account: pwd.struct_passwd) -> Check:
    """Can this account read the very program that it is to run? A checkout below /root, for one, is closed to it."""

    def body() -> str:
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        for path, mode in ((sys.executable, os.X_OK), (__file__, os.R_OK)):
            if not os.access(path, mode):
                raise HostagentError(f"user {account.pw_name} cannot read {path}")
        return str(Path(sys.executable))

    why = "this account runs that program"
    return _try(f"program.{account.pw_name}", body, why, "keep the checkout where every account can read it, say /opt/hostagent")


def _bundle() -> Check:
    from hostagent.enforcer.confinement.lookups import system_bundle
    from hostagent.enforcer.confinement.rootfs import HostFiles

    path = system_bundle(HostFiles())
    why = "workloads trust our CA through their system's bundle, and targets are verified against it"
    return found("ca.bundle", bool(path), path or "none found", why, "apt-get install ca-certificates")


def _java() -> list[Check]:
    from hostagent.enforcer.confinement import keystore

    checks = []
    for path in (Path(each) for each in keystore.SYSTEM):
        if not path.exists():
            continue
        detail = str(path)
        try:
            keystore.trusting(path.read_bytes(), [])
            good = True
        except (HostagentError, OSError) as error:
            good, detail = False, f"{path}: {error}"
        why = "Java programs in workloads trust our CA through this store; one that is otherwise is left as it is, and their TLS fails"
        fix = f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.jks -deststoretype JKS -deststorepass changeit, in its place"
        checks.append(found("ca.java", good, detail, why, fix, otherwise=State.WARN))
    return checks


def _try(id_: str, body: Callable[[], str], why: str, fix: str, *, otherwise: State = State.FAIL) -> Check:
    try:
        detail = in_child(body, before=lambda: None, timeout_s=_TIMEOUT_S)
    except (HostagentError, OSError) as error:
        return Check(id_, otherwise, str(error), why, fix)
    return Check(id_, State.OK, detail or "works")


def _rules() -> str:
    """Load both rule sets in a namespace of this child's own; a cgroup path that always exists stands in for the slice."""
    mount = find_mount(kernel.text_of("/proc/self/mountinfo"))
    with kernel.in_network(network.create()):
        nft.run(ruleset.create("probe") + ruleset.isolated("probe", 901, 902, [5432], 5))
        probe = Path(mount) / f"hostagent-probe-{os.getpid()}"
        probe.mkdir()
        try:
            nft.run(ruleset.create("probe2") + ruleset.shared("probe2", probe.name, 1, [], [5432], 5), mount)
        finally:
            probe.rmdir()
    return ""


def _owned() -> str:
    """Own a table in a namespace of this child's own."""
    with kernel.in_network(network.create()):
        table = nft.HostTable("probe", find_mount(kernel.text_of("/proc/self/mountinfo")))
        table.load("")
        if not table.owned:
            raise HostagentError("this kernel has no owned tables")
    return "owned and kept when we die"


def _tracefs() -> str:
    """Find the tracepoint of exec, which lineage needs, on a tracefs that nobody else sees."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tracefs", "/sys/kernel", "tracefs", 0)
    return f"tracepoint {int(kernel.text_of('/sys/kernel/events/sched/sched_process_exec/id'))}"


def _iptables() -> str:
    with kernel.in_network(network.create()):
        problem = xtables.works()
        if problem:
            raise HostagentError(problem)
    return f"works; {iptables.SHARED_REFUSED}"


def _backstop() -> str:
    probe = Path(find_mount(kernel.text_of("/proc/self/mountinfo"))) / f"hostagent-probe-{os.getpid()}"
    probe.mkdir()
    try:
        backstop.attach(probe, 1)
    finally:
        probe.rmdir()
    return ""


def _log() -> str:
    with kernel.in_network(network.create()):
        PacketLog(5).close()
    return ""


def _launch_parts() -> str:
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount_setattr("/", add=kernel.MOUNT_ATTR_RDONLY)
    architecture = ARCHITECTURES.get(os.uname().machine)
    if architecture is None:
        raise HostagentError("unknown architecture")
    from hostagent.enforcer.confinement.seccomp import build_filter

    kernel.no_new_privileges()
    kernel.set_seccomp_filter(build_filter(architecture))
    return ""
