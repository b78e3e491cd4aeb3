"""``hostagent up``: the three processes in the foreground, each under its own user, restarted when one dies.

What systemd does with three units, for a machine (or a demo, or a test) that has no systemd.
"""

from __future__ import annotations

import grp
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostagent.daemon import UNINSTALLED
from hostagent.daemon.accounts import account_of
from hostagent.daemon.configfile import STARTED, load_started, load_targets, load_workloads
from hostagent.daemon.credentials import gather, seal
from hostagent.daemon.placing import place
from hostagent.documents import Config
from hostagent.documents.drafts import written
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)

_STARTUP_S = 120.0  # enforcerd may have to compile its eBPF programs: a second, or a minute on an emulated processor
_STEADY_S = 30.0
"""A child that ran for so long is started again at once when it ends."""
_STOP_S = 10.0
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass
class _Child:
    """One supervised process. ``user`` empty means root."""

    name: str
    module: str
    user: str
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0


class Supervisor:
    """Prepares the folders, starts the children, and keeps them."""

    def __init__(self, config: Config, config_path: str | None, ready_fd: int | None) -> None:
        """``ready_fd`` gets one line when all three are ready."""
        self._config = config
        self._config_path = config_path
        self._ready_fd = ready_fd
        self._stopping = False
        self._reload = False
        self._readers: dict[str, int] = {}
        self._children = [
            _Child("enforcerd", "hostagent.daemon.enforcerd", ""),
            _Child("proxyd", "hostagent.daemon.proxyd", config.users.proxy),
            _Child("recorderd", "hostagent.daemon.recorderd", config.users.recorder),
        ]

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s up: %(message)s", stream=sys.stderr)
        if os.geteuid() != 0:
            raise HostagentError("hostagent up must be run as root: enforcerd sets up namespaces, cgroups and nft")
        load_workloads(self._config)
        load_targets(self._config)
        prepare_folders(self._config)
        started = Path(self._config.paths.runtime) / "hostagent.toml"
        place(started, written(self._config), replace=True)
        os.environ[STARTED] = str(started)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._asked_to_reload)
        try:
            return self._supervise()
        finally:
            self._end_all()
            started.unlink(missing_ok=True)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _asked_to_reload(self, _number: int, _frame: object) -> None:
        self._reload = True

    def _supervise(self) -> int:
        for child in self._children:
            self._start(child)
            if not self._stopping and not self._wait_ready(child):
                status = None if child.process is None else child.process.poll()
                what = f"was not ready within {_STARTUP_S:.0f} s" if status is None else f"ended at once, with status {status}"
                raise HostagentError(f"{child.name} {what}; see its messages above")
        if self._ready_fd is not None and not self._stopping:
            os.write(self._ready_fd, b"ready\n")
        while not self._stopping:
            time.sleep(0.05)
            if self._reload:
                self._pass_reload_on()
            for child in self._children:
                self._look_after(child)
        return 0

    def _pass_reload_on(self) -> None:
        """Have enforcerd reload: it reads everything, and gives the proxy the same. What cannot be used changes nothing."""
        self._reload = False
        enforcerd = self._children[0]
        if enforcerd.process is not None:
            enforcerd.process.send_signal(signal.SIGHUP)

    def _look_after(self, child: _Child) -> None:
        if child.process is not None and child.process.poll() is not None:
            if child.process.returncode == UNINSTALLED:
                log.info("uninstalled: the fence is gone, everything stops")
                self._stopping = True
                return
            log.warning("%s ended with status %s", child.name, child.process.returncode)
            child.process = None
            if time.monotonic() - child.started_at > _STEADY_S:
                child.deaths = 0
            child.restart_at = time.monotonic() + _BACKOFF_S[min(child.deaths, len(_BACKOFF_S) - 1)]
            child.deaths += 1
        elif child.process is None and time.monotonic() >= child.restart_at:
            try:
                self._start(child)
            except (HostagentError, OSError) as error:
                log.error("%s cannot be started: %s", child.name, error)
                child.restart_at = time.monotonic() + _BACKOFF_S[-1]

    def _start(self, child: _Child) -> None:
        reader, writer = os.pipe()
        passed = [writer]
        command = [sys.executable, "-m", child.module, "--ready-fd", str(writer)]
        if self._config_path:
            command += ["--config", str(Path(self._config_path).resolve())]
        if child.name == "proxyd":
            config = load_started(self._config_path)
            secrets = gather(load_targets(config), config)
            for name, problem in secrets.problems.items():
                log.error("target %s cannot be used: %s", name, problem)
            credentials = seal(secrets)
            passed.append(credentials)
            command += ["--credentials-fd", str(credentials)]
        environment = {key: os.environ[key] for key in ("PATH", "LANG", "PYTHONPATH", "TZ", STARTED) if key in os.environ}
        environment["PYTHONUNBUFFERED"] = "1"
        if not child.user and "CREDENTIALS_DIRECTORY" in os.environ:  # a reload reads credentials again, as root
            environment["CREDENTIALS_DIRECTORY"] = os.environ["CREDENTIALS_DIRECTORY"]
        if not child.user and "CACHE_DIRECTORY" in os.environ:
            environment["CACHE_DIRECTORY"] = os.environ["CACHE_DIRECTORY"]
        try:
            child.process = subprocess.Popen(
                drop_privileges(child.user, command),
                pass_fds=passed,
                env=environment,
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            for descriptor in passed:
                os.close(descriptor)
        child.started_at = time.monotonic()
        previous = self._readers.pop(child.name, None)
        if previous is not None:
            os.close(previous)
        self._readers[child.name] = reader

    def _wait_ready(self, child: _Child) -> bool:
        reader = self._readers[child.name]
        until = time.monotonic() + _STARTUP_S
        while time.monotonic() < until and not self._stopping:
            readable, _, _ = select.select([reader], [], [], 0.1)
            if readable:
                # Told to stop while we start, systemd tells the child as well: that it ended is no failure then.
                return os.read(reader, 64) != b"" or self._stopping
            if child.process is not None and child.process.poll() is not None:
                return self._stopping
        return self._stopping

    def _end_all(self) -> None:
        # The recorder last: it still publishes what the other two record about their end.
        enforcerd, proxyd, recorderd = self._children
        for child in (proxyd, enforcerd, recorderd):
            if child.process is None or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                child.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                log.exception("%s did not stop within %.0f s; killed", child.name, _STOP_S)
                child.process.kill()
                child.process.wait()


def drop_privileges(user: str, command: Sequence[str]) -> list[str]:
    """Return ``command`` wrapped so that it runs as ``user`` with no capability left and none to be had."""
    if not user:
        return list(command)
    account = account_of(user)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise HostagentError("setpriv is missing: apt-get install util-linux")
    return [
        setpriv,
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
        "--pdeathsig=TERM",
        "--",
        *command,
    ]


def prepare_folders(config: Config) -> None:
    """Make the state and runtime folders with the owners and modes that keep the processes apart."""
    proxy = account_of(config.users.proxy)
    recorder = account_of(config.users.recorder)
    recorder_group = grp.getgrgid(recorder.pw_gid).gr_gid
    _folder(config.paths.state, 0, 0, 0o755)
    _folder(config.paths.runtime, 0, 0, 0o755)
    _folder(f"{config.paths.runtime}/proxyd", proxy.pw_uid, proxy.pw_gid, 0o755)
    _folder(config.proxy_state, proxy.pw_uid, proxy.pw_gid, 0o700)
    _folder(config.evidence, recorder.pw_uid, recorder_group, 0o750)
    _folder(str(Path(config.sealed_credentials).parent), 0, proxy.pw_gid, 0o750)
    _folder(config.journal, 0, recorder_group, 0o751)
    # Set-group-id: what a writer creates in its folder belongs to the recorder's group, which may read but not write it.
    _folder(f"{config.journal}/enforcerd", 0, recorder_group, 0o2750)
    _folder(f"{config.journal}/proxyd-0", proxy.pw_uid, recorder_group, 0o2750)


def _folder(path: str, uid: int, gid: int, mode: int) -> None:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, uid, gid)
    folder.chmod(mode)
