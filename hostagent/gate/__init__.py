"""The gate: inspect, evaluate, combine, mask, record, forward; in this order, for every protocol.

Lives here: the order, the verdict cache, holds and the records of statements. May not live here: any protocol's bytes (those
are ``inspectors``'), rules, masks, and I/O: time and randomness come as arguments.
"""

from hostagent.gate.context import CatalogueSource, PolicySource, SessionContext
from hostagent.gate.gate import Gate

__all__ = ["CatalogueSource", "Gate", "PolicySource", "SessionContext"]
