"""The environment a workload starts with: the launcher's, minus what points at sockets and accounts it no longer has."""

from __future__ import annotations

from collections.abc import Mapping

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_DROPPED = frozenset(
    {
        *("SSH_AUTH_SOCK", "SSH_AGENT_PID", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "GPG_AGENT_INFO"),
        *("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_SESSION_ID", "XAUTHORITY"),
        *("DISPLAY", "WAYLAND_DISPLAY", "PULSE_SERVER", "TMUX", "TMUX_PANE", "STY", "DOCKER_HOST", "CONTAINER_HOST"),
        *("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("CREDENTIALS_DIRECTORY", "KRB5CCNAME", "MAIL", "OLDPWD", "TMPDIR", "TEMP", "TMP", "HOSTAGENT_CONFIG"),
        *("SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND"),
    }
)

_BUNDLES = (
    "SSL_CERT_FILE",  # OpenSSL, Go, httpx
    "REQUESTS_CA_BUNDLE",  # requests, which else reads certifi's
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
"""What programs that do not read the system's bundle, or not always, are told where it is by."""


def environment(
    launcher: Mapping[str, str], declared: Mapping[str, str], *, name: str, home: str, shell: str, bundle: str
) -> dict[str, str]:
    """Return the workload's environment.

    Args:
        launcher: what the CLI passed on.
        declared: what the workload document sets; wins over everything.
        name: the account's name.
        home: its home folder.
        shell: its shell.
        bundle: path of the CA bundle inside, which libraries that bring their own roots are pointed to; may be empty.
    """
    result = {key: value for key, value in launcher.items() if key not in _DROPPED}
    result.setdefault("PATH", _DEFAULT_PATH)
    result |= {"HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell}
    if bundle:
        for key in _BUNDLES:
            result.setdefault(key, bundle)
    return result | dict(declared)
