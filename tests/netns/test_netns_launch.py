"""`hostagent run` on the real kernel: what passes through, what the program is given, and what is refused."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostagent.enforcer import kernel
from tests.netns.stage import REPOSITORY, Stage, stage, unix_socket_pair, wait_for
from tests.stage.uids import FIRST_UID

pytestmark = pytest.mark.root


def test_input_output_errors_and_exit_code_pass_through(host: Stage) -> None:
    done = host.run("isolated", "sh", "-c", "cat; echo no >&2; exit 7", text="line\n" * 50_000)
    assert (done.returncode, done.stdout, done.stderr) == (7, "line\n" * 50_000, "no\n")


def test_a_signal_that_ends_the_program_is_told_as_the_shell_does(host: Stage) -> None:
    assert host.run("isolated", "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


@pytest.mark.parametrize(("command", "code"), [("/nowhere/at/all", 127), ("absent-program", 127), ("/etc/passwd", 126)])
def test_a_program_that_cannot_be_executed_has_the_shells_exit_code(host: Stage, command: str, code: int) -> None:
    done = host.run("isolated", command)
    assert (done.returncode, command in done.stderr) == (code, True)


def test_signals_reach_the_program(host: Stage) -> None:
    process = host.start("isolated", "sh", "-c", "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("caught\n", 5)


def test_a_terminal_has_a_name_a_size_and_job_control(host: Stage) -> None:
    done = host.run("isolated", "sh", "-c", "tty; stty size; ps -o tpgid= -p $$ | tr -d ' '; echo $$", tty=True)
    name, size, foreground, shell = done.stdout.replace("\r", "").split("\n")[:4]
    assert (name, size, foreground) == ("/dev/pts/0", "24 80", shell)


def test_control_c_and_window_size_pass_through_a_terminal(host: Stage) -> None:
    master, slave = pty.openpty()
    script = "trap 'stty size; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    process = host.start("isolated", "sh", "-c", script, tty=True, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 1024)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=HHHH", 50, 132, 0, 0))
    process.send_signal(signal.SIGWINCH)
    # No answer tells that the size has arrived; the program reads it after the interrupt, which travels the same way later.
    time.sleep(0.3)
    os.write(master, b"\x03")
    while b"132" not in seen:
        seen += os.read(master, 1024)
    assert b"50 132" in seen
    assert process.wait(20) == 9
    os.close(master)


def test_what_the_program_leaves_behind_ends_with_it(host: Stage) -> None:
    done = host.run("isolated", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
    assert done.returncode == 0
    wait_for("the leaf's end", lambda: host.status()["leaves"] == [])
    assert list(Path("/sys/fs/cgroup").rglob(f"{host.slice}/isolated-*")) == []


def test_a_launcher_that_is_killed_takes_its_program_along(host: Stage) -> None:
    process = host.start("isolated", "sleep", "1000")
    wait_for("the program", lambda: [each for each in host.status()["leaves"] if each["pid"]])
    process.kill()
    process.communicate()
    wait_for("its end", lambda: host.status()["leaves"] == [])


def test_kill_ends_every_process_and_says_why(host: Stage) -> None:
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.ipc import Kill, Killed

    process = host.start("isolated", "sh", "-c", "sleep 1000 & sleep 1000")
    wait_for("the program", lambda: [each for each in host.status()["leaves"] if each["stage"] == "running"])
    connection = EnforcerConnection(host.socket_path)
    answer, _ = connection.ask(Kill("isolated", "suspicious"), Killed)
    connection.close()
    _, err = process.communicate(timeout=20)
    assert (len(answer.leaves), process.returncode, "suspicious" in err) == (1, 128 + signal.SIGKILL, True)


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        ("unwanted", "not admitted: no valid identity"),
        ("nothing", "root may not launch workload 'nothing'"),
        ("theirs", "root may not launch workload 'theirs'"),
        ("superuser", "user root cannot be governed"),
        ("served", "inbound port 5432 is the port of a target on loopback"),
    ],
)
def test_a_refused_launch_says_why_starts_nothing_and_is_recorded(host: Stage, workload: str, reason: str) -> None:
    marker = host.folder / "shared" / "started"
    done = host.run(workload, "touch", str(marker))
    assert (done.returncode in (77, 125), reason in done.stderr, marker.exists()) == (True, True, False)
    assert any(row["outcome"] == "refused" and reason.split(": ")[-1] in row["reason"] for row in host.events("admission"))
    assert host.status()["leaves"] == []


def test_a_launch_is_recorded_from_admission_to_exit(host: Stage) -> None:
    host.run("isolated", "sh", "-c", "exit 3", "--password=hunter2")
    leaf = host.events("exit")[-1]["leaf"]
    rows = [row for row in map(json.loads, host.journal.read_text().splitlines()) if row.get("leaf") == leaf]
    assert [row["kind"] for row in rows] == ["admission", "launch", "exit"]
    admission, launch, exit_ = rows
    assert (admission["outcome"], admission["issuer"], admission["launcher"]) == ("admitted", "test", "root")
    assert launch["argv"] == ["sh", "-c", "<6 characters>", "--password=<7 characters>"]
    assert (launch["degraded"], launch["pid"] > 0, launch["start_ticks"] > 0, exit_["status"]) == (False, True, True, 3)


def test_no_program_starts_while_evidence_cannot_be_written(place: Path) -> None:
    with stage(place, [{"name": "isolated"}]) as host:
        full = Path(f"{host.journal}.full")
        full.mkdir()
        refused = host.run("isolated", "true")
        full.rmdir()
        assert (refused.returncode, "no space left" in refused.stderr) == (77, True)
        assert host.status()["leaves"] == []


_GIVEN = """
import json, os, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "uid": os.getuid(), "groups": os.getgroups(), "caps": [status[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"], "descriptors": sorted(os.listdir("/proc/self/fd"))[:3],
    "open": len(os.listdir("/proc/self/fd")), "core": resource.getrlimit(resource.RLIMIT_CORE), "home": os.environ["HOME"],
    "from": os.environ.get("FROM"), "agent": os.environ.get("SSH_AUTH_SOCK"), "others": [p for p in os.listdir("/proc") if p.isdigit()],
}))
"""


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_the_program_has_no_privilege_no_descriptor_and_sees_no_other_process(host: Stage, workload: str) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    given = host.probe(workload, _GIVEN)
    os.close(read)
    os.close(write)
    assert given == {
        "uid": FIRST_UID,
        "groups": [],
        "caps": ["0" * 16] * 5,
        "no_new_privs": "1",
        "seccomp": "2",
        "descriptors": ["0", "1", "2"],
        "open": 4,  # and the one that lists them
        "core": [1, 1],  # and so it stays
        "home": "/tmp/home",
        "from": "document" if workload == "isolated" else None,
        "agent": None,
        "others": ["1", "2"],
    }


def test_two_programs_of_one_workload_have_uids_of_their_own(host: Stage) -> None:
    first = host.start("isolated", "sh", "-c", "id -u; read x", stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == f"{FIRST_UID}\n"
    assert host.run("isolated", "id", "-u").stdout == f"{FIRST_UID + 1}\n"
    first.communicate("\n")


def test_a_login_user_may_be_named_and_status_says_that_it_is_weaker(host: Stage) -> None:
    process = host.start("nobody", "sh", "-c", "id -un; read x", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "nobody\n"
    assert any("runs as login user nobody" in line for line in host.status()["weaker"])
    process.communicate("\n")


_FILES = """
import json, os, stat
def read(path):
    try: return open(path).read()
    except OSError as error: return type(error).__name__
def write(path):
    try: open(path, "w").close(); return "written"
    except OSError as error: return error.strerror
print(json.dumps({
    "secret": read(SECRET), "run": sorted(os.listdir("/run")), "tmp": [e for e in os.listdir("/tmp") if e not in TOP],
    "usr": write("/usr/x"), "own": write("/tmp/x"), "home": write("/tmp/home/x"), "declared": read(SHARED + "/data"),
    "declared_write": write(SHARED + "/new"), "resolver": read("/etc/resolv.conf"), "trust": read(TRUST),
    "bundle": "host CA" in read("/etc/ssl/certs/ca-certificates.crt"), "whoami": os.popen("whoami").read().strip(),
    "proc_sys": write("/proc/sys/net/ipv4/ip_forward"), "devices": sorted(os.listdir("/dev")),
}))
"""


def test_the_program_sees_files_read_only_and_no_secret(host: Stage) -> None:
    top = host.folder.parts[2]
    # With systemd-resolved the host's resolv.conf is a link into /run: the private one then lies there, too.
    resolver = Path(os.path.realpath("/etc/resolv.conf")).parts
    seen = host.probe(
        "isolated",
        _FILES,
        SECRET=f"{host.folder}/state/password",
        SHARED=f"{host.folder}/shared",
        TRUST=f"{host.folder}/trust.pem",
        TOP=[top],
    )
    assert seen == {
        "secret": "FileNotFoundError",
        "run": sorted({".hostagent", *(resolver[2:3] if resolver[1] == "run" else ())}),
        "tmp": ["home"],
        "usr": "Read-only file system",
        "own": "written",
        "home": "written",
        "declared": "given",
        "declared_write": "Read-only file system",
        "resolver": "nameserver 127.0.0.1\n",
        "trust": "own root\n# hostagent: this host's CA, in this workload's view alone\n" + (host.folder / "ca.pem").read_text(),
        "bundle": True,
        "whoami": "isolated",
        "proc_sys": "Read-only file system",
        "devices": sorted(["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]),
    }


def test_a_hidden_folder_is_empty_and_closed(place: Path) -> None:
    secret = Path("/var/lib") / f"hostagent-test-{os.getpid()}"
    secret.mkdir(mode=0o755)
    (secret / "password").write_text("swordfish")
    try:
        with stage(place, [{"name": "isolated"}], proxy=False) as host:
            host.settings["hidden"] = [str(secret)]
            host.close_enforcer()
            host.start_enforcer()
            host.start_proxy()
            done = host.run("isolated", "cat", str(secret / "password"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "Permission denied" in done.stderr
    finally:
        (secret / "password").unlink()
        secret.rmdir()


def test_a_declared_path_does_not_bring_a_hidden_folder_back(place: Path) -> None:
    (place / "open").write_text("open")
    with stage(place, [{"name": "isolated", "paths": [[str(place), False]]}]) as host:
        done = host.run("isolated", "sh", "-c", f"cat {place}/open; cat {place}/state/password; ls {place}/run")
    assert (done.stdout, done.stderr.count("Permission denied")) == ("open", 2)


def test_writable_paths_keep_their_owner_on_the_host(place: Path) -> None:
    given = place / "given"
    given.mkdir()
    os.chown(given, 1234, 1234)
    with stage(place, [{"name": "isolated", "paths": [[str(given), True]]}]) as host:
        done = host.run("isolated", "sh", "-c", f"echo made > {given}/file; stat -c %u {given}/file")
    status = (given / "file").stat()
    assert (done.stdout, status.st_uid, status.st_gid, (given / "file").read_text()) == (f"{FIRST_UID}\n", 1234, 1234, "made\n")


def test_a_file_made_in_a_writable_path_lends_its_group_to_nobody(place: Path) -> None:
    """Its group is the owner's on the host, and anybody there may start it."""
    given = place / "given"
    given.mkdir()
    os.chown(given, 1234, 1234)
    script = f"cp /bin/true {given}/program; chmod 2755 {given}/program; chmod 2775 {given}; chmod 750 {given}/program"
    with stage(place, [{"name": "isolated", "paths": [[str(given), True]]}]) as host:
        done = host.run("isolated", "sh", "-c", script)
    assert ((given / "program").stat().st_mode & 0o7777, done.stderr.count("Operation not permitted")) == (0o750, 2)


def test_a_listening_unix_socket_left_in_view_cannot_be_reached(host: Stage) -> None:
    place = Path("/opt") / f"hostagent-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    server = unix_socket_pair(place / "service.sock")
    script = "import socket, json\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\ns.connect(PATH)\nprint(json.dumps(s.recv(9).decode()))"
    served = "import socket, json\ns = socket.socket(socket.AF_UNIX)\ns.connect(PATH)\nprint(json.dumps('connected'))"
    try:
        path = str(place / "service.sock")
        server.setblocking(False)
        assert host.probe("isolated", script, PATH=path) == ""  # closed, unread, by what stands in its place
        with pytest.raises(BlockingIOError):
            server.accept()
        assert host.outside(served, PATH=path) == "connected"
        server.accept()[0].close()
    finally:
        server.close()
        (place / "service.sock").unlink()
        place.rmdir()


def test_a_governed_process_may_not_ask_enforcerd(host: Stage) -> None:
    # As a mistake would allow it: the socket bound into the workload's view through a declared path.
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.enforcer.cgroup import Slice
    from hostagent.ipc import Status, StatusReport
    from hostagent.model.errors import HostagentError

    leaf = Slice(host.slice).leaf("intruder")
    leaf.create()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        leaf.enter()
        try:
            EnforcerConnection(host.socket_path).ask(Status(), StatusReport)
            os.write(write, b"answered")
        except HostagentError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    answer = os.read(read, 100)
    os.close(read)
    leaf.remove()
    if b"Operation not permitted" in answer:
        # An eBPF program refuses whoever is in no registered leaf before enforcerd is asked (Linux 6.7).
        reason = "its cgroup is not a leaf that enforcerd has registered"
    else:
        assert answer.startswith((b"enforcerd closed the connection", b"enforcerd is gone"))
        reason = "a governed process asked enforcerd"
    wait_for("the row", lambda: reason in [row["reason"] for row in host.events("refusal")])


def test_only_root_may_kill_uninstall_and_reload(host: Stage) -> None:
    from hostagent.enforcer.confinement.launch import in_child

    def attempt() -> str:
        from hostagent.cli.enforcerlink import EnforcerConnection
        from hostagent.ipc import Kill, Killed, Reload, Reloaded, Uninstall, Uninstalled
        from hostagent.model.errors import HostagentError

        os.setresuid(65534, 65534, 65534)
        answers = []
        for body, answer in ((Kill("isolated"), Killed), (Uninstall(), Uninstalled), (Reload(), Reloaded)):
            try:
                EnforcerConnection(host.socket_path).ask(body, answer)
                answers.append("done")
            except HostagentError:
                answers.append("closed")
        return " ".join(answers)

    assert in_child(attempt, before=lambda: None, timeout_s=10) == "closed closed closed"
    assert host.status()["fence"]["loaded"] is True


def test_the_tests_own_namespace_is_untouched(host: Stage) -> None:
    listed = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout
    assert host.settings["table"] not in listed
    with kernel.in_network(host.host):
        assert host.settings["table"] in subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout


def test_the_view_is_built_where_sys_is_the_hosts_own_networks() -> None:
    """As in shared placement on any plain host: the kernel mounts no file system over itself (EBUSY)."""
    build = "from hostagent.enforcer.confinement.view import View, build; build(View(0, 0, '', (), frozenset())); import os; print(*sorted(os.listdir('/sys')))"
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$0" -c "$1"', sys.executable, build]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "class" in done.stdout.split()) == (0, True), done.stderr
