"""Where the files that come with the program and are no Python are: ``bpf``, ``policy`` and ``systemd``.

In a checkout they are its top folders. A wheel carries them as data files, which every installer puts below the ``data`` path of
its scheme: ``PREFIX/share/hostagent`` of the virtual environment (also of the one inside the Debian package).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[1]


def folder(name: str) -> Path:
    """Return the folder ``name`` (``bpf``, ``policy`` or ``systemd``); a broken installation may lack it.

    The project file beside the package says that this is a checkout; nothing of that name is ever installed there.
    """
    if (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT / name
    return Path(sysconfig.get_path("data")) / "share" / "hostagent" / name
