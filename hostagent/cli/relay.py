"""Joins the caller's terminal to a governed program's: bytes, window size, signals, exit status."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import socket
import struct
import sys
import termios
import tty as terminal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from hostagent.cli.enforcerlink import EnforcerConnection, RequestError
from hostagent.ipc import Exited, Failed, Launch, Launched, Signal
from hostagent.model.errors import HostagentError

_CHUNK = 65536
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FAILED_CODE = 125


def relay(
    path: str, workload: str, command: Sequence[str], *, tty: bool | None, launched: Callable[[], None] = lambda: None
) -> int:
    """Run ``command`` as ``workload`` through enforcerd at ``path``; return the exit status for the shell.

    Args:
        path: enforcerd's socket.
        workload: its name.
        command: program and arguments.
        launched: called once the program runs.
        tty: a terminal for the program; None for "if ours is one".
    """
    use_tty = os.isatty(0) and os.isatty(1) if tty is None else tty
    rows, columns = _window()
    try:
        connection = EnforcerConnection(path)
        request = Launch(workload, list(command), _environment(), _folder(), use_tty, rows, columns)
        answer, descriptors = connection.ask(request, Launched)
    except HostagentError as error:
        click.echo(f"hostagent: {error}", err=True)
        suggested = error.code if isinstance(error, RequestError) else 1
        return suggested if suggested > 1 else _FAILED_CODE
    launched()
    for line in answer.weaker:
        click.echo(f"hostagent: weaker: {line}", err=True)
    with contextlib.closing(connection), _raw_terminal(active=use_tty):
        return _Relay(connection, answer, descriptors, tty=use_tty).run()


class _Relay:
    """The loop. Ends when the program has ended and everything it wrote was passed on."""

    def __init__(self, connection: EnforcerConnection, launched: Launched, descriptors: list[int], *, tty: bool) -> None:
        self._connection = connection
        self._launched = launched
        self._selector = selectors.PollSelector()
        self._outputs: dict[int, int] = {}
        self._input = descriptors[0]
        self._master = descriptors[0] if tty else -1
        self._pending = b""
        self._status: int | None = None
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        for source, sink in zip(descriptors if tty else descriptors[1:], (1, 2), strict=False):
            self._outputs[source] = sink
            self._selector.register(source, selectors.EVENT_READ)
        self._watch_input(watching=True)
        self._connection.socket.settimeout(None)
        self._selector.register(self._connection.socket, selectors.EVENT_READ)
        self._wake, wake_write = socket.socketpair()
        self._wake.setblocking(False)
        wake_write.setblocking(False)
        self._wake_write = wake_write
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (*_FORWARDED, signal.SIGWINCH):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def run(self) -> int:
        while self._status is None or self._outputs:
            for key, _ in self._selector.select():
                self._handle(key.fd)
        return 128 - self._status if self._status < 0 else self._status

    def _handle(self, descriptor: int) -> None:
        if descriptor in self._outputs:
            self._pass_output(descriptor)
        elif descriptor == self._connection.socket.fileno():
            self._hear_enforcer()
        elif descriptor == self._wake.fileno():
            self._pass_signals()
        elif descriptor == 0:
            self._read_input()
        elif descriptor == self._input:
            self._write_input()

    def _pass_output(self, source: int) -> None:
        try:
            data = os.read(source, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose other end is closed
                raise
            data = b""
        if data and _write_all(self._outputs[source], data):
            return
        self._selector.unregister(source)
        del self._outputs[source]
        if source != self._input:
            os.close(source)  # the program's next write fails, as it would without us

    def _read_input(self) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(0, _CHUNK)
        self._watch_input(watching=False)
        if data:
            self._pending = data
            self._write_input()
        elif self._master < 0:
            self._close_input()
        else:
            self._pending = b"\x04"  # the terminal's own end-of-file
            self._write_input(last=True)

    def _write_input(self, *, last: bool = False) -> None:
        try:
            self._pending = self._pending[os.write(self._input, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._pending = b""
            self._close_input()
            return
        waiting = self._input in self._selector.get_map() and self._input not in self._outputs
        if self._pending and self._input not in self._outputs:
            if not waiting:
                self._selector.register(self._input, selectors.EVENT_WRITE)
            return
        if waiting:
            self._selector.unregister(self._input)
        if not last:
            self._watch_input(watching=True)

    def _close_input(self) -> None:
        self._watch_input(watching=False)
        if self._master < 0 and self._input >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._input)
            os.close(self._input)
            self._input = -1

    def _watch_input(self, *, watching: bool) -> None:
        with contextlib.suppress(KeyError, ValueError, PermissionError, OSError):
            if watching:
                self._selector.register(0, selectors.EVENT_READ)
            else:
                self._selector.unregister(0)

    def _hear_enforcer(self) -> None:
        try:
            body, _ = self._connection.receive()
        except HostagentError:
            click.echo("hostagent: enforcerd went away; the program's exit status is unknown", err=True)
            body = Failed("", _FAILED_CODE)
        if isinstance(body, Exited):
            self._status = body.status
            if body.reason:
                click.echo(f"hostagent: ended: {body.reason}", err=True)
        elif isinstance(body, Failed):
            self._status = body.code
        else:
            return
        self._selector.unregister(self._connection.socket)

    def _pass_signals(self) -> None:
        for number in self._wake.recv(4096):
            if number == signal.SIGWINCH:
                self._resize()
            elif number in _FORWARDED:
                with contextlib.suppress(HostagentError):
                    self._connection.send(Signal(number))

    def _resize(self) -> None:
        if self._master >= 0:
            rows, columns = _window()
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))


def _write_all(sink: int, data: bytes) -> bool:
    """Write everything; return whether somebody still reads there."""
    try:
        while data:
            try:
                data = data[os.write(sink, data) :]
            except BlockingIOError:
                selector = selectors.PollSelector()
                selector.register(sink, selectors.EVENT_WRITE)
                selector.select()
                selector.close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _raw_terminal(*, active: bool) -> Iterator[None]:
    """Let every key through to the program's own terminal, and put ours back afterwards."""
    if not active or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    terminal.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _window() -> tuple[int, int]:
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.lines, size.columns
    return 24, 80


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"


def _environment() -> dict[str, str]:
    """Our environment as text; what is not valid UTF-8 cannot be passed on and is said so."""
    result: dict[str, str] = {}
    for key, value in os.environb.items():
        try:
            result[key.decode()] = value.decode()
        except UnicodeDecodeError:
            sys.stderr.write(f"hostagent: environment variable {key!r} is not UTF-8 and is left out\n")
    return result
