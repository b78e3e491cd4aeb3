"""What becomes of a service of systemd's that is to be governed, and what is refused. The units are as systemd describes them."""

from __future__ import annotations

from typing import Any

import pytest

from hostagent.daemon.adoption import Unit, plan, quoted, settings_in

PLAIN: dict[str, Any] = {
    "Type": "simple",
    "User": "",
    "TriggeredBy": [],
    "StandardInput": "null",
    "RestartUSec": 100_000,
    "ExecStartEx": [["/opt/report", ["/opt/report", "--every", "60 s", "100%"], [], 0]],
    "ExecStartPreEx": [],
}


def unit(**changes: object) -> Unit:
    return Unit("report.service", {**PLAIN, **changes}, frozenset({"ExecStart"}))


def command(*argv: str, flags: tuple[str, ...] = ()) -> list[object]:
    return [[argv[0], list(argv), list(flags), 0]]


def test_the_drop_in_makes_the_launcher_the_main_process() -> None:
    found = plan(unit(ExecStartPreEx=command("/bin/mkdir", "-p", "/tmp/a", flags=("ignore-failure",))), "bot", ["root"], started_is_ready=False)
    assert (found.refused, found.lost) == ((), ())
    lines = found.text.splitlines()
    assert 'ExecStart=/usr/bin/hostagent run --workload bot --as-service -- /opt/report --every "60 s" "100%%"' in lines
    assert "ExecStartPre=-/usr/bin/hostagent run --workload bot --as-service -- /bin/mkdir -p /tmp/a" in lines
    assert lines.index("ExecStart=") < next(number for number, line in enumerate(lines) if line.startswith("ExecStart=/"))
    assert {"Wants=hostagent-enforcerd.service hostagent-proxyd.service", "StopPropagatedFrom=hostagent.target", "Type=notify", "RestartSec=3s", "RestartForceExitStatus=125"} <= set(lines)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"Type": "forking"}, "Type=forking"),
        ({"Type": "dbus"}, "Type=dbus"),
        ({"Type": "notify"}, "--started-is-ready"),
        ({"TriggeredBy": ["report.socket"]}, "socket unit"),
        ({"DynamicUser": True}, "DynamicUser"),
        ({"StandardInput": "tty"}, "StandardInput"),
        ({"RootDirectory": "/srv/image"}, "root in the workload document"),
        ({"User": "dana"}, "add dana to its launchers"),
        ({"ExecStartEx": []}, "no ExecStart"),
        ({"ExecStartEx": command("/opt/report", flags=("privileged",))}, "privileges of its own"),
        ({"ExecStartEx": [["/opt/report", ["other"], [], 0]]}, "argv[0]"),
        ({"ExecReloadEx": command("/opt/report", "--reload")}, "only a signal"),
        ({"ExecStopEx": command("/opt/stop", "$MAINPID")}, "$MAINPID"),
    ],
)
def test_what_cannot_be_governed_is_refused_with_the_reason(changes: dict[str, object], word: str) -> None:
    found = plan(unit(**changes), "bot", ["root"], started_is_ready=False)
    assert [word in line for line in found.refused] == [True], found.refused
    assert found.text == ""


def test_settings_that_will_not_reach_the_program_are_named() -> None:
    text = "[Unit]\nDescription=x\n[Service]\nExecStart=/opt/report \\\n  --a=b\nMemoryMax=1G\n# Nice=5\nWatchdogSec=3\n[Install]\nWantedBy=x\n"
    found = plan(Unit("report.service", PLAIN, settings_in(text)), "bot", ["root"], started_is_ready=False)
    assert [line.split("=")[0] for line in found.lost] == ["MemoryMax", "WatchdogSec"]


def test_a_reload_by_signal_stays_as_it_is() -> None:
    found = plan(unit(ExecReloadEx=command("/bin/kill", "-HUP", "$MAINPID")), "bot", ["root"], started_is_ready=False)
    assert found.refused == ()
    assert "ExecReload" not in found.text


@pytest.mark.parametrize(
    ("word", "written"),
    [("plain", "plain"), ("a b", '"a b"'), ("${HOME}/x", "${HOME}/x"), ('say "hi" \\', '"say \\"hi\\" \\\\"'), (";", '";"'), ("", '""'), ("a\nb", '"a\\x0ab"'), ("a\r[Service]\r%n", '"a\\x0d[Service]\\x0d%%n"')],
)
def test_arguments_are_written_as_systemd_reads_them_back(word: str, written: str) -> None:
    assert quoted(word) == written


def test_a_program_that_is_only_called_kill_is_governed_like_any_other() -> None:
    found = plan(unit(ExecStopEx=command("/opt/app/kill", "-TERM", "$MAINPID")), "bot", ["root"], started_is_ready=False)
    assert found.refused
