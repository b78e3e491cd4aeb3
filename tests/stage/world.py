"""The agent host's accounts and the database host behind a veth pair. Call inside private net and mount namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

AGENT_V4, DATABASE_V4 = "10.77.0.1", "10.77.0.2"
AGENT_V6, DATABASE_V6 = "fd77::1", "fd77::2"
DATABASE_NAME = "crm.internal"
REPOSITORY = Path(__file__).resolve().parents[2]
ACCOUNTS = {"hostagent": 901, "hostagent-rec": 902, "dana": 1901, "lee": 1902}
APPROVERS_GROUP = "hostagent-approvers"
_BIN = Path("/usr/lib/postgresql/15/bin")


class World:
    """Builds the stage on entry and removes it on exit. ``folder`` holds everything; it is on a private tmpfs."""

    def __init__(self) -> None:
        """Nothing happens before ``__enter__``."""
        self.root = Path("/mnt")
        self.folder = self.root / "stage"
        self.repository = self.root / "hostagent"
        self._holder: subprocess.Popen[bytes] | None = None
        self._sinks: subprocess.Popen[bytes] | None = None
        self._postgres: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Build accounts, network, database and sinks."""
        try:
            self._mounts()
            self._accounts()
            self._network()
            self._sinks_start()
            self._database()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes and unmount."""
        # SIGINT is PostgreSQL's fast shutdown; others may have it ignored, when all this runs in a shell's background.
        ends = ((self._postgres, signal.SIGINT), (self._sinks, signal.SIGTERM), (self._holder, signal.SIGTERM))
        for process, number in ends:
            if process is not None and process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process is not None and process.stdout is not None:
                process.stdout.close()
        for mounted in ("/etc/hosts", "/etc/group", "/etc/passwd", str(self.repository), str(self.root)):
            subprocess.run(["umount", "-l", mounted], check=False, stderr=subprocess.DEVNULL)

    # -- the agent host --------------------------------------------------------------------------------------------------

    def _mounts(self) -> None:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "stage", str(self.root))
        self.folder.mkdir()
        self.repository.mkdir()
        # A clone may lie in a home that no other account can read; the unprivileged processes use this view of it.
        run("mount", "--bind", str(REPOSITORY), str(self.repository))

    def _accounts(self) -> None:
        passwd = Path("/etc/passwd").read_text(encoding="utf-8").rstrip("\n").splitlines()
        group = Path("/etc/group").read_text(encoding="utf-8").rstrip("\n").splitlines()
        known = {line.partition(":")[0] for line in passwd}
        known_groups = {line.partition(":")[0] for line in group}
        for name, number in ACCOUNTS.items():
            if name not in known:
                passwd.append(f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin")
            if name not in known_groups:
                group.append(f"{name}:x:{number}:")
        if APPROVERS_GROUP not in known_groups:
            group.append(f"{APPROVERS_GROUP}:x:1900:dana")
        hosts = Path("/etc/hosts").read_text(encoding="utf-8").rstrip("\n").splitlines()
        hosts += [f"{DATABASE_V4} {DATABASE_NAME}", f"{DATABASE_V6} {DATABASE_NAME}"]
        for path, lines in (("/etc/passwd", passwd), ("/etc/group", group), ("/etc/hosts", hosts)):
            copy = self.folder / Path(path).name
            copy.write_text("\n".join(lines) + "\n", encoding="utf-8")
            copy.chmod(0o644)
            run("mount", "--bind", str(copy), path)

    # -- the database host -----------------------------------------------------------------------------------------------

    def _network(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{self.holder}/ns/net") != own, "the database host's namespace")
        run("ip", "link", "add", "stage0", "type", "veth", "peer", "name", "stage1", "netns", str(self.holder))
        for command in (
            f"addr add {AGENT_V4}/24 dev stage0",
            f"-6 addr add {AGENT_V6}/64 dev stage0 nodad",
            "link set stage0 up",
            "link set lo up",
        ):
            run("ip", *command.split())
        for command in (
            f"addr add {DATABASE_V4}/24 dev stage1",
            f"-6 addr add {DATABASE_V6}/64 dev stage1 nodad",
            "link set stage1 up",
            "link set lo up",
        ):
            self.on_database_host("ip", *command.split())

    @property
    def holder(self) -> int:
        """The process that keeps the database host's network namespace alive."""
        assert self._holder is not None
        return self._holder.pid

    def on_database_host(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the database host."""
        return run("nsenter", f"--net=/proc/{self.holder}/ns/net", *command, **options)

    def _sinks_start(self) -> None:
        log = self.folder / "sinks.log"
        log.touch()
        self._sinks = subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.holder}/ns/net", sys.executable, str(REPOSITORY / "tests/stage/sinks.py"), str(log)],
            stdout=subprocess.PIPE,
        )
        assert self._sinks.stdout is not None
        if self._sinks.stdout.readline() != b"listening\n":
            raise RuntimeError("the sinks did not start")

    def stop_sinks(self) -> None:
        """Listen to the database host no more: whoever measures does not want every packet looked at."""
        if self._sinks is not None:
            self._sinks.terminate()
            self._sinks.wait()
            self._sinks = None

    def sink_lines(self) -> list[str]:
        """Return what the sinks saw: one line per connection, datagram or chunk. Empty is what we want."""
        return (self.folder / "sinks.log").read_text(encoding="utf-8").splitlines()

    def _database(self) -> None:
        data = self.folder / "postgres"
        data.mkdir()
        shutil.chown(data, "postgres", "postgres")
        self._certificates(data)
        secret = self.folder / "crm-password"
        secret.write_text("S3cret-of-the-proxy-alone\n", encoding="utf-8")
        secret.chmod(0o600)
        initial = self.folder / "postgres-password"
        initial.write_text("superuser-only\n", encoding="utf-8")
        shutil.chown(initial, "postgres", "postgres")
        initdb = [str(_BIN / "initdb"), "-D", str(data / "cluster"), "-U", "postgres", f"--pwfile={initial}"]
        run(*as_postgres(), *initdb, "--auth=scram-sha-256", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8", quiet=True)
        with (data / "cluster" / "pg_hba.conf").open("w", encoding="utf-8") as hba:
            # Plain connections are for the bench, whose rivals speak no TLS either.
            hba.write("local all postgres peer\nlocal all all scram-sha-256\nhostssl all all all scram-sha-256\nhost all all all scram-sha-256\n")
        settings = {
            "listen_addresses": "*",
            "unix_socket_directories": str(data),
            "ssl": "on",
            "ssl_cert_file": str(data / "server.crt"),
            "ssl_key_file": str(data / "server.key"),
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "log_min_messages": "fatal",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = ["nsenter", f"--net=/proc/{self.holder}/ns/net", *as_postgres(), str(_BIN / "postgres")]
        with (self.folder / "postgres.log").open("wb") as log:
            self._postgres = subprocess.Popen([*command, "-D", str(data / "cluster"), *options], stdout=log, stderr=log)
        wait_for(lambda: self.superuser_sql("select 1", check=False) == "1", "PostgreSQL", 60)
        self.superuser_sql("create role crm_proxy login password 'S3cret-of-the-proxy-alone'")
        self.superuser_sql("create database crm owner crm_proxy")
        self.superuser_sql((REPOSITORY / "tests/stage/customers.sql").read_text(encoding="utf-8"), database="crm")

    def _certificates(self, folder: Path) -> None:
        company = ["-subj", "/CN=Company CA", "-addext", "basicConstraints=critical,CA:TRUE"]
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", str(folder / "ca.key"), "-out", str(self.folder / "company-ca.pem"), *company, quiet=True)  # fmt: skip
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=crm",
            "-keyout", str(folder / "server.key"), "-out", str(folder / "server.csr"), quiet=True)  # fmt: skip
        names = f"subjectAltName=DNS:{DATABASE_NAME},IP:{DATABASE_V4},IP:{DATABASE_V6}"
        (folder / "names").write_text(names, encoding="utf-8")
        run("openssl", "x509", "-req", "-in", str(folder / "server.csr"), "-CA", str(self.folder / "company-ca.pem"),
            "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2", "-extfile", str(folder / "names"),
            "-out", str(folder / "server.crt"), quiet=True)  # fmt: skip
        for name in ("server.key", "server.crt"):
            shutil.chown(folder / name, "postgres", "postgres")
            (folder / name).chmod(0o600)
        (self.folder / "company-ca.pem").chmod(0o644)

    def superuser_sql(self, sql: str, *, database: str = "postgres", check: bool = True) -> str:
        """Run SQL as the database's superuser over its unix socket, past everything; return psql's bare output."""
        command = [*as_postgres(), "psql", "-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder / "postgres")]
        result = subprocess.run(
            [*command, "-U", "postgres", "-d", database, "-f", "-"],
            input=sql, capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        if check and result.returncode:
            raise RuntimeError(f"{sql[:80]}: {result.stderr}")
        return result.stdout.strip()


def as_postgres() -> list[str]:
    """Return the words that make a command run as the postgres account."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


def run(*command: str, quiet: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to success; on failure the error holds what it printed."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **options)  # type: ignore[call-overload]
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
    _ = quiet
    return result  # type: ignore[no-any-return]


def wait_for(condition: object, what: str, seconds: float = 20.0) -> None:
    """Poll until ``condition()`` is true.

    Raises:
        RuntimeError: it is still false after ``seconds``.
    """
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} was not ready within {seconds:.0f} s")
        time.sleep(0.05)


