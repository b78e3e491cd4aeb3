"""One end of an HTTP/2 connection: the ``h2`` library, with limits on what a peer can make it do and keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RemoteSettingsChanged, StreamReset
from h2.exceptions import H2Error, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from hostagent.model.errors import RemoteWireError
from hostagent.wire.http2.heads import Block
from hostagent.wire.http2.meter import MAX_BLOCK, RESET_COSTS, Goaway, Meter

MAX_STREAMS: Final = 100
"""Streams that a client may have at once."""
STREAM_WINDOW: Final = 262_144
"""Bytes of a body that a peer may send before the first of them has gone on."""
CONNECTION_WINDOW: Final = 1_048_576
"""Of all bodies of a connection together: what is kept of them is never more."""

_TABLE: Final = 4096
_REMEMBERED: Final = 65_536
"""Streams that the library remembers after their end."""
_FIRST_WINDOW: Final = 65_535


class Endpoint:
    """Our end. ``receive`` takes in bytes, ``take`` gives what is to be sent; whatever else is called adds to that."""

    def __init__(self, *, client_side: bool) -> None:
        """Begin with our settings ready to be sent."""
        config = H2Configuration(client_side=client_side, header_encoding=None, validate_inbound_headers=False)
        self.connection = H2Connection(config)
        values = {
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_BLOCK,
            SettingCodes.HEADER_TABLE_SIZE: _TABLE,
        }
        if client_side:
            values[SettingCodes.ENABLE_PUSH] = 0
            del values[SettingCodes.MAX_CONCURRENT_STREAMS]
        self.connection.local_settings = Settings(client=client_side, initial_values=values)
        self.connection.decoder.max_header_list_size = MAX_BLOCK
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW - _FIRST_WINDOW)
        self._meter = Meter(preface=not client_side)
        self.goaways: list[Goaway] = []
        self._settled = False
        self._dead = False

    @property
    def size(self) -> int:
        """About how many bytes are kept, bodies aside."""
        opened: int = max(self.connection.highest_inbound_stream_id, self.connection.highest_outbound_stream_id) // 2
        return self._meter.size + 300 * len(self.connection.streams) + 120 * min(opened, _REMEMBERED) + 16_384

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Return what ``data`` brings; ``goaways`` what it takes away.

        Raises:
            RemoteWireError: the peer broke the protocol or floods us; its code is the name of an HTTP/2 error.
        """
        frames, told = self._meter.pass_on(data, now)
        self.goaways += told
        if not frames:
            return []
        try:
            events: list[Event] = self.connection.receive_data(frames)
        except H2Error as error:
            self._dead = True
            code = getattr(error, "error_code", ErrorCodes.PROTOCOL_ERROR)
            raise RemoteWireError(f"broken HTTP/2: {type(error).__name__}: {error}"[:300], ErrorCodes(code).name) from error
        for event in events:
            if isinstance(event, StreamReset) and not event.remote_reset:  # what it did had us reset a stream (CVE-2025-8671)
                self._meter.charge(RESET_COSTS)
        if any(isinstance(event, RemoteSettingsChanged) for event in events):
            self._settled = True
            if self.connection.encoder.header_table_size > _TABLE:
                self.connection.encoder.header_table_size = _TABLE  # what the peer would let us remember, it does not make us
        return events

    def take(self) -> bytes:
        """Return the bytes to send."""
        data = self.connection.data_to_send()
        if data:
            self._meter.earn(1 + len(data) // 1024)
        return bytes(data)

    def goaway(self, last: int, code: str) -> bytes:
        """Return a GOAWAY: no stream above ``last`` is taken. Streams that are open go on."""
        return bytes(GoAwayFrame(0, last_stream_id=last, error_code=ErrorCodes[code].value).serialize())

    # -- streams ---------------------------------------------------------------------------------------------------------

    def can_open(self) -> bool:
        """Return whether the peer, which has said how many streams it takes, takes one more now."""
        return self._settled and not self._dead and bool(self.connection.open_outbound_streams < self.connection.remote_settings.max_concurrent_streams)

    def open(self, block: Block, *, end: bool) -> int:
        """Send a request; return its stream."""
        stream: int = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, block, end_stream=end)
        return stream

    def head(self, stream: int, block: Block, *, end: bool) -> None:
        """Send a response's head, or a trailer."""
        self._do(lambda: self.connection.send_headers(stream, block, end_stream=end))

    def _do(self, act: Callable[[], None]) -> None:
        """Send something on a stream: nothing if the stream or the connection has come to its end meanwhile."""
        if not self._dead:
            with contextlib.suppress(StreamClosedError):
                act()

    def room(self, stream: int) -> int:
        """Return how many bytes of a body may be sent in one frame now."""
        if self.over(stream):
            return 0
        window: int = self.connection.local_flow_control_window(stream)
        return max(0, min(window, int(self.connection.max_outbound_frame_size)))

    def data(self, stream: int, content: bytes, *, end: bool) -> None:
        """Send a piece of a body, for which there is ``room``."""
        self._do(lambda: self.connection.send_data(stream, content, end_stream=end))

    def used(self, stream: int, size: int) -> None:
        """So many bytes that came have gone on: the peer may send as many more."""
        if size:
            self._do(lambda: self.connection.acknowledge_received_data(size, stream))

    def reset(self, stream: int, code: str) -> None:
        """End a stream before its end, if it is not over."""
        if not self.over(stream):
            self._do(lambda: self.connection.reset_stream(stream, ErrorCodes[code]))

    def over(self, stream: int) -> bool:
        """Return whether nothing more can be sent on a stream."""
        found = self.connection.streams.get(stream)
        return self._dead or found is None or bool(found.closed)
