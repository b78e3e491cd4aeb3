"""The ``hostagent`` command: a group whose commands are imported only when used, so that ``--help`` is instant."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click

from hostagent import __version__
from hostagent.cli.exits import FAILED, NOT_PERMITTED, WRONG_DOCUMENT, Stop
from hostagent.model.errors import DocumentError, HostagentError, NotPermittedError


class _Entry(NamedTuple):
    module: str
    attribute: str
    summary: str


_COMMANDS = {
    "init": _Entry("hostagent.cli.init", "init_command", "Make the configuration folder of a new installation."),
    "up": _Entry("hostagent.cli.up", "up_command", "Run the whole service in the foreground."),
    "run": _Entry("hostagent.cli.run", "run_command", "Start a program as a governed workload."),
    "reload": _Entry("hostagent.cli.reload", "reload_command", "Take changed configuration, targets and credentials."),
    "adopt": _Entry("hostagent.cli.adopt", "adopt_command", "Govern a service of systemd's as a workload."),
    "unadopt": _Entry("hostagent.cli.adopt", "unadopt_command", "Let an adopted service run ungoverned again."),
    "status": _Entry("hostagent.cli.host", "status_command", "Show what is governed, by what, and what is missing."),
    "doctor": _Entry("hostagent.cli.host", "doctor_command", "Check this host and say how to fix what is missing."),
    "support-bundle": _Entry(
        "hostagent.cli.supportbundle", "support_bundle_command", "Gather what somebody who helps needs to see; no secrets."
    ),
    "kill": _Entry("hostagent.cli.host", "kill_command", "End every process of a workload."),
    "quarantine": _Entry("hostagent.cli.host", "quarantine_command", "End a workload and keep it from being launched."),
    "release": _Entry("hostagent.cli.host", "release_command", "Let a quarantined workload be launched again."),
    "verify": _Entry("hostagent.cli.verify", "verify_command", "Attack the boundary and say whether it holds."),
    "uninstall": _Entry("hostagent.cli.host", "uninstall_command", "Take the fence down and remove every trace."),
    "approvals": _Entry("hostagent.cli.approvals", "approvals", "See and answer held operations."),
    "identity": _Entry("hostagent.cli.identity", "identity", "See and revoke workload identities."),
    "config": _Entry("hostagent.cli.config", "config", "Check and show the configuration."),
    "policy": _Entry("hostagent.cli.policynew", "policy", "Write, check, test and explain policy."),
    "target": _Entry("hostagent.cli.target", "target", "Add, try and list what workloads may reach."),
    "workload": _Entry("hostagent.cli.workload", "workload", "Add and list what may be launched."),
    "credential": _Entry("hostagent.cli.credential", "credential", "Keep and rotate the targets' secrets, encrypted."),
    "ca": _Entry("hostagent.cli.ca", "ca", "Show and exchange this host's certificate authority."),
    "sessions": _Entry("hostagent.cli.sessions", "sessions", "List and show recorded sessions."),
    "sql": _Entry("hostagent.cli.sql", "sql_command", "Ask the evidence a question in SQL."),
    "audit": _Entry("hostagent.cli.audit", "audit", "Verify, rebuild, back up and restore the evidence."),
}


# The chapters of --help; a command in none of them is listed last.
_CHAPTERS = {
    "Set up": ("init", "doctor", "config", "target", "workload", "credential", "policy"),
    "Run and govern": ("up", "run", "adopt", "unadopt", "reload", "status", "verify"),
    "Stop": ("kill", "quarantine", "release", "uninstall"),
    "Decide": ("approvals", "identity", "ca"),
    "Ask what happened": ("sessions", "sql", "audit", "support-bundle"),
}


class _LazyGroup(click.Group):
    """Knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        told = {name for names in _CHAPTERS.values() for name in names}
        others = {"More": tuple(name for name in _COMMANDS if name not in told)}
        for chapter, names in (_CHAPTERS | others).items():
            rows = [(name, _COMMANDS[name].summary) for name in names if name in _COMMANDS]
            if rows:
                with formatter.section(chapter):
                    formatter.write_dl(rows, col_max=16)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HostagentError as error:
            raise Stop(str(error), _status_of(error)) from error
        except PermissionError as error:
            advice = "run this as root, or as a member of the group that owns it"
            raise Stop(f"{error.filename or error}: permission denied; {advice}", NOT_PERMITTED) from error
        except BrokenPipeError:
            raise  # whoever read the output has left; click ends quietly
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
        except UnicodeError as error:
            raise click.ClickException(f"something given is not UTF-8 text: {error.reason if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) else error}") from error


def _status_of(error: HostagentError) -> int:
    """Return the exit status that says the same as ``error`` (README.md lists them)."""
    if isinstance(error, DocumentError):
        return WRONG_DOCUMENT
    code = NOT_PERMITTED if isinstance(error, NotPermittedError) else getattr(error, "code", FAILED)
    return code if isinstance(code, int) else FAILED


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hostagent")
@click.option(
    "--config",
    envvar="HOSTAGENT_CONFIG",
    metavar="FILE",
    help="Configuration file. [default: /etc/hostagent/hostagent.toml]",
)
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """Govern what AI agents on this host may do: force, understand, decide, mask, hold, prove.

    \b
    First steps (as root):
      hostagent init                            make the configuration folder, and say what comes next
      hostagent doctor                          is this host ready?
      hostagent up                              run the service in the foreground
      hostagent run --workload bot -- psql …    start a governed program
      hostagent sql "from sessions"             ask what happened
    """
    ctx.obj = config
