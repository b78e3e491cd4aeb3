"""What was compiled before is used again, and only where nobody but root could have put it there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostagent.enforcer.bpf import kept, objects
from hostagent.enforcer.bpf.calls import MapShape
from hostagent.enforcer.bpf.objects import Objects

pytestmark = pytest.mark.root

_MADE = Objects({"connect4": b"\x95\0"}, [("leaves", MapShape(1, 8, 16, 4096, 0))], {"sched/sched_process_exit": 7})


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were given to the compiler."""
    texts: list[str] = []

    def compiled(text: str, *_: object) -> Objects:
        texts.append(text)
        return _MADE

    monkeypatch.setattr(kept, "compiled", compiled)
    return texts


def test_each_text_is_compiled_once_in_a_boot(tmp_path: Path, compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "ebpf"
    assert [kept.kept_or_compiled(text, place) for text in ("one", "two", "one", "two")] == [_MADE] * 4
    assert compiles == ["one", "two"]
    boot = tmp_path / "boot"
    boot.write_text("another\n")
    monkeypatch.setattr(kept, "_BOOT_ID", boot)
    assert kept.kept_or_compiled("one", place) == _MADE
    assert compiles == ["one", "two", "one"]
    assert [each.name.partition("-")[0] for each in place.iterdir()] == ["another"]


@pytest.mark.parametrize("what", ["file for all", "file of another", "folder for all", "link", "not whole", "odd"])
def test_what_others_may_have_written_or_is_not_whole_is_compiled_anew(tmp_path: Path, compiles: list[str], what: str) -> None:
    place = tmp_path / "ebpf"
    kept.kept_or_compiled("one", place)
    (file,) = place.iterdir()
    match what:
        case "file for all":
            file.chmod(0o666)
        case "file of another":
            file.chmod(0o600)
            os.chown(file, 1000, 1000)
        case "folder for all":
            place.chmod(0o777)
        case "link":
            file.rename(tmp_path / "elsewhere")
            file.symlink_to(tmp_path / "elsewhere")
        case "not whole":
            file.write_bytes(file.read_bytes()[:-2])
        case "odd":
            file.write_text('{"code": {}, "maps": 5}')
    assert kept.kept_or_compiled("one", place) == _MADE
    assert len(compiles) == 2


def test_it_is_in_the_services_cache_or_in_its_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    assert kept.folder("/run/hostagent") == Path("/run/hostagent/ebpf")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/hostagent")
    assert kept.folder("/run/hostagent") == Path("/var/cache/hostagent/ebpf")


def test_what_is_kept_in_the_runtime_folder_goes_with_it(tmp_path: Path, compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    kept.kept_or_compiled("one", kept.folder(str(tmp_path)))
    assert (len(list(tmp_path.rglob("*.json"))), len(compiles)) == (1, 1)
    kept.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_what_was_compiled(tmp_path: Path) -> None:
    text = objects.source(2)
    made = kept.kept_or_compiled(text, tmp_path / "ebpf")
    assert kept.kept_or_compiled(text, tmp_path / "ebpf") == made == objects.compiled(text)
