"""Hearing of the slice's end and its return at once."""

from __future__ import annotations

import select
from pathlib import Path

from hostagent.enforcer.slicewatch import SliceWatch


def test_a_slice_that_comes_or_goes_is_heard_of_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "governed.slice"
    watch = SliceWatch(path)
    try:
        for name, act, expected in (
            ("governed.slice", Path.mkdir, True),
            ("others.slice", Path.mkdir, False),
            ("governed.slice", Path.rmdir, True),
            ("others.slice", Path.rmdir, False),
        ):
            act(tmp_path / name)
            assert select.select([watch], [], [], 5)[0] == [watch]
            assert watch.changed() is expected
        assert watch.changed() is False
    finally:
        watch.close()
