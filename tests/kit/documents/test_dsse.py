import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from animus_kit.documents import DocumentError, canonical, dsse
from tests.kit.documents import samples

PAYLOAD = samples.GRANT.to_bytes()
KEY = samples.key(1)
OTHER = samples.key(2)


def envelope(**changes):
    value = json.loads(dsse.sign(PAYLOAD, "grant", KEY))
    return canonical.dumps(value | changes)


def test_signs_and_verifies():
    signed = dsse.sign(PAYLOAD, "grant", KEY)
    assert dsse.verify(signed, "grant", [OTHER.public_key(), KEY.public_key()]) == (
        PAYLOAD,
        dsse.key_id(KEY.public_key()),
    )


def test_an_envelope_is_canonical_as_it_is_made():
    signed = dsse.sign(PAYLOAD, "grant", KEY)
    assert canonical.parse(signed)["payloadType"] == "application/vnd.animus.grant.v1+json"
    assert dsse.Signer(KEY).sign(PAYLOAD, "grant") == signed


def test_a_noun_that_json_would_escape_is_refused():
    with pytest.raises(DocumentError):
        dsse.sign(PAYLOAD, 'grant"', KEY)


def test_key_id_is_the_hash_of_the_spki():
    der = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert dsse.key_id(KEY.public_key()) == hashlib.sha256(der).hexdigest()


def test_pae_is_that_of_the_specification():
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def refused(data, reason, noun="grant", keys=None):
    with pytest.raises(DocumentError) as error:
        dsse.verify(data, noun, [KEY.public_key()] if keys is None else keys)
    assert error.value.reason == reason


def test_no_signature_serves_for_another_noun():
    refused(dsse.sign(PAYLOAD, "grant", KEY), "WRONG_NOUN", noun="contract")
    # Also not when the payload type is rewritten.
    refused(envelope(payloadType=dsse.payload_type("contract")), "SIGNATURE_INVALID", noun="contract")


def test_a_changed_payload_is_refused():
    refused(envelope(payload=base64.b64encode(PAYLOAD + b" ").decode()), "SIGNATURE_INVALID")


def test_an_unknown_key_is_refused():
    refused(dsse.sign(PAYLOAD, "grant", OTHER), "KEY_UNKNOWN")
    refused(dsse.sign(PAYLOAD, "grant", KEY), "KEY_UNKNOWN", keys=[])


def test_a_signature_under_another_keys_name_is_refused():
    signature = json.loads(dsse.sign(PAYLOAD, "grant", OTHER))["signatures"][0]
    forged = signature | {"keyid": dsse.key_id(KEY.public_key())}
    refused(envelope(signatures=[forged]), "SIGNATURE_INVALID")


def test_one_good_signature_among_bad_ones_is_enough():
    good = json.loads(dsse.sign(PAYLOAD, "grant", KEY))["signatures"][0]
    bad = {"keyid": good["keyid"], "sig": base64.b64encode(bytes(64)).decode()}
    unknown = {"keyid": "0" * 64, "sig": good["sig"]}
    assert dsse.verify(envelope(signatures=[unknown, bad, good]), "grant", [KEY.public_key()])


@pytest.mark.parametrize(
    "changes",
    [
        {"signatures": []},
        {"signatures": {}},
        {"signatures": [{"keyid": "0" * 64, "sig": ""}] * 17},
        {"signatures": [{"sig": ""}]},
        {"signatures": [{"keyid": "A" * 64, "sig": ""}]},
        {"payload": "!"},
        {"payload": "YQ"},
        {"payload": "YR=="},  # the same byte as YQ==
        {"payload": 1},
        {"more": 1},
    ],
)
def test_malformed_envelopes(changes):
    refused(envelope(**changes), "ENVELOPE_INVALID")


def test_an_envelope_has_one_form():
    refused(dsse.sign(PAYLOAD, "grant", KEY) + b"\n", "ENVELOPE_INVALID")
    refused(json.dumps(json.loads(envelope())).encode(), "ENVELOPE_INVALID")
    refused(b"", "ENVELOPE_INVALID")


def test_securesystemslib_reads_ours_and_we_read_theirs():
    signer = CryptoSigner(KEY)
    ours = Envelope.from_dict(json.loads(dsse.sign(PAYLOAD, "grant", KEY)))
    for signature in ours.signatures.values():
        public = SSlibKey(signature.keyid, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"]})
        public.verify_signature(signature, ours.pae())

    theirs = Envelope(PAYLOAD, dsse.payload_type("grant"), {})
    theirs.sign(signer)
    value = theirs.to_dict()
    value["signatures"][0]["keyid"] = dsse.key_id(KEY.public_key())  # the id is not signed
    assert dsse.verify(canonical.dumps(value), "grant", [KEY.public_key()])[0] == PAYLOAD
