"""The service's own part of ``hostagent doctor``: documents, credentials, folders, names, clock, disk, units. Nothing is changed."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import socket
import stat
import subprocess
import threading
import time
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509

from hostagent.daemon.configfile import load_config, load_targets, load_workloads
from hostagent.daemon.credentials import gather
from hostagent.documents import Config
from hostagent.enforcer.doctor import Check, State, examine, found
from hostagent.mask import DETECTORS
from hostagent.model.errors import HostagentError
from hostagent.model.target import Target
from hostagent.policy import load
from hostagent.proxy.context import read_documents, unix_group_members

_LOOKUP_S = 5.0
_DISK_LOW, _DISK_OUT = 2 * 1024**3, 256 * 1024**2
_INODES_LOW = 10_000
_CA_DAYS = 30
_STA_UNSYNC = 0x40
_TIMEX_BYTES = 256
"""More than ``struct timex`` has on any architecture (208 on 64-bit ones)."""


def examine_all(config_path: str | None) -> list[Check]:
    """Return every finding about the host, and about the configuration at ``config_path`` (None: the default)."""
    try:
        config = load_config(config_path)
    except HostagentError as error:
        why = "without a configuration that can be read nothing is started, and the defaults are not guessed at"
        broken = Check("config.file", State.FAIL, str(error), why, "mend the named line, then: hostagent doctor")
        return [*examine(()), broken]
    checks = examine((config.users.proxy, config.users.recorder), config.enforcement.table)
    if checks[0].id == "root":
        return checks
    checks.append(Check("config.file", State.OK, config_path or "as written, or the defaults"))
    return [*checks, *_documents(config), *_folders(config), *authorities(Path(config.ca_certificate), time.time()), *_disk(config), clock(), *_units()]


# -- documents -------------------------------------------------------------------------------------------------------------


def _documents(config: Config) -> list[Check]:
    targets: Mapping[str, Target] = {}
    checks = [_loads("config.workloads", lambda: f"{len(load_workloads(config))} in {config.workloads}")]
    try:
        targets = load_targets(config)
        checks.append(found("config.targets", bool(targets), f"{len(targets)} in {config.targets}", "no target is declared: workloads reach nothing",
                            "hostagent target add, or write a document as hostagent/documents says", otherwise=State.WARN))  # fmt: skip
    except (HostagentError, OSError) as error:
        checks.append(Check("config.targets", State.FAIL, str(error), _REFUSED, _MEND))
    checks.append(_loads("config.policy", lambda: _policy(config)))
    checks += _credentials(config, targets)
    return [*checks, *_names(targets)]


_REFUSED = "the service does not start with it; one that runs keeps the last good one"
_MEND = "mend the named line; `chown root` and `chmod go-w` if it is about the owner; then: hostagent doctor"


def _loads(id_: str, body: Callable[[], str]) -> Check:
    try:
        return Check(id_, State.OK, body())
    except (HostagentError, OSError) as error:
        return Check(id_, State.FAIL, str(error), _REFUSED, _MEND)


def _policy(config: Config) -> str:
    documents = read_documents(Path(config.policy))
    policy = load(documents, detectors=frozenset(DETECTORS), group_members=unix_group_members, zone=zoneinfo.ZoneInfo)
    return f"{len(policy.rules)} rules in {config.policy}" if policy.rules else f"no rules in {config.policy}: everything is denied"


def _credentials(config: Config, targets: Mapping[str, Target]) -> list[Check]:
    checks = []
    problems = gather(targets, config).problems
    for name, target in targets.items():
        source = target.login.credential
        if source is None:
            continue
        if source.kind == "systemd":
            checks.append(Check(f"credential.{name}", State.OK, f"systemd credential {source.location}: only the unit can read it"))
            continue
        why = "connections to this target are refused: there is nothing to log in with"
        fix = f"hostagent credential set {source.location}" if source.kind == "sealed" else f"chown root:root and chmod 600 {source.location.partition('#')[0]}"
        checks.append(found(f"credential.{name}", name not in problems, problems.get(name, source.kind), why, fix))
    return checks


def _names(targets: Mapping[str, Target]) -> list[Check]:
    """Look the targets' names up, all at once, each for at most a few seconds."""
    answers: dict[tuple[str, str], str] = {}

    def look(target: str, host: str, port: int) -> None:
        try:
            addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
            answers[target, host] = ", ".join(sorted(addresses))
        except OSError as error:
            answers[target, host] = f"!{error.strerror or error}"

    wanted = [(target.name, host, target.port) for target in targets.values() for host in target.hosts]
    threads = [threading.Thread(target=look, args=each, daemon=True) for each in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LOOKUP_S)
    checks = []
    for name, host, _ in wanted:
        answer = answers.get((name, host), f"!no answer within {_LOOKUP_S:.0f} s")
        why = "a workload that looks this name up gets no address, and connects to nothing"
        fix = f"getent hosts {host}; mend DNS or /etc/hosts, or the name in the target document"
        checks.append(found(f"target.{name}.{host}", not answer.startswith("!"), answer.removeprefix("!"), why, fix, otherwise=State.WARN))
    return checks


# -- the machine -----------------------------------------------------------------------------------------------------------


def _folders(config: Config) -> list[Check]:
    """Owners and modes of what exists already; `hostagent up` makes what does not."""
    proxy, recorder = _uid(config.users.proxy), _uid(config.users.recorder)
    wanted = (
        (config.paths.config, 0, 0o022, "documents decide who may do what"),
        (config.paths.state, 0, 0o022, "keys and evidence lie below it"),
        (config.paths.runtime, 0, 0o022, "who can replace the sockets there can be the service for everybody"),
        (config.proxy_state, proxy, 0o077, "the CA's and the issuer's keys are in it"),
        (config.evidence, recorder, 0o027, "it tells what workloads did"),
        (config.journal, 0, 0o026, "it is the evidence"),
        (str(Path(config.sealed_credentials).parent), 0, 0o027, "it holds the sealed credentials"),
        (config.seal_key, 0, 0o077, "it opens the sealed credentials"),
    )
    checks = []
    for path, uid, forbidden, why in wanted:
        try:
            status = Path(path).stat()
        except OSError:
            continue
        mode = stat.S_IMODE(status.st_mode)
        good = uid in (None, status.st_uid) and not mode & forbidden
        fix = f"chown {uid} {path} && chmod {mode & ~forbidden:o} {path}"
        checks.append(found(f"folder.{path}", good, f"uid {status.st_uid}, mode {mode:04o}", why, fix))
    if not Path(config.paths.config).is_dir():
        fix = f"mkdir -p {config.paths.config}/{{targets,workloads,policy}}"
        checks.append(Check("folder.config", State.WARN, f"{config.paths.config} does not exist", "nothing is declared: nothing can be launched", fix))
    return checks


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def authorities(published: Path, now: float) -> list[Check]:
    """Return whether every CA in the file ``published`` is good for a while yet; nothing where there is no CA yet."""
    try:
        certificates = x509.load_pem_x509_certificates(published.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        why = "workloads cannot be given a CA to trust, and so are not started"
        return [Check("ca.certificate", State.FAIL, f"{published}: {error}", why, f"restore {published} from a backup")]
    days = int((min(each.not_valid_after_utc.timestamp() for each in certificates) - now) // 86_400)
    why = "clients of workloads refuse every connection by TLS once the host's CA has expired"
    fix = "hostagent ca rotate, then activate and retire (sessions go on)"
    return [found("ca.certificate", days > _CA_DAYS, f"{days} days left", why, fix, otherwise=State.WARN if days > 0 else State.FAIL)]


def _disk(config: Config) -> list[Check]:
    place = Path(config.paths.state)
    while not place.exists():
        place = place.parent
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    why = "when the journal's disk is full every governed session ends: nothing is done that cannot be recorded"
    fix = f"free or add space below {place}: du -xh {place} | sort -h | tail; old evidence: hostagent audit backup, then move it away"
    state = State.FAIL if free < _DISK_OUT else State.WARN
    low = max(_DISK_LOW, 2 * config.limits.journal_free_mib * 1024**2)
    checks = [found("disk.space", free >= low, f"{free // 1024**2} MiB free for {config.paths.state}", why, fix, otherwise=state)]
    if disk.f_files and disk.f_favail < _INODES_LOW:
        checks.append(Check("disk.inodes", State.WARN, f"{disk.f_favail} left", why, fix))
    return checks


def clock(status: Callable[[], int] | None = None) -> Check:
    """Return whether the kernel's clock is kept by somebody (NTP); ``status`` gives the bits of adjtimex(2)."""
    why = "tokens, certificates and approvals are judged by this clock, and the evidence is dated by it"
    bits = (status or _clock_status)()
    detail = "unsynchronised" if bits & _STA_UNSYNC else "synchronised"
    fix = "apt-get install systemd-timesyncd && timedatectl set-ntp true (or chrony)"
    return found("clock", not bits & _STA_UNSYNC, detail, why, fix, otherwise=State.WARN)


def _clock_status() -> int:
    """Return ``status`` of struct timex, which stands after modes, offset, freq, maxerror and esterror (adjtimex(2))."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return _STA_UNSYNC
    return ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value


def _units() -> list[Check]:
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return [Check("units", State.OK, "no systemd here: `hostagent up` runs the service")]
    done = subprocess.run([systemctl, "is-enabled", "hostagent.target"], capture_output=True, text=True, timeout=20, check=False)
    said = done.stdout.strip() or done.stderr.strip().splitlines()[-1] if done.stdout or done.stderr else "unknown"
    why = "after a reboot no workload can be started, and a governed unit waits, until somebody starts the service"
    fix = "systemctl enable --now hostagent.target (or run `hostagent up` from a unit of your own)"
    return [found("units", said == "enabled", f"hostagent.target: {said}", why, fix, otherwise=State.WARN)]
