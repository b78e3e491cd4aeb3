"""TLS as a filter between a transport and the gate: ciphertext in, plaintext out, and back.

A memory BIO rather than ``loop.start_tls`` because the upgrade happens in the middle of a conversation, sometimes with bytes
already received, and because the same code then serves both event loops.
"""

from __future__ import annotations

import contextlib
import ssl

_READ_SIZE = 262_144


class TLSPipe:
    """One TLS connection over bytes handed in and out.

    Any method may raise ``ssl.SSLError`` (which includes certificate verification errors): the connection is unusable then.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        """Prepare a handshake in the role given; nothing is sent yet (``handshake`` does that)."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._established = False
        self.ended = False

    def handshake(self) -> bytes:
        """Take the handshake as far as it goes and return the ciphertext to send."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self._established = True
        return self._outgoing.read()

    def is_up(self) -> bool:
        """Return whether the handshake is complete."""
        return self._established

    def push(self, data: bytes) -> None:
        """Take in ciphertext from the transport."""
        self._incoming.write(data)

    def receive(self) -> bytes:
        """Return the plaintext available now; sets ``ended`` when the peer closed its half."""
        parts: list[bytes] = []
        while True:
            try:
                part = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.ended = True
                break
            if not part:
                self.ended = True
                break
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def send(self, data: bytes) -> bytes:
        """Return the ciphertext of ``data`` (and whatever else TLS wants sent)."""
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        """Return the close_notify to send last."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()  # the peer's close_notify is not awaited: its answer would go nowhere
        return self._outgoing.read()

    @property
    def version(self) -> str:
        """The protocol version agreed on, such as ``TLSv1.3``."""
        return self._tls.version() or ""

    @property
    def alpn(self) -> str:
        """The protocol agreed on inside (RFC 7301), empty if none was."""
        return self._tls.selected_alpn_protocol() or ""

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate in DER, empty when it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""
