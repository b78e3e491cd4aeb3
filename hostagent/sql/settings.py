"""Run-time settings: what changing one means, and which changes would make later text mean something else.

Source: PostgreSQL 17 §20. Names compare without regard to ASCII case, as the server compares them.
"""

from __future__ import annotations

import re

from hostagent.model.operation import Effect

_EFFECTS: dict[str, frozenset[Effect]] = {
    "role": frozenset({Effect.PRIVILEGE}),
    "session_authorization": frozenset({Effect.PRIVILEGE}),
    "lo_compat_privileges": frozenset({Effect.PRIVILEGE}),
    "session_replication_role": frozenset({Effect.ADMIN}),
    "allow_system_table_mods": frozenset({Effect.ADMIN}),
    "session_preload_libraries": frozenset({Effect.HOST}),
    "local_preload_libraries": frozenset({Effect.HOST}),
    "dynamic_library_path": frozenset({Effect.HOST}),
    "jit_provider": frozenset({Effect.HOST}),
}
_TRUE = re.compile(r"(?:t(?:r(?:ue?)?)?|y(?:es?)?|on|1)\Z", re.IGNORECASE)
_UTF8 = frozenset({"utf8", "unicode"})
_NOT_ALNUM = re.compile(r"[^a-z0-9]")


def setting_effects(name: str) -> frozenset[Effect]:
    """Return what changing the setting ``name`` (lower case) does beyond SESSION."""
    return _EFFECTS.get(name, frozenset())


def keeps_meaning(name: str, value: str | None) -> bool:
    """Return whether text after ``SET name = value`` is still read by the server as we read it.

    ``value`` None is the default, which the proxy pins when it logs in. Other encodings and
    ``standard_conforming_strings = off`` move the ends of literals; a ``search_path`` that puts something before
    ``pg_catalog`` lets a user's function stand in for a built-in one.
    """
    if value is None:
        return True
    if name == "standard_conforming_strings":
        return _TRUE.match(value.strip()) is not None
    if name == "client_encoding":
        return _NOT_ALNUM.sub("", value.lower()) in _UTF8
    if name == "search_path":
        path = [part.strip().strip('"').lower() for part in value.split(",")]
        return "pg_catalog" not in path[1:]
    return True
