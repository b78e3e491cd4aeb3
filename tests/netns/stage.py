"""A host in network namespaces of its own: enforcerd on it, a stand-in proxy, and a sink at the other end of its only wire."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from hostagent.enforcer import kernel
from hostagent.enforcer.removal import remove_everything
from tests.netns.manager import Manager
from tests.stage.uids import FIRST_UID

REPOSITORY = Path(__file__).resolve().parents[2]
FIREWALL = os.environ.get("HOSTAGENT_TEST_FIREWALL", "auto")
"""``HOSTAGENT_TEST_FIREWALL=iptables pytest -k 'not shared' ...`` runs any of these suites on the other firewall."""
BPF = os.environ.get("HOSTAGENT_TEST_BPF", "auto")
"""``HOSTAGENT_TEST_BPF=off`` runs them without eBPF."""

PROXY_UID = 61000
SINK_4, HOST_4 = "203.0.113.1", "203.0.113.2"
SINK_6, HOST_6 = "2001:db8:1::1", "2001:db8:1::2"
_RUN = "import sys; from hostagent.cli.relay import relay; sys.exit(relay(sys.argv[1], sys.argv[2], sys.argv[4:], tty=sys.argv[3] == 'tty'))"
_WAIT_S = 20.0


def new_network() -> int:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            kernel.setns(home, kernel.CLONE_NEWNET)
    finally:
        os.close(home)


def wait_for(what: str, condition: Any, seconds: float = _WAIT_S) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"timed out waiting for {what}")


class Stage:
    """Built by ``stage``; everything it makes is taken down again."""

    sink_module = "tests.netns.sink"
    proxy_module = "tests.netns.standin_proxy"

    def __init__(self, folder: Path, workloads: Sequence[Mapping[str, object]], loopback_ports: Sequence[int]) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self.tag = secrets.token_hex(3)
        self.slice = f"hatest-{self.tag}.slice"
        self.runtime = folder / "run"
        self.proxy_log = folder / "proxy.log"
        self.sink_log = folder / "sink.log"
        self.journal = folder / "journal.log"
        self.proxy_log.touch()
        os.chown(self.proxy_log, PROXY_UID, PROXY_UID)
        (folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nhost CA\n-----END CERTIFICATE-----\n")
        (folder / "state").mkdir()
        (folder / "state" / "password").write_text("swordfish")
        self.settings: dict[str, Any] = {
            "runtime": str(self.runtime),
            "proxy_uid": PROXY_UID,
            "uid_first": FIRST_UID,
            "slice": self.slice,
            "table": f"ha{self.tag}",
            "journal": str(self.journal),
            "ca": str(folder / "ca.pem"),
            "workloads": [dict(each) for each in workloads],
            "loopback_ports": list(loopback_ports),
            "hidden": [str(folder / "state"), "/etc/hostagent", "/var/lib/hostagent"],
        }
        self.host = new_network()
        self.internet = new_network()
        self.enforcer: subprocess.Popen[str] | None = None
        self.proxy: subprocess.Popen[bytes] | None = None
        self.sink: subprocess.Popen[bytes] | None = None
        self.manager: Manager | None = None

    @property
    def socket_path(self) -> str:
        return str(self.runtime / "enforcerd.sock")

    def wire(self) -> None:
        with kernel.in_network(self.host), IPRoute() as host:
            lo = host.link_lookup(ifname="lo")[0]
            host.link("set", index=lo, state="up")
            host.link("add", ifname="wan", kind="veth", peer={"ifname": "lan", "net_ns_fd": self.internet})
            self._address(host, "wan", HOST_4, HOST_6)
            host.route("add", dst="0.0.0.0/0", gateway=SINK_4)
            host.route("add", dst="::/0", gateway=SINK_6)
        with kernel.in_network(self.internet), IPRoute() as internet:
            internet.link("set", index=internet.link_lookup(ifname="lo")[0], state="up")
            self._address(internet, "lan", SINK_4, SINK_6)
            # The sink is every address there is.
            lo = internet.link_lookup(ifname="lo")[0]
            internet.route("add", type="local", dst="0.0.0.0/0", oif=lo, table=255, scope=254)
            internet.route("add", type="local", dst="::/0", oif=lo, table=255)
            internet.route("add", dst=f"{HOST_4}/32", oif=internet.link_lookup(ifname="lan")[0], table=255, type="unicast")
            internet.route("add", dst=f"{HOST_6}/128", oif=internet.link_lookup(ifname="lan")[0], table=255, type="unicast")

    @staticmethod
    def _address(routes: Any, name: str, four: str, six: str) -> None:
        index = routes.link_lookup(ifname=name)[0]
        routes.link("set", index=index, state="up")
        routes.addr("add", index=index, address=four, prefixlen=24)
        routes.addr("add", index=index, address=six, prefixlen=64, flags=0x02)  # IFA_F_NODAD: usable at once

    def _spawn(self, module: str, *arguments: str, network: int, **options: Any) -> subprocess.Popen[Any]:
        def enter() -> None:
            kernel.setns(network, kernel.CLONE_NEWNET)
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
            if "uid" in options:
                os.setgroups([])
                os.setresgid(PROXY_UID, PROXY_UID, PROXY_UID)
                os.setresuid(PROXY_UID, PROXY_UID, PROXY_UID)

        given = {key: value for key, value in options.items() if key != "uid"}
        return subprocess.Popen(
            [sys.executable, "-B", "-m", module, *arguments], cwd=REPOSITORY, preexec_fn=enter, stdin=subprocess.DEVNULL, **given  # noqa: PLW1509 - one thread
        )

    def start_sink(self) -> None:
        self.sink = self._spawn(self.sink_module, "lan", str(self.sink_log), network=self.internet)
        wait_for("the sink", lambda: self.sink_log.exists() and self.sink_log.read_text())

    def start_enforcer(self) -> None:
        words: list[str] = []
        options: dict[str, Any] = {}
        if self.manager is not None:
            self.manager.hear()
            words, descriptors = self.manager.command()
            options = {"env": {**os.environ, "NOTIFY_SOCKET": str(self.manager.path)}, "pass_fds": descriptors}
        words += ["tests.netns.enforcer_process", json.dumps(self.settings)]
        with open(self.folder / "enforcer.log", "a") as log:
            self.enforcer = self._spawn(*words, network=self.host, stdout=subprocess.PIPE, stderr=log, text=True, **options)
        assert self.enforcer.stdout is not None
        line = self.enforcer.stdout.readline()
        assert line == "ready\n", (self.folder / "enforcer.log").read_text()

    def start_proxy(self) -> None:
        """Start it in a network of its own: what it serves must not depend on where it is."""
        if self.proxy is not None:
            self.proxy.kill()
            self.proxy.wait()
        with open(self.folder / "proxy.err", "a") as errors:
            arguments = (self.socket_path, str(self.proxy_log))
            self.proxy = self._spawn(self.proxy_module, *arguments, network=self.internet, uid=PROXY_UID, stderr=errors)
        wait_for("the proxy", lambda: self.status()["proxy"] == "standin" or self.proxy.poll() is not None)
        assert self.proxy.poll() is None, (self.folder / "proxy.err").read_text()

    def close_enforcer(self) -> None:
        assert self.enforcer is not None
        assert self.enforcer.stdout is not None
        self.enforcer.terminate()
        self.enforcer.wait(20)
        self.enforcer.stdout.close()

    def enforcer_settings(self, **settings: Any) -> None:
        """Start enforcerd and the proxy anew with other settings."""
        for process in (self.proxy, self.enforcer):
            assert process is not None
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
        self.settings.update(settings)
        self.start_enforcer()
        self.start_proxy()

    def stop_proxy(self) -> None:
        assert self.proxy is not None
        self.proxy.kill()
        self.proxy.wait()
        wait_for("enforcerd to notice", lambda: self.status()["proxy"] == "")

    def status(self) -> dict[str, Any]:
        from hostagent.cli.enforcerlink import EnforcerConnection
        from hostagent.ipc import Status, StatusReport

        with contextlib.closing(EnforcerConnection(self.socket_path)) as connection:
            return connection.ask(Status(), StatusReport)[0].report

    def start(self, workload: str, *command: str, tty: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a governed program through the command line's own relay."""
        arguments = [sys.executable, "-B", "-c", _RUN, self.socket_path, workload, "tty" if tty else "no", *command]
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
        return subprocess.Popen(arguments, **(defaults | options))

    def run(self, workload: str, *command: str, text: str = "", tty: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(workload, *command, tty=tty, stdin=subprocess.PIPE, **options)
        out, err = process.communicate(text, timeout=60)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def probe(self, workload: str, script: str, **values: object) -> Any:
        """Run a Python script inside; it prints JSON, which is returned. ``values`` are its globals."""
        prelude = "".join(f"{key} = {value!r}\n" for key, value in values.items())
        done = self.run(workload, "/usr/bin/python3", "-I", "-", text=prelude + script)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def outside(self, script: str, **values: object) -> Any:
        """Run a Python script on the host, ungoverned; it prints JSON, which is returned."""
        prelude = "".join(f"{key} = {value!r}\n" for key, value in values.items())
        with kernel.in_network(self.host):
            done = subprocess.run(["/usr/bin/python3", "-I", "-"], input=prelude + script, text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def served(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.proxy_log.read_text().splitlines()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [row for row in rows if row["kind"] == kind]

    def findings(self) -> list[dict[str, Any]]:
        """The auditor's rows, but for sockets that other runs of tests beside this one made in view."""
        return [row for row in self.events("audit") if row["finding"] != "unix-listener" or str(self.folder) in str(row["detail"])]

    def seen_by_sink(self) -> list[str]:
        return [row["frame"] for row in map(json.loads, self.sink_log.read_text().splitlines()) if "frame" in row]

    def leaked(self, before: int) -> list[str]:
        """Return what the sink saw after its first ``before`` frames, once everything under way has arrived.

        An ungoverned datagram marks the end, so that an empty answer means that the sink was listening.
        """
        end = f"sentinel {secrets.token_hex(8)}".encode()
        with kernel.in_network(self.host), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(end, (SINK_4, 9999))
        frames = wait_for("the sentinel", lambda: [f for f in self.seen_by_sink() if end.hex() in f] and self.seen_by_sink())
        return [frame for frame in frames[before:] if b"sentinel ".hex() not in frame]

    def nft(self, *arguments: str) -> str:
        with kernel.in_network(self.host):
            return subprocess.run(["nft", *arguments], text=True, capture_output=True, check=True).stdout

    def close(self) -> None:
        for process, number in ((self.enforcer, signal.SIGTERM), (self.proxy, signal.SIGKILL), (self.sink, signal.SIGKILL)):
            if process is not None and process.poll() is None:
                process.send_signal(number)
                process.wait(20)
            if process is not None and process.stdout is not None:
                process.stdout.close()
        if self.manager is not None:
            self.manager.hear()
            self.manager.close()
        with kernel.in_network(self.host):
            remove_everything(self.slice, self.settings["table"], str(self.runtime))
        os.close(self.host)
        os.close(self.internet)


@contextlib.contextmanager
def stage(
    folder: Path,
    workloads: Sequence[Mapping[str, object]],
    *,
    loopback_ports: Sequence[int] = (5432,),
    proxy: bool = True,
    plain_table: bool = False,
    bpf: str = BPF,
    firewall: str = FIREWALL,
    kind: type[Stage] = Stage,
    unix_targets: Sequence[str] = (),
) -> Iterator[Stage]:
    built = kind(folder, workloads, loopback_ports)
    built.settings["plain_table"] = plain_table
    built.settings["bpf"] = bpf
    built.settings["unix_targets"] = list(unix_targets)
    built.settings["firewall"] = firewall
    try:
        built.wire()
        built.start_sink()
        built.start_enforcer()
        if proxy:
            built.start_proxy()
        yield built
    finally:
        built.close()


def unix_socket_pair(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    path.chmod(0o777)
    server.listen()
    return server
