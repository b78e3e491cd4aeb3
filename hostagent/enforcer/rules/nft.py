"""Loads rules: one ``nft -f -`` per change, and the ownership of the host's own table by raw netlink.

nft looks cgroup paths up under ``/sys/fs/cgroup`` only, so it runs in a private mount namespace with cgroup v2 bound there
when the host has it elsewhere.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import subprocess

from hostagent.enforcer import kernel
from hostagent.enforcer.rules import ruleset
from hostagent.enforcer.rules.tablewatch import TableWatch
from hostagent.model.errors import HostagentError

_TIMEOUT_S = 20.0
_CGROUP_ROOT = "/sys/fs/cgroup"

# linux/netfilter/nfnetlink.h, nf_tables.h
_NETLINK_NETFILTER = 12
_BATCH_BEGIN = 16
_BATCH_END = 17
_SUBSYSTEM = 10
_NEW_TABLE = (_SUBSYSTEM << 8) | 0
_NFPROTO_INET = 1
_TABLE_NAME = 1
_TABLE_FLAGS = 2
_OWNER = 0x2
_PERSIST = 0x4
_NLM_REQUEST = 0x1
_NLM_ACK = 0x4
_NLM_CREATE = 0x400
_NLMSG_ERROR = 2


def run(text: str, cgroup_mount: str = _CGROUP_ROOT) -> None:
    """Load ``text`` in one transaction, in this process's network namespace.

    Args:
        text: nft commands; either all of them take effect or none.
        cgroup_mount: where the host has cgroup v2.

    Raises:
        HostagentError: nft is missing or refused, with its own words.
    """

    def show_cgroups() -> None:
        if cgroup_mount != _CGROUP_ROOT:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.mount(cgroup_mount, _CGROUP_ROOT, "", kernel.MS_BIND)

    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=text,
            text=True,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            preexec_fn=show_cgroups,  # enforcerd has one thread
        )
    except FileNotFoundError:
        raise HostagentError("nft is missing: apt-get install nftables") from None
    except subprocess.TimeoutExpired:
        raise HostagentError(f"nft did not finish within {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise HostagentError(f"nft refused the rules: {done.stderr.strip()[:2000]}")


class HostTable:
    """The table of the host's own network namespace, owned (and left behind when we die) where the kernel can.

    Where it cannot (before Linux 6.9) the table is plain, anybody with CAP_NET_ADMIN can change it, and ``watch`` says when.
    """

    def __init__(self, name: str, cgroup_mount: str, *, plain: bool = False) -> None:
        """Nothing is loaded until ``load``. ``plain``: do not own it even where the kernel can."""
        self.name = name
        self.owned = False
        self.watch: TableWatch | None = None
        self._plain = plain
        self._mount = cgroup_mount
        self._owner: socket.socket | None = None

    def load(self, text: str, *, anew: bool = False) -> None:
        """Replace the table's content in one transaction.

        Between giving the table up and owning it again it stays in force: it is persistent, and rules change at once.

        Args:
            text: the commands that fill it.
            anew: where it is plain, make the table anew as well, whatever somebody made of it.

        Raises:
            HostagentError: refused; the previous rules are still in force.
        """
        if self._owner is None:
            self._take()
        self._give()
        try:
            run(text if self.owned else self._plainly(text, anew=anew), self._mount)
        finally:
            self._take()

    def _plainly(self, text: str, *, anew: bool) -> str:
        """Return the commands for a plain table, and watch it from before they take effect."""
        try:
            self.watch = self.watch or TableWatch(self.name)
        except OSError as error:
            raise HostagentError(f"table inet {self.name} is not owned and cannot be watched: {error.strerror}") from error
        word = f"load {secrets.token_hex(16)}"
        self.watch.announce(word)
        made = ruleset.create(self.name)
        first = made + ruleset.delete(self.name) + made if anew else made
        return first + text + ruleset.signature(self.name, word)

    def intact(self) -> bool:
        """Return whether the table is as it was loaded: nobody else can change it, or ``watch`` says when."""
        return True

    def remove(self) -> None:
        """Take the table down, if there is one."""
        self._give()
        # Made where it does not exist, so that "there is none" needs no reading of error texts.
        self._take()
        self._give()
        run(ruleset.delete(self.name) if self.owned else ruleset.create(self.name) + ruleset.delete(self.name), self._mount)
        self.owned = False

    def _give(self) -> None:
        if self._owner is not None:
            kernel.OURS_ALONE.discard(self._owner.fileno())
            self._owner.close()
            self._owner = None

    def _take(self) -> None:
        """Own the table, making it where it does not exist. Plain, and so unprotected, on kernels before 6.9."""
        if self._plain:
            return
        owner = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        owner.settimeout(_TIMEOUT_S)
        try:
            owner.bind((0, 0))
            _new_table(owner, self.name, _OWNER | _PERSIST)
        except OSError as error:
            owner.close()
            # EOPNOTSUPP, EINVAL: no such flag, or a plain table made earlier, which cannot be taken over.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise HostagentError(f"table inet {self.name} cannot be owned: {error.strerror}") from error
            self.owned = False
            return
        self.owned = True
        self._owner = owner
        kernel.OURS_ALONE.add(owner.fileno())


def _new_table(owner: socket.socket, name: str, flags: int) -> None:
    """Ask for table ``name`` with ``flags`` and wait for the kernel's answer."""
    attributes = _attribute(_TABLE_NAME, name.encode() + b"\0") + _attribute(_TABLE_FLAGS, struct.pack(">I", flags))
    batch = struct.pack(">BBH", socket.AF_UNSPEC, 0, _SUBSYSTEM)
    owner.send(
        _message(_BATCH_BEGIN, _NLM_REQUEST, 1, batch)
        + _message(_NEW_TABLE, _NLM_REQUEST | _NLM_ACK | _NLM_CREATE, 2, struct.pack(">BBH", _NFPROTO_INET, 0, 0) + attributes)
        + _message(_BATCH_END, _NLM_REQUEST, 3, batch)
    )
    answer = owner.recv(65536)
    length, kind = struct.unpack_from("=IH", answer)
    if kind != _NLMSG_ERROR or length < 20:
        raise OSError(errno.EPROTO, "unexpected answer from nf_tables")
    (code,) = struct.unpack_from("=i", answer, 16)
    if code:
        raise OSError(-code, os.strerror(-code))


def _message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
