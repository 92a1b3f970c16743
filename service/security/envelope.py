"""AES-256-GCM (NIST SP 800-38D), keys that come of keys, and how a template is sealed.

What is sealed is ``nonce (12) | ciphertext | tag (16)``. Nonces are random: a key may seal 2³² values, and a person's
seals that person's faces.
"""

import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES

_PLACE = struct.Struct(">8sQQQ")


def derive(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose: HKDF-Expand (RFC 5869) for a single block."""
    return hmac.digest(secret, f"likeness {purpose}".encode() + b"\x01", hashlib.sha256)


def seal(cipher: AESGCM, content: bytes, context: bytes) -> bytes:
    """``content`` under a fresh nonce; it opens only with the same ``context``."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, content, context)


def unseal(cipher: AESGCM, sealed: bytes, context: bytes) -> bytes:
    """Raises ``cryptography.exceptions.InvalidTag``: changed, of another context, or of another key."""
    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)


_TEMPLATES = (b"template", b"templat1")


def template_place(gallery: int, person: int, face: int, slot: int = 0) -> bytes:
    """The context of a face's template, by the store's keys: a row that was put in another's place does not open.

    ``slot``: which of the two tables of its dimension it is in.
    """
    return _PLACE.pack(_TEMPLATES[slot], gallery, person, face)


def crop_place(gallery: int, person: int, face: int) -> bytes:
    """The context of a face's crop."""
    return _PLACE.pack(b"crop\0\0\0\0", gallery, person, face)
