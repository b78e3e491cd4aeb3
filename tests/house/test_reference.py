"""The reference of keys is the one that the code makes, and leaves no key unexplained."""

from __future__ import annotations

from pathlib import Path

from hostagent.documents.reference import as_markdown, keys

_PAGE = Path(__file__).resolve().parents[2] / "hostagent/documents/KEYS.md"


def test_every_key_of_every_document_says_what_it_means() -> None:
    assert [f"{row.document}: {row.key}" for row in keys() if not row.says] == [], "give the field a documents.named.Key"


def test_the_page_of_keys_is_in_step_with_the_code() -> None:
    made = ".venv/bin/hostagent config keys --markdown > hostagent/documents/KEYS.md"
    assert _PAGE.read_text(encoding="utf-8") == as_markdown(), f"make it anew: {made}"
