"""PostgreSQL's lexical rules, as far as literals and comments go: text → redacted text and fingerprint.

Source: PostgreSQL 17 §4.1 and ``src/backend/parser/scan.l``, with ``standard_conforming_strings = on`` (a session that
turns it off is not understood, see ``settings``). Works on any text: what is not terminated runs to the end.
"""

from __future__ import annotations

import hashlib
import re
from enum import Enum
from typing import NamedTuple

PLACEHOLDER = "?"
# No possessive or atomic groups: Python 3.11 matches nested ones wrongly. These have one way to match, so they are linear.
_QUOTED = r"[^']*(?:''[^']*)*(?:'|\Z)"
_ESCAPED = r"[^'\\]*(?:(?:''|\\.)[^'\\]*)*(?:'|\\?\Z)"
_WORD = r"A-Za-z_\u0080-\U0010ffff"

_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\n\r\f\v]+)
  | (?P<line>--[^\n\r]*)
  | (?P<block>/\*)
  | (?P<escape>[eE]'{_ESCAPED})
  | (?P<string>(?:[bBxXnN]|[uU]&)?'{_QUOTED})
  | (?P<quoted>(?:[uU]&)?"[^"]*(?:""[^"]*)*(?:"|\Z))
  | (?P<word>[{_WORD}][{_WORD}0-9$]*)
  | (?P<dollar>\$(?:[{_WORD}][{_WORD}0-9]*)?\$)
  | (?P<param>\$[0-9]+)
  | (?P<number>(?:[0-9]|\.[0-9])(?:[{_WORD}0-9]|\.(?!\.)|(?<=[eE])[+-](?=[0-9]))*)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SEGMENTS = {
    "escape": re.compile(_ESCAPED, re.DOTALL),
    "string": re.compile(_QUOTED, re.DOTALL),
}
_LINE_END = re.compile(r"[\n\r]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class Kind(Enum):
    """What a token is."""

    WORD = "word"  # keyword or unquoted identifier
    QUOTED = "quoted"  # "quoted identifier"
    LITERAL = "literal"  # string, number, bit string, dollar quote
    PARAM = "param"  # $1
    SYMBOL = "symbol"  # one character of an operator or punctuation


class Token(NamedTuple):
    """One token as written; ``spaced`` says that white space or a comment stood before it."""

    kind: Kind
    text: str
    spaced: bool


_KINDS = {
    "escape": Kind.LITERAL,
    "string": Kind.LITERAL,
    "number": Kind.LITERAL,
    "quoted": Kind.QUOTED,
    "word": Kind.WORD,
    "param": Kind.PARAM,
    "other": Kind.SYMBOL,
}


def tokens(text: str) -> list[Token]:
    """Return the tokens of ``text`` without white space and comments. Linear time; never raises."""
    found: list[Token] = []
    position, spaced = 0, False
    while match := _TOKEN.match(text, position):
        position, group = match.end(), match.lastgroup or "other"
        kind = _KINDS.get(group)
        if kind is not None:
            found.append(Token(kind, match.group(), spaced))
            spaced = False
            if group in _SEGMENTS:
                position = _string_end(text, position, group)
        elif group == "dollar":
            tag = match.group()
            end = text.find(tag, position)
            position = len(text) if end < 0 else end + len(tag)
            found.append(Token(Kind.LITERAL, tag, spaced))
            spaced = False
        else:
            spaced = True
            if group == "block":
                position = _comment_end(text, position)
    return found


def redact(text: str) -> str:
    """Return ``text`` on one line with every literal replaced by ``?`` and no comment.

    Identifiers, keywords, operators and ``$n`` stay. Guarantee: no character of a string, number, bit string or dollar
    quote of the input is in the result, except where an identifier happens to hold the same text.
    """
    return _redacted(tokens(text))


def fingerprint(text: str) -> str:
    """Return 16 hex digits over what is left of ``text`` without its literals.

    Equal for texts that differ only in literals, white space, comments, the letter case of unquoted words, or in how many
    literals or parameters a list holds; the same for a text and its redaction. It cannot be used to guess a literal.
    """
    return _fingerprint(tokens(text))


def redact_and_fingerprint(text: str) -> tuple[str, str]:
    """Return both for the price of reading ``text`` once."""
    found = tokens(text)
    return _redacted(found), _fingerprint(found)


def _redacted(found: list[Token]) -> str:
    pieces: list[str] = []
    for kind, text, spaced in found:
        if spaced and pieces:
            pieces.append(" ")
        pieces.append(PLACEHOLDER if kind is Kind.LITERAL else text)
    return "".join(pieces)


def _fingerprint(found: list[Token]) -> str:
    normal: list[str] = []
    for kind, text, _ in found:
        if kind is Kind.WORD:
            normal.append(text.lower())
        elif kind is Kind.QUOTED or (kind is Kind.SYMBOL and text != PLACEHOLDER):
            normal.append(text)
        elif normal[-2:] == [PLACEHOLDER, ","]:
            normal.pop()
        else:
            normal.append(PLACEHOLDER)
    return hashlib.sha256(" ".join(normal).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def opaque_redaction(text: str) -> str:
    """Return what may be stored of a text that no parser understood: its length only, because words may be data."""
    return f"<unparsable, {len(text.encode('utf-8', 'surrogatepass'))} bytes>"


def _string_end(text: str, position: int, group: str) -> int:
    """Return the offset after a string constant and its continuations (``'a'`` line break ``'b'`` is one constant).

    A continuation keeps the rules of its first segment: after ``E'…'`` a backslash escapes in the second one too.
    """
    while (opening := _continuation(text, position)) >= 0:
        match = _SEGMENTS[group].match(text, opening + 1)
        position = match.end() if match is not None else len(text)
    return position


def _continuation(text: str, position: int) -> int:
    """Return the offset of the quote that continues a constant ended at ``position``, or -1. A line break must part them."""
    broken = False
    while position < len(text):
        character = text[position]
        if character == "'":
            return position if broken else -1
        if text.startswith("--", position):
            line_end = _LINE_END.search(text, position)
            if line_end is None:
                return -1
            position = line_end.start()
        elif character in "\n\r":
            broken = True
            position += 1
        elif character in " \t\f\v":
            position += 1
        else:
            return -1
    return -1


def _comment_end(text: str, position: int) -> int:
    """Return the offset after the block comment whose opening ends at ``position``; comments nest."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)
