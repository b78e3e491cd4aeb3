"""``hostagent adopt`` and ``unadopt``: a service of systemd's becomes a governed workload, and stops being one."""

from __future__ import annotations

import os

import click

from hostagent.model.errors import HostagentError, NotPermittedError


@click.command("adopt")
@click.argument("unit")
@click.option("--workload", "-w", required=True, metavar="NAME", help="The workload document to run it as.")
@click.option("--accept", is_flag=True, help="Adopt it although settings of the unit will not reach the program (they are listed).")
@click.option("--started-is-ready", is_flag=True, help="For Type=notify: ready once the governed program runs.")
@click.option("--dry-run", is_flag=True, help="Print the drop-in and change nothing.")
@click.pass_obj
def adopt_command(config_path: str | None, unit: str, workload: str, *, accept: bool, started_is_ready: bool, dry_run: bool) -> None:
    """Govern the service UNIT (NAME.service) as a workload, from its next start on. Root only.

    \b
    Writes a drop-in that makes `hostagent run` the unit's main process. Restart, reload by signal, stop, failure and the journal go
    on as before; the program runs in a scope of its own, admitted and fenced anew at each start, as the workload document says.
    Refuses, with the reason, what cannot be governed.

    Example: hostagent adopt reports.service --workload reports && systemctl restart reports.service
    """
    from hostagent.daemon import adoption
    from hostagent.daemon.configfile import load_config, load_workloads

    _root()
    document = load_workloads(load_config(config_path)).get(workload)
    if document is None:
        raise HostagentError(f"no workload document is called {workload}: hostagent workload list")
    found = adoption.read_unit(unit)
    plan = adoption.plan(found, workload, document.launchers, started_is_ready=started_is_ready)
    for line in plan.refused:
        click.echo(f"refused: {line}", err=True)
    for line in plan.lost:
        click.echo(f"note: {line}", err=True)
    if plan.refused:
        raise SystemExit(1)
    if plan.lost and not accept and not dry_run:
        raise HostagentError("nothing was changed; say --accept if the program may run without these")
    if dry_run:
        click.echo(plan.text, nl=False)
        return
    adoption.put(found, plan.text)
    click.echo(f"wrote {adoption.dropin(unit)}")
    click.echo(f"it runs as {document.user or 'a uid of its own'}; from the next start on it is governed: systemctl restart {unit}")


@click.command("unadopt")
@click.argument("unit")
def unadopt_command(unit: str) -> None:
    """Let the service UNIT run ungoverned again, from its next start on. Root only."""
    from hostagent.daemon import adoption

    _root()
    adoption.take_away(unit)
    click.echo(f"removed {adoption.dropin(unit)}")
    click.echo(f"it is governed until its next start: systemctl restart {unit}")


def _root() -> None:
    if os.geteuid() != 0:
        raise NotPermittedError("only root may do this")
