"""Documents: the text that root writes, turned into nouns.

Here live the parsers of ``hostagent.toml`` and of the workload and target documents. They take text and return
``hostagent.model`` dataclasses or raise ``DocumentError`` naming every problem; unknown keys are problems. No file is opened
here (``daemon.configfile`` does that) and policy documents are not read here (``hostagent.policy`` does that).
"""

from hostagent.documents.config import Config, parse_config
from hostagent.documents.target import parse_target
from hostagent.documents.workload import parse_workload

__all__ = ["Config", "parse_config", "parse_target", "parse_workload"]
