"""The bodies of enforcerd's requests and answers, one frozen type per number.

====== ============== ========================= ==========================================================
number name           asked by                  answered with
====== ============== ========================= ==========================================================
0      Failed         (answer to any request)   one line for a person
2 / 3  Launch         launcher                  Launched and three or one descriptors; later Exited (33)
4 / 5  Signal         launcher, own leaf only   Signalled
6 / 7  Status         anyone                    StatusReport
8 / 9  Kill           root                      Killed
10/11  Uninstall      root                      Uninstalled
12/13  Reload         root                      Reloaded
14/15  Quarantine     root                      Quarantined
16/17  Release        root                      Released
18/19  Verify         root                      Verified, when every attempt has been made
20/21  Attach         the proxy's user          Attached
22/23  Admit          enforcerd, of the proxy   Admitted
24/25  Listen         enforcerd, of the proxy   Listening; descriptors come with the request
26/27  Retire         enforcerd, of the proxy   Retired
28/29  Renew          enforcerd, of the proxy   Renewed; the descriptor of the secrets comes with the request
30/31  Draw           the proxy's user          Drawn, and descriptors
32     Leave          the proxy's user          (nothing)
33     Exited         (enforcerd, unasked)      sent once to the launcher, with the id of its Launch
====== ============== ========================= ==========================================================
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message's content."""


class Failed(Body, frozen=True):
    """The request with this id was not done; nothing of it is left behind. ``code`` is the CLI's exit status."""

    reason: str
    code: int = 1


class Launch(Body, frozen=True):
    """Start ``argv`` as workload ``workload``.

    ``tty``: a pty of ours with ``rows`` x ``cols`` instead of three pipes. ``cwd`` is used if it is visible inside.
    """

    workload: Annotated[str, msgspec.Meta(max_length=48)]
    argv: list[str]
    env: dict[str, str]
    cwd: str
    tty: bool
    rows: int = 24
    cols: int = 80


class Launched(Body, frozen=True):
    """The program runs in leaf ``leaf``; ``pid`` is the host's number of its first process, ``weaker`` what a person should know.

    Descriptors: the pty's master, or the write end of stdin and the read ends of stdout and stderr, in that order.
    """

    leaf: str
    pid: int
    weaker: list[str] = []


class Exited(Body, frozen=True):
    """The program ended: ``status`` is its exit code, or minus the number of the signal that ended it.

    ``reason`` is set when it ended for a reason of ours (killed, identity lost, could not be executed).
    """

    leaf: str
    status: int
    reason: str = ""


class Signal(Body, frozen=True):
    """Send signal ``number`` to the process group of the launched program."""

    number: int


class Signalled(Body, frozen=True):
    """The signal was sent, or the program was already gone."""


class Status(Body, frozen=True):
    """Ask what is governed."""


class StatusReport(Body, frozen=True):
    """The state of enforcement; see ``hostagent.enforcer.status``."""

    report: dict[str, Any]


class Kill(Body, frozen=True):
    """End every process of a workload (every leaf of it) or of one leaf, by name."""

    name: str
    reason: str = ""


class Killed(Body, frozen=True):
    """These leaves were killed."""

    leaves: list[str]


class Quarantine(Body, frozen=True):
    """End every leaf of a workload and refuse its launches until Release, over restarts too."""

    name: str
    reason: str = ""


class Quarantined(Body, frozen=True):
    """It is in force; these leaves were killed."""

    leaves: list[str]


class Release(Body, frozen=True):
    """Let a workload be launched again."""

    name: str


class Released(Body, frozen=True):
    """It may."""


class Uninstall(Body, frozen=True):
    """End every workload, take the fence down, leave no trace in the kernel; enforcerd ends afterwards."""


class Uninstalled(Body, frozen=True):
    """What was removed, one line each."""

    removed: list[str]


class Reload(Body, frozen=True):
    """Read configuration, documents and credentials again, here and in the proxy: all of them, or if one is wrong none."""


class Reloaded(Body, frozen=True):
    """They were taken. ``changes`` and ``notes`` are those of ``Renewed``; ``problem`` says why the proxy kept what it had."""

    changes: list[str] = []
    notes: list[str] = []
    problem: str = ""


class Verify(Body, frozen=True):
    """Attack the boundary from throw-away leaves and say what came of it."""


class Verified(Body, frozen=True):
    """What came of it: ``attempts`` by name with outcome; ``failed`` are those that are not as they must be."""

    attempts: dict[str, str]
    failed: list[str]
    elapsed_us: int


class Attach(Body, frozen=True):
    """The proxy is ready to serve listeners. ``worker`` names it in records."""

    worker: str


class Attached(Body, frozen=True):
    """Accepted. An Admit and a Listen for every live leaf follow."""

    leaves: list[str]


class Admit(Body, frozen=True):
    """May ``workload`` be started in ``leaf`` by ``launcher`` (a unix user name)?

    ``again`` is true when the leaf runs already and the proxy has come back.
    """

    workload: str
    launcher: str
    leaf: str
    again: bool = False


class Admitted(Body, frozen=True):
    """The proxy's answer. ``identity`` (issuer, subject, groups, purpose, token_id, ...) goes into the record as it is."""

    admitted: bool
    reason: str = ""
    expires_at: float = 0.0
    session: str = ""
    identity: dict[str, Any] = {}


class Listen(Body, frozen=True):
    """Serve this leaf: what is accepted on these descriptors *is* from it.

    Descriptors, in this order: TCP IPv4, TCP IPv6, DNS over UDP IPv4, UDP IPv6, DNS over TCP IPv4, TCP IPv6. The first two
    carry every other TCP connection, with SO_ORIGINAL_DST. ``port`` and ``dns_port`` are where they are bound on loopback: a
    connection whose original destination is one of these was not redirected and must be refused. ``loopback_ports`` are
    the ports on 127.0.0.0/8 and ::1 that are redirected too (declared loopback targets).

    After these six: a unix listener for each path of ``sockets``, which stands at that path in the leaf's view (who dials it
    must have ``uid``). Then a TCP listener of the host for each of ``inbound`` (address, port): what is accepted there is
    for the leaf, not from it.
    """

    leaf: str
    workload: str
    placement: str
    port: int
    dns_port: int
    loopback_ports: list[int]
    sockets: list[str] = []
    uid: int = -1
    inbound: list[tuple[str, int]] = []


class Listening(Body, frozen=True):
    """The proxy accepts on the leaf's listeners from now on."""

    leaf: str


class Retire(Body, frozen=True):
    """The leaf has ended: close its listeners."""

    leaf: str


class Retired(Body, frozen=True):
    """Done."""

    leaf: str


class Renew(Body, frozen=True):
    """Configuration or targets may have changed: read them again.

    Descriptor: a sealed memory file with the targets' secrets (``daemon.credentials``).
    """


class Renewed(Body, frozen=True):
    """What the proxy did: ``changes`` has one line for each thing that changed; with a ``problem`` nothing did.

    ``notes`` are what a person should know, such as keys that count only after a restart.
    """

    changes: list[str] = []
    notes: list[str] = []
    problem: str = ""


class Draw(Body, frozen=True):
    """Ask for unconnected TCP sockets made inside a leaf's network, to connect to its inbound ports with."""

    leaf: str


class Leave(Body, frozen=True):
    """The proxy stops in an orderly way and another will follow: let who dials meanwhile wait, for a stated time."""


class Drawn(Body, frozen=True):
    """``SUPPLY`` descriptors of IPv4 sockets, then as many of IPv6. None: the leaf has no inbound ports, or has ended."""

    leaf: str


SUPPLY = 4
"""Sockets of each family in one answer to Draw."""
