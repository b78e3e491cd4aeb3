"""Signatures of checkpoints: the one cryptographic function that the pure verifier is handed."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def signed_by(key: bytes, signature: bytes, text: bytes) -> bool:
    """Answer whether ``signature`` over ``text`` is by the Ed25519 public key ``key`` (raw bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True
