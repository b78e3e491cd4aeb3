"""The report behind ``hostagent status``: what is governed, by what, and what is weaker than it could be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hostagent.enforcer.confinement import landlock
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings

if TYPE_CHECKING:
    from hostagent.enforcer.leaves import Leaves


def report(settings: Settings, leaves: Leaves, evidence: Evidence) -> dict[str, Any]:
    """Return the report, JSON-compatible.

    Keys: ``fence`` (table, slice, slice_id, loaded, owned), ``firewall`` ("nft" or "iptables"), ``proxy`` (worker name, empty when none), ``leaves`` (a list, see
    below), ``auditor`` and ``quarantine`` (see their ``report``), ``bpf`` (``Programs.report``), ``verify`` (when the last run ended, its cause, how many attempts, which
    failed; empty: none yet), ``weaker`` (lines for a person), ``evidence`` (why it cannot be written, empty when it can). A leaf
    has ``leaf``, ``workload``, ``launcher``, ``placement``, ``uid``, ``pid``, ``stage``, ``served``, ``session``, ``started_at``,
    ``processes``.
    """
    return {
        "pid": os.getpid(),
        "fence": {
            "table": settings.table,
            "slice": str(leaves.slice.path),
            "slice_id": leaves.slice.id,
            "loaded": leaves.fence.current,
            "owned": leaves.fence.table.owned,
        },
        "firewall": leaves.fence.firewall.value,
        "proxy": leaves.proxy.worker if leaves.proxy is not None else "",
        "leaves": [_leaf(each) for each in leaves.live()],
        "auditor": leaves.auditor.report(),
        "quarantine": leaves.quarantine.report(),
        "bpf": leaves.programs.report(),
        "verify": _verify(leaves),
        "weaker": _weaker(leaves),
        "evidence": evidence.failed,
    }


def _verify(leaves: Leaves) -> dict[str, Any]:
    last = leaves.verification.last
    return {} if last is None else {"at": last.at, "cause": last.cause, "failed": list(last.failed), "attempts": len(last.attempts)}


def _leaf(each: Governed) -> dict[str, Any]:
    return {
        "leaf": each.leaf.name,
        "workload": each.workload.name,
        "launcher": each.launcher,
        "placement": each.workload.placement.value,
        "uid": each.account.uid,
        "pid": each.main_pid,
        "stage": each.stage.value,
        "served": each.served,
        "session": each.session,
        "started_at": each.started_at,
        "processes": len(each.leaf.processes()),
    }


def weaker_points(each: Governed) -> list[str]:
    """Return what is weaker about this one program than it could be; ``hostagent run`` prints it too."""
    lines = []
    if not each.isolated:
        lines.append("shared placement: in the host's own network, with the nft rules as its fence; isolated placement is stronger")
        if not landlock.can_scope():
            lines.append("shared placement: abstract unix sockets of the host are within its reach (before Linux 6.12)")
    if not landlock.can_close_fifos():
        lines.append("a FIFO of the host's that others may write to is a way out (before Linux 5.19, or without Landlock)")
    if each.backstop:
        lines.append(f"nothing stands behind the nft table: {each.backstop}")
    if each.unheard:
        lines.append(f"denied system calls make no rows: {each.unheard}")
    if not each.account.own:
        lines.append(f"runs as login user {each.account.name}, whose readable files it can read")
    return lines


def _weaker(leaves: Leaves) -> list[str]:
    lines = leaves.programs.weaker()
    if leaves.fence.firewall.shared_refused:
        lines.append(leaves.fence.firewall.shared_refused)
        lines.append(
            "another tool's `iptables -F` takes the host's fence away for up to half a second; no workload depends on it: each is"
            " isolated and held in its own network namespace"
        )
    elif not leaves.fence.table.owned:
        lines.append(
            "the nft table is not owned (kernel below 6.9): another tool's `nft flush ruleset` removes it; it is loaded again"
            " within milliseconds, and meanwhile shared placement is held by the leaves' own cgroup programs (its connections"
            " stall)"
        )
    if leaves.watch.problem:
        lines.append(leaves.watch.problem)
    lines.extend(leaves.auditor.weaker())
    if leaves.quarantine.problem:
        lines.append(f"nothing is launched: {leaves.quarantine.problem}")
    for each in leaves.live():
        lines.extend(f"{each.leaf.name}: {line}" for line in weaker_points(each))
    return lines
