"""What workload and target documents share: strict models, and a name that is the file's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hostagent.documents.complaint import complain
from hostagent.documents.source import read
from hostagent.model.errors import DocumentError


@dataclass(frozen=True, slots=True)
class Key:
    """What a person should know of a key; stands in the annotation of its field. `hostagent config keys` prints it.

    ``live``: a reload is enough for a change to count. A key of the configuration that does not say so needs a restart.
    """

    says: str
    unit: str = ""
    live: bool = False


class Strict(BaseModel):
    """A model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Named(Strict):
    """A document that is called like its file."""

    name: Annotated[str, Key("Its name, which is that of the file without .yaml; leave it out.")]


_Document = TypeVar("_Document", bound=Named)


def named_document(name: str, text: str, model: type[_Document]) -> _Document:
    """Return document ``name`` as ``model``.

    Raises:
        DocumentError: anything unknown, missing or inconsistent; every problem with its line.
    """
    source = read(name, text)
    try:
        document = model.model_validate({"name": name, **source.value})
    except ValidationError as error:
        raise complain(name, error, source, model) from error
    if document.name != name:
        raise DocumentError(f"{name}: name is {document.name!r}; it must equal the file name")
    return document
