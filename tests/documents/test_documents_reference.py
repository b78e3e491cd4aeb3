"""The reference page of the documents says what the code does: every key, and the defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from hostagent.documents import config, parse_config, parse_target, parse_workload, target, workload

_PAGE = (Path(__file__).resolve().parents[2] / "hostagent/documents/README.md").read_text(encoding="utf-8")
_FREE = {"claims", "environment", "labels"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _PAGE, re.DOTALL)


def _target_blocks() -> list[str]:
    return [block for block in _blocks("yaml") if "protocol:" in block]


def _workload_blocks() -> list[str]:
    return [block for block in _blocks("yaml") if "identity:" in block]


def _inner(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part))), None)


def _declared(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _inner(field.annotation)
        if inner is not None:
            yield from _declared(inner, f"{prefix}{name}.")


def _shown(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _shown(item, prefix)
    if isinstance(value, dict):
        for name, below in value.items():
            yield prefix + name
            if name not in _FREE:
                yield from _shown(below, f"{prefix}{name}.")


def test_the_configuration_shows_every_key_with_its_default() -> None:
    [block] = _blocks("toml")
    assert parse_config("README", block) == parse_config("nothing", "")
    assert set(_shown(tomllib.loads(block))) == set(_declared(config.ConfigDocument))


@pytest.mark.parametrize(
    ("blocks", "model"),
    [(_target_blocks(), target.TargetDocument), (_workload_blocks(), workload.WorkloadDocument)],
    ids=["targets", "workloads"],
)
def test_the_documents_show_every_key(blocks: list[str], model: type[BaseModel]) -> None:
    assert {key for block in blocks for key in _shown(yaml.safe_load(block))} == set(_declared(model))


def test_every_document_shown_is_taken() -> None:
    names = [parse_target("crm-db", block).name for block in _target_blocks()]
    names += [parse_workload("support-bot", block).name for block in _workload_blocks()]
    assert names == ["crm-db"] * 11 + ["support-bot"] * 2
