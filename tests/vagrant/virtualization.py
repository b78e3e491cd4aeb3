"""libvirt on a machine that does not run it: daemons by hand, in namespaces, with state in a folder that goes away."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.vm.progress import PhaseError, Progress

Run = Callable[[str, int], None]
"""Run a shell command, repeating its words; its bound in seconds."""

_QEMU_CONF = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
_STATE = ("/run", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
_READY_S = 180


class Virtualization:
    """libvirtd and virtlogd while the context lasts. The caller is in network, mount and process namespaces of its own."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        """``folder``: where state, disks and Vagrant's own home are kept."""
        self._folder = folder
        self._progress = progress
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Mount the state over the machine's own, and start the daemons."""
        for path in _STATE:
            own = self._folder / ("state" + path.replace("/", "-"))
            own.mkdir(parents=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            _call("mount", "--bind", str(own), path)
        # What libvirt is told and what it notes of machines, networks and pools lie in one folder.
        settings = self._folder / "settings"
        shutil.copytree("/etc/libvirt", settings)
        (settings / "qemu.conf").write_text(_QEMU_CONF, encoding="ascii")
        _call("mount", "--bind", str(settings), "/etc/libvirt")
        # sysfs shows the interfaces of the network namespace that it was mounted in; what was mounted below the old one (cgroups,
        # which libvirt would want to divide) goes with it.
        _call("umount", "--lazy", "--recursive", "/sys")
        _call("mount", "-t", "sysfs", "sysfs", "/sys")
        _call("ip", "link", "set", "lo", "up")
        for name in ("virtlogd", "libvirtd"):
            with (self._folder / f"{name}.log").open("wb") as log:
                self._daemons.append(subprocess.Popen([f"/usr/sbin/{name}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self._wait()
        return self

    def _wait(self) -> None:
        # Asked at once, it may answer that caller never: a bound for each question, and another one.
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            time.sleep(1)
            asked = ["timeout", "10", "virsh", "-c", "qemu:///system", "version"]
            if not subprocess.run(asked, capture_output=True, check=False, timeout=30).returncode:
                return
        said = (self._folder / "libvirtd.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise PhaseError(f"{said}\nlibvirtd does not answer after {_READY_S} s")

    def __exit__(self, *_: object) -> None:
        """End the daemons; what they started ends with the process namespace."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(30)
        for path in ("/etc/libvirt", *reversed(_STATE)):
            subprocess.run(["umount", "-l", path], check=False, timeout=30)

    def runner(self, folder: Path, settings: Mapping[str, str]) -> Run:
        """Return what runs commands in ``folder`` with Vagrant set to this libvirt and to ``settings``."""
        environment = {
            **os.environ,
            "VAGRANT_HOME": str(self._folder / "home"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "LIBVIRT_DEFAULT_URI": "qemu:///system",
            **settings,
        }

        def run(command: str, seconds: int) -> None:
            self._progress.say(f"$ {command}")
            child = subprocess.Popen(
                ["timeout", "--kill-after=10", str(seconds), "bash", "-c", command], cwd=folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            assert child.stdout is not None
            for line in child.stdout:
                if text := re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip():
                    self._progress.say(f"  {text}")
            code = child.wait()
            if code:
                raise PhaseError(f"{command}: " + (f"not done after {seconds} s" if code in {124, 137} else f"status {code}"))

        return run


def reap() -> None:
    """As the first process of a process namespace: go on in a child, and wait for whatever is orphaned until that has ended.

    libvirt asks qemu what it can by processes that leave their parent; one that nobody waits for counts as not ended (20 s each).
    """
    child = os.fork()
    if not child:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _call(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)
