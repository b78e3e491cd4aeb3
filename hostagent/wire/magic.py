"""What kind of file its first bytes say it is: the signatures that matter for who moves what, and no others.

Offsets and bytes are those of the formats' own specifications (RFC 1952 gzip, RFC 8878 zstd, PKWARE APPNOTE zip, ELF gABI,
ISO 32000 PDF, SQLite file format, Apache Parquet and Avro, PostgreSQL pg_dump custom format and COPY binary …).
"""

from __future__ import annotations

from typing import Final

LOOKED_AT: Final = 512
"""How many of the first bytes decide."""

_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"PK\x03\x04", "application/zip"),  # and all that is one inside: jar, docx, xlsx, apk
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"\xfd7zXZ\x00", "application/x-xz"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"!<arch>\n", "application/x-archive"),
    (0, b"\xed\xab\xee\xdb", "application/x-rpm"),
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"MZ", "application/vnd.microsoft.portable-executable"),
    (0, b"\xca\xfe\xba\xbe", "application/java-vm"),
    (0, b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (0, b"\x00asm", "application/wasm"),
    (0, b"#!", "text/x-script"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),  # doc, xls, msi
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"Obj\x01", "application/vnd.apache.avro"),
    (8, b"DUCK", "application/x-duckdb"),
    (0, b"PGDMP", "application/x-postgresql-dump"),
    (0, b"PGCOPY\n\xff\r\n\x00", "application/x-postgresql-copy"),
    (0, b"-----BEGIN ", "application/x-pem-file"),
    (0, b"openssh-key-v1\x00", "application/x-openssh-key"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)


def detected(beginning: bytes) -> str:
    """Return the media type that the first bytes of a file show, empty if none of those known here."""
    for offset, signature, kind in _SIGNATURES:
        if beginning.startswith(signature, offset):
            return kind
    return ""
