"""The policy documents that come with hostagent."""

from __future__ import annotations

from hostagent.shipped import folder

POLICY = folder("policy")
"""The folder of ``default.yaml`` and ``examples/``."""


def examples() -> dict[str, str]:
    """Return the first sentence of every policy example by its name."""
    found = {}
    for path in sorted((POLICY / "examples").glob("*.yaml")):
        if path.name.endswith(".expected.yaml"):
            continue
        comment = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.removeprefix("#").strip())
        found[path.stem] = " ".join(comment).partition(". ")[0].rstrip(".") + "."
    return found
