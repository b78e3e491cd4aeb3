"""A server that shows a client what it was sent (an echo, a debug page, an error) must not show it our credential.

Every response to a request that carried the credential is looked through, across all borders of pieces; what is found is replaced
by as many asterisks, so that no length changes. The server is asked for uncoded bodies. One that is gzip all the same is
decoded to be looked at, and cut off where the credential appears; any other coding is refused. What is not found: the
credential in another spelling (escaped, encoded anew, taken apart, or in parts that were asked for one by one).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.judged import Trace
from hostagent.model.errors import RemoteWireError
from hostagent.model.target import Login
from hostagent.wire.http1.head import ResponseHead

_SHORTEST: Final = 8
"""Fewest characters of a credential that is looked for: a shorter one stands in ordinary text."""
_STEP: Final = 262_144
_GZIP: Final = 31
_GZIPS: Final = frozenset({"gzip", "x-gzip"})


def forms(login: Login, secret: str | None) -> tuple[bytes, ...]:
    """Return the spellings under which ``secret`` goes to the target."""
    if secret is None or len(secret) < _SHORTEST or login.scheme == "certificate":  # a key is never sent
        return ()
    found = [secret.encode()]
    if login.scheme == "basic":
        found.append(base64.b64encode(f"{login.user}:{secret}".encode()))
    return tuple(found)


class Found:
    """What was found, in the form in which traces count."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.masked = 0
        self._times = 0

    @property
    def detections(self) -> Mapping[str, int]:
        """How often the credential was replaced."""
        return {"credential": self._times} if self._times else {}

    def add(self, times: int) -> None:
        """Count ``times`` more."""
        self._times += times


class Echo:
    """Looks through one response."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Look for each of ``secrets``; there may be none."""
        self._secrets = secrets
        self._longest = max(map(len, secrets), default=0)
        self._carry = b""
        self._gzip: Echo | None = None
        self._decoder = zlib.decompressobj(_GZIP)
        self.found = Found()

    def begin(self, head: ResponseHead) -> None:
        """Prepare for the body that follows ``head``.

        Raises:
            RemoteWireError: it is in a coding that cannot be looked through.
        """
        codings = [each.lower() for each in head.values("content-encoding") if each.lower() != "identity"]
        if not self._secrets or not codings:
            return
        if len(codings) != 1 or codings[0] not in _GZIPS:
            raise RemoteWireError(f"a body in the coding {', '.join(codings)}, though an uncoded one was asked for", "502")
        self._gzip = Echo(self._secrets)

    @property
    def decodes(self) -> bool:
        """Whether the body is decoded to be looked at, so that a little of it may be much."""
        return self._gzip is not None

    def fields(self, listed: Listed) -> Listed:
        """Return header fields without the credential."""
        return [(self.text(name), self.text(value)) for name, value in listed] if self._secrets else listed

    def text(self, said: str) -> str:
        """Return a piece of a head without the credential."""
        return self._replaced(said.encode("latin-1")).decode("latin-1") if self._secrets else said

    def body(self, content: bytes, *, last: bool) -> bytes:
        """Return what may pass of ``content`` and of what was kept back; all of it if it is the ``last``.

        Raises:
            RemoteWireError: the credential is inside a coded body.
        """
        if not self._secrets:
            return content
        if self._gzip is not None:
            self._look_inside(self._gzip, content)
            return content
        whole = self._replaced(self._carry + content)
        kept = 0 if last else self._beginning(whole)
        self._carry = whole[len(whole) - kept :]
        return whole[: len(whole) - kept]

    def _replaced(self, data: bytes) -> bytes:
        for secret in self._secrets:
            if secret in data:
                self.found.add(data.count(secret))
                data = data.replace(secret, b"*" * len(secret))
        return data

    def _beginning(self, data: bytes) -> int:
        """Return how many bytes at the end of ``data`` may be the beginning of a secret."""
        for size in range(min(self._longest - 1, len(data)), 0, -1):
            end = data[len(data) - size :]
            if any(secret.startswith(end) for secret in self._secrets):
                return size
        return 0

    def _look_inside(self, inside: Echo, content: bytes) -> None:
        while content:
            try:
                inside.body(self._decoder.decompress(content, _STEP), last=False)
            except zlib.error as error:
                raise RemoteWireError("a body that is not the gzip it says it is", "502") from error
            if inside.found.detections:
                raise RemoteWireError("the response shows the target's credential", "502")
            content = self._decoder.unconsumed_tail
            if self._decoder.eof:
                content, self._decoder = self._decoder.unused_data, zlib.decompressobj(_GZIP)

    def count(self, trace: Trace | None) -> None:
        """Have ``trace`` say what was found."""
        if trace is not None and self.found.detections:
            trace.count(self.found)
