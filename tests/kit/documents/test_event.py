import hashlib
from dataclasses import replace

import pytest

from animus_kit.documents import DocumentError, event
from tests.kit.documents.samples import ENVELOPE, NOW, PAYLOAD, SALT


def build(**changes):
    arguments = {
        "id": "e1",
        "source": "catalog",
        "generation": ENVELOPE.generation,
        "seq": 7,
        "event_type": "catalog.dataset-version.created",
        "time": NOW,
        "resource": "projects/p/datasets/d/versions/v1",
        "actor": "service/catalog",
        "salt": SALT,
        "payload": PAYLOAD,
    }
    return event.build_envelope(**(arguments | changes))


def test_the_envelope_binds_the_payload_by_a_salted_digest():
    envelope = event.Envelope.from_bytes(build())
    assert envelope.payload_digest == "sha256:" + hashlib.sha256(SALT + PAYLOAD).hexdigest()
    assert event.Envelope.from_bytes(build(salt=bytes(32))).payload_digest != envelope.payload_digest


def test_every_value_is_a_string_so_that_audit_needs_no_general_canonicaliser():
    assert all(isinstance(value, str) for value in ENVELOPE.to_dict().values())


def test_absent_is_absent():
    assert b'"project"' not in build() and b"requestId" not in build()
    assert build(project="", request_id="") == build()


def test_the_actor_is_opaque():
    name = event.opaque_actor("alice@example.org", b"key one")
    assert name == event.opaque_actor("alice@example.org", b"key one")
    assert name != event.opaque_actor("alice@example.org", b"key two")
    assert "alice" not in name and len(name) == 34
    for personal in ("alice@example.org", "alice smith", "a-xyz", ""):
        with pytest.raises(DocumentError):
            build(actor=personal)
    for process in ("service/catalog", "agent/node-1", "gateway", name):
        build(actor=process)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"seq": 2**63},
        {"event_type": "Catalog.created"},
        {"event_type": "created"},
        {"generation": "x"},
        {"resource": "free text, with blanks"},
        {"resource": ""},
        {"request_id": "a b"},
        {"project": "p"},
        {"time": NOW.replace(tzinfo=None)},
    ],
)
def test_refused_envelopes(change):
    with pytest.raises(DocumentError):
        build(**change)


def test_a_salt_has_32_bytes():
    with pytest.raises(ValueError):
        build(salt=b"short")


def test_payloads_are_plain_documents():
    data = event.build_payload(
        "catalog.dataset.created", {"dataset": "d", "gone": None, "deep": [{"x": None, "y": (1, 2)}]}, "alice"
    )
    assert event.read_payload(data) == {
        "type": "animus.dev/event-payload/v1",
        "eventType": "catalog.dataset.created",
        "actor": "alice",
        "dataset": "d",
        "deep": [{"y": [1, 2]}],
    }


def test_floats_stand_only_where_they_are_declared():
    assert event.read_payload(event.build_payload("a.b", {"metrics": {"x": 0.5, "deep": [1.5]}}))["metrics"]["x"] == 0.5
    with pytest.raises(DocumentError) as error:
        event.build_payload("a.b", {"outputs": [{"bytes": 1.0}]})
    assert (error.value.reason, error.value.path) == ("PAYLOAD_FLOAT", "outputs[0].bytes")
    with pytest.raises(DocumentError):
        event.build_payload("a.b", {"metrics": {"x": float("nan")}})


@pytest.mark.parametrize("name", ["type", "eventType", "actor"])
def test_reserved_names(name):
    with pytest.raises(DocumentError, match="build_payload"):
        event.build_payload("a.b", {name: "x"})


def test_payloads_are_bounded():
    with pytest.raises(DocumentError) as error:
        event.build_payload("a.b", {"x": "y" * event.MAX_PAYLOAD_BYTES})
    assert error.value.reason == "PAYLOAD_TOO_LARGE"


def test_seq_is_64_bits():
    assert replace(ENVELOPE, seq=2**63 - 1).to_dict()["seq"] == "9223372036854775807"
