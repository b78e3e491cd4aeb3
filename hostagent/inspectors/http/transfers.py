"""Which requests and responses move a file, by what they declare; and an upload on its way.

A body is a message of the protocol, and no file, if it is JSON or a form, which can be looked at, and not longer than anybody looks at
(1 MiB). Anything else that a workload sends is an upload, whatever it calls it; a form carries the files in it. Of what comes back,
text that a program or a browser reads is a message as well. Objects of S3 and blobs of a registry (OCI Distribution 1.1 §pull, §push) are
always files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, cast
from urllib.parse import unquote

from hostagent.inspectors.http import websocket
from hostagent.inspectors.http.content import MAX_LOOKED_AT, is_json
from hostagent.inspectors.judged import Trace
from hostagent.inspectors.ports import Desk
from hostagent.inspectors.transfers import Meter
from hostagent.model.command import Command
from hostagent.model.operation import Content, ContentKind, Operation
from hostagent.model.transfer import MAYBE_DOWNLOAD, Direction, Transfer
from hostagent.wire.forms import Form, boundary
from hostagent.wire.http1.head import RequestHead, ResponseHead
from hostagent.wire.http1.location import Location, query_pairs
from hostagent.wire.multipart import MultipartReader, Part

LEAST: Final = MAX_LOOKED_AT
"""A message that is longer is a file."""

_MULTIPART: Final = "multipart/form-data"
_SENT_MESSAGES: Final = frozenset({"application/x-www-form-urlencoded", _MULTIPART})
_READ_MESSAGES: Final = frozenset(
    {
        *("", "text/html", "text/plain", "text/css", "text/javascript", "text/xml", "text/event-stream", "application/javascript", "application/xml"),
        *("application/x-ndjson", "application/x-www-form-urlencoded", "application/graphql-response+json", "application/grpc"),
    }
)
_BLOB: Final = re.compile(r"/v2/(.+)/blobs/(?:uploads/.*|([a-z0-9+._-]+:[0-9a-fA-F]+))")
_NAMED: Final = re.compile(r'(?i);[ \t]*filename[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
_NAMED_EXTENDED: Final = re.compile(r"(?i);[ \t]*filename\*[ \t]*=[ \t]*(?:utf-8|iso-8859-1)'[^']*'([^\s;]+)")
_MOST_FILES: Final = 100
_TYPE, _SIZE, _OTHER = range(3)
_TELLING: Final = {
    "content-type": _TYPE,
    "content-length": _SIZE,
    **dict.fromkeys(("content-disposition", "content-range", "x-amz-request-id"), _OTHER),
}
"""Fields of a response that say whether it is a file."""
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


def media_type(values: Sequence[str]) -> str:
    """Return the type that the values of Content-Type declare, empty for none; what is given twice is several types."""
    return ", ".join(value.partition(";")[0].strip().lower() for value in values)


def length_of(head: RequestHead | ResponseHead) -> int | None:
    """Return how many bytes ``head`` says that the body has, None if it does not say."""
    lengths = head.values("content-length")
    return int(lengths[0]) if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else None


def name_of(location: Location) -> str:
    """Return the path of the object that is asked for; for a registry's blob its repository and digest."""
    found = _BLOB.fullmatch(location.path)
    if found is None:
        return location.path
    digest = found[2] or next((value for name, value in query_pairs(location.query or "") or () if name == "digest"), "")
    return f"{found[1]}@{digest}" if digest else location.path


def sent(method: str, location: Location, fields: Sequence[tuple[str, str]], size: int | None, *, empty: bool) -> Transfer | None:
    """Return the transfer that a request is by its head and the ``size`` it declares. Not ``certain``: its body says it; None: what it opens is no answer."""
    if method == websocket.VERB:
        return None
    if empty:
        return MAYBE_DOWNLOAD
    kind = media_type([value for name, value in fields if name.lower().replace("_", "-") == "content-type"])
    message = is_json(kind) or kind in _SENT_MESSAGES or (kind == "" and method == "POST")
    certain = not message or (size is not None and size > LEAST and kind != _MULTIPART)
    if kind == _MULTIPART:
        return Transfer(Direction.UPLOAD, None, None, size, certain=method != "POST")
    return Transfer(Direction.UPLOAD, (name_of(location),), (kind,), size, certain=certain)


def with_content(asked: Operation, content: Content, size: int | None) -> Transfer | None:
    """Return the transfer that ``asked`` is, its body being ``content`` of ``size`` bytes (None: longer than was looked at)."""
    transfer = asked.transfer
    if transfer is None or transfer.direction is Direction.DOWNLOAD:
        return transfer
    if content.kind is ContentKind.NOTHING:
        return MAYBE_DOWNLOAD
    if size is not None:
        transfer = replace(transfer, size=size)
    if transfer.certain and transfer.names is not None:
        return transfer
    if content.kind is ContentKind.FORM:
        files = [field for field in cast("Form", content.value) if field.filename is not None]
        if not files:
            return MAYBE_DOWNLOAD
        names = tuple(field.filename or "" for field in files)
        return replace(transfer, names=names, media_types=tuple(field.media_type for field in files), certain=True)
    return MAYBE_DOWNLOAD if content.kind is ContentKind.JSON and not transfer.certain else replace(transfer, certain=True)


def plain(asked: Operation, head: ResponseHead, location: Location) -> bool:
    """Return whether a response with a body is surely no file, found out quickly: a short message and nothing that says otherwise."""
    kind, size = "", -1
    for name, value in head.fields:
        known = _TELLING.get(name.lower())
        if known is None:
            continue
        if known == _TYPE and not kind:
            kind = value
        elif known == _SIZE and size < 0 and _LENGTH.fullmatch(value):
            size = int(value)
        else:
            return False
    return 0 <= size <= LEAST and "aws" not in asked.attributes and "/blobs/" not in location.path and _is_read(kind)


@lru_cache(256)
def _is_read(content_type: str) -> bool:
    """Return whether a response of that Content-Type is a message, not a file."""
    kind = media_type([content_type])
    return is_json(kind) or kind in _READ_MESSAGES or kind.startswith("application/grpc+") or (kind.endswith("+xml") and kind != "image/svg+xml")


def received(asked: Operation, head: ResponseHead, location: Location) -> Transfer:
    """Return the transfer that a response with a body is by its head. Not ``certain``: only if it is longer than a message."""
    size = length_of(head)
    kind = media_type(head.values("content-type"))
    disposition = head.values("content-disposition")
    named = _disposition_name(disposition[0]) if disposition else ""
    name = name_of(location)
    message = _is_read(kind)
    stored = asked.attributes.get("aws", "").startswith("s3:") or (bool(head.values("x-amz-request-id")) and bool(head.values("etag")))
    file = named or (disposition and disposition[0].lower().lstrip().startswith("attachment")) or head.status == 206
    certain = not message or bool(file) or name != location.path or (stored and head.status < 300)
    return Transfer(Direction.DOWNLOAD, (named or name,), (kind,), size, certain=certain or (size is not None and size > LEAST))


def _disposition_name(value: str) -> str:
    """Return the file name in a Content-Disposition (RFC 6266 §4.3), empty if none."""
    extended, plain = _NAMED_EXTENDED.search(value), _NAMED.search(value)
    if extended is not None:
        return unquote(extended[1])
    if plain is None:
        return ""
    text = plain[1] or plain[2] or ""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


class Upload:
    """The body of a request on its way to the target: one transfer, or one for each file of a form."""

    def __init__(self, meter: Meter, trace: Trace, kinds: Sequence[str]) -> None:
        """``kinds`` are the values of Content-Type: a form's says where its parts end."""
        self.meter = meter
        meter.statement = trace.statement
        self._file: Meter | None = None
        self._files: list[Meter] = []
        self._beside = 0
        mark = boundary(kinds[0].split(";")[1:]) if len(kinds) == 1 and media_type(kinds) == _MULTIPART else None
        self._reader = None if mark is None else MultipartReader(mark, self)

    @property
    def size(self) -> int:
        """About how many bytes are kept."""
        return 1000 * (1 + len(self._files)) + (0 if self._reader is None else self._reader.size)

    def take(self, content: bytes) -> None:
        """Count what is about to go on.

        Raises:
            LimitPassedError: it would be more than a rule lets pass.
        """
        self.meter.take(content)
        if self._reader is not None:
            self._reader.feed(content)

    # -- what is in a form -----------------------------------------------------------------------------------------------

    def begin(self, part: Part) -> None:
        """A part of a form begins."""
        if part.name is not None and len(self._files) < _MOST_FILES:
            whole = self.meter
            transfer = Transfer(Direction.UPLOAD, (part.name,), (part.media_type,), None)
            self._file = Meter(transfer, rules=whole.rules, policy=whole.policy, coding=whole.coding)
            self._file.statement = whole.statement
            self._files.append(self._file)

    def content(self, content: bytes) -> None:
        """A piece of that part."""
        if self._file is not None:
            self._file.take(content)
        else:
            self._beside += len(content)

    def end(self) -> None:
        """That part is over."""
        self._file = None

    # -- its end ---------------------------------------------------------------------------------------------------------

    def over(self, desk: Desk, outcome: str, reason: str, now: float, out: list[Command]) -> None:
        """Record it, once. Files of a form that could not be told apart to its end are recorded as the form that they were in, as is a long form without any."""
        whole = self.meter
        if whole.told or not self._told_apart(outcome):
            desk.moved(whole, outcome, now, out, reason=reason)
        else:
            for each in self._files:
                desk.moved(each, outcome if each is self._file else "finished", now, out, reason=reason if each is self._file else "")
        whole.told = True

    def _told_apart(self, outcome: str) -> bool:
        """Return whether its files are all that there is to record: nothing beside them is as long as one."""
        reader = self._reader
        if reader is None or reader.odd or (outcome == "finished" and not reader.done):
            return False
        return 0 < len(self._files) < _MOST_FILES and self._beside <= LEAST
