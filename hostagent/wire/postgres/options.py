"""The text forms inside a StartupMessage: command-line options and booleans (PostgreSQL 17 §20.1.4, §53.7).

Read as ``pg_split_opts`` and ``ParseLongOption`` read them (src/backend/utils/init/postinit.c, utils/misc/guc.c).
"""

from __future__ import annotations

from typing import Final

from hostagent.model.errors import RemoteWireError

_SPACE: Final = " \t\n\v\f\r"
_TRUE: Final = ("true", "yes")
_FALSE: Final = ("false", "no")


def split_options(text: str) -> tuple[str, ...]:
    """Return the words of an ``options`` value: separated by white space, a backslash takes the next character as it is."""
    words: list[str] = []
    current: list[str] = []
    inside = escaped = False
    for character in text:
        if escaped:
            current.append(character)
            escaped = False
        elif character == "\\":
            inside = escaped = True
        elif character in _SPACE:
            if inside:
                words.append("".join(current))
                current, inside = [], False
        else:
            current.append(character)
            inside = True
    if inside:
        words.append("".join(current))
    return tuple(words)


def parse_options(text: str) -> tuple[tuple[str, str], ...]:
    """Return the settings that an ``options`` value asks for, in order, names as written with ``-`` read as ``_``.

    ``-c name=value``, ``-cname=value`` and ``--name=value`` are settings. Every other switch of ``postgres`` is refused.

    Raises:
        RemoteWireError: another switch, a word that is none, or a setting without a value.
    """
    words = split_options(text)
    settings: list[tuple[str, str]] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "-c":
            if index == len(words):
                raise RemoteWireError("option -c requires name=value", "42601")
            settings.append(_setting(word, words[index]))
            index += 1
        elif word.startswith("-c"):
            settings.append(_setting("-c", word[2:]))
        elif word.startswith("--") and len(word) > 2:
            settings.append(_setting("--", word[2:]))
        else:
            raise RemoteWireError(f"command-line option {word!r} is not accepted", "42601")
    return tuple(settings)


def _setting(switch: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RemoteWireError(f"option {switch} {text!r} is not name=value", "42601")
    return name.replace("-", "_"), value


def parse_boolean(text: str) -> bool | None:
    """Return what PostgreSQL's ``parse_bool`` makes of ``text``; None if it is no boolean.

    Any case; unambiguous prefixes of true, false, yes and no; on, off (``of`` too, ``o`` not); 1 and 0.
    """
    value = text.lower()
    if value in ("1", "on") or (value and any(word.startswith(value) for word in _TRUE)):
        return True
    if value in ("0", "of", "off") or (value and any(word.startswith(value) for word in _FALSE)):
        return False
    return None
