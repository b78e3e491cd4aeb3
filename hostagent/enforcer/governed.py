"""One governed program from admission to its end: the leaf and all that belongs to it in the kernel."""

from __future__ import annotations

import contextlib
import enum
import os
import pwd
import secrets
import signal
import stat
from dataclasses import dataclass, field

from hostagent.enforcer import canary, kernel
from hostagent.enforcer.cgroup import Leaf
from hostagent.enforcer.confinement import userns
from hostagent.enforcer.confinement.environment import environment
from hostagent.enforcer.confinement.launch import Plan, Process
from hostagent.enforcer.confinement.lookups import replaced_files, system_bundle
from hostagent.enforcer.confinement.plainpath import open_plain
from hostagent.enforcer.confinement.rootfs import HostFiles, ImageFiles
from hostagent.enforcer.confinement.seccomp import build_filter
from hostagent.enforcer.confinement.unixdoors import UnixDoor
from hostagent.enforcer.confinement.unixsockets import pathnames
from hostagent.enforcer.confinement.view import Bind, View
from hostagent.enforcer.listeners import Listeners
from hostagent.enforcer.rules import network
from hostagent.enforcer.rules.firewall import choose
from hostagent.enforcer.rules.refusals import PacketLog
from hostagent.enforcer.settings import ISOLATED_PORT, Settings
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.ipc import Launch
from hostagent.model.errors import HostagentError
from hostagent.model.flow import Placement
from hostagent.model.workload import Workload

_OWN_HOME = "/tmp/home"  # noqa: S108 - inside the workload's private /tmp


class Stage(enum.Enum):
    """How far it is. Each stage is entered only when the one before is complete."""

    ADMITTING = "admitting"
    LISTENING = "listening"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the program runs as. ``own`` means an allotted uid that no account of the host has."""

    uid: int
    gid: int
    name: str
    home: str
    shell: str
    own: bool


@dataclass(slots=True)
class Governed:
    """One leaf. ``number`` is its small number in packet marks; ``give_up_at`` when the present stage is given up.

    ``cgroup`` is the id by which eBPF programs know it, 0 unless they do.
    ``backstop`` says why a leaf in shared placement has no second no behind the table, empty when it has; ``unheard`` why its
    denied system calls make no rows, empty when they do. ``returned``: an earlier enforcerd launched it (``takeover``).
    """

    leaf: Leaf
    workload: Workload
    launcher: str
    request: Launch
    account: Account
    number: int
    stage: Stage = Stage.ADMITTING
    give_up_at: float = 0.0
    network: int = -1
    listeners: Listeners | None = None
    log: PacketLog | None = None
    process: Process | None = None
    main_pid: int = 0
    start_ticks: int = 0
    executable: str = ""
    status: int | None = None
    reason: str = ""
    served: bool = False
    session: str = ""
    started_at: float = 0.0
    loopback_ports: frozenset[int] = field(default_factory=frozenset)
    backstop: str = ""
    unix: list[UnixDoor] = field(default_factory=list)
    cgroup: int = 0
    unheard: str = ""
    returned: bool = False

    @property
    def isolated(self) -> bool:
        """Whether it has a network namespace of its own."""
        return self.workload.placement is Placement.ISOLATED

    def enter(self) -> None:
        """Put the calling (throw-away) process into the leaf and its network."""
        self.leaf.enter()
        if self.network >= 0:
            kernel.setns(self.network, kernel.CLONE_NEWNET)

    def load_isolated(self, settings: Settings, loopback_ports: frozenset[int]) -> None:
        """Load the rules of the leaf's own namespace.

        Raises:
            HostagentError: nft or iptables refused.
        """
        with kernel.in_network(self.network):
            choose(settings.firewall).load_isolated(settings, loopback_ports)
        self.loopback_ports = loopback_ports

    def isolate(self, settings: Settings, loopback_ports: frozenset[int]) -> None:
        """Make the namespace, its rules and its listeners, and prove them.

        Raises:
            HostagentError: the fence does not hold.
            OSError: the kernel refused a step.
        """
        self.network = network.create()
        self.load_isolated(settings, loopback_ports)
        with kernel.in_network(self.network):
            self.listeners = Listeners(ISOLATED_PORT, ISOLATED_PORT + 1)
        self.listeners.open()
        canary.prove_leaf(self.listeners, self.enter, routed=True)
        with kernel.in_network(self.network):
            self.log = PacketLog(settings.log_group)

    def forget_request(self) -> None:
        """Drop the launcher's environment and arguments, which may hold secrets, once the program has them."""
        self.request = Launch(self.workload.name, [], {}, "", self.request.tty)

    def signal(self, number: int) -> None:
        """Send a signal to the program's process group."""
        if self.main_pid and self.stage is Stage.RUNNING:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.main_pid, signal.Signals(number))

    def release(self) -> None:
        """Give back everything in the kernel. Safe to call at any stage, more than once.

        Raises:
            HostagentError: processes inside do not end; their cgroup and its rules stay, everything else is given back.
        """
        self.stage = Stage.ENDED
        try:
            self.leaf.remove()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self.listeners is not None:
            self.listeners.close()
            self.listeners = None
        self.unix.clear()
        if self.log is not None:
            self.log.close()
            self.log = None
        if self.network >= 0:
            os.close(self.network)
            self.network = -1
        if self.process is not None:
            self.process.control.close()


def new_name(workload: str) -> str:
    """Return a leaf name that was never used before: a cgroup path must not come back while anything remembers it."""
    return f"{workload}-{secrets.token_hex(4)}"


def account_for(workload: Workload, settings: Settings, taken: frozenset[int]) -> Account:
    """Return whom ``workload`` runs as.

    Raises:
        HostagentError: no such user, a user that may not be governed, or no free uid.
    """
    if workload.user:
        try:
            entry = pwd.getpwnam(workload.user)
        except KeyError:
            raise HostagentError(f"workload {workload.name}: user {workload.user} does not exist") from None
        if entry.pw_uid == 0 or entry.pw_uid in settings.reserved_uids | {settings.proxy_uid}:
            raise HostagentError(f"workload {workload.name}: user {workload.user} cannot be governed; name another user")
        shell = entry.pw_shell or "/bin/sh"
        return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, shell, own=False)
    for uid in range(settings.uid_first, settings.uid_first + settings.uid_count):
        if uid not in taken and not _has_account(uid):
            return Account(uid, uid, workload.name, _OWN_HOME, "/bin/sh", own=True)
    raise HostagentError(f"all {settings.uid_count} uids for workloads are in use (enforcement.uid_count)")


def _has_account(uid: int) -> bool:
    """Whether the host knows ``uid`` already: then it has files and processes that are nobody's to give away."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def build_plan(governed: Governed, settings: Settings) -> Plan:
    """Return how to start the program. Opens a descriptor per mapped path; see ``close_plan``.

    Raises:
        HostagentError: a file or path it needs is missing, or this machine's architecture is not known.
        OSError: the kernel refused a step.
    """
    architecture = ARCHITECTURES.get(os.uname().machine)
    if architecture is None:
        raise HostagentError(f"no system call filter for {os.uname().machine}; workloads cannot be started here")
    account, workload, request = governed.account, governed.workload, governed.request
    image = ImageFiles(workload.root) if workload.root else None
    source = image or HostFiles()
    try:
        files = replaced_files(
            settings.ca_file, workload.trust_files, account.name if account.own else "", account.uid, account.gid, account.home, source
        )
        bundle = system_bundle(source)
    finally:
        if image is not None:
            image.close()
    view = View(
        uid=account.uid,
        gid=account.gid,
        home=account.home if account.own else "",
        hidden=(*settings.hidden, settings.runtime),
        sockets=pathnames(),
        binds=tuple(_bind(item.path, account, writable=item.writable) for item in workload.paths),
        files=files,
        standins=tuple(door.stand_in for door in governed.unix),
        root=workload.root,
        root_inode=image.inode if image is not None else (0, 0),
    )
    shares = any(bind.writable for bind in view.binds)
    env = environment(
        request.env,
        workload.environment,
        name=account.name,
        home=account.home,
        shell=account.shell,
        bundle=bundle,
    )
    return Plan(
        leaf=governed.leaf,
        network=governed.network,
        view=view,
        filter=build_filter(architecture, notify=True, ids=(account.uid, account.gid), shares=shares),
        silent_filter=build_filter(architecture, ids=(account.uid, account.gid), shares=shares),
        argv=tuple(request.argv),
        env=env,
        cwd=request.cwd,
        tty=request.tty,
        rows=request.rows,
        cols=request.cols,
    )


def close_plan(plan: Plan) -> None:
    """Close the descriptors that a plan holds."""
    for bind in plan.view.binds:
        if bind.userns >= 0:
            os.close(bind.userns)


def _bind(path: str, account: Account, *, writable: bool) -> Bind:
    try:
        place = open_plain(path)
        owner = os.fstat(place)
        os.close(place)
    except OSError as error:
        raise HostagentError(f"declared path {path}: {error.strerror}") from error
    inode = (owner.st_dev, owner.st_ino)
    if stat.S_ISSOCK(owner.st_mode):
        raise HostagentError(f"declared path {path} is a socket: name it in a target document (sockets)")
    # Files of root are never mapped: what the workload made there would be root's, set-uid bit and all.
    if not account.own or owner.st_uid == 0:
        return Bind(path, writable, inode)
    return Bind(path, writable, inode, userns.mapping(owner.st_uid, owner.st_gid or account.gid, account.uid, account.gid))

