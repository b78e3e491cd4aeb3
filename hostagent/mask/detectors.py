"""Content detectors: what sensitive values look like, wherever they occur.

Every detector has a *trigger* and a *form*. The form is the exact pattern, whose matches a validator confirms. The trigger
is a pattern without any condition on what stands around it, such that every confirmed match contains a match of the
trigger. So the union of all triggers, run once over raw bytes (framing included), is a strict superset of all detectors:
what it does not hit needs no closer look. No form matches across a NUL byte, so NUL can separate many fields in one scan.

========================  =============================================================================================
detector                  what it takes
========================  =============================================================================================
card                      13 to 19 digits, bare or grouped by space or dash as printed, known network, Luhn
iban                      known country and length, remainder modulo 97, with or without spaces
email                     local part, @, dotted domain
phone                     E.164 with plus; North American, French, British and German national forms
ssn-us                    three-two-four digits with dash or space, ranges in use
aws-access-key            AKIA, ASIA, ABIA, ACCA and 16 characters
aws-secret-key            40 mixed Base64 characters near the word aws or secret
github-token, gitlab-token, slack-token, google-api-key, stripe-key, anthropic-key, openai-key   issuer's own prefix
private-key               PEM private key, to its end
jwt                       three or five Base64url parts whose header names an algorithm
url-password              the password of a URL
========================  =============================================================================================
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hostagent.mask import validators
from hostagent.mask.pattern import Pattern, compile_bytes, glob
from hostagent.mask.validators import Span


class Hit(NamedTuple):
    """One sensitive value: offsets in the text and the detector's name."""

    start: int
    end: int
    detector: str


@dataclass(frozen=True, slots=True)
class Detector:
    """One form of one detector.

    ``group`` is the part of ``form`` that is sensitive. ``overlapping``: a match that the validator refuses may hide
    another that begins inside it, so the search goes on behind the first byte of ``group``; only for forms of bounded
    length, else time would grow with the square of the text. ``common`` forms are looked for one by one;
    the others only when the union of their triggers hits.
    """

    name: str
    form: bytes
    trigger: bytes
    validate: Callable[[bytes, int, int], Iterator[Span]]
    group: int = 0
    overlapping: bool = False
    common: bool = False


_LOCAL = rb"[A-Za-z0-9._%+'\x80-\xff-]"
_LABEL = rb"[A-Za-z0-9\x80-\xff]"
_NATIONAL = rb"|".join(
    (
        rb"(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}",  # North America
        rb"0[1-9](?:[ .-][0-9]{2}){4}",  # France
        rb"07[0-9]{3} [0-9]{3} ?[0-9]{3}|020 [0-9]{4} [0-9]{4}|01[0-9]{2,3} [0-9]{3} ?[0-9]{3,4}",  # United Kingdom
        rb"0[1-9][0-9]{1,4}[ /][0-9]{6,8}",  # Germany
    )
)
_PEM = rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY"

_TABLE: tuple[Detector, ...] = (
    Detector("card", rb"[0-9](?:[ -]?[0-9]){12,}", rb"[2-68](?:[ -]?[0-9]){12}", validators.cards, common=True),
    Detector(
        "iban",
        rb"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,40}",
        rb"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11}",
        validators.iban,
        overlapping=True,
        common=True,
    ),
    Detector(
        "email",
        _LOCAL + rb"+@(?:" + _LABEL + rb"(?:[A-Za-z0-9\x80-\xff-]*" + _LABEL + rb")?\.)+(?:[A-Za-z]{2,24}|xn--[a-z0-9-]+)",
        _LOCAL + rb"@" + _LABEL,
        validators.email,
        common=True,
    ),
    Detector(
        "phone",
        rb"\+[1-9](?:[ ()./-]{0,2}[0-9]){6,14}",
        rb"\+[1-9](?:[ ()./-]{0,2}[0-9]){6}",
        validators.international_phone,
        common=True,
    ),
    Detector("phone", _NATIONAL, _NATIONAL, validators.national_phone, common=True),
    Detector(
        "ssn-us",
        rb"[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}",
        rb"[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}",
        validators.social_security,
        common=True,
    ),
    Detector(
        "aws-access-key",
        rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
        rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
        validators.word,
    ),
    Detector(
        "aws-secret-key",
        rb"(?i:aws|secret)[^\x00]{0,60}?[^A-Za-z0-9/+=\x00]([A-Za-z0-9/+=]{40})",
        rb"(?i:aws|secret)",
        validators.mixed_secret,
        group=1,
        overlapping=True,
    ),
    Detector(
        "github-token",
        rb"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
        rb"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}",
        validators.anything,
    ),
    Detector("gitlab-token", rb"glpat-[A-Za-z0-9_-]{20,}", rb"glpat-[A-Za-z0-9_-]{20}", validators.anything),
    Detector(
        "slack-token",
        rb"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}"
        rb"|hooks\.slack\.com/services/T[A-Za-z0-9]+/B[A-Za-z0-9]+/[A-Za-z0-9]+",
        rb"xox[abeoprs]-[A-Za-z0-9-]{10}|xapp-[0-9]-|hooks\.slack\.com/services/T",
        validators.anything,
    ),
    Detector("google-api-key", rb"AIza[0-9A-Za-z_-]{35}", rb"AIza[0-9A-Za-z_-]{35}", validators.word),
    Detector(
        "stripe-key",
        rb"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}",
        rb"[rs]k_(?:live|test)_[A-Za-z0-9]{16}|whsec_[A-Za-z0-9+/=]{24}",
        validators.anything,
    ),
    Detector("anthropic-key", rb"sk-ant-[A-Za-z0-9_-]{20,}", rb"sk-ant-[A-Za-z0-9_-]{20}", validators.prefixed_key),
    Detector("openai-key", rb"sk-[A-Za-z0-9_-]{20,}", rb"sk-[A-Za-z0-9_-]{20}", validators.prefixed_key),
    Detector(
        "private-key",
        _PEM + rb"(?: BLOCK)?-----(?:[^\x00]*?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[^\x00]*)",
        _PEM,
        validators.anything,
    ),
    Detector(
        "jwt",
        rb"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){2,4}",
        rb"eyJ[A-Za-z0-9_-]{5}",
        validators.json_web_token,
    ),
    Detector(
        "url-password",
        rb"[A-Za-z][A-Za-z0-9+.-]*://[^\x00/\s:@]*:([^\x00/\s@]+)@",
        rb"://[^\x00/\s:@]*:[^\x00/\s@]",
        validators.anything,
        group=1,
    ),
)

DETECTORS: frozenset[str] = frozenset(detector.name for detector in _TABLE)
"""Every name that a policy may use."""

ALL_WORDS = frozenset({"all", "*"})


def expand(names: Iterable[str]) -> frozenset[str]:
    """Return the detectors that names, globs, ``all`` stand for.

    Raises:
        ValueError: one of them stands for nothing; an obligation that cannot be met must not be dropped silently.
    """
    found: set[str] = set()
    for name in names:
        matched = DETECTORS if name in ALL_WORDS else {d for d in DETECTORS if glob(name).fullmatch(d.encode())}
        if not matched:
            raise ValueError(f"no content detector is called {name!r}; there are {', '.join(sorted(DETECTORS))}")
        found |= matched
    return frozenset(found)


_APART = rb'"\n,;:<>{}\[\]=\x00\t&|'
"""Bytes that no match of a common form contains, and beyond which none of their validators looks."""

_LARGE = 4096

EFFORT = 32_768
"""How much looking one large value (or row, or text) is worth; about that many microseconds. See ``Scanner.limit``."""

_UNLIMITED = 1 << 60


class TooCostly(Exception):  # noqa: N818 - not an error of anybody's: the value is then treated as one hit
    """So much in a value resembles what is looked for that looking closely would keep every other session waiting."""


class Scanner:
    """The chosen detectors, compiled. Make one with ``scanner``: compiling takes milliseconds."""

    def __init__(self, names: frozenset[str]) -> None:
        """Compile the detectors called ``names``, each of which exists."""
        chosen = [d for d in _TABLE if d.name in names]
        self.trigger_source = b"|".join(d.trigger for d in chosen)
        self.trigger: Pattern = compile_bytes(self.trigger_source)
        self._common = [(d, compile_bytes(d.form)) for d in chosen if d.common]
        self._windows = compile_bytes(
            b"[^%b]*(?:%b)[^%b]*" % (_APART, b"|".join(d.trigger for d, _ in self._common), _APART)
        )
        self._rare = [(d, compile_bytes(d.form)) for d in chosen if not d.common]
        self._rare_trigger = compile_bytes(b"|".join(d.trigger for d, _ in self._rare)) if self._rare else None
        self._left = _UNLIMITED

    def limit(self, effort: int | None) -> None:
        """Let everything from now on cost no more than ``effort``; None: no limit.

        What is small is bounded by its size; a large value is limited by whoever has it scanned, and taken off the limit again.
        """
        self._left = _UNLIMITED if effort is None else effort

    def spend(self, effort: int) -> None:
        """Count work that ``hits`` does not see.

        Raises:
            TooCostly: there is no effort left.
        """
        self._left -= effort
        if self._left < 0:
            raise TooCostly

    def hits(self, data: bytes) -> list[Hit]:
        """Return every sensitive value in ``data``, from the left, overlapping ones merged into one.

        Raises:
            TooCostly: a limit was set and reached; nothing is known of ``data``.
        """
        self.spend(16 + (len(data) >> 9))
        found: list[Hit] = []
        if len(data) < _LARGE:
            for detector, form in self._common:
                self._collect(detector, form, data, found)
        elif self._common:
            self._collect_apart(data, found)
        if self._rare_trigger is not None and self._rare_trigger.search(data) is not None:
            for detector, form in self._rare:
                self._collect(detector, form, data, found)
        return _merged(found) if len(found) > 1 else found

    def _collect_apart(self, data: bytes, found: list[Hit]) -> None:
        """Collect the hits of common forms, looking only at the pieces of ``data`` in which a trigger hits, all together."""
        pieces: list[bytes] = []
        begins: list[int] = []
        shifts: list[int] = []
        size = 0
        for window in self._windows.finditer(data):
            self.spend(8)
            start = max(0, window.start() - 1)
            piece = data[start : window.end() + 1]
            pieces.append(piece)
            begins.append(size)
            shifts.append(start - size)
            size += len(piece) + 1
        joined = b"\x00".join(pieces)
        inside: list[Hit] = []
        for detector, form in self._common:
            self._collect(detector, form, joined, inside)
        for hit in inside:
            shift = shifts[bisect_right(begins, hit.start) - 1]
            found.append(Hit(hit.start + shift, hit.end + shift, hit.detector))

    def _collect(self, detector: Detector, form: Pattern, data: bytes, found: list[Hit]) -> None:
        name, group, validate = detector.name, detector.group, detector.validate
        if not detector.overlapping:
            for match in form.finditer(data):
                self.spend(8 + match.end() - match.start())
                for start, end in validate(data, match.start(group), match.end(group)):
                    found.append(Hit(start, end, name))
            return
        at = 0
        while (candidate := form.search(data, at)) is not None:
            self.spend(8 + candidate.end() - candidate.start())
            at = candidate.start(group) + 1
            for start, end in validate(data, candidate.start(group), candidate.end(group)):
                found.append(Hit(start, end, name))
                at = max(at, end)


def _merged(found: list[Hit]) -> list[Hit]:
    found.sort(key=lambda hit: (hit.start, -hit.end))
    merged = [found[0]]
    for hit in found[1:]:
        last = merged[-1]
        if hit.start >= last.end:
            merged.append(hit)
        elif hit.end > last.end:
            merged[-1] = Hit(last.start, hit.end, last.detector)
    return merged


@functools.lru_cache(maxsize=64)
def scanner(names: frozenset[str]) -> Scanner:
    """Return the compiled scanner of these detectors; the same object for the same names."""
    return Scanner(names)
