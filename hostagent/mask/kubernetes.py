"""Objects of a Kubernetes API that hold secrets: their values are replaced wherever they stand in what comes back.

A request for such a resource shows them as an object, in a list, in the events of a watch, in the rows of a Table, as metadata alone (whose annotations
may repeat the object), or as the result of a write. All of it is walked, so that no form has to be known: every member of ``data``,
``stringData`` and ``binaryData``, the ``token`` of a TokenRequest, what an error quotes, what ``last-applied-configuration`` repeats, and annotations that hold a copy, or are long enough to.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

from hostagent.mask.content import Counts
from hostagent.mask.paths import stand_in_for
from hostagent.mask.transform import Transform, strictest
from hostagent.model.verdict import MaskKubernetes
from hostagent.wire.jsontext import JSON, build, parse

_ENCODED: Final = frozenset({"data", "binaryData"})
_PLAIN: Final = frozenset({"stringData"})
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_ANNOTATIONS: Final = "annotations"
_MESSAGE: Final = "message"
_QUOTES: Final = re.compile(r"Invalid value|[{\[]")
"""Where the message of a Status begins to repeat values: a patch whose result cannot be read is told with all of that result (apiserver, handlers/patch.go)."""
_SHORT: Final = 128
"""Characters of an annotation that is looked upon as one, and not as a copy of something."""


class ObjectMask:
    """The rules of one set of obligations about such objects: that they apply to what is masked was found before."""

    __slots__ = ("_encoded", "_key", "_transform")

    def __init__(self, rules: Sequence[MaskKubernetes], key: bytes) -> None:
        """Take the strictest transform of ``rules``, of which there is at least one.

        Raises:
            ValueError: a transform is none, so the obligation could not be met.
        """
        self._key = key
        self._transform: Transform = strictest([rule.transform for rule in rules])
        self._encoded = any(rule.what == "secrets" for rule in rules)

    def document(self, body: bytes, counts: Counts) -> bytes | None:
        """Return ``body`` with every value replaced; None when it is not JSON in one reading, and so must not pass."""
        try:
            value = parse(body, cased=True)
            self._walk(value, counts)
            return build(value)
        except ValueError:
            return None

    def _walk(self, value: JSON, counts: Counts) -> None:
        left: list[JSON] = [value]
        while left:
            match left.pop():
                case dict() as found:
                    for name in found:
                        found[name] = self._member(name, found[name], counts)
                    left += found.values()
                case list() as items:
                    left += items
                case _:
                    pass

    def _member(self, name: str, item: JSON, counts: Counts) -> JSON:
        if name in _ENCODED or name in _PLAIN:
            return self._values(item, counts, encoded=name == "binaryData" or (name in _ENCODED and self._encoded))
        if name == "token" and isinstance(item, str):
            return self._value(item, counts, encoded=False)
        if name == _MESSAGE and isinstance(item, str):
            return self._message(item, counts)
        if name == _ANNOTATIONS and isinstance(item, dict):
            return {key: self._annotation(key, each, counts) for key, each in item.items()}
        return item

    def _message(self, item: str, counts: Counts) -> JSON:
        found = _QUOTES.search(item)
        if found is None:
            return item
        quoted = self._value(item[found.start() :], counts, encoded=False)
        return item[: found.start()] + (quoted if isinstance(quoted, str) else "")

    def _annotation(self, key: str, item: JSON, counts: Counts) -> JSON:
        if not isinstance(item, str):
            return item
        if key == _LAST_APPLIED:
            inner = self.document(item.encode(), counts)
            return "{}" if inner is None else inner.decode()
        short = len(item) <= _SHORT and not item.lstrip().startswith(("{", "["))  # kapp and others keep a copy of the object under names of their own
        return item if short else self._value(item, counts, encoded=False)

    def _values(self, item: JSON, counts: Counts, *, encoded: bool) -> JSON:
        if isinstance(item, dict):
            return {key: self._value(each, counts, encoded=encoded) for key, each in item.items()}
        return self._value(item, counts, encoded=encoded)

    def _value(self, item: JSON, counts: Counts, *, encoded: bool) -> JSON:
        if item is None:
            return None
        counts.masked += 1
        if not encoded or not isinstance(item, str):
            return stand_in_for(item, self._transform, self._key)
        put = stand_in_for(_decoded(item), self._transform, self._key)
        return base64.b64encode(put.encode()).decode() if isinstance(put, str) else None


def _decoded(text: str) -> str:
    """Return what ``text`` encodes, or itself if that is no text."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return text
