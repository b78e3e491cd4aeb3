"""Policy: operations to verdicts.

Here live the form of policy documents, the rule set they make and the judgement by it; ``policy/README.md`` describes both for
those who write rules. Pure: no clock, no file and no network; time and context come as ``PolicyContext``, documents as text, unix
groups, detectors and time zones as arguments. Nothing here knows a protocol, a mask or an approval desk. The rim's side (watching
the folder, asking the context providers) is ``hostagent.proxy.context``.
"""

from hostagent.policy.combine import combine
from hostagent.policy.context import ContextProvider, ContextValue, PolicyContext
from hostagent.policy.document import schema
from hostagent.policy.loader import TRANSFORMS, empty, load
from hostagent.policy.ruleset import Finding, Policy

__all__ = [
    "TRANSFORMS",
    "ContextProvider",
    "ContextValue",
    "Finding",
    "Policy",
    "PolicyContext",
    "combine",
    "empty",
    "load",
    "schema",
]
