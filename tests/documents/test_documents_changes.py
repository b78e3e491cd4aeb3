"""What differs between two readings, and which of it counts without a restart."""

from __future__ import annotations

from hostagent.documents import parse_config, parse_target
from hostagent.documents.changes import config_changes, target_changes, with_live
from hostagent.documents.drafts import written

_TARGET = "protocol: postgres\nhosts: [{host}]\nlogin: {{user: u, credential: {{file: {file}}}}}\n"


def test_only_live_keys_are_taken_over_and_the_others_stay_different() -> None:
    before = parse_config("a", "")
    after = parse_config("b", '[limits]\nlogin_timeout_s = 5\n[users]\nproxy = "other"\n')
    changes = config_changes(before, after)
    assert [(str(change), change.live) for change in changes] == [
        ("users.proxy: hostagent -> other", False),
        ("limits.login_timeout_s: 30.0 -> 5.0", True),
    ]
    taken = with_live(before, after)
    assert (taken.limits.login_timeout_s, taken.users.proxy) == (5.0, "hostagent")
    assert [change.key for change in config_changes(taken, after)] == ["users.proxy"]


def test_a_moved_credential_ends_no_session_and_another_document_does() -> None:
    def targets(**named: tuple[str, str]) -> dict[str, object]:
        return {name: parse_target(name, _TARGET.format(host=host, file=file)) for name, (host, file) in named.items()}

    before = targets(same=("a", "/s"), moved=("b", "/s"), gone=("c", "/s"), renamed=("d", "/s"))
    after = targets(same=("a", "/s"), moved=("b", "/t"), renamed=("e", "/s"), new=("f", "/s"))
    changes = target_changes(before, after, dict.fromkeys(before, "x"), {**dict.fromkeys(after, "x"), "moved": "y"})  # type: ignore[arg-type]
    assert changes == (["new"], ["gone"], ["renamed"], ["moved"])
    assert changes.ended == {"gone", "renamed"}


def test_a_configuration_that_is_written_reads_back_the_same() -> None:
    config = parse_config("a", '[paths]\nstate = "/a\\"b"\n[verify]\nevery_s = 1.5\nfreeze = true\n')
    assert parse_config("b", written(config)) == config
