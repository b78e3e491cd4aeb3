"""The build's only step beyond pyproject.toml: with ``HOSTAGENT_COMPILE=1`` the hot floors go through mypyc into the wheel.

Needs a C compiler and Python's headers (``apt-get install gcc python3-dev``) and about a minute of one core. Without the
variable, and in an editable install, the package is pure Python. The same source either way: ``[tool.hostagent] compiled`` in
pyproject.toml lists the modules.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from setuptools import Extension, setup

# mypyc must see the types of what the hot floors build on; everything else may stay unknown to it.
_NEEDED = ["mypy>=1.14", "msgspec>=0.19"]


def _compiled() -> list[Extension]:
    try:
        from mypyc.build import mypycify
    except (
        ImportError
    ):  # the build front end asks for requirements first, in an environment that does not have them yet
        return []
    modules = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["hostagent"]["compiled"]
    # No configuration file: whether the source is well typed is the linter's question, with all its stubs at hand.
    options = ["--config-file=", "--python-version=3.11", "--ignore-missing-imports"]
    return mypycify([*options, *modules], group_name="hostagent", debug_level="0", strip_asserts=False)  # type: ignore[no-any-return]


if os.environ.get("HOSTAGENT_COMPILE") == "1":
    setup(ext_modules=_compiled(), setup_requires=_NEEDED)
else:
    setup()
