"""Trust bundle, attestation certificate, provenance, decision, bindings and locks."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from animus_kit.documents import DocumentError, dsse
from animus_kit.documents.bindings import Bindings, DatasetBinding
from animus_kit.documents.bundle import decode_key, open_bundle
from animus_kit.documents.environment import Package, environment_digest
from animus_kit.documents.result import Provenance, check_against, open_provenance
from animus_kit.documents.shape import digest_of
from tests.kit.documents.samples import (
    ATTESTATION,
    BINDINGS,
    BUNDLE,
    CONTRACT,
    DECISION,
    ENVIRONMENT_LOCK,
    HOST,
    LATER,
    NOW,
    OUTPUTS,
    PROVENANCE,
    digest,
    key,
)

ROOT = key(9)


def refused(reason, call, *args, **kwargs):
    with pytest.raises(DocumentError) as error:
        call(*args, **kwargs)
    assert error.value.reason == reason


def test_a_bundle_is_the_roots_and_never_goes_back():
    data = dsse.sign(BUNDLE.to_bytes(), "trust-bundle", ROOT)
    assert open_bundle(data, [ROOT.public_key()], newest=3, trust_domain="animus.local") == BUNDLE
    refused("BUNDLE_ROLLBACK", open_bundle, data, [ROOT.public_key()], newest=4)
    refused("WRONG_TRUST_DOMAIN", open_bundle, data, [ROOT.public_key()], trust_domain="other.local")
    refused("KEY_UNKNOWN", open_bundle, data, [key(1).public_key()])


def test_a_key_signs_one_purpose_in_its_time():
    contract = {dsse.key_id(key(1).public_key())}
    assert BUNDLE.keys_for("contract", NOW).keys() == contract
    assert BUNDLE.keys_for("contract", LATER) == {}
    assert BUNDLE.keys_for("contract", NOW - timedelta(microseconds=1)) == {}
    assert BUNDLE.keys_for("checkpoint", NOW) == {}
    revoked = replace(BUNDLE, keys=tuple(replace(one, revoked_at=NOW + timedelta(1)) for one in BUNDLE.keys))
    assert revoked.keys_for("contract", NOW).keys() == contract
    assert revoked.keys_for("contract", NOW + timedelta(1)) == {}


def test_a_key_id_is_the_keys():
    refused("KEY_ID", replace, BUNDLE.keys[0], key_id="0" * 64)
    refused("KEY_ID", replace, ATTESTATION, key_id="0" * 64)
    refused("DUPLICATE", replace, BUNDLE, keys=(BUNDLE.keys[0], BUNDLE.keys[0]))


def test_only_ed25519_in_its_one_form():
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = p256.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    refused("KEY_INVALID", decode_key, der)
    refused("KEY_INVALID", decode_key, b"x")
    assert decode_key(ATTESTATION.public_key) == ATTESTATION.key() == key(4).public_key()


def test_provenance_is_an_in_toto_statement_with_slsa_provenance():
    statement = PROVENANCE.to_dict()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["digest"] == {"sha256": "8" * 64}
    assert statement["predicate"]["buildDefinition"].keys() >= {"buildType", "externalParameters"}
    names = [one["name"] for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]]
    assert names == ["code", "environment-lock", "image", "inputs/base", "inputs/data"]


def test_the_in_toto_library_takes_it():
    statement = pytest.importorskip("in_toto_attestation.v1.statement", reason="needs in-toto-attestation")
    from google.protobuf.json_format import ParseDict

    value = {key: item for key, item in PROVENANCE.to_dict().items() if key != "type"}
    parsed = statement.Statement([], "", {})
    ParseDict(value, parsed.pb)
    parsed.validate()


def test_provenance_opens_with_the_attestation_key_only():
    data = dsse.sign(PROVENANCE.to_bytes(), "provenance", key(4))
    assert open_provenance(data, [ATTESTATION.key()]) == (PROVENANCE, ATTESTATION.key_id)
    refused("KEY_UNKNOWN", open_provenance, data, [key(1).public_key()])


def test_a_step_without_outputs_still_has_a_subject():
    empty = replace(PROVENANCE, outputs=(), metrics={})
    assert empty.to_dict()["subject"][0]["name"] == "action"
    assert Provenance.from_bytes(empty.to_bytes()) == empty


def test_a_statement_is_held_against_contract_and_outputs():
    check_against(PROVENANCE, CONTRACT, OUTPUTS)
    for change in (
        {"attempt": PROVENANCE.attempt[:-1] + "3"},
        {"agent": "agents/node-2"},
        {"contract_digest": digest("0")},
        {"action_digest": digest("0")},
        {"outputs": ()},
        {"dependencies": PROVENANCE.dependencies[1:]},
    ):
        refused("STATEMENT_MISMATCH", check_against, replace(PROVENANCE, **change), CONTRACT, OUTPUTS)
    refused("STATEMENT_MISMATCH", check_against, PROVENANCE, CONTRACT, [replace(OUTPUTS[0], files=4)])


def test_statements_of_another_shape_are_refused():
    data = PROVENANCE.to_bytes()
    for changed in (
        data.replace(b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v0"),
        data.replace(b'"name":"exit-code"', b'"name":"exit-kode"'),
        data.replace(b'"byproducts":[', b'"byproducts":[{},'),
        data.replace(b'"sha256":"888', b'"sha256":"88Z'),
    ):
        with pytest.raises(DocumentError):
            Provenance.from_bytes(changed)
    refused("STATEMENT_INVALID", Provenance.from_bytes, b'{"type":"animus.dev/provenance/v1"}')


def test_metrics_are_flat_finite_and_named():
    for metrics in ({"x": float("inf")}, {"x y": 1.0}, {"": 1.0}, {"n" * 129: 1.0}, {"x": True}, {"x": {"y": 1.0}}):
        with pytest.raises(DocumentError):
            replace(PROVENANCE, metrics=metrics)
    with pytest.raises(DocumentError):
        replace(PROVENANCE, metrics={f"m{i}": 1.0 for i in range(1001)})


def test_bindings_answer_by_name_and_stay_in_the_project():
    assert BINDINGS.code_for("train") == "projects/risk/codeSnapshots/fix"
    assert BINDINGS.code_for("other") == "projects/risk/codeSnapshots/main"
    assert BINDINGS.dataset("loans") == "projects/risk/datasets/loans/versions/v7"
    assert BINDINGS.dataset("nothing") is None
    assert BINDINGS.values() == {"lr": 0.1, "seed": -(2**63)}
    BINDINGS.check_project("projects/risk")
    refused("OUTSIDE_PROJECT", BINDINGS.check_project, "projects/ris")
    one = DatasetBinding(dataset_ref="a", dataset_version="projects/p/datasets/d/versions/v1")
    refused("DUPLICATE", Bindings, datasets=(one, one), code=(), parameters=(), labels={})
    refused("PATTERN", DatasetBinding, dataset_ref="a", dataset_version="projects/p/datasets/d")


def test_locks_list_each_package_once_in_one_order():
    assert [one.name for one in ENVIRONMENT_LOCK.packages] == ["libc6", "numpy"]
    refused("DUPLICATE", replace, ENVIRONMENT_LOCK, packages=(ENVIRONMENT_LOCK.packages[0],) * 2)
    refused("PATTERN", Package, kind="Deb", name="x", version="1")
    assert environment_digest([digest("b"), digest("a"), digest("b")]) == digest_of(
        f'["{digest("a")}","{digest("b")}"]'.encode()
    )


def test_two_machines_of_one_build_are_one_host_class():
    twin = replace(HOST, gpus=(replace(HOST.gpus[0], uuid="GPU-2"),))
    assert twin.host_class == HOST.host_class and twin.digest != HOST.digest
    for change in (
        {"kernel": "6.2"},
        {"gpus": ()},
        {"gpus": (replace(HOST.gpus[0], driver_version="1"),)},
        {"libraries": {}},
        {"cpu_flags_sha256": "0" * 64},
    ):
        assert replace(HOST, **change).host_class != HOST.host_class


def test_decisions_know_their_words():
    refused("NOT_A_CHOICE", replace, DECISION, effect="MAYBE")
    assert DECISION.groups == ("all", "ml")
