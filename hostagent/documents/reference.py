"""The reference of all keys, made from the models themselves: what `hostagent config keys` prints and KEYS.md holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hostagent.documents.changes import key_of
from hostagent.documents.complaint import inner_model
from hostagent.documents.config import ConfigDocument
from hostagent.documents.drafts import toml_value
from hostagent.documents.target import TargetDocument
from hostagent.documents.workload import WorkloadDocument

_HEAD = """\
# Keys

Every key of every document, its default and unit. Made by `hostagent config keys --markdown`; a test keeps it in step with the code.
README.md beside it shows the documents whole and explains them; the keys of policy documents are in [policy/](../../policy/README.md).
"""
_KINDS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("hostagent.toml", ConfigDocument, ""),
    ("targets/NAME.yaml", TargetDocument, "after `hostagent reload`"),
    ("workloads/NAME.yaml", WorkloadDocument, "within seconds, for programs started afterwards"),
)


class Row(NamedTuple):
    """One key. ``default`` is as the document would write it, or ``required``; ``counts`` says when a change takes effect."""

    document: str
    key: str
    default: str
    unit: str
    says: str
    counts: str


def keys() -> Iterator[Row]:
    """Yield every key in the order of the documents."""
    for document, model, counts in _KINDS:
        yield from _rows(document, model, counts, "")


def _rows(document: str, model: type[BaseModel], counts: str, prefix: str) -> Iterator[Row]:
    for name, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        if inner is not None:
            many = "[]" if isinstance(field.get_default(call_default_factory=True), list) else ""
            yield from _rows(document, inner, counts, f"{prefix}{name}{many}.")
            continue
        key = key_of(field)
        when = counts or ("after `hostagent reload`" if key.live else "after a restart")
        default = "the file's name" if prefix + name == "name" else _default(field)
        yield Row(document, prefix + name, default, key.unit, key.says, when)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else "{}" if value == {} else toml_value(value)


def as_markdown() -> str:
    """Return the page."""
    lines = [_HEAD.rstrip()]
    for document, _, counts in _KINDS:
        when = f" A change counts {counts}." if counts else ""
        last = "" if counts else " counts |"
        lines += ["", f"## {document}", ""]
        if when:
            lines += [when.strip(), ""]
        lines += [f"| key | default | unit | meaning |{last}", f"|---|---|---|---|{'' if counts else '---|'}"]
        for row in keys():
            if row.document == document:
                end = "" if counts else f" {row.counts} |"
                default = f"`{row.default}`" if row.default else ""
                lines.append(f"| `{row.key}` | {default} | {row.unit} | {row.says} |{end}")
    return "\n".join(lines) + "\n"
