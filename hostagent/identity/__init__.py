"""Identity: a signed token and what is expected of it, in; a verified ``Identity`` or one clear refusal, out.

Lives here: reading compact JWTs strictly, public keys (JWK sets), the rules of validation, what claims mean (groups, purpose,
Kubernetes service accounts, SPIFFE ids) and what a renewed token must keep. May not live here: files, network, clocks and
key fetching (``hostagent.proxy.identities``, ``keys`` and ``issuer``); the time comes as an argument. Nothing here makes a
token.
"""

from __future__ import annotations

from hostagent.identity.claims import DEFAULT_CLAIMS, RESERVED_CLAIMS
from hostagent.identity.keyset import DEFAULT_ALGORITHMS, Key, KeySet
from hostagent.identity.validate import Expectation, KeyNeeded, continuity, expectation_of, validate

__all__ = [
    "DEFAULT_ALGORITHMS",
    "DEFAULT_CLAIMS",
    "RESERVED_CLAIMS",
    "Expectation",
    "Key",
    "KeyNeeded",
    "KeySet",
    "continuity",
    "expectation_of",
    "validate",
]
