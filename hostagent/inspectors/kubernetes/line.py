"""A request as a person writes it, for tables of expected verdicts: METHOD URL, fields, body."""

from __future__ import annotations

from collections.abc import Sequence

from hostagent.inspectors.http.reading import Reader
from hostagent.inspectors.http.request import split_line
from hostagent.inspectors.kubernetes.dialect import KUBERNETES
from hostagent.model.errors import RemoteWireError
from hostagent.model.operation import Operation
from hostagent.model.target import Login, Target
from hostagent.wire.http1.head import RequestHead


def read_line(text: str, fields: Sequence[tuple[str, str]], body: str = "") -> Operation:
    """Return the operation of ``METHOD URL`` to a Kubernetes API, with its fields and body.

    Raises:
        ValueError: it is not that, or no such request would be looked at.
    """
    method, url, scheme, host = split_line(text, "GET https://k8s.example:6443/api/v1/namespaces/prod/pods")
    reader = Reader(Target("", "kubernetes", (host,), 1, Login("")), scheme, "", KUBERNETES)
    try:
        request = reader.understood(RequestHead(method, url, 1, (("Host", host), *fields)), empty=not body)
    except RemoteWireError as error:
        raise ValueError(f"{text}: refused before any rule is asked: {error}") from error
    if request.refusal:
        raise ValueError(f"{text}: refused before any rule is asked: {request.refusal}")
    asked = request.subject.operations[0]
    return KUBERNETES.with_content(asked, KUBERNETES.read(request, body.encode())) if body else asked
