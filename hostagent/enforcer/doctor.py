"""Is this host ready? Each check says what was found and the command that mends it. Nothing on the host is changed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.bpf import objects
from hostagent.enforcer.cgroup import find_mount
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.rules import backstop, iptables, network, nft, ruleset, xtables
from hostagent.enforcer.rules.refusals import PacketLog
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.model.errors import HostagentError

_MINIMUM = (5, 15)
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``fix`` is a command or an advice; one that is ``ok`` has it only where the host could be stronger."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def examine(users: Iterable[str]) -> list[Check]:
    """Return every check's finding. Needs root; network checks run in a throw-away namespace.

    Args:
        users: the accounts of the unprivileged processes.
    """
    if os.geteuid() != 0:
        return [Check("root", ok=False, detail="not root", fix="sudo hostagent doctor")]
    checks = [_kernel(), _architecture(), _cgroup(), _program("setpriv", "util-linux"), *_firewall()]
    checks.append(_try("cgroup programs (shared placement before Linux 6.9)", _backstop, "a kernel with CONFIG_CGROUP_BPF"))
    checks.append(_try("packet log (NFLOG)", _log, "modprobe nfnetlink_log nft_log"))
    checks.append(_try("namespaces, mounts and seccomp", _launch_parts, "run outside of a container, or give it CAP_SYS_ADMIN"))
    checks.append(_programs())
    for name in users:
        checks.extend(_user(name))
    checks.append(_bundle())
    return checks


def _kernel() -> Check:
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    wanted = ".".join(map(str, _MINIMUM))
    return Check("kernel", version >= _MINIMUM, release, "" if version >= _MINIMUM else f"a kernel of {wanted} or newer")


def _architecture() -> Check:
    machine = os.uname().machine
    known = machine in ARCHITECTURES
    return Check("architecture", known, machine, "" if known else f"one of {', '.join(ARCHITECTURES)}")


def _cgroup() -> Check:
    try:
        return Check("cgroup v2", ok=True, detail=find_mount(kernel.text_of("/proc/self/mountinfo")))
    except HostagentError as error:
        return Check("cgroup v2", ok=False, detail=str(error), fix="mount -t cgroup2 none /sys/fs/cgroup")


def _firewall() -> list[Check]:
    """nftables, with what it must be able to do; where it does not work and iptables does, that is no fault."""
    fix = "a kernel with CONFIG_NF_TABLES, NFT_SOCKET, NFT_REDIR, NFT_REJECT_INET, NFT_FIB_INET, NFT_LOG (modprobe nft_socket)"
    checks = [_program("nft", "nftables"), _try("nftables: socket cgroupv2, redirect, reject", _rules, fix)]
    if all(each.ok for each in checks):
        return checks
    other = _try("iptables instead of nftables", _iptables, "apt-get install nftables")
    return [other] if other.ok else [*checks, other]


def _program(name: str, package: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, path or "missing", "" if path else f"apt-get install {package}")


def _programs() -> Check:
    """Nothing needs them, so their absence is no failure."""
    name = "eBPF programs (optional: a second no, and which process connects)"
    try:
        objects.compiled(objects.source(2))
    except (HostagentError, OSError) as error:
        return Check(name, ok=True, detail=f"none: {error}", fix="apt-get install python3-bpfcc linux-headers-amd64")
    return Check(name, ok=True, detail=f"compile with {objects.header_folders()[0]}")


def _user(name: str) -> list[Check]:
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        fix = f"useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
        return [Check(f"user {name}", ok=False, detail="missing", fix=fix)]
    return [Check(f"user {name}", ok=True, detail=f"uid {account.pw_uid}"), _program_of(account)]


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

    return _try(f"program readable by {account.pw_name}", body, "keep the checkout where every account can read it, say /opt/hostagent")


def _bundle() -> Check:
    from hostagent.enforcer.confinement.lookups import system_bundle
    from hostagent.enforcer.confinement.rootfs import HostFiles

    path = system_bundle(HostFiles())
    return Check("CA bundle", bool(path), path or "none found", "" if path else "apt-get install ca-certificates")


def _try(name: str, body: Callable[[], str], fix: str) -> Check:
    try:
        detail = in_child(body, before=lambda: None, timeout_s=_TIMEOUT_S)
    except (HostagentError, OSError) as error:
        return Check(name, ok=False, detail=str(error), fix=fix)
    return Check(name, ok=True, detail=detail or "works")


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
