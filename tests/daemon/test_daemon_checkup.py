"""Every finding of ``hostagent doctor`` that a namespace can bring about is brought about, and named with its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hostagent.daemon.checkup import authorities, clock
from hostagent.enforcer.doctor import State
from hostagent.proxy.authority import open_authority

pytestmark = pytest.mark.root

_TARGET = "protocol: postgres\nhosts: [{host}]\nlogin: {{user: u, credential: {{{credential}}}}}\n"

Checks = dict[str, dict[str, Any]]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A configuration with nothing wrong, accounts that exist, and programs that every account can run."""
    for folder in ("targets", "workloads", "policy"):
        (tmp_path / "etc" / folder).mkdir(parents=True)
    (tmp_path / "secret").write_text("canary-secret")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "etc/targets/good.yaml").write_text(_TARGET.format(host="localhost", credential=f"file: {tmp_path}/secret"))
    (tmp_path / "etc/workloads/bot.yaml").write_text("launchers: [root]\nidentity: {kind: local}\n")
    (tmp_path / "state/proxyd").mkdir(parents=True)
    (tmp_path / "state/proxyd").chmod(0o700)
    os.chown(tmp_path / "state/proxyd", 65534, 65534)
    (tmp_path / "h.toml").write_text(f'[paths]\nconfig = "{tmp_path}/etc"\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n[users]\nproxy = "nobody"\nrecorder = "daemon"\n')
    return tmp_path


def doctor(host: Path, breaking: str = "true") -> tuple[int, Checks]:
    """Run the doctor where ``breaking`` (a shell command) has been done, in mounts and a network of its own."""
    script = f"set -e\n{breaking}\nexec {sys.executable} -m hostagent doctor --json"
    done = subprocess.run(
        ["unshare", "-n", "-m", "--propagation", "private", "sh", "-c", script],
        env={**os.environ, "HOSTAGENT_CONFIG": str(host / "h.toml"), "HOST": str(host)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("["), done.stdout + done.stderr
    assert "canary-secret" not in done.stdout + done.stderr
    checks: Checks = {check["id"]: check for check in json.loads(done.stdout)}
    for check in checks.values():
        assert bool(check["why"] and check["fix"]) == (check["state"] != "ok"), check
    return done.returncode, checks


def bad(checks: Checks) -> dict[str, str]:
    return {check["id"]: check["state"] for check in checks.values() if check["state"] != "ok"}


def test_a_host_with_nothing_wrong_is_told_so(host: Path) -> None:
    code, checks = doctor(host)
    host_itself = {"clock", "nft.owner", "kernel.landlock", "sysctl.kernel.yama.ptrace_scope", "sysctl.kernel.unprivileged_bpf_disabled", "disk.space"}
    assert bad(checks).keys() <= host_itself, bad(checks)
    assert code == (1 if bad(checks) else 0)
    assert checks["target.good.localhost"]["detail"]


def test_what_the_kernel_and_the_machine_lack_is_named(host: Path) -> None:
    code, checks = doctor(
        host,
        """
        mkdir -p $HOST/empty $HOST/bin && echo 0 > $HOST/zero
        for path in /usr/src /lib/modules /etc/ssl/certs; do mount --bind $HOST/empty $path; done
        mount --bind $HOST/zero /proc/sys/kernel/unprivileged_bpf_disabled
        mount -t tmpfs -o size=1m full $HOST/state
        mount -t tmpfs -o mode=755 systemd /run && mkdir -p /run/systemd/system
        printf '#!/bin/sh\\necho disabled\\nexit 1\\n' > $HOST/bin/systemctl && chmod 755 $HOST/bin/systemctl
        nft add table ip theirs
        for path in $(awk '$3 == "cgroup2" {print $2}' /proc/mounts); do umount -l $path; done
        export PATH=$HOST/bin:$PATH
        """,
    )
    found = bad(checks)
    assert code == 2
    wanted = {
        "cgroup.v2": "fail", "kernel.cgroup-bpf": "warn", "bpf.compiler": "warn", "ca.bundle": "fail",
        "sysctl.kernel.unprivileged_bpf_disabled": "warn", "disk.space": "fail", "firewall.others": "warn", "units": "warn",
    }  # fmt: skip
    assert {name: state for name, state in found.items() if name in wanted} == wanted
    assert "nft.features" not in checks, "without cgroups there is no cgroup match: iptables would have to do"
    assert checks["cgroup.v2"]["fix"] == "mount -t cgroup2 none /sys/fs/cgroup"
    assert checks["firewall.others"]["detail"] == "ip theirs"
    assert checks["bpf.compiler"]["fix"].startswith("apt-get install python3-bpfcc")


def test_programs_that_are_not_installed_are_named_with_their_packages(host: Path) -> None:
    code, checks = doctor(
        host,
        """
        mkdir $HOST/bin
        for each in sh awk cat id mount umount; do ln -s $(command -v $each) $HOST/bin/$each; done
        export PATH=$HOST/bin
        """,
    )
    assert code == 2
    assert checks["tool.setpriv"]["fix"] == "apt-get install util-linux"
    assert checks["tool.nft"]["fix"] == "apt-get install nftables"
    assert checks["iptables.instead"]["state"] == "fail"


def test_documents_credentials_and_folders_that_are_wrong_are_named(host: Path) -> None:
    targets = host / "etc/targets"
    (host / "open").write_text("canary-secret")
    (host / "open").chmod(0o644)
    (targets / "gone.yaml").write_text(_TARGET.format(host="no-such-host.invalid", credential=f"file: {host}/missing"))
    (targets / "open.yaml").write_text(_TARGET.format(host="127.0.0.2", credential=f"file: {host}/open"))
    (targets / "sealed.yaml").write_text(_TARGET.format(host="127.0.0.3", credential="sealed: crm"))
    (targets / "unit.yaml").write_text(_TARGET.format(host="127.0.0.4", credential="systemd: crm"))
    (host / "etc/workloads/bad.yaml").write_text("launchres: [root]\n")
    (host / "etc/policy/bad.yaml").write_text("version: 1\nrules: [{id: x, tehn: allow}]\n")
    (host / "state/proxyd").chmod(0o755)
    (host / "etc").chmod(0o777)
    code, checks = doctor(host)
    found = bad(checks)
    assert code == 2
    wanted = {
        "config.workloads": "fail", "config.policy": "fail", "credential.gone": "fail", "credential.open": "fail", "credential.sealed": "fail",
        "target.gone.no-such-host.invalid": "warn", f"folder.{host}/etc": "fail", f"folder.{host}/state/proxyd": "fail",
    }  # fmt: skip
    assert {name: state for name, state in found.items() if name in wanted} == wanted
    assert checks["credential.unit"]["state"] == "ok"
    assert checks["credential.sealed"]["fix"] == "hostagent credential set crm"
    assert checks[f"folder.{host}/state/proxyd"]["fix"] == f"chown 65534 {host}/state/proxyd && chmod 700 {host}/state/proxyd"
    assert "bad:1" in checks["config.workloads"]["detail"]


def test_a_configuration_that_cannot_be_read_is_a_finding_and_no_crash(host: Path) -> None:
    (host / "h.toml").write_text("[paths\n")
    code, checks = doctor(host)
    assert (code, checks["config.file"]["state"]) == (2, "fail")


def test_a_clock_that_nobody_keeps_is_a_warning() -> None:
    assert clock(lambda: 0x2001).state is State.OK
    assert (clock(lambda: 0x2041).state, clock(lambda: 0x40).fix.startswith("apt-get install systemd-timesyncd")) == (State.WARN, True)


def test_a_ca_that_ends_soon_is_a_warning_and_one_that_ended_a_failure(tmp_path: Path) -> None:
    place = tmp_path / "ca.pem"
    assert authorities(place, 0.0) == []
    open_authority(tmp_path, place)
    now, day = time.time(), 86_400.0
    states = [authorities(place, now + days * day)[0] for days in (0, 3640, 3660)]
    assert [check.state for check in states] == [State.OK, State.WARN, State.FAIL]
    assert states[1].fix.startswith("hostagent ca rotate")
    place.write_text("garbage")
    assert authorities(place, now)[0].state is State.FAIL


def test_without_root_there_is_one_finding_and_its_command(host: Path) -> None:
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "hostagent", "doctor", "--json"]
    done = subprocess.run(command, env={**os.environ, "HOSTAGENT_CONFIG": "/dev/null"}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert [check["fix"] for check in json.loads(done.stdout)] == ["sudo hostagent doctor"]
