"""Governing a service of systemd's: the drop-in that makes ``hostagent run`` its main process, and what cannot be governed.

The unit keeps its name, dependencies, restarts and log; its cgroup holds only the launcher. The program itself is started by
enforcerd in a scope of its own under the workload's document, so it is confined exactly as by ``hostagent run``, and anew at each
start, before its first instruction.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostagent.model.errors import HostagentError

FOLDER = Path("/etc/systemd/system")
DROPIN = "zz-hostagent.conf"
LAUNCHER = "/usr/bin/hostagent"
_KILL = ("/bin/kill", "/usr/bin/kill")
"""The commands that may stay as they are. Another program of that name is a program."""
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.service")
_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost")
_KINDS = frozenset({"simple", "exec", "idle", "oneshot", "notify", "notify-reload"})
_PREFIXES = {"ignore-failure": "-", "no-env-expand": ":"}
_LEAST_PAUSE_US = 3_000_000
"""Between two starts, so that a restart of enforcerd itself does not use up the unit's starts."""
_CALL_S = 30.0

# What of [Service] is as before, because systemd does it with the launcher, or the launcher passes it on.
_KEPT = frozenset(
    {
        *_COMMANDS, "ExecReload", "Type", "RemainAfterExit", "GuessMainPID", "User", "Environment", "EnvironmentFile", "PassEnvironment",
        "UnsetEnvironment", "WorkingDirectory", "Restart", "RestartSec", "RestartPreventExitStatus", "RestartForceExitStatus",
        "SuccessExitStatus", "TimeoutSec", "TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "RuntimeMaxSec", "KillMode", "KillSignal",
        "SendSIGKILL", "SendSIGHUP", "FinalKillSignal", "StandardOutput", "StandardError", "StandardInput", "SyslogIdentifier", "SyslogFacility",
        "SyslogLevel", "SyslogLevelPrefix", "LogLevelMax", "LogRateLimitIntervalSec", "LogRateLimitBurst", "NotifyAccess", "CollectMode",
        # Always so for a governed program, whatever the unit says:
        "NoNewPrivileges", "PrivateTmp", "CapabilityBoundingSet", "RestrictSUIDSGID", "PrivateDevices", "LimitCORE",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """A service as systemd has loaded it. ``settings`` are the names set in its files' [Service] sections, ours left out."""

    name: str
    properties: Mapping[str, Any]
    settings: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """``refused``: why it cannot be governed. ``lost``: what will not reach the program any more. ``text``: the drop-in."""

    refused: tuple[str, ...]
    lost: tuple[str, ...]
    text: str


def plan(unit: Unit, workload: str, launchers: Iterable[str], *, started_is_ready: bool) -> Plan:
    """Return what governing ``unit`` as ``workload`` means; ``launchers`` are who may launch that."""
    refused = [*_whole(unit), *_commands_refused(unit)]
    kind = unit.properties["Type"]
    who = unit.properties.get("User") or "root"
    if who not in set(launchers):
        refused.append(f"it is launched by {who}, whom workload {workload} does not name: add {who} to its launchers")
    if kind.startswith("notify") and not started_is_ready:
        refused.append(
            f"Type={kind}: the program's own word that it is ready cannot leave its confinement; with --started-is-ready the unit"
            " counts as ready once the governed program runs"
        )
    lost = [f"{name}= reaches the launcher only, not the program" for name in sorted(unit.settings - _KEPT - {"WatchdogSec"})]
    if "WatchdogSec" in unit.settings:
        lost.append("WatchdogSec= is switched off: the program's signs of life cannot leave its confinement")
    return Plan(tuple(refused), tuple(lost), "" if refused else _dropin(unit, workload))


def _whole(unit: Unit) -> list[str]:
    found = unit.properties
    refused = []
    if unit.name.startswith("hostagent-"):
        refused.append("it is hostagent itself")
    if found["Type"] not in _KINDS:
        refused.append(f"Type={found['Type']}: its main process would not be the one that is governed; run it in the foreground with Type=exec")
    if any(name.endswith(".socket") for name in found.get("TriggeredBy", ())):
        refused.append("it is started by a socket unit: a governed program inherits no sockets (declare inbound ports in the workload document)")
    if found.get("DynamicUser"):
        refused.append("DynamicUser=: its launcher would have another name each time; leave it out, a workload has a uid of its own anyway")
    if found.get("StandardInput", "null") not in ("null", ""):
        refused.append(f"StandardInput={found['StandardInput']}: a governed service gets no terminal, socket or file as its input")
    if found.get("RootDirectory") or found.get("RootImage"):
        refused.append("RootDirectory= or RootImage=: name the folder as root in the workload document instead")
    return refused


def _commands_refused(unit: Unit) -> list[str]:
    refused = [] if unit.properties.get("ExecStartEx") else ["it has no ExecStart"]
    for name in (*_COMMANDS, "ExecReload"):
        for path, argv, flags in commands(unit, name):
            text = " ".join(argv)
            if set(flags) - set(_PREFIXES):
                refused.append(f"{name}={text}: is to run with privileges of its own ({', '.join(flags)})")
            if not argv or argv[0] != path:
                refused.append(f"{name}=@{path}: another argv[0] than its path")
            if name == "ExecReload":
                if not _only_signals(argv):
                    refused.append(f"{name}={text}: only a signal (kill -HUP $MAINPID) reaches the governed program")
            elif any("MAINPID" in word for word in argv) and not _only_signals(argv):
                refused.append(f"{name}={text}: $MAINPID is the launcher's")
    return refused


def _only_signals(argv: list[str]) -> bool:
    """Whether the command does nothing but send the main process a signal, which the launcher passes on."""
    return argv[0] in _KILL and argv[-1] in ("$MAINPID", "${MAINPID}") and all(word.startswith("-") for word in argv[1:-1])


def commands(unit: Unit, name: str) -> list[tuple[str, list[str], list[str]]]:
    """Return path, arguments and flags of each command called ``name``."""
    return [(each[0], each[1], each[2]) for each in unit.properties.get(f"{name}Ex") or ()]


def _dropin(unit: Unit, workload: str) -> str:
    lines = [
        f"# Written by `hostagent adopt {unit.name} --workload {workload}`; `hostagent unadopt {unit.name}` takes it away.",
        "[Unit]",
        # Not Requires=: a restart of enforcerd ends no workload, and systemd would restart what requires it.
        "Wants=hostagent-enforcerd.service hostagent-proxyd.service",
        "StopPropagatedFrom=hostagent.target",
        "After=hostagent-enforcerd.service hostagent-proxyd.service",
        "",
        "[Service]",
    ]
    if unit.properties["Type"] != "oneshot":
        lines += ["Type=notify", "NotifyAccess=main", "WatchdogSec=0"]
    for name in _COMMANDS:
        found = commands(unit, name)
        lines += [f"{name}="] if found else []
        lines += [f"{name}={_command(workload, argv, flags)}" for _, argv, flags in found]
    # 125: not started, or enforcerd went away under it.
    lines.append("RestartForceExitStatus=125")
    if unit.properties.get("RestartUSec", 0) < _LEAST_PAUSE_US:
        lines.append("RestartSec=3s")
    # The launcher: a relay between the program's pipes and the journal, which needs nothing else.
    lines += ["NoNewPrivileges=yes", "CapabilityBoundingSet=", "AmbientCapabilities=", "RestrictAddressFamilies=AF_UNIX", "RestrictNamespaces=yes"]
    lines += ["RestrictRealtime=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes", "SystemCallArchitectures=native", "LimitCORE=1"]
    return "\n".join(lines) + "\n"


def _command(workload: str, argv: list[str], flags: list[str]) -> str:
    prefix = "".join(_PREFIXES[flag] for flag in sorted(flags))
    if _only_signals(argv):
        return prefix + " ".join(quoted(word) for word in argv)
    return f"{prefix}{LAUNCHER} run --workload {workload} --as-service -- {' '.join(quoted(word) for word in argv)}"


def quoted(word: str) -> str:
    """Return ``word`` as systemd reads it back, specifiers and quotes and all (systemd.service(5), "Command lines").

    ``$`` stays: what systemd gives us is not expanded yet, and will be when the launcher starts.
    """
    if re.fullmatch(r"[A-Za-z0-9_./:=,@+${}-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    # Every control character: a bare carriage return ends a line of a unit file too.
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", escaped) + '"'


# -- systemd -------------------------------------------------------------------------------------------------------------------


def read_unit(name: str) -> Unit:
    """Return the service called ``name`` as it is without our drop-in.

    Raises:
        HostagentError: there is none, or systemd does not answer.
    """
    if not _NAME.fullmatch(name):
        raise HostagentError(f"{name}: only a system service (NAME.service) can be adopted")
    if dropin(name).exists():
        raise HostagentError(f"{name} is adopted already: hostagent unadopt {name} first")
    bus = ["busctl", "--system", "--json=short", "call", "org.freedesktop.systemd1"]
    (place,) = _json(*bus, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "LoadUnit", "s", name)
    properties: dict[str, Any] = {}
    for interface in ("Unit", "Service"):
        (found,) = _json(*bus, place, "org.freedesktop.DBus.Properties", "GetAll", "s", f"org.freedesktop.systemd1.{interface}")
        properties |= {key: value["data"] for key, value in found.items()}
    if properties["LoadState"] != "loaded":
        raise HostagentError(f"{name}: {properties['LoadState']}; systemctl status {name} says more")
    return Unit(name, properties, settings_in(call("systemctl", "cat", "--no-pager", name)))


def settings_in(text: str) -> frozenset[str]:
    """Return the names that unit files set to something in [Service]."""
    names, section, whole = set(), "", text.replace("\\\n", " ")
    for line in whole.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped
        elif section == "[Service]" and not stripped.startswith(("#", ";")) and "=" in stripped:
            names.add(stripped.partition("=")[0].strip())
    return frozenset(names)


def dropin(name: str) -> Path:
    """Return where the drop-in of ``name`` is."""
    return FOLDER / f"{name}.d" / DROPIN


def adopted() -> list[str]:
    """Return the names of the adopted units."""
    return sorted(path.parent.name.removesuffix(".d") for path in FOLDER.glob(f"*.service.d/{DROPIN}"))


def put(unit: Unit, text: str) -> None:
    """Write the drop-in, have it read, and see that every command of the unit is now governed.

    Raises:
        HostagentError: it cannot be written, or another drop-in comes after it; nothing is left of it.
    """
    place = dropin(unit.name)
    place.parent.mkdir(mode=0o755, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    place.chmod(0o644)
    try:
        call("systemctl", "daemon-reload")
        said = call("systemctl", "show", unit.name, *(f"--property={name}" for name in _COMMANDS))
        for line in said.splitlines():
            path = re.search(r"path=(\S+)", line)
            if path and path[1] not in (LAUNCHER, *_KILL):
                raise HostagentError(f"{unit.name}: another drop-in comes after ours and would run {path[1]} ungoverned; nothing was changed")
    except HostagentError:
        take_away(unit.name)
        raise


def take_away(name: str) -> None:
    """Remove the drop-in of ``name``, and its folder if nothing else is in it.

    Raises:
        HostagentError: it is not adopted.
    """
    place = dropin(name)
    if not place.exists():
        raise HostagentError(f"{name} is not adopted")
    place.unlink()
    if not any(place.parent.iterdir()):
        place.parent.rmdir()
    call("systemctl", "daemon-reload")


def _json(*command: str) -> list[Any]:
    data: list[Any] = json.loads(call(*command))["data"]
    return data


def call(*command: str) -> str:
    """Run a tool of systemd's and return what it printed.

    Raises:
        HostagentError: it is not there, took too long, or failed.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_CALL_S, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostagentError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise HostagentError(done.stderr.strip() or f"{' '.join(command[:2])}: status {done.returncode}")
    return done.stdout
