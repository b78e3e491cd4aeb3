"""Command lines for the record: which program with which options, never a statement or a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_./:%+,-]{1,64}")
_DIGITS = re.compile(r"\d{6}")
_RANDOM = re.compile(r"[A-Za-z0-9_+-]{20}")
_SECRET = re.compile(r"pass|pwd|secret|token|key|cred|auth", re.IGNORECASE)
_MAXIMUM_WORDS = 64
_LONGEST_PROGRAM = 4096


def redact(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with every word that might be a value replaced by its length.

    Kept are the program, option names, and short plain words (paths, names, numbers below six digits) that do not follow an
    option which sounds like a secret.
    """
    words: list[str] = [word[:_LONGEST_PROGRAM] for word in argv[:1]]
    after_secret = False
    for word in argv[1:_MAXIMUM_WORDS]:
        name, equals, value = word.partition("=")
        if word.startswith("-") and equals and _keep(name):
            words.append(f"{name}={_value(value, secret=bool(_SECRET.search(name)))}")
            after_secret = False
        else:
            words.append(_value(word, secret=after_secret and not word.startswith("-")))
            after_secret = word.startswith("-") and bool(_SECRET.search(word) or word == "-p")
    if len(argv) > _MAXIMUM_WORDS:
        words.append(f"<{len(argv) - _MAXIMUM_WORDS} more>")
    return words


def _value(word: str, *, secret: bool) -> str:
    return word if not secret and _keep(word) else f"<{len(word)} characters>"


def _keep(word: str) -> bool:
    return bool(_PLAIN.fullmatch(word)) and not _DIGITS.search(word) and not _RANDOM.search(word)
