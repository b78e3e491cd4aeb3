"""The text of new documents: what a person would write, with the comments that a person would want to find there later.

Every draft is canonical (the keys in the order of the reference page) and must be read by the parser of its kind before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hostagent.documents.changes import key_of
from hostagent.documents.config import Config
from hostagent.documents.connection import Connection
from hostagent.documents.named import Strict
from hostagent.model.target import WEB

_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.@+-]*(?: [A-Za-z0-9/_.@+-]+)*")
_SPECIAL = frozenset({"true", "false", "null"})


def scalar(value: str) -> str:
    """Return ``value`` as a YAML scalar that reads back as the same text, quoted only where it must be."""
    if _PLAIN.fullmatch(value) and value.lower() not in _SPECIAL:
        return value
    return json.dumps(value, ensure_ascii=False)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(scalar, values))}]"


def _map(values: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{scalar(key)}: {scalar(value)}' for key, value in values.items())}}}"


class TargetDraft(NamedTuple):
    """What a new target document says beside its connection. ``credential`` is (kind, location), or None for no password."""

    credential: tuple[str, str] | None
    databases: Sequence[str] = ()
    users: Sequence[str] = ()
    labels: Mapping[str, str] = {}
    ca_file: str = ""
    server_name: str = ""
    scheme: str = ""
    header: str = ""


def target_text(name: str, connection: Connection, more: TargetDraft) -> str:
    """Return the text of target document ``name``."""
    lines = [
        f"# Target {name}: a server that workloads may reach, if policy lets them. They dial it as they always did; the proxy logs in.",
        "# After a change: hostagent config check && hostagent reload",
        f"protocol: {connection.protocol}",
    ]
    if connection.hosts:
        lines += [f"hosts: {_list(connection.hosts)}", f"port: {connection.port}", f"tls: {connection.tls}"]
    else:
        lines += [f"sockets: {_list([connection.socket])}", f"port: {connection.port}"]
    ca_file = more.ca_file or connection.ca_file
    lines += [f"ca_file: {scalar(ca_file)}"] if ca_file else []
    lines += [f"server_name: {scalar(more.server_name)}"] if more.server_name else []
    lines += _web_login(connection, more) if connection.protocol in WEB else _database_login(connection, more)
    lines += [f"labels: {_map(more.labels)}"] if more.labels else ["# labels: {env: production} # for policy (where.labels)"]
    return "\n".join(lines) + "\n"


def _web_login(connection: Connection, more: TargetDraft) -> list[str]:
    if more.credential is None:
        return ["# login: {scheme: bearer, credential: {file: /etc/hostagent/secrets/NAME}}   # left out: it asks for no credential"]
    kind, location = more.credential
    user = f", user: {scalar(connection.user)}" if more.scheme == "basic" else ""
    header = f", header: {scalar(more.header)}" if more.header else ""
    return [f"login: {{scheme: {more.scheme}{user}{header}, credential: {{{kind}: {scalar(location)}}}}}   # the proxy's own; the workload's never goes on"]


def _database_login(connection: Connection, more: TargetDraft) -> list[str]:
    lines = [f"databases: {_list(more.databases)}"] if more.databases else ["# databases: [crm]          # what clients may ask for; left out: any"]
    lines += [f"users: {_list(more.users)}"] if more.users else ["# users: [app]              # user names that clients may ask for; left out: any"]
    lines += ["login:                      # the proxy's own account there", f"  user: {scalar(connection.user)}"]
    if more.credential is not None:
        kind, location = more.credential
        lines += [f"  credential: {{{kind}: {scalar(location)}}}"]
    return lines


class WorkloadDraft(NamedTuple):
    """What a new workload document says; empty values are left to their defaults. ``paths`` are (path, writable)."""

    launchers: Sequence[str] = ("root",)
    placement: str = "isolated"
    user: str = ""
    root: str = ""
    groups: Sequence[str] = ()
    purpose: str = ""
    subject: str = ""
    token_file: str = ""
    issuer: str = ""
    audience: str = ""
    jwks: str = ""
    paths: Sequence[tuple[str, bool]] = ()
    environment: Mapping[str, str] = {}
    trust_files: Sequence[str] = ()


def workload_text(name: str, draft: WorkloadDraft) -> str:
    """Return the text of workload document ``name``."""
    lines = [
        f"# Workload {name}: what may be launched under this name, by whom, and who it then is.",
        "# Changes count within seconds, for programs that are started afterwards.",
        f"launchers: {_list(draft.launchers)}           # unix users who may: hostagent run --workload {name} -- COMMAND",
        f"placement: {draft.placement}",
    ]
    lines += [f"root: {scalar(draft.root)}"] if draft.root else []
    lines += [f"user: {scalar(draft.user)}"] if draft.user else ["# user: ci                 # left out: a uid of its own, which is stronger"]
    lines += _identity(draft)
    if draft.paths:
        lines += ["paths:", *(f"  - {{path: {scalar(path)}, writable: {str(writable).lower()}}}" for path, writable in draft.paths)]
    else:
        lines += ["# paths: [{path: /srv/app}] # of the host, beside the system's own; read-only unless writable: true"]
    lines += [f"environment: {_map(draft.environment)}"] if draft.environment else []
    if draft.trust_files:
        lines += [f"trust_files: {_list(draft.trust_files)}  # PEM bundles its clients read: our CA is added in its private view"]
    else:
        lines += ["# trust_files: [/etc/app/ca.pem]  # PEM bundles its clients read: our CA is added in its private view"]
    return "\n".join(lines) + "\n"


def _identity(draft: WorkloadDraft) -> list[str]:
    given = [("subject", draft.subject), ("purpose", draft.purpose)]
    lines = ["identity:"]
    if draft.token_file:
        provider = (("path", draft.token_file), ("issuer", draft.issuer), ("audience", draft.audience), ("jwks", draft.jwks))
        lines += ["  kind: token_file          # from an identity provider"]
        given = [*provider, ("subject", draft.subject)]
    else:
        lines += ["  kind: local               # the embedded issuer signs"]
    lines += [f"  groups: {_list(draft.groups)}"] if draft.groups else []
    return lines + [f"  {key}: {scalar(value)}" for key, value in given if value]


def config_text(defaults: Config, paths: Mapping[str, str]) -> str:
    """Return the text of a configuration in which every key stands, commented out, with its default and what it means.

    Args:
        defaults: the configuration whose values are shown.
        paths: the keys of section ``paths`` that are not the default; they are not commented out.
    """
    lines = [
        "# hostagent's configuration. A key that is commented out has the value shown.",
        "# After a change: hostagent config check && hostagent reload   (keys marked * count only after a restart)",
    ]
    for section in Config.__dataclass_fields__:
        values: Strict = getattr(defaults, section)
        lines += ["", f"[{section}]"]
        for name, field in type(values).model_fields.items():
            key = key_of(field)
            unit = f" ({key.unit})" if key.unit else ""
            said = f"{'' if key.live else '* '}{key.says}{unit}"
            given = paths.get(name) if section == "paths" else None
            line = f"{name} = {toml_value(given if given is not None else getattr(values, name))}"
            lines += [f"# {said}", line if given is not None else f"#{line}"]
    return "\n".join(lines) + "\n"


def written(config: Config) -> str:
    """Return a text that ``parse_config`` reads as exactly ``config``."""
    lines = []
    for section in Config.__dataclass_fields__:
        lines += [f"[{section}]", *(f"{name} = {toml_value(value)}" for name, value in getattr(config, section).model_dump().items()), ""]
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """Return ``value`` (text, number, boolean or a list of them) as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
