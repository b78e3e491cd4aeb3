"""The error tree. Expected outcomes (a denial, a hold) are values, not errors."""

from __future__ import annotations


class HostagentError(Exception):
    """Anything this package raises on purpose. ``str()`` is one line for a person."""


class DocumentError(HostagentError):
    """A configuration, workload, target or policy document is wrong; nothing of it was taken."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        """Keep the single problems beside the message that names them all."""
        super().__init__(message)
        self.problems = problems or (message,)


class NotPermittedError(HostagentError):
    """This person may not do this; nothing was done."""


class JournalError(HostagentError):
    """Evidence could not be written; the operation must not happen."""


class UnwritableEventError(JournalError):
    """An event can never be written: too long, or not to be expressed. Nothing of what came with it was written either."""


class IdentityError(HostagentError):
    """No valid identity."""


class WireError(HostagentError):
    """Bytes that break the protocol."""


class LocalWireError(WireError):
    """We were about to send something the protocol does not allow: a bug of ours."""


class RemoteWireError(WireError):
    """The peer sent something the protocol does not allow. ``code`` is the protocol's own (SQLSTATE, status)."""

    def __init__(self, message: str, code: str = "08P01") -> None:
        """Keep the protocol's error code beside the message."""
        super().__init__(message)
        self.code = code
