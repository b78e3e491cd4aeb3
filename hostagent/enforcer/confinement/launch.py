"""Starts a program inside its leaf. By the time it runs its first instruction, everything that governs it is in place.

Two processes are made. The first becomes pid 1 of a new pid namespace: it enters the leaf (before it could make a socket),
joins the leaf's network, builds the view, and stays as the reaper; when it ends the kernel ends everything inside. The
second gives up every privilege and becomes the program. They report over a socket pair: ``masked PATH`` with a listener, ``here``, ``calls`` with the descriptor
on which the program's denied system calls arrive, ``unheard REASON`` if there can be none, ``started START EXE`` with the
descriptors for the launcher, ``failed CODE REASON``, or ``exit STATUS``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import Leaf
from hostagent.enforcer.confinement import landlock
from hostagent.enforcer.confinement.view import PRIVATE, View, build
from hostagent.model.errors import HostagentError

_CANNOT_EXECUTE = 126
_NOT_FOUND = 127
_FAILED = 125
_PROCESSES = 4096
"""Most processes and threads of a workload with an own uid: the host must be able to start its own."""
_FILES = 1024
_OOM_SCORE = "500"
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_CREDENTIALS = struct.Struct("=iii")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything needed to start one program. ``network`` is a namespace descriptor, or -1 for the host's own.

    ``silent_filter`` denies the same without telling, for a host where nobody can listen.
    """

    leaf: Leaf
    network: int
    view: View
    filter: bytes
    silent_filter: bytes
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    tty: bool
    rows: int
    cols: int


@dataclass(slots=True)
class Process:
    """A started first process. ``control`` carries its reports; ``pid`` is to be waited for."""

    pid: int
    control: socket.socket


@dataclass(frozen=True, slots=True)
class Report:
    """One report: what happened, the host's pid of the sender, and descriptors (with ``started``)."""

    text: str
    pid: int
    descriptors: list[int]


def start(plan: Plan) -> Process:
    """Fork the first process into a pid namespace of its own and return without waiting for what it does.

    Raises:
        OSError: it could not be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = kernel.fork()
            if pid == 0:
                _first(plan, theirs)
        finally:
            kernel.setns(home, kernel.CLONE_NEWPID)
    except OSError:
        ours.close()
        raise
    finally:
        os.close(home)
        theirs.close()
    ours.setblocking(False)
    return Process(pid, ours)


def wait(process: Process) -> int | None:
    """Wait for a first process whose ``control`` is closed; return its exit code or minus its signal, None for an earlier enforcerd's."""
    try:
        _, status = os.waitpid(process.pid, 0)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def receive(control: socket.socket) -> Report | None:
    """Return the next report, or None when the other end is closed.

    Raises:
        BlockingIOError: none yet.
    """
    size = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * 4)
    data, ancillary, _, _ = control.recvmsg(4096, size, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    pid = 0
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.extend(struct.unpack(f"={len(content) // 4}i", content[: len(content) // 4 * 4]))
    return Report(data.decode(errors="replace"), pid, descriptors)


def _first(plan: Plan, control: socket.socket) -> NoReturn:
    """Be pid 1 of the workload. Never returns, never raises."""
    try:
        _default_signals()
        plan.leaf.enter()
        if plan.network >= 0:
            kernel.setns(plan.network, kernel.CLONE_NEWNET)
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP)
        kernel.not_dumpable()
        # When memory runs out, this goes before what governs it; without CAP_SYS_RESOURCE it cannot be taken back.
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        for path, listener in build(plan.view):
            socket.send_fds(control, [f"masked {path}".encode(errors="surrogateescape")], [listener.fileno()])
            listener.close()
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        stdio, given = _terminal(plan) if plan.tty else _pipes(plan)
        _keep_only({0, 1, 2, control.fileno(), *stdio, *given})
        _supervise(plan, control, stdio, given)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must be told and nothing may run on
        _tell(control, f"failed {_FAILED} {error}")
    os._exit(_FAILED)


def _supervise(plan: Plan, control: socket.socket, stdio: tuple[int, int, int], given: list[int]) -> NoReturn:
    said, say = os.pipe()
    main = os.fork()
    if main == 0:
        _second(plan, control, stdio, say)
    os.close(say)
    for descriptor in set(stdio):
        os.close(descriptor)
    kernel.lock_privileges()
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    problem = _read_all(said)
    if problem:
        _tell(control, problem)
        os._exit(_FAILED)
    # Said here because the program may have ended already; until we reap it, its start time can still be read.
    facts = f"started {start_ticks(main)} {shutil.which(plan.argv[0], path=plan.env.get('PATH')) or plan.argv[0]}"
    socket.send_fds(control, [facts.encode(errors="replace")[:2000]], given)
    for descriptor in given:
        os.close(descriptor)
    status = _reap_until(main)
    _tell(control, f"exit {status}")
    os._exit(0)


def _second(plan: Plan, control: socket.socket, stdio: tuple[int, int, int], say: int) -> NoReturn:
    """Become the program. What goes wrong is written to ``say``, which closes when the program has taken over."""
    code = _FAILED
    try:
        control.send(b"here")  # with the kernel's word on our pid as the host numbers it
        os.setsid()
        if plan.tty:
            fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
        for number, descriptor in enumerate(stdio):
            os.dup2(descriptor, number)
        say = fcntl.fcntl(say, fcntl.F_DUPFD_CLOEXEC, 3)
        _keep_only({0, 1, 2, say, control.fileno()})
        _give_up_privileges(plan, control)
        _enter_folder(plan)
        code = _CANNOT_EXECUTE
        os.execvpe(plan.argv[0], list(plan.argv), plan.env)  # noqa: S606 - this is the point
    except BaseException as error:  # noqa: BLE001 - told to whoever started us
        if code == _CANNOT_EXECUTE and isinstance(error, OSError):
            code, error = _cannot_execute(plan, error)
        os.write(say, f"failed {code} {error}".encode()[:2000])
    os._exit(_FAILED)


def _cannot_execute(plan: Plan, error: OSError) -> tuple[int, HostagentError]:
    """Return the shell's exit code for it and the message. A PATH folder we may not search is not "permission denied"."""
    name = plan.argv[0]
    absent = "/" not in name and shutil.which(name, path=plan.env.get("PATH")) is None
    if absent or error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _NOT_FOUND, HostagentError(f"{name}: not found inside the workload")
    return _CANNOT_EXECUTE, HostagentError(f"{name}: {error.strerror}")


def _give_up_privileges(plan: Plan, control: socket.socket) -> None:
    """Order matters: the bounding set needs a capability, the uid goes before the filter, the filter is last.

    After the filter no call may be denied until enforcerd has its descriptor, for nobody would answer.
    """
    core = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1  # 1 is no core file, and no program that core_pattern names either
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, most), most))  # enforcerd's own is raised
    if plan.view.home:  # an own uid: nobody else's processes count
        resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    os.umask(0o022)
    os.setgroups([])
    kernel.lock_privileges()
    os.setresgid(plan.view.gid, plan.view.gid, plan.view.gid)
    # NO_SETUID_FIXUP is set, so the change of uid keeps capabilities; they go explicitly, right after.
    os.setresuid(plan.view.uid, plan.view.uid, plan.view.uid)
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    landlock.restrict((*PRIVATE, *(os.path.realpath(bind.path) for bind in plan.view.binds if bind.writable)))
    try:
        calls = kernel.set_notifying_filter(plan.filter)
    except OSError as error:  # something above us listens already (EBUSY): refused all the same, without a row
        kernel.set_seccomp_filter(plan.silent_filter)
        _tell(control, f"unheard {error}")
    else:
        socket.send_fds(control, [b"calls"], [calls])
        os.close(calls)
    control.close()


def _enter_folder(plan: Plan) -> None:
    for folder in (plan.cwd, plan.view.home, plan.env.get("HOME", ""), "/"):
        if folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)
                plan.env["PWD"] = folder
                return


def _terminal(plan: Plan) -> tuple[tuple[int, int, int], list[int]]:
    """Return the program's three descriptors (one terminal) and what the launcher gets: its other end."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
    (number,) = struct.unpack("=i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("=i", 0)))
    slave = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, plan.view.uid, -1)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("=HHHH", plan.rows, plan.cols, 0, 0))
    return (slave, slave, slave), [master]


def _pipes(plan: Plan) -> tuple[tuple[int, int, int], list[int]]:
    pairs = [os.pipe() for _ in range(3)]
    for pair in pairs:
        for descriptor in pair:
            # So that the program may open /dev/stdin and /dev/stdout anew.
            os.fchown(descriptor, plan.view.uid, plan.view.gid)
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = pairs
    return (in_read, out_write, err_write), [in_write, out_read, err_read]


def _keep_only(kept: set[int]) -> None:
    """Close every descriptor that is not in ``kept``."""
    for number in range(max(kept) + 1):
        if number not in kept:
            with contextlib.suppress(OSError):
                os.close(number)
    kernel.close_from(max(kept) + 1)


def _reap_until(main: int) -> int:
    """Wait for everything that ends; return the exit code of ``main``, or minus the signal that ended it."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == main:
            return os.waitstatus_to_exitcode(status)


def start_ticks(pid: int) -> int:
    """Return when ``pid`` started, in clock ticks since boot (``/proc/PID/stat`` field 22); 0 if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _default_signals() -> None:
    """Undo what enforcerd and Python set: a program expects the defaults and nothing blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _read_all(descriptor: int) -> str:
    chunks: list[bytes] = []
    while chunk := os.read(descriptor, 4096):
        chunks.append(chunk)
    os.close(descriptor)
    return b"".join(chunks).decode(errors="replace")


def _tell(control: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        control.send(text.encode(errors="replace")[:2000])


def in_child(body: Callable[[], str], *, before: Callable[[], None], timeout_s: float) -> str:
    """Run ``body`` in a throw-away child after ``before`` and return what it returned.

    Raises:
        HostagentError: it died, failed, or did not finish in time.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        result = "!"
        try:
            _default_signals()
            signal.alarm(max(1, int(timeout_s)))
            before()
            result = body()
        except BaseException as error:  # noqa: BLE001 - becomes the parent's exception
            result = f"!{error}"
        finally:
            os.write(write, result.encode()[:4000])
            os._exit(0)
    os.close(write)
    text = _read_all(read)
    _, status = os.waitpid(child, 0)
    if status or text.startswith("!"):
        raise HostagentError(text[1:] or "the test process died")
    return text


def children() -> set[int]:
    """Return the pids of this process's children; none where the kernel does not tell."""
    try:
        return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    except OSError:
        return set()
