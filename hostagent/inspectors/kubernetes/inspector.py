"""The Kubernetes API on one flow: HTTP/1.1 whose requests mean something."""

from __future__ import annotations

from typing import ClassVar

from hostagent.inspectors.http.dialect import Dialect
from hostagent.inspectors.http.inspector import HttpInspector
from hostagent.inspectors.kubernetes.dialect import KUBERNETES


class KubernetesInspector(HttpInspector):
    """Implements ``hostagent.inspectors.ports.Inspector``."""

    dialect: ClassVar[Dialect] = KUBERNETES
