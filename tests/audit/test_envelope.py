"""What audit checks of an envelope with one pattern, against what the kit builds and reads."""

import hashlib
import itertools
import json
from datetime import UTC, datetime

import pytest
import rfc8785

from animus_audit.domain.envelope import BadEnvelope, check
from animus_audit.domain.merkle import leaf_hash
from animus_kit.documents.event import Envelope, build_envelope

GENERATION = "7b8ad4a0-6c83-4cf3-9f50-8a5c2f4b1c11"
PAYLOAD = b'{"type":"animus.dev/event-payload/v1"}'
SALT = bytes(range(32))


def document(**changes) -> dict:
    base = {
        "type": "animus.dev/event/v1",
        "id": "0d6a9d2e-8a5e-4b0e-9df0-4b5d0d0a4a41",
        "source": "catalog",
        "generation": GENERATION,
        "seq": "7",
        "eventType": "catalog.dataset-version.created",
        "time": "2026-11-23T12:00:00.123456Z",
        "project": "projects/p",
        "resource": "projects/p/datasets/d/versions/1",
        "actor": "a-" + "0" * 32,
        "requestId": "f1",
        "payloadDigest": "sha256:" + hashlib.sha256(SALT + PAYLOAD).hexdigest(),
    }
    return {k: v for k, v in (base | changes).items() if v is not None}


def checked(envelope: bytes, **changes):
    args = {"source": "catalog", "generation": GENERATION, "seq": 7, "payload": PAYLOAD, "salt": SALT} | changes
    return check(args["source"], args["generation"], args["seq"], envelope, args["payload"], args["salt"])


def test_a_good_envelope_gives_its_columns():
    envelope = rfc8785.dumps(document())
    leaf = checked(envelope)
    assert leaf.leaf_hash == leaf_hash(envelope)
    assert (leaf.event_type, leaf.project, leaf.actor) == (
        "catalog.dataset-version.created",
        "projects/p",
        "a-" + "0" * 32,
    )
    assert leaf.event_time.isoformat() == "2026-11-23T12:00:00.123456+00:00"
    assert checked(rfc8785.dumps(document(project=None, requestId=None))).project is None


def test_every_envelope_that_the_kit_builds_is_good():
    for project, request_id, actor in itertools.product(
        (None, "projects/p-1"), (None, "f1.x"), ("service/catalog", "a-" + "f" * 32)
    ):
        built = build_envelope(
            id="e.1", source="catalog", generation=GENERATION, seq=7, event_type="catalog.access.denied",
            time=datetime(2026, 11, 23, tzinfo=UTC), resource="/animus.catalog.v1.ProjectService/GetProject", actor=actor,
            salt=SALT, payload=PAYLOAD, project=project, request_id=request_id,
        )  # fmt: skip
        leaf = checked(built)
        assert (leaf.project, leaf.request_id, leaf.actor) == (project, request_id, actor)


def test_a_source_writes_its_own_events_only():
    with pytest.raises(BadEnvelope, match="another source's"):
        checked(rfc8785.dumps(document(eventType="orchestrator.attempt.committed")))
    with pytest.raises(BadEnvelope, match="another source's"):
        checked(rfc8785.dumps(document(eventType="catalogue.dataset.created")))


@pytest.mark.parametrize(
    ("envelope", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (json.dumps(document()).encode(), "canonical"),
        (rfc8785.dumps(document()) + b"\n", "canonical"),
        (rfc8785.dumps(document()).replace(b"catalog.dataset", b"c\\u0061talog.dataset"), "canonical"),
        (rfc8785.dumps(document()).replace(b'{"actor"', b'{"actor":"x","actor"'), "canonical"),
        (rfc8785.dumps(document(extra="x")), "unknown field"),
        (rfc8785.dumps(document(resource=None)), "lacks resource"),
        (rfc8785.dumps(document(seq=7)), "not a string"),
        (rfc8785.dumps(document(actor={"name": "x"})), "not a string"),
        (rfc8785.dumps(document(type="animus.dev/event/v2")), "type"),
        (rfc8785.dumps(document(source="policy")), "source"),
        (rfc8785.dumps(document(generation="other")), "generation"),
        (rfc8785.dumps(document(generation=GENERATION.replace("7b", "8b"))), "generation"),
        (rfc8785.dumps(document(actor=None)), "lacks actor"),
        (rfc8785.dumps(document(actor="a" * 129)), "actor"),
        (rfc8785.dumps(document(eventType="a." + "b" * 127)), "eventType"),
        (rfc8785.dumps(document(seq="8")), "seq"),
        (rfc8785.dumps(document(seq="07")), "seq"),
        (rfc8785.dumps(document(eventType="Catalog")), "eventType"),
        (rfc8785.dumps(document(eventType="catalog.x y")), "eventType"),
        (rfc8785.dumps(document(time="2026-11-23T12:00:00Z")), "time"),
        (rfc8785.dumps(document(time="2026-02-30T12:00:00.000000Z")), "time"),
        (rfc8785.dumps(document(project="p")), "project"),
        (rfc8785.dumps(document(resource="x" * 513)), "resource"),
        (rfc8785.dumps(document(actor="a\u0000b")), "actor"),
        (rfc8785.dumps(document(actor="alice@example.org")), "actor"),
        (rfc8785.dumps(document(actor="Ω")), "actor"),
        (rfc8785.dumps(document(resource="projects/p/runs/Müller")), "resource"),
        (rfc8785.dumps(document(requestId="two words")), "requestId"),
        (rfc8785.dumps(document(id="")), "id"),
        (rfc8785.dumps(document(time="٢026-11-23T12:00:00.123456Z")), "time"),
        (rfc8785.dumps(document(payloadDigest="sha256:" + "0" * 64)), "payloadDigest"),
    ],
)
def test_what_is_refused(envelope, problem):
    with pytest.raises(BadEnvelope, match=problem):
        checked(envelope)


def test_a_payload_or_salt_of_another_event_is_refused():
    envelope = rfc8785.dumps(document())
    for changes in ({"payload": PAYLOAD + b" "}, {"salt": bytes(32)}, {"source": "policy"}, {"seq": 8}):
        with pytest.raises(BadEnvelope):
            checked(envelope, **changes)


def test_a_change_of_any_byte_is_refused():
    """No byte string but the canonical one is accepted: an extra space, another order, an escape, a wrong quote."""
    envelope = rfc8785.dumps(document())
    for at in range(len(envelope)):
        for changed in (
            envelope[:at] + envelope[at + 1 :],
            envelope[:at] + b" " + envelope[at:],
            envelope[:at] + b'"' + envelope[at:],
        ):
            try:
                leaf = checked(changed)
            except BadEnvelope:
                continue
            # What is still accepted (a character less in an id) is canonical, and the kit reads it.
            assert Envelope.from_bytes(leaf.envelope).to_bytes() == changed
