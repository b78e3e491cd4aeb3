"""The files of systemd/ agree with the code that they go with."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from hostagent.daemon import delivery, up
from hostagent.documents import parse_config
from hostagent.enforcer import scopes

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
IDS = {"root": 0, "hostagent": 901, "hostagent-rec": 902}


def test_tmpfiles_makes_the_folders_that_hostagent_up_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[tuple[str, int, int, int]] = set()
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=IDS[name], pw_gid=IDS[name]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_gid=gid))
    monkeypatch.setattr(up, "_folder", lambda *facts: made.add(facts))
    up.prepare_folders(parse_config("default", ""))
    rows = [line.split() for line in (SYSTEMD / "hostagent.tmpfiles").read_text().splitlines() if line.startswith("d ")]
    listed = {(path, IDS[user], IDS[group], int(mode, 8)) for _, path, mode, user, group, _ in rows}
    assert listed - made == {("/var/lib/hostagent/enforcerd", 0, 0, 0o700)}  # enforcerd makes it itself
    assert made - listed == set()


def test_the_units_name_what_the_code_names() -> None:
    text = {path.name: path.read_text() for path in SYSTEMD.iterdir() if path.is_file()}
    assert f"Slice={scopes.UNIT}" in text[scopes.ANCHOR]
    assert f"LoadCredential={delivery.NAME}:/run/hostagent-secrets.sock" in text["hostagent-proxyd.service"]
    assert "ListenStream=/run/hostagent-secrets.sock" in text["hostagent-secrets.socket"]
    for name, content in text.items():
        if name.endswith(".service") and name != scopes.ANCHOR:
            assert "ExecStart=/usr/lib/hostagent/bin/python -I -m hostagent.daemon." in content, name
