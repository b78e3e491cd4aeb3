"""``hostagent status``, ``doctor``, ``kill``, ``quarantine``, ``release`` and ``uninstall``: the state of enforcement on this host."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import click

from hostagent.cli.names import workload_names
from hostagent.model.errors import HostagentError, NotPermittedError


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="First wait up to so long until the service is ready.")
@click.pass_obj
def status_command(config_path: str | None, as_json: bool, wait: float) -> None:
    """Show what is governed, by what, and what is weaker than it could be.

    Exits 0 when the fence is up, evidence is written, a proxy serves, and the documents on disk are in force; otherwise 1.
    """
    from hostagent.cli.control import ControlError, ask
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Status, StatusReport

    _wait_until_ready(load_config(config_path).enforcer_socket, wait)
    answer, _ = EnforcerConnection(load_config(config_path).enforcer_socket).ask(Status(), StatusReport)
    report = answer.report
    try:
        service = ask(config_path, "status")
    except ControlError as error:
        service = {"problem": str(error)}
    report["service"] = service if isinstance(service, dict) else {"problem": "no answer that can be understood"}
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    service_problems = [report["service"].get(name) for name in ("problem", "policy_problem", "workloads_problem", "unusable")]
    refused = any("on disk cannot be used" in line for line in report["service"].get("pending", ()))
    broken = refused or report["evidence"] or report["auditor"]["problem"] or any(service_problems)
    raise SystemExit(0 if report["fence"]["loaded"] and report["proxy"] and not broken else 1)


def _wait_until_ready(socket_path: str, seconds: float) -> None:
    """Return when a proxy is attached, or when the time is over."""
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.ipc import Status, StatusReport

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(HostagentError):
            connection = EnforcerConnection(socket_path)
            with contextlib.closing(connection.socket):
                if connection.ask(Status(), StatusReport)[0].report["proxy"]:
                    return
        time.sleep(min(0.2, max(0.0, until - time.monotonic())))


def _print(report: dict[str, Any]) -> None:
    fence = report["fence"]
    owned = "owned by enforcerd, kept when it dies" if fence["owned"] else "not owned"
    what = f"table inet {fence['table']} ({owned})" if report["firewall"] == "nft" else f"iptables chain {fence['table']}-fence"
    click.echo(f"fence     {'up' if fence['loaded'] else 'NOT LOADED'}: {what}")
    click.echo(f"slice     {fence['slice']} (id {fence['slice_id']})")
    click.echo(f"proxy     {report['proxy'] or 'NOT ATTACHED: dials are refused, nothing can be launched'}")
    _print_service(report["service"])
    click.echo(f"evidence  {report['evidence'] or 'written'}")
    _print_auditor(report["auditor"])
    for name, entry in report["quarantine"].items():
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
        click.echo(f"quarantine {name} since {since}, by {entry['by']}{': ' + entry['reason'] if entry['reason'] else ''}")
    click.echo(f"verify    {_verify_line(report['verify'])}")
    click.echo(f"running   {len(report['leaves'])}")
    for leaf in report["leaves"]:
        age = int(time.time() - leaf["started_at"]) if leaf["started_at"] else 0
        click.echo(
            f"  {leaf['leaf']}  {leaf['stage']} {age} s, {leaf['placement']}, uid {leaf['uid']}, pid {leaf['pid']}, "
            f"{leaf['processes']} processes, by {leaf['launcher']}, {'served' if leaf['served'] else 'NOT SERVED'}"
        )
    for line in report["weaker"]:
        click.echo(f"note      {line}")


def _print_auditor(auditor: dict[str, Any]) -> None:
    looked = f"{auditor['sockets']} sockets of {auditor['processes']} processes, {auditor['findings']} findings"
    age = f"last look {time.time() - auditor['last_at']:.1f} s ago" if auditor["last_at"] else "no look yet"
    click.echo(f"auditor   {auditor['problem'] or f'{age}: {looked}'}")


def _verify_line(last: dict[str, Any]) -> str:
    if not last:
        return "not run yet: hostagent verify"
    when = f"{int(time.time() - last['at'])} s ago ({last['cause']}, {last['attempts']} attempts)"
    return f"FAILED {when}: {', '.join(last['failed'])}" if last["failed"] else f"passed {when}"


def _print_journal(journal: dict[str, Any]) -> None:
    """Print who has filled much of its part of the journal; nothing if nobody has."""
    budget = journal.get("budget_mib", 0)
    if journal.get("tight"):
        click.echo(f"journal   THE DISK IS NEARLY FULL: every workload's budget is {budget} MiB an hour now (limits.journal_free_mib)")
    for name, used in sorted(journal.get("workloads", {}).items()):
        if used["step"] != "free":
            what = "its statements are refused" if used["step"] == "refused" else "its sessions were ended, its dials are refused"
            click.echo(f"journal   {name} HAS USED UP ITS BUDGET ({used['mib']:g} of {budget} MiB an hour): {what}")
        elif used["mib"] > budget / 2:
            click.echo(f"journal   {name} has filled {used['mib']:g} of its {budget} MiB an hour")


def _print_service(service: dict[str, Any]) -> None:
    if service.get("problem"):
        click.echo(f"service   NO ANSWER: {service['problem']}")
        return
    click.echo(f"policy    {service['policy'][:12]} in force")
    _print_journal(service.get("journal", {}))
    if service["policy_problem"]:
        click.echo(f"          REFUSED, the last good one stays: {service['policy_problem']}")
    if service["workloads_problem"]:
        click.echo(f"workloads REFUSED, nothing is launched until it is mended: {service['workloads_problem']}")
    click.echo(f"targets   {', '.join(service['targets']) or 'none declared: nothing can be reached'}")
    for line in service.get("unusable", []):
        click.echo(f"secrets   {line}")
    for line in service.get("pending", []):
        click.echo(f"pending   {line}")
    click.echo(f"held      {service['held']} operations wait for an approver")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def doctor_command(config_path: str | None, as_json: bool) -> None:
    """Check this host and the configuration; say why each thing matters and how to mend it. Changes nothing.

    Exits 0 when everything is as it should be, 1 when something is weaker or at risk, 2 when something must be mended first.
    """
    from dataclasses import asdict

    from hostagent.daemon.checkup import examine_all

    checks = examine_all(config_path)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    for check in () if as_json else checks:
        click.echo(f"{check.state.value:4}  {check.id}: {check.detail}")
        if check.why:
            click.echo(f"      {check.why}\n      -> {check.fix}")
    states = {check.state.value for check in checks}
    raise SystemExit(2 if "fail" in states else int("warn" in states))


@click.command("kill")
@click.argument("name", shell_complete=workload_names)
@click.option("--reason", default="", help="Goes into the record.")
@click.pass_obj
def kill_command(config_path: str | None, name: str, reason: str) -> None:
    """End every process of workload NAME, or of the one leaf NAME, at once. Root only."""
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Kill, Killed

    answer, _ = EnforcerConnection(load_config(config_path).enforcer_socket).ask(Kill(name, reason), Killed)
    for leaf in answer.leaves:
        click.echo(f"killed {leaf}")


@click.command("quarantine")
@click.argument("name", shell_complete=workload_names)
@click.option("--reason", default="", help="Goes into the record, and to whoever tries to launch it.")
@click.pass_obj
def quarantine_command(config_path: str | None, name: str, reason: str) -> None:
    """End every process of workload NAME at once and refuse its launches until `hostagent release NAME`. Root only.

    Outlasts restarts. NAME may also be one of its running leaves. A launch of it exits 77.
    """
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Quarantine, Quarantined

    answer, _ = EnforcerConnection(load_config(config_path).enforcer_socket).ask(Quarantine(name, reason), Quarantined)
    for leaf in answer.leaves:
        click.echo(f"killed {leaf}")
    click.echo("in quarantine: launches are refused until it is released")


@click.command("release")
@click.argument("name", shell_complete=workload_names)
@click.pass_obj
def release_command(config_path: str | None, name: str) -> None:
    """Let workload NAME, which is in quarantine, be launched again. Root only."""
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Release, Released

    EnforcerConnection(load_config(config_path).enforcer_socket).ask(Release(name), Released)
    click.echo(f"released {name}")


@click.command("uninstall")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def uninstall_command(config_path: str | None, yes: bool) -> None:
    """End every workload, take the fence down, and remove every trace from the kernel. Root only.

    Works whether or not enforcerd runs; under systemd the units are stopped and disabled. Looks for what is left in the kernel and
    exits 1 if there is anything. Configuration, evidence and accounts on disk stay, and are named.
    """
    from hostagent.cli.enforcerlink import EnforcerConnection, RequestError
    from hostagent.daemon import farewell
    from hostagent.daemon.configfile import load_config
    from hostagent.enforcer.removal import remove_everything
    from hostagent.ipc import Uninstall, Uninstalled

    config = load_config(config_path)
    if os.geteuid() != 0:
        raise NotPermittedError("only root may do this")
    if not yes:
        click.confirm("This ends every governed workload and removes the fence. Go on?", abort=True)
    farewell.stop_adopted(config)
    try:
        removed = EnforcerConnection(config.enforcer_socket).ask(Uninstall(), Uninstalled)[0].removed
    except RequestError:
        raise
    except HostagentError:
        removed = remove_everything(config.enforcement.slice, config.enforcement.table, config.paths.runtime)
    for line in [*removed, *farewell.end_units(config)]:
        click.echo(f"removed {line}")
    for line in farewell.left_on_disk(config):
        click.echo(f"stays   {line}")
    residue = farewell.left_in_kernel(config)
    for line in residue:
        click.echo(f"LEFT    {line}", err=True)
    raise SystemExit(1 if residue else 0)
