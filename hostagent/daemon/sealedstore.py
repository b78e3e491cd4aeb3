"""Secrets encrypted at rest: the sealed credential store of ``hostagent credential``.

One file, replaced whole by a rename, so that a crash leaves the old store or the new one::

    {"format": 1, "key": <id of the key>, "index": <sealed {name: version}>,
     "records": {<name>: {"version": 3, "set_at": <unix s>, "nonce": <hex>, "sealed": <base64>}}}

Each record is AES-256-GCM (NIST SP 800-38D) under a random 96-bit nonce; name, version and time are its associated data, so that a
record put under another name or number does not open. The index is sealed too: an older version of one record, put back, is found
out. A whole file put back from a backup is not: who can write the folder is root already.

A record that does not open makes that one name unusable and no other.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hostagent.durable import write_whole
from hostagent.model.errors import HostagentError

KEY_BYTES = 32
LONGEST_SECRET = 65_536
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INDEX = ""
"""The index's place among the associated data: a name that no credential can have."""


class SealedStoreError(HostagentError):
    """The store, its key or one record cannot be used. Never quotes a secret."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One credential: ``version`` counts from 1 with every rotation, ``set_at`` is unix seconds."""

    name: str
    version: int
    set_at: int


class SealedStore:
    """The store at ``path``; a file that does not exist is an empty store. Only root writes it."""

    def __init__(self, path: Path, key: bytes, *, gid: int = -1) -> None:
        """Nothing is read before it is asked for.

        Args:
            path: the store's file.
            key: 32 bytes; see ``read_key``.
            gid: the group that may read the file (not open it: for that it needs the key); -1: nobody but root.
        """
        self._path = path
        self._key = key
        self._gid = gid

    def entries(self) -> list[Entry]:
        """Return what is kept, by name, without opening it.

        Raises:
            SealedStoreError: the file is damaged or sealed with another key.
        """
        records = self._load()["records"]
        try:
            return [Entry(name, int(record["version"]), int(record["set_at"])) for name, record in sorted(records.items())]
        except (ValueError, KeyError, TypeError):
            raise SealedStoreError(f"{self._path}: is damaged; restore it, or remove it and set the credentials again") from None

    def get(self, name: str) -> str:
        """Return the secret of ``name``.

        Raises:
            SealedStoreError: there is none, or its record does not open: another key, or not what was written.
        """
        document = self._load()
        return self._open_record(name, document, self._index(document))

    def put(self, name: str, secret: str, now: int, *, new: bool) -> int:
        """Keep ``secret`` under ``name`` and return its version; durable on return.

        Args:
            name: letters, digits, dot, dash, underscore; at most 64.
            secret: what to keep.
            now: unix seconds.
            new: whether the name must be new; otherwise it must exist and gets its next version.

        Raises:
            SealedStoreError: it is not as ``new`` says, or the store cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise SealedStoreError(f"{name!r} is no name: letters, digits, dot, dash and underscore, at most 64")
        if not secret or "\0" in secret or len(secret.encode()) > LONGEST_SECRET:
            raise SealedStoreError(f"a secret has 1 to {LONGEST_SECRET} bytes and no zero byte")
        with self._alone():
            document = self._load()
            index = self._index(document)
            if new == (name in document["records"]):
                advice = f"hostagent credential rotate {name}" if new else f"hostagent credential set {name}"
                raise SealedStoreError(f"{name} is {'there already' if new else 'not there'}: {advice}")
            index[name] = index.get(name, 0) + 1
            document["records"][name] = self._seal(name, index[name], now, secret.encode())
            self._save(document["records"], index)
            return index[name]

    def remove(self, name: str) -> None:
        """Forget ``name``; its last version's number is kept, so that an old record can never come back.

        Raises:
            SealedStoreError: there is none.
        """
        with self._alone():
            document = self._load()
            index = self._index(document)
            if document["records"].pop(name, None) is None:
                raise SealedStoreError(f"{name} is not there")
            self._save(document["records"], index)

    def rekey(self, key: bytes) -> int:
        """Seal everything with ``key`` from now on; returns how many records. Nothing is changed when one does not open.

        Raises:
            SealedStoreError: a record does not open with the present key: remove it, or mend it, first.
        """
        with self._alone():
            document = self._load()
            index = self._index(document)
            opened = {name: self._open_record(name, document, index) for name in document["records"]}
            other = SealedStore(self._path, key, gid=self._gid)
            records = {
                name: other._seal(name, record["version"], record["set_at"], opened[name].encode())
                for name, record in document["records"].items()
            }
            other._save(records, index)
            self._key = key
            return len(records)

    def sealed_with(self, key: bytes) -> bool:
        """Whether the file exists and names ``key`` as its own."""
        return self._path.exists() and self._read().get("key") == key_id(key)

    # -- records ---------------------------------------------------------------------------------------------------------

    def _seal(self, name: str, version: int, at: int, content: bytes) -> dict[str, Any]:
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(self._key).encrypt(nonce, content, _bound(name, version, at))
        return {"version": version, "set_at": at, "nonce": nonce.hex(), "sealed": base64.b64encode(sealed).decode("ascii")}

    def _unseal(self, name: str, record: Mapping[str, Any], what: str) -> bytes:
        try:
            bound = _bound(name, int(record["version"]), int(record["set_at"]))
            return AESGCM(self._key).decrypt(bytes.fromhex(record["nonce"]), base64.b64decode(record["sealed"]), bound)
        except (InvalidTag, ValueError, KeyError, TypeError):
            raise SealedStoreError(f"{what} does not open: it is not what was written, or not under this name") from None

    def _open_record(self, name: str, document: Mapping[str, Any], index: Mapping[str, int]) -> str:
        record = document["records"].get(name)
        if record is None:
            raise SealedStoreError(f"sealed credential {name}: there is none (hostagent credential set {name})")
        what = f"sealed credential {name}"
        content = self._unseal(name, record, what)
        if index.get(name) != record["version"]:
            raise SealedStoreError(f"{what}: version {record['version']} stands where version {index.get(name)} was written")
        return content.decode()

    def _index(self, document: Mapping[str, Any]) -> dict[str, int]:
        if not document["index"]:
            if document["records"]:
                raise SealedStoreError(f"{self._path}: its index is missing")
            return {}
        found = json.loads(self._unseal(_INDEX, document["index"], f"the index of {self._path}"))
        return {str(name): int(version) for name, version in found.items()}

    # -- the file --------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {"format": _FORMAT, "key": key_id(self._key), "index": None, "records": {}}
        except OSError as error:
            raise SealedStoreError(f"{self._path}: {error.strerror}") from error
        try:
            document = json.loads(text)
            sound = isinstance(document["records"], dict) and document["format"] == _FORMAT and "index" in document
        except (ValueError, KeyError, TypeError, RecursionError):
            sound, document = False, {}
        if not sound:
            raise SealedStoreError(f"{self._path}: is damaged; restore it, or remove it and set the credentials again")
        return dict(document)

    def _load(self) -> dict[str, Any]:
        document = self._read()
        if document.get("key") != key_id(self._key):
            raise SealedStoreError(f"{self._path}: is sealed with another key than the one given (hostagent-seal-key)")
        return document

    def _save(self, records: Mapping[str, Any], index: Mapping[str, int]) -> None:
        document = {
            "format": _FORMAT,
            "key": key_id(self._key),
            "index": self._seal(_INDEX, 0, 0, json.dumps(index).encode()),
            "records": records,
        }
        write_whole(self._path, json.dumps(document, indent=1).encode() + b"\n", 0o640 if self._gid >= 0 else 0o600, self._gid)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, or two rotations at once would lose one."""
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def key_id(key: bytes) -> str:
    """Return a name for ``key`` that tells nothing about it."""
    return hashlib.sha256(b"hostagent seal key\0" + key).hexdigest()[:16]


def new_key() -> bytes:
    """Return a fresh key."""
    return secrets.token_bytes(KEY_BYTES)


def parse_key(text: str, where: str) -> bytes:
    """Return the key that a key file holds: 64 hexadecimal digits.

    Raises:
        SealedStoreError: it holds something else, which is not quoted.
    """
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SealedStoreError(f"{where}: a seal key is {2 * KEY_BYTES} hexadecimal digits (openssl rand -hex {KEY_BYTES})")
    return key



def _bound(name: str, version: int, at: int) -> bytes:
    """The associated data: unambiguous, because JSON quotes the name."""
    return json.dumps(["hostagent credential", _FORMAT, name, version, at]).encode()
