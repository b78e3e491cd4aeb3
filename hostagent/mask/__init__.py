"""Masking: what a verdict's obligations do to rows, COPY streams, messages and texts.

Lives here: content detectors and their validators, transforms, the resolution of column rules against a catalogue, and the
plans that rewrite DataRow runs and COPY streams. Pure: bytes and values in, bytes and values out.
May not live here: deciding which obligations apply (``policy``), protocol state (``inspectors``), fetching the catalogue.

Known limits, stated so that nobody relies on more: a masked column may be used in WHERE, JOIN and ORDER BY, so its values
can be found out by asking many questions; operators and casts that someone added to the database run code that is not
seen; content detectors recognise values as people write them, not values taken apart or encoded on purpose.
"""

from __future__ import annotations

from hostagent.mask.content import Counts
from hostagent.mask.copyout import CopyPlan
from hostagent.mask.detectors import DETECTORS, expand
from hostagent.mask.masker import Masker, ResultColumn
from hostagent.mask.messages import scrub
from hostagent.mask.rows import RowPlan
from hostagent.mask.statements import Exposure
from hostagent.mask.transform import TRANSFORMS

__all__ = [
    "DETECTORS",
    "TRANSFORMS",
    "CopyPlan",
    "Counts",
    "Exposure",
    "Masker",
    "ResultColumn",
    "RowPlan",
    "expand",
    "scrub",
]
