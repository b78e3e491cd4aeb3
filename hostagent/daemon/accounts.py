"""The unix accounts of the processes."""

from __future__ import annotations

import pwd

from hostagent.model.errors import DocumentError


def account_of(user: str) -> pwd.struct_passwd:
    """Return the account entry of ``user``.

    Raises:
        DocumentError: there is none; the message holds the command that makes it.
    """
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise DocumentError(
            f"user {user} does not exist: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {user}"
        ) from None
