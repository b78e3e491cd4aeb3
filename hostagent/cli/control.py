"""The command line's end of proxyd's control socket: one question, one answer, errors that say what to do."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping

from hostagent.model.errors import HostagentError

TIMEOUT_S = 10.0
_LONGEST = 256 * 1024 * 1024


class ControlError(HostagentError):
    """The service could not be asked, or said no. ``str()`` says what happened and what to do next; ``code`` is the exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        """Keep the exit status beside the message."""
        super().__init__(message)
        self.code = code


def ask(config_path: str | None, call: str, args: Mapping[str, object] | None = None) -> object:
    """Return the service's answer to ``call``; where its socket is, the configuration says.

    Raises:
        ControlError: it is not running, may not be asked, or refused.
    """
    from hostagent.daemon.configfile import load_config

    return ask_at(load_config(config_path).control_socket, call, args)


def ask_at(path: str, call: str, args: Mapping[str, object] | None = None) -> object:
    """Return the answer to ``call`` from the control socket at ``path``.

    Raises:
        ControlError: nobody listens there, it may not be used, it does not answer in time, or the answer is no.
    """
    request = json.dumps({"call": call, "args": dict(args or {})}).encode() + b"\n"
    with contextlib.closing(_connect(path)) as connection:
        try:
            connection.sendall(request)
            line = _line(connection)
        except TimeoutError:
            raise ControlError(f"the service did not answer within {TIMEOUT_S:.0f} s; see its log") from None
        except OSError as error:
            raise ControlError(f"the service broke the connection: {error.strerror or error}; see its log") from None
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise ControlError("the service gave no answer that can be understood; see its log")
    if answer["ok"] is not True:
        reason = str(answer.get("error") or "the service refused and gave no reason")
        raise ControlError(reason, 77 if reason == "only root may do this" else 1)
    return answer.get("result")


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ControlError(_why(path, error)) from None
    return connection


def _why(path: str, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return f"{path} does not exist: is the service running (`hostagent up`), and is this its configuration (--config)?"
        case PermissionError():
            return f"{path} may not be used by this user; try as root, or ask an administrator"
        case ConnectionRefusedError():
            return f"nobody listens at {path}: the service has stopped; start it with `hostagent up`"
        case TimeoutError():
            return f"{path} does not accept connections; see the service's log"
        case _:
            return f"{path} cannot be used: {error.strerror or error}"


def _line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = connection.recv(1 << 20)
        if not chunk:
            break
        received += chunk
        if len(received) > _LONGEST:
            raise ControlError("the service's answer is too long to be shown")
    return bytes(received)
