"""DSSE envelopes over the exact bytes of a document.

Format and pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md. Signatures
are Ed25519; the payload type `application/vnd.animus.<noun>.v1+json` is part of what is signed, so that no signature
serves for another noun. A key id is the SHA-256 (hex) of the key's SubjectPublicKeyInfo in DER.

Written here on `cryptography` alone: the format is one line of encoding, while securesystemslib brings a family of key
schemes and a JSON key format of its own, each a way to accept more than Ed25519, into the agent and the verifier.
tests/kit/documents/test_dsse.py holds that both read each other's envelopes.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import canonical
from .errors import DocumentError

MAX_SIGNATURES = 16
_KEYID = re.compile(r"[0-9a-f]{64}")
_PAYLOAD_TYPE = re.compile(r"application/vnd\.animus\.[a-z]+(?:-[a-z]+)*\.v1\+json")
_ENVELOPE = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/=]*)","payloadType":"(application/vnd\.animus\.[a-z-]+\.v1\+json)",'
    rb'"signatures":\[\{"keyid":"([0-9a-f]{64})","sig":"([A-Za-z0-9+/=]*)"\}\]\}'
)

Keys = Mapping[str, Ed25519PublicKey] | Iterable[Ed25519PublicKey]


def payload_type(noun: str) -> str:
    return f"application/vnd.animus.{noun}.v1+json"


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, lower-case hex."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def pae(kind: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: what is signed."""
    encoded = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)


def sign(payload: bytes, noun: str, key: Ed25519PrivateKey) -> bytes:
    """Signs a document's bytes and returns the envelope, itself canonical JSON."""
    return Signer(key).sign(payload, noun)


class Signer:
    """A private key that knows its id: for who signs much."""

    def __init__(self, key: Ed25519PrivateKey):
        self._key = key
        self.key_id = key_id(key.public_key())

    def sign(self, payload: bytes, noun: str) -> bytes:
        """As `sign`."""
        kind = payload_type(noun)
        if not _PAYLOAD_TYPE.fullmatch(kind):
            raise DocumentError("WRONG_NOUN", "a noun is lower-case words joined by hyphens", "payloadType")
        # Its canonical JSON: names in order, and no character in it that JSON escapes.
        return b'{"payload":"%b","payloadType":"%b","signatures":[{"keyid":"%b","sig":"%b"}]}' % (
            base64.b64encode(payload), kind.encode(), self.key_id.encode(),
            base64.b64encode(self._key.sign(pae(kind, payload))),
        )  # fmt: skip


def verify(envelope: bytes, noun: str, keys: Keys) -> tuple[bytes, str]:
    """Returns the payload and the id of the first of `keys` whose signature over it is good.

    The payload is not parsed; hand it to the document's `from_bytes`. Raises DocumentError with ENVELOPE_INVALID,
    WRONG_NOUN, KEY_UNKNOWN (no signature names one of the keys) or SIGNATURE_INVALID.
    """
    payload, signatures = open_unverified(envelope, noun)
    known = dict(keys) if isinstance(keys, Mapping) else {key_id(key): key for key in keys}
    message = pae(payload_type(noun), payload)
    named = False
    for keyid, signature in signatures:
        key = known.get(keyid)
        if key is None:
            continue
        named = True
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return payload, keyid
    if named:
        raise DocumentError("SIGNATURE_INVALID", "no signature by a known key is good", "signatures")
    raise DocumentError("KEY_UNKNOWN", "no signature names a key that may sign this", "signatures")


def open_unverified(envelope: bytes, noun: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Payload and (key id, signature) pairs of a well-formed envelope, nothing verified.

    For who must look up the key by what the payload says, and then calls `verify`.
    """
    # Nearly every envelope has one signature and is canonical as it comes. Any other, and a wrong one, is read whole.
    if (plain := _ENVELOPE.fullmatch(envelope)) is not None and plain[2].decode() == payload_type(noun):
        payload, keyid, signature = plain[1].decode(), plain[3].decode(), plain[4].decode()
        return _decode(payload, "payload"), [(keyid, _decode(signature, "signatures"))]
    try:
        value = canonical.parse(envelope)
    except DocumentError as error:
        raise DocumentError("ENVELOPE_INVALID", error.message, error.path) from None
    if type(value) is not dict or value.keys() != {"payload", "payloadType", "signatures"}:
        raise DocumentError("ENVELOPE_INVALID", "an envelope has payload, payloadType and signatures")
    if value["payloadType"] != payload_type(noun):
        raise DocumentError("WRONG_NOUN", f"expected {payload_type(noun)}", "payloadType")
    signatures = value["signatures"]
    if type(signatures) is not list or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise DocumentError("ENVELOPE_INVALID", f"1 to {MAX_SIGNATURES} signatures", "signatures")
    pairs = []
    for item in signatures:
        if type(item) is not dict or item.keys() != {"keyid", "sig"} or type(item["keyid"]) is not str:
            raise DocumentError("ENVELOPE_INVALID", "a signature has keyid and sig", "signatures")
        if not _KEYID.fullmatch(item["keyid"]):
            raise DocumentError("ENVELOPE_INVALID", "a key id is 64 lower-case hex digits", "signatures")
        pairs.append((item["keyid"], _decode(item["sig"], "signatures")))
    return _decode(value["payload"], "payload"), pairs


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: object, path: str) -> bytes:
    # b64decode takes several spellings of the same bytes (trailing bits); an envelope has one.
    if type(text) is str:
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = None
        if data is not None and _encode(data) == text:
            return data
    raise DocumentError("ENVELOPE_INVALID", "not standard base64", path)
