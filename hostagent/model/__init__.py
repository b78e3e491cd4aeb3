"""The nouns: frozen dataclasses and enums shared by every floor.

Nothing here does anything: no I/O, no clock, no parsing. A type lives here when two floors must agree on it.
"""
