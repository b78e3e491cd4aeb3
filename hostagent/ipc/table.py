"""Who may send enforcerd what, in which state. What is not in the table is fatal for the peer."""

from __future__ import annotations

import enum

from hostagent.ipc import messages
from hostagent.ipc.messages import Body
from hostagent.model.errors import RemoteWireError


class Role(enum.Enum):
    """Who the kernel says the peer is (peer credentials): the proxy's user, root, or anyone else."""

    PROXY = "proxy"
    ROOT = "root"
    USER = "user"


class State(enum.Enum):
    """Where a connection stands: nothing asked, a launch under way or running, or attached as the proxy."""

    FRESH = "fresh"
    LAUNCHING = "launching"
    RUNNING = "running"
    ATTACHED = "attached"
    ENDED = "ended"


_ANY_CLI = frozenset({Role.ROOT, Role.USER})
_ROOT = frozenset({Role.ROOT})
_PROXY = frozenset({Role.PROXY})

_ROWS: dict[type[Body], tuple[frozenset[Role], frozenset[State]]] = {
    messages.Launch: (_ANY_CLI, frozenset({State.FRESH})),
    messages.Signal: (_ANY_CLI, frozenset({State.RUNNING, State.ENDED})),
    messages.Status: (_ANY_CLI, frozenset({State.FRESH})),
    messages.Kill: (_ROOT, frozenset({State.FRESH})),
    messages.Quarantine: (_ROOT, frozenset({State.FRESH})),
    messages.Release: (_ROOT, frozenset({State.FRESH})),
    messages.Uninstall: (_ROOT, frozenset({State.FRESH})),
    messages.Reload: (_ROOT, frozenset({State.FRESH})),
    messages.Verify: (_ROOT, frozenset({State.FRESH})),
    messages.Attach: (_PROXY, frozenset({State.FRESH})),
    messages.Admitted: (_PROXY, frozenset({State.ATTACHED})),
    messages.Listening: (_PROXY, frozenset({State.ATTACHED})),
    messages.Retired: (_PROXY, frozenset({State.ATTACHED})),
    messages.Renewed: (_PROXY, frozenset({State.ATTACHED})),
    messages.Failed: (_PROXY, frozenset({State.ATTACHED})),
    messages.Draw: (_PROXY, frozenset({State.ATTACHED})),
    messages.Leave: (_PROXY, frozenset({State.ATTACHED})),
}


class Table:
    """One connection's view of the table."""

    def __init__(self, role: Role) -> None:
        """A new connection from ``role``."""
        self.role = role
        self.state = State.FRESH
        self._asked: dict[int, type[Body]] = {}

    def asked(self, packet_id: int, answer: type[Body]) -> None:
        """Note that we asked the peer something that only ``answer`` (or Failed) with this id answers, once."""
        self._asked[packet_id] = answer

    def permit(self, packet_id: int, body: Body) -> None:
        """Check one message from the peer.

        Raises:
            RemoteWireError: not this peer's to send, not now, or an answer to nothing. Fatal for the connection.
        """
        kind = type(body)
        row = _ROWS.get(kind)
        if row is None or self.role not in row[0] or self.state not in row[1]:
            raise RemoteWireError(f"{kind.__name__} is not permitted to {self.role.value} in state {self.state.value}")
        if self.state is State.ATTACHED and kind not in (messages.Draw, messages.Leave):
            expected = self._asked.pop(packet_id, None)
            if expected is None or kind not in (expected, messages.Failed):
                raise RemoteWireError(f"{kind.__name__} with id {packet_id} answers nothing that was asked")
