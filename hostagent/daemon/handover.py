"""Hands changed secrets to the running proxy: as root, over its control socket, and only if it is the proxy that listens there."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping

from hostagent.daemon.accounts import account_of
from hostagent.documents import Config
from hostagent.model.errors import HostagentError

_TIMEOUT_S = 10.0
_PEERCRED = struct.Struct("3i")
_LONGEST = 65_536


def hand_over(config: Config, secrets: Mapping[str, str]) -> list[str]:
    """Let the proxy use ``secrets`` (by target name) from now on; live sessions go on. Return the targets whose secret is new.

    Raises:
        HostagentError: the proxy is not there, is not who it should be, or does not know a target (its document is new: reload).
    """
    uid = account_of(config.users.proxy).pw_uid
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(config.control_socket)
            _, listening, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
            if listening != uid:
                raise HostagentError(f"{config.control_socket}: uid {listening} listens there, not {config.users.proxy}")
            return [target for target, secret in secrets.items() if _give(connection, target, secret)]
        except OSError as error:
            reason = error.strerror or str(error)
            raise HostagentError(f"{config.control_socket}: {reason}; the proxy takes the credentials when it starts") from error


def _give(connection: socket.socket, target: str, secret: str) -> bool:
    """Hand over one secret; return whether it is another than before."""
    request = {"call": "credentials.take", "args": {"target": target, "secret": secret}}
    connection.sendall(json.dumps(request).encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        chunk = connection.recv(4096)
        if not chunk or len(line) > _LONGEST:
            raise HostagentError(f"the proxy gave no answer about the credential of {target}; see its log")
        line += chunk
    answer = json.loads(line)
    if not answer.get("ok"):
        raise HostagentError(f"the proxy refused the credential of {target}: {answer.get('error')}")
    return bool(answer["result"]["changed"])
