"""The sealed store: nothing readable at rest, nothing usable that was not written so, and no moment at which a crash loses it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from hostagent.daemon.credentials import gather, next_key_place, open_store, read_secret
from hostagent.daemon.sealedstore import Entry, SealedStore, SealedStoreError, new_key, parse_key
from hostagent.documents import Config, parse_config
from hostagent.durable import write_whole
from hostagent.model.errors import DocumentError
from hostagent.model.target import CredentialSource, Login, Target

KEY = bytes(range(32))


@pytest.fixture
def store(tmp_path: Path) -> SealedStore:
    made = SealedStore(tmp_path / "sealed.json", KEY)
    made.put("crm", "geheim-ünïcode", 100, new=True)
    made.put("billing", "b1lling", 101, new=True)
    return made


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "etc").mkdir()
    (tmp_path / "state/credentials").mkdir(parents=True)
    key = tmp_path / "etc/seal.key"
    key.write_text(KEY.hex() + "\n", encoding="utf-8")
    key.chmod(0o600)
    return parse_config("c", f'[paths]\nconfig = "{tmp_path}/etc"\nstate = "{tmp_path}/state"\n[users]\nproxy = "nobody"\n')


def test_what_is_kept_comes_back_and_is_not_readable_at_rest(store: SealedStore, tmp_path: Path) -> None:
    assert store.get("crm") == "geheim-ünïcode"
    assert store.put("crm", "another", 200, new=False) == 2
    assert (store.get("crm"), store.get("billing")) == ("another", "b1lling")
    assert store.entries() == [Entry("billing", 1, 101), Entry("crm", 2, 200)]
    raw = (tmp_path / "sealed.json").read_bytes()
    assert not any(word in raw for word in (b"geheim", b"another", b"b1lling", KEY, KEY.hex().encode()))
    assert stat.S_IMODE((tmp_path / "sealed.json").stat().st_mode) == 0o600


def test_names_and_values_that_cannot_be_kept_are_refused(store: SealedStore) -> None:
    for name, secret, new in (("crm", "x", True), ("none", "x", False), ("../x", "x", True), ("", "x", True), ("a", "", True), ("a", "\0", True), ("a", "x" * 65_537, True)):
        with pytest.raises(SealedStoreError):
            store.put(name, secret, 1, new=new)
    with pytest.raises(SealedStoreError, match="not there"):
        store.remove("none")


def test_another_key_opens_nothing_and_says_so(store: SealedStore, tmp_path: Path) -> None:
    other = SealedStore(tmp_path / "sealed.json", new_key())
    for attempt in (lambda: other.get("crm"), other.entries, lambda: other.put("n", "x", 1, new=True)):
        with pytest.raises(SealedStoreError, match="sealed with another key"):
            attempt()
    assert store.get("crm") == "geheim-ünïcode"


def _changed(path: Path, **change: object) -> None:
    document = json.loads(path.read_text())
    document["records"]["crm"].update(change)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("change", [{"version": 2}, {"set_at": 99}, {"nonce": "00" * 12}, {"sealed": "AAAA"}, {"nonce": 7}])
def test_a_record_that_was_tampered_with_is_refused_and_the_others_are_fine(change: dict[str, object], store: SealedStore, tmp_path: Path) -> None:
    _changed(tmp_path / "sealed.json", **change)
    with pytest.raises(SealedStoreError, match="crm does not open"):
        store.get("crm")
    assert store.get("billing") == "b1lling"


def test_a_record_under_another_name_and_an_older_version_put_back_are_refused(store: SealedStore, tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    older = json.loads(path.read_text())["records"]["crm"]
    _changed(path, **json.loads(path.read_text())["records"]["billing"])
    with pytest.raises(SealedStoreError, match="does not open"):
        store.get("crm")
    _changed(path, **older)
    store.put("crm", "newer", 300, new=False)
    _changed(path, **older)
    with pytest.raises(SealedStoreError, match="version 1 stands where version 2"):
        store.get("crm")
    store.remove("crm")
    store.put("crm", "again", 400, new=True)
    assert store.entries()[1].version == 3, "a removed name's numbers are not used again"


def test_a_damaged_file_and_a_lost_index_are_refused(store: SealedStore, tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "index": None}))
    with pytest.raises(SealedStoreError, match="index is missing"):
        store.get("billing")
    for text in ("", "{", "[]", '{"format": 2, "records": {}, "index": null}'):
        path.write_text(text)
        with pytest.raises(SealedStoreError, match="damaged"):
            store.get("billing")


def test_a_new_key_seals_everything_anew_and_a_record_that_does_not_open_stops_it(store: SealedStore, tmp_path: Path) -> None:
    path, fresh = tmp_path / "sealed.json", new_key()
    before = path.read_bytes()
    _changed(path, sealed="AAAA")
    with pytest.raises(SealedStoreError):
        store.rekey(fresh)
    path.write_bytes(before)
    assert store.rekey(fresh) == 2
    assert SealedStore(path, fresh).get("crm") == store.get("crm") == "geheim-ünïcode"
    with pytest.raises(SealedStoreError, match="another key"):
        SealedStore(path, KEY).get("crm")


def test_a_crash_at_any_point_of_writing_leaves_the_store_that_was_there(store: SealedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in ("fsync", "fchmod", "rename"):

        def dies(*_: object) -> None:
            raise OSError("power")

        with monkeypatch.context() as broken:
            broken.setattr(os, step, dies)
            with pytest.raises(OSError, match="power"):
                store.put("crm", "half", 500, new=False)
        assert store.get("crm") == "geheim-ünïcode"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sealed.json", "sealed.lock"]


def test_a_change_of_the_key_that_was_interrupted_is_completed(config: Config) -> None:
    store = open_store(config)
    store.put("crm", "s", 1, new=True)
    later = new_key()
    place = next_key_place(config)
    place.write_text(later.hex(), encoding="utf-8")
    place.chmod(0o600)
    assert open_store(config).get("crm") == "s", "the new key was made, the store not yet sealed with it"
    store.rekey(later)
    assert open_store(config).get("crm") == "s", "the store is sealed with it, the key file not yet renamed"
    assert not place.exists()
    assert parse_key(Path(config.seal_key).read_text(), "") == later


def test_the_key_that_systemd_passes_goes_first(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = tmp_path / "passed"
    passed.mkdir()
    (passed / "hostagent-seal-key").write_text(new_key().hex())
    (passed / "hostagent-seal-key").chmod(0o440)  # the mask of systemd's ACL
    open_store(config).put("crm", "s", 1, new=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(passed))
    with pytest.raises(SealedStoreError, match="another key"):
        open_store(config).get("crm")
    (passed / "hostagent-seal-key").unlink()
    assert open_store(config).get("crm") == "s"
    Path(config.seal_key).chmod(0o640)
    with pytest.raises(DocumentError, match="mode 0600"):
        open_store(config)
    Path(config.seal_key).write_text("short")
    Path(config.seal_key).chmod(0o600)
    with pytest.raises(SealedStoreError, match="64 hexadecimal digits"):
        open_store(config)


def test_one_secret_that_cannot_be_had_is_a_problem_of_its_target_alone(config: Config) -> None:
    open_store(config).put("crm", "s", 1, new=True)
    open_store(config).put("bad", "s2", 1, new=True)
    document = json.loads(Path(config.sealed_credentials).read_text())
    document["records"]["bad"]["sealed"] = "AAAA"
    Path(config.sealed_credentials).write_text(json.dumps(document))

    def target(name: str) -> Target:
        return Target(name, "postgres", (name,), 5432, Login("u", CredentialSource("sealed", name)))

    secrets = gather({name: target(name) for name in ("crm", "bad", "none")}, config)
    assert dict(secrets) == {"crm": "s"}
    assert "does not open" in secrets.problems["bad"]
    assert "hostagent credential set none" in secrets.problems["none"]
    assert "s2" not in repr(secrets) + str(secrets.problems)
    assert read_secret(CredentialSource("sealed", "crm"), config) == "s"


def test_a_second_key_made_at_the_same_moment_does_not_take_the_firsts_place(tmp_path: Path) -> None:
    write_whole(tmp_path / "seal.key", b"first", 0o600, new=True)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "seal.key", b"second", 0o600, new=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("seal.key", b"first")]
