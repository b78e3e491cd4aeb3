"""Validators: what a pattern cannot say. Each takes the whole text and a match and answers the spans that really are it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

Span = tuple[int, int]

_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_ALNUM = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BASE64 = _ALNUM | frozenset(b"/+=")
_NO_BYTE = -1

_CARD_RANGES: tuple[tuple[int, int, int, int], ...] = (
    # first six digits from, to, shortest, longest
    (400000, 499999, 13, 13),  # Visa
    (400000, 499999, 16, 16),
    (400000, 499999, 19, 19),
    (510000, 559999, 16, 16),  # Mastercard
    (222100, 272099, 16, 16),  # Mastercard, second range
    (340000, 349999, 15, 15),  # American Express
    (370000, 379999, 15, 15),
    (601100, 601199, 16, 19),  # Discover
    (644000, 659999, 16, 19),
    (620000, 629999, 16, 19),  # UnionPay
    (352800, 358999, 16, 19),  # JCB
    (300000, 305999, 14, 19),  # Diners Club
    (309500, 309599, 14, 19),
    (360000, 369999, 14, 19),
    (380000, 399999, 14, 19),
    (220000, 220499, 16, 19),  # Mir
    (508500, 508999, 16, 16),  # RuPay
    (606900, 608999, 16, 16),
    (817200, 820199, 16, 16),
    (501800, 501899, 13, 19),  # Maestro
    (502000, 502099, 13, 19),
    (503800, 503899, 13, 19),
    (561200, 561299, 13, 19),
    (589300, 589399, 13, 19),
    (630400, 630499, 13, 19),
    (675900, 676399, 13, 19),
)
"""Issuer identification numbers (ISO/IEC 7812) of networks that issue to the public, with the lengths they use."""

_CARD_GROUPS = frozenset(
    {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 3, 3, 3), (6, 13), (8, 8)}
)
"""How card numbers are printed; any other way of grouping digits is not taken for one."""

_MOST_GROUPS = 5

_IBAN_COUNTRIES: dict[int, str] = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS: dict[bytes, int] = {
    country.encode(): length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()
}
"""Lengths by country, SWIFT IBAN registry."""


def _before(data: bytes, at: int) -> int:
    return data[at - 1] if at else _NO_BYTE


def _behind(data: bytes, at: int) -> int:
    return data[at] if at < len(data) else _NO_BYTE


_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def luhn(digits: bytes) -> bool:
    """Return whether the check digit is right (ISO/IEC 7812-1 annex B). ``digits`` are ASCII."""
    plain = digits[-1::-2]
    return (sum(plain) - 48 * len(plain) + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0


def card_number(digits: bytes) -> bool:
    """Return whether ``digits`` (ASCII) are a card number of a known network with a right check digit."""
    length = len(digits)
    if not 13 <= length <= 19 or not luhn(digits):
        return False
    issuer = int(digits[:6])
    return any(a <= issuer <= b and low <= length <= high for a, b, low, high in _CARD_RANGES)


def _groups(data: bytes, start: int, end: int) -> list[Span]:
    """Return the runs of digits in a text of digits and single separators."""
    found: list[Span] = []
    for digits in data[start:end].replace(b"-", b" ").split(b" "):
        found.append((start, start + len(digits)))
        start += len(digits) + 1
    return found


def _inside_hexadecimal(data: bytes, start: int, end: int) -> bool:
    """Return whether the digits are a piece of a longer word that is all hexadecimal (a digest, a UUID)."""
    left, right = start, end
    while left and data[left - 1] in _ALNUM and start - left < 64:
        left -= 1
    while right < len(data) and data[right] in _ALNUM and right - end < 64:
        right += 1
    return (left, right) != (start, end) and all(byte in _HEX for byte in data[left:right])


def _inside_number(data: bytes, start: int, end: int) -> bool:
    """Return whether the digits are the fraction of a number or have a fraction that is not zero."""
    if start > 1 and data[start - 1] == 0x2E and data[start - 2] in _DIGITS:
        return True
    if _behind(data, end) != 0x2E:
        return False
    stop = end + 1
    while stop < len(data) and data[stop] in _DIGITS:
        stop += 1
    return data[end + 1 : stop].strip(b"0") != b""


def _card_window(data: bytes, groups: list[Span]) -> bool:
    sizes = tuple(b - a for a, b in groups)
    if len(groups) > 1:
        separators = {data[b] for _, b in groups[:-1]}
        if len(separators) > 1 or sizes not in _CARD_GROUPS:
            return False
    return card_number(b"".join(data[a:b] for a, b in groups))


def _card_at(data: bytes, groups: list[Span], first: int) -> int:
    """Return the index behind the last group of a card number beginning at group ``first``, or 0."""
    total = 0
    for last in range(first, min(len(groups), first + _MOST_GROUPS)):
        total += groups[last][1] - groups[last][0]
        if total > 19:
            return 0
        if total >= 13 and _card_window(data, groups[first : last + 1]):
            return last + 1
    return 0


def cards(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the card numbers in a maximal text of digits, spaces and dashes."""
    groups = _groups(data, start, end)
    first = 0
    while first < len(groups):
        behind = _card_at(data, groups, first)
        if not behind:
            first += 1
            continue
        span = (groups[first][0], groups[behind - 1][1])
        if not _inside_hexadecimal(data, *span) and not _inside_number(data, *span):
            yield span
        first = behind


def iban(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the IBAN that begins at ``start`` (ISO 13616: length by country, remainder 1 modulo 97)."""
    length = IBAN_LENGTHS.get(data[start : start + 2], 0)
    if not length or _before(data, start) in _ALNUM:
        return
    at, compact = start, bytearray()
    while at < end and len(compact) < length:
        if data[at] != 0x20:
            compact.append(data[at])
        at += 1
    if len(compact) < length or _behind(data, at) in _ALNUM:
        return
    if int("".join(str(int(chr(c), 36)) for c in compact[4:] + compact[:4])) % 97 == 1:
        yield start, at


def email(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the address unless its domain goes on as something else (``user@host.name:path`` is still one)."""
    if _behind(data, end) not in _ALNUM:
        yield start, end


def international_phone(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield a number in E.164 form: 8 to 15 digits behind the plus, cut back to where a group of digits ends."""
    if _before(data, start) in _ALNUM:
        return
    while end > start:
        if _behind(data, end) not in _ALNUM and sum(byte in _DIGITS for byte in data[start:end]) >= 8:
            yield start, end
            return
        while end > start and data[end - 1] in _DIGITS:
            end -= 1
        while end > start and data[end - 1] not in _DIGITS:
            end -= 1


def national_phone(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield a number in a national form unless it is a piece of a longer chain of digits."""
    before, behind = _before(data, start), _behind(data, end)
    if before in _ALNUM or behind in _ALNUM:
        return
    chained_left = start > 1 and before in b"-./" and data[start - 2] in _ALNUM
    chained_right = end + 1 < len(data) and behind in b"-./" and data[end + 1] in _ALNUM
    if not (chained_left or chained_right):
        yield start, end


def social_security(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield a US social security number of a range that is issued (SSA: area 001-899 but 666, group and serial not 0)."""
    area, group, serial = data[start : start + 3], data[start + 4 : start + 6], data[start + 7 : end]
    if data[start + 3] != data[start + 6] or area in (b"000", b"666") or area[0] == 0x39:
        return
    if group == b"00" or serial == b"0000":
        return
    yield from national_phone(data, start, end)


def word(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the match when it is a whole word."""
    if _before(data, start) not in _ALNUM and _behind(data, end) not in _ALNUM:
        yield start, end


def anything(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the match."""
    yield start, end


def prefixed_key(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield a whole word that has a digit and a letter behind its prefix of three (``sk-``), not a chain of words."""
    text = data[start + 3 : end]
    drawn = any(c in _DIGITS for c in text) and any(c in _ALNUM and c not in _DIGITS for c in text)
    if drawn and _before(data, start) not in _ALNUM:
        yield start, end


def mixed_secret(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield 40 characters that look drawn from all of Base64: upper and lower case letters and digits."""
    text = data[start:end]
    classes = (any(48 <= c <= 57 for c in text), any(65 <= c <= 90 for c in text), any(97 <= c <= 122 for c in text))
    if all(classes) and _behind(data, end) not in _BASE64:
        yield start, end


def json_web_token(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Yield the token when its header decodes to JSON that names an algorithm (RFC 7519 §5, RFC 7515 §4)."""
    header = data[start : data.index(b".", start, end)]
    try:
        decoded = base64.b64decode(header + b"=" * (-len(header) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return
    if decoded.startswith(b"{") and b'"alg"' in decoded:
        yield start, end
