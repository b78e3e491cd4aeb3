"""The service's own configuration (``hostagent.toml``). Every key has a default; an unknown key is an error."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from hostagent.documents.complaint import complain
from hostagent.documents.named import Key, Strict
from hostagent.documents.source import Path
from hostagent.model.errors import DocumentError

DEFAULT_CONFIG_PATH = "/etc/hostagent/hostagent.toml"


_Path = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
_Account = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$")]
_DAY_S = 86_400  # a clock of the event loop's cannot be set to just any number


class Paths(Strict):
    """Where things are. ``config`` holds workloads/, targets/ and policy/; relative to nothing: all absolute."""

    config: Annotated[_Path, Key("Folder that holds targets/, workloads/ and policy/.")] = "/etc/hostagent"
    state: Annotated[_Path, Key("Folder of the journal, the evidence, the host CA and the issuer's key.")] = "/var/lib/hostagent"
    runtime: Annotated[_Path, Field(max_length=86), Key("Folder of the sockets.")] = "/run/hostagent"


class Enforcement(Strict):
    """Names in the kernel, so that a test, a demo and the real service can live on one host.

    ``bpf``: "auto" puts eBPF programs behind the rules where bcc and the kernel's headers are installed; "off" never does.
    """

    slice: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*\.slice$"), Key("Name of the cgroup that holds every governed process.")] = (
        "governed.slice"
    )
    table: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,15}$"), Key("Name of the nft table (or the prefix of the iptables chains).")] = (
        "hostagent"
    )
    uid_first: Annotated[int, Field(ge=1000, le=4_000_000_000), Key("First uid for workloads without `user`; nothing else may use them.", "uid")] = 64000
    uid_count: Annotated[int, Field(ge=1, le=65536), Key("How many such uids there are: at most so many programs at once.", "uids")] = 1000
    firewall: Annotated[
        str, Field(pattern="^(auto|nft|iptables)$"), Key("auto is nft, or where that does not work iptables; or either by name.")
    ] = "auto"
    bpf: Annotated[str, Field(pattern="^(auto|off)$"), Key("auto puts eBPF programs behind the rules where they can be had; off never.")] = (
        "auto"
    )


class VerifySettings(Strict):
    """How often the boundary is attacked unasked (seconds; 0: never, not even after a reload), and whether failure freezes."""

    every_s: Annotated[float, Field(ge=0, le=365 * _DAY_S), Key("Time between two unasked runs of `hostagent verify`; 0: only when asked.", "s", live=True)] = (
        900.0
    )
    freeze: Annotated[bool, Key("Whether nothing is launched after a failed run until one passes.", live=True)] = False


class MetricsSettings(Strict):
    """Where recorderd serves counters for Prometheus: a loopback address and port; empty: nowhere."""

    listen: Annotated[
        str,
        Field(pattern=r"^((127(\.[0-9]{1,3}){3}|\[::1\]):[1-9][0-9]{0,4})?$"),
        Key("Loopback address and port of the counters for Prometheus; empty: nowhere.", "address:port"),
    ] = ""


class Users(Strict):
    """The accounts of the two unprivileged processes; ``audit`` is the group that may read published evidence."""

    proxy: Annotated[_Account, Key("Account of proxyd.")] = "hostagent"
    recorder: Annotated[_Account, Key("Account of recorderd; members of its group may read the evidence.")] = "hostagent-rec"

    @model_validator(mode="after")
    def _apart(self) -> Users:
        if "root" in (self.proxy, self.recorder) or self.proxy == self.recorder:
            raise ValueError("proxy and recorder must be two accounts, neither of them root: what one may do the other must not")
        return self


class Limits(Strict):
    """Bounds of the data path. Seconds."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=_DAY_S), Key("Until a target that does not answer is an error.", "s", live=True)] = 10.0
    login_timeout_s: Annotated[float, Field(gt=0, le=_DAY_S), Key("For the whole login, client and target; then the session is closed.", "s", live=True)] = (
        30.0
    )
    sessions_per_workload: Annotated[int, Field(ge=1), Key("Most connections of one running program at once.", "sessions", live=True)] = 500
    inbound_idle_s: Annotated[
        float, Field(gt=0, le=365 * _DAY_S), Key("How long a connection into a workload may carry nothing; for programs started after the change.", "s", live=True)
    ] = 3600.0
    memory_per_workload_mib: Annotated[
        int, Field(ge=8), Key("What all sessions of one workload may make the proxy keep; a session beyond it is closed.", "MiB", live=True)
    ] = 64
    memory_mib: Annotated[
        int, Field(ge=16), Key("The same for all workloads together; who uses most loses a session.", "MiB", live=True)
    ] = 512
    journal_per_workload_mib: Annotated[
        int,
        Field(ge=1, le=1 << 30),
        Key("What one workload may make the proxy write to the journal in an hour; beyond it its statements and connections are refused.", "MiB", live=True),
    ] = 4096
    journal_free_mib: Annotated[
        int,
        Field(ge=0, le=1 << 30),
        Key("While less of the journal's disk is free, a workload's budget is a sixteenth of this; 0: never.", "MiB", live=True),
    ] = 1024


class IdentitySettings(Strict):
    """The embedded issuer: token lifetime in seconds."""

    token_lifetime_s: Annotated[int, Field(ge=60, le=3600), Key("How long a token of the embedded issuer lives.", "s")] = 600
    audience: Annotated[str, Key("Audience (`aud`) of the embedded issuer's tokens.")] = "hostagent"


class PostgresSettings(Strict):
    """``client_auth``: "none" lets clients in with any password or none; "scram" speaks SCRAM with the placeholder."""

    client_auth: Annotated[
        str,
        Field(pattern="^(none|scram)$"),
        Key("none lets clients in with any password or none; scram makes them log in with the placeholder.", live=True),
    ] = "none"
    placeholder_password: Annotated[  # public by design: `hostagent target list` prints it
        str, Key("Password for clients that demand SCRAM or channel binding; public by design.", live=True)
    ] = "hostagent"  # noqa: S105


class HttpSettings(Strict):
    """What clients of HTTP, which give up within seconds, are spared."""

    park_s: Annotated[
        float,
        Field(ge=0, le=3600),
        Key("How long a held request waits before its client is told the ticket, to send it again once it is approved.", "s", live=True),
    ] = 3.0
    idle_s: Annotated[
        float, Field(gt=0, le=86_400), Key("How long a connection of HTTP may carry nothing in either direction.", "s", live=True)
    ] = 900.0


class _Lines:
    """Where sections and keys stand in TOML as people write it: ``[section]``, then ``key = value`` lines."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        section: Path = ()
        for number, line in enumerate(text.splitlines(), 1):
            if found := re.match(r"\s*\[\s*([A-Za-z0-9_.-]+)\s*\]", line):
                section = tuple(found[1].split("."))
                self._lines.setdefault(section, number)
            elif found := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
                self._lines.setdefault((*section, *found[1].split(".")), number)

    def line(self, path: Path) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


class ConfigDocument(Strict):
    """The form of ``hostagent.toml``."""

    paths: Paths = Paths()
    enforcement: Enforcement = Enforcement()
    users: Users = Users()
    limits: Limits = Limits()
    identity: IdentitySettings = IdentitySettings()
    postgres: PostgresSettings = PostgresSettings()
    http: HttpSettings = HttpSettings()
    verify: VerifySettings = VerifySettings()
    metrics: MetricsSettings = MetricsSettings()


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, and the places derived from it."""

    paths: Paths
    enforcement: Enforcement
    users: Users
    limits: Limits
    identity: IdentitySettings
    postgres: PostgresSettings
    http: HttpSettings
    verify: VerifySettings
    metrics: MetricsSettings

    @property
    def workloads(self) -> str:
        """The folder of workload documents."""
        return f"{self.paths.config}/workloads"

    @property
    def targets(self) -> str:
        """The folder of target documents."""
        return f"{self.paths.config}/targets"

    @property
    def policy(self) -> str:
        """The folder of policy documents."""
        return f"{self.paths.config}/policy"

    @property
    def journal(self) -> str:
        """The folder with one sub-folder per journal writer."""
        return f"{self.paths.state}/journal"

    @property
    def evidence(self) -> str:
        """The folder of recorderd: live and published databases, sealed segments."""
        return f"{self.paths.state}/evidence"

    @property
    def proxy_state(self) -> str:
        """The folder that only proxyd may read: CA key, issuer key, revocations."""
        return f"{self.paths.state}/proxyd"

    @property
    def ca_certificate(self) -> str:
        """The public certificate of the host CA, readable by all."""
        return f"{self.proxy_state}/ca.pem"

    @property
    def sealed_credentials(self) -> str:
        """The file of the sealed credential store."""
        return f"{self.paths.state}/credentials/sealed.json"

    @property
    def seal_key(self) -> str:
        """The key that opens it, where systemd does not pass one: not beside the store, so that a backup of one lacks the other."""
        return f"{self.paths.config}/seal.key"

    @property
    def enforcer_socket(self) -> str:
        """Enforcerd's request socket."""
        return f"{self.paths.runtime}/enforcerd.sock"

    @property
    def control_socket(self) -> str:
        """Proxyd's control socket: approvals, identities, status."""
        return f"{self.paths.runtime}/proxyd/control.sock"


def parse_config(name: str, text: str) -> Config:
    """Return the configuration in TOML ``text``; empty text gives the defaults.

    Raises:
        DocumentError: not TOML, an unknown key, or a value out of range.
    """
    try:
        document = ConfigDocument.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise DocumentError(f"{name}:{line[1] if line else max(1, len(text.splitlines()))}: not TOML: {error}") from error
    except ValidationError as error:
        raise complain(name, error, _Lines(text), ConfigDocument) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without an end
        raise DocumentError(f"{name}:1: not TOML that can be read: {error}") from error
    return Config(
        paths=document.paths,
        enforcement=document.enforcement,
        users=document.users,
        limits=document.limits,
        identity=document.identity,
        postgres=document.postgres,
        http=document.http,
        verify=document.verify,
        metrics=document.metrics,
    )
