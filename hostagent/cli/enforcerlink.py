"""The command line's end of enforcerd's request socket: blocking, one request at a time."""

from __future__ import annotations

import errno
import os
import socket
from typing import TypeVar

from hostagent.cli.exits import FAILED, NOT_PERMITTED
from hostagent.ipc import MAXIMUM_DESCRIPTORS, MAXIMUM_PACKET, Body, Failed, decode, encode
from hostagent.model.errors import HostagentError, LocalWireError

_Answer = TypeVar("_Answer", bound=Body)

_TIMEOUT_S = 60.0


class RequestError(HostagentError):
    """enforcerd said no. ``code`` is the exit status it suggests."""

    def __init__(self, message: str, code: int) -> None:
        """Keep the suggested exit status beside the message."""
        super().__init__(message)
        self.code = code


class ClosedError(HostagentError):
    """enforcerd closed the connection: its table does not let this user ask that, or it was stopped."""

    @property
    def code(self) -> int:
        """The exit status: root may ask everything."""
        return NOT_PERMITTED if os.geteuid() else FAILED


class EnforcerConnection:
    """One connection to enforcerd."""

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            HostagentError: enforcerd does not run, or not for us.
        """
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.socket.settimeout(_TIMEOUT_S)
        self._last_id = 0
        try:
            self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise HostagentError(f"enforcerd is not running ({path}): start it with `systemctl start hostagent.target`, or `hostagent up`") from None
            raise HostagentError(f"{path}: {error.strerror}") from error

    def ask(self, body: Body, answer: type[_Answer]) -> tuple[_Answer, list[int]]:
        """Send a request and wait for its answer; return it with the descriptors that came along.

        Raises:
            RequestError: refused, with the reason.
            HostagentError: the connection was closed (not permitted), or an answer that does not belong.
        """
        self.send(body)
        packet_body, descriptors = self.receive()
        if isinstance(packet_body, Failed):
            raise RequestError(packet_body.reason, packet_body.code)
        if not isinstance(packet_body, answer):
            raise HostagentError(f"enforcerd answered with {type(packet_body).__name__}")
        return packet_body, descriptors

    def send(self, body: Body) -> None:
        """Send a request without waiting.

        Raises:
            HostagentError: too large, or the connection is gone.
        """
        self._last_id += 2
        try:
            self.socket.send(encode(self._last_id, body))
        except LocalWireError as error:
            raise HostagentError(f"command line and environment are too large: {error}") from error
        except OSError as error:
            raise HostagentError(f"enforcerd is gone: {error.strerror}") from error

    def receive(self) -> tuple[Body, list[int]]:
        """Return the next packet's body and descriptors.

        Raises:
            ClosedError: closed by enforcerd.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, MAXIMUM_PACKET + 1, MAXIMUM_DESCRIPTORS)
        except TimeoutError:
            raise HostagentError(f"enforcerd did not answer within {_TIMEOUT_S:.0f} s") from None
        except ConnectionResetError:
            data, descriptors = b"", []
        if not data:
            raise ClosedError("enforcerd closed the connection: not permitted to this user, or it was stopped")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return decode(data).body, descriptors

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
