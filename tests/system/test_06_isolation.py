"""A project cannot read, name or probe another's bytes, with a stolen digest neither."""

from __future__ import annotations

import hashlib

import pytest

from animus_cli.stack.layout import Layout
from tests.system.world import Answer, Client, Project

SECRET = b"the other project's secret"
DIGEST = "sha256:" + hashlib.sha256(SECRET).hexdigest()
UNKNOWN = "sha256:" + hashlib.sha256(b"nobody has this").hexdigest()


@pytest.fixture(scope="module")
def victim(operator: Client) -> Project:
    project = Project.create(operator, "isolation-victim")
    project.push_dataset("secret", {"secret": SECRET})
    return project


@pytest.fixture(scope="module")
def thief(layout: Layout, operator: Client, victim: Project) -> Project:
    """A project whose editor knows the digest."""
    project = Project.create(operator, "isolation-thief")
    body = {"member": "user:thief", "role": "ROLE_EDITOR"}
    operator.ok("POST", f"/policy/v1/{project.name}/roleBindings", body)
    return Project(Client(layout, "thief", ()), project.id)


def same_shape(answer: Answer) -> tuple[int, str, str]:
    """What a prober could tell two answers apart by, digests aside."""
    message = answer.json["message"].replace(DIGEST, "D").replace(UNKNOWN, "D")
    return answer.status, answer.reason, message


def test_a_stolen_digest_reads_like_an_unknown_one(thief: Project) -> None:
    answers = [
        thief.client.send("GET", f"/catalog/v1/{thief.name}/blobs/{digest}:download") for digest in (DIGEST, UNKNOWN)
    ]
    assert same_shape(answers[0]) == same_shape(answers[1])
    assert answers[0].status == 404


def test_the_other_project_itself_is_closed(thief: Project, victim: Project) -> None:
    for path in (
        f"/catalog/v1/{victim.name}/blobs/{DIGEST}:download",
        f"/catalog/v1/{victim.name}/datasets",
        f"/catalog/v1/{victim.name}/datasets/secret/versions/v1:download?path=secret",
        f"/orchestrator/v1/{victim.name}/runs",
        f"/lineage/v1/{victim.name}/datasets/secret/versions/v1:downstream",
        f"/audit/v1/{victim.name}/events",
    ):
        assert thief.client.send("GET", path).status == 403, path


def test_missing_blobs_tell_of_this_project_only(thief: Project) -> None:
    body = {"digests": [DIGEST, UNKNOWN]}
    found = thief.client.ok("POST", f"/catalog/v1/{thief.name}/blobs:listMissing", body)
    assert sorted(found["missingDigests"]) == sorted([DIGEST, UNKNOWN])


def test_a_manifest_cannot_name_what_the_project_does_not_own(thief: Project) -> None:
    from animus_kit.documents import manifest

    thief.client.ok("POST", f"/catalog/v1/{thief.name}/datasets", {}, datasetId="loot")
    answers = []
    for digest in (DIGEST, UNKNOWN):
        entry = manifest.Entry("loot", "file", len(SECRET), digest.removeprefix("sha256:"))
        named = thief.upload(manifest.dumps([entry], "dataset"))
        body = {"manifestDigest": named}
        answers.append(thief.client.send("POST", f"/catalog/v1/{thief.name}/datasets/loot/versions", body))
    assert answers[0].reason == "BLOB_NOT_IN_PROJECT"
    assert same_shape(answers[0]) == same_shape(answers[1])


def test_an_upload_must_bring_the_bytes(thief: Project) -> None:
    answer = thief.client.send(
        "POST",
        f"/catalog/v1/{thief.name}/blobs:upload",
        b"x" * len(SECRET),
        query={"digest": DIGEST, "sizeBytes": len(SECRET)},
        headers={"Content-Type": "application/octet-stream"},
    )
    assert (answer.status, answer.reason) == (400, "DIGEST_MISMATCH")
    assert thief.client.send("GET", f"/catalog/v1/{thief.name}/blobs/{DIGEST}:download").status == 404


def test_a_reference_does_not_cross_the_border(thief: Project, victim: Project) -> None:
    body = {
        "manifestDigest": thief.upload(b'{"entries":[],"type":"animus.dev/manifest/v1"}'),
        "parents": [f"{victim.name}/datasets/secret/versions/v1"],
    }
    answer = thief.client.send("POST", f"/catalog/v1/{thief.name}/datasets/loot/versions", body)
    assert answer.status in (400, 404, 412) and answer.status != 200


def test_a_viewer_reads_and_does_not_write(layout: Layout, operator: Client, victim: Project) -> None:
    operator.ok("POST", f"/policy/v1/{victim.name}/roleBindings", {"member": "group:readers", "role": "ROLE_VIEWER"})
    reader = Client(layout, "rita", ("readers",))
    assert reader.send("GET", f"/catalog/v1/{victim.name}/datasets").status == 200
    assert reader.send("POST", f"/catalog/v1/{victim.name}/datasets", {}, query={"datasetId": "x"}).status == 403
    assert reader.send("GET", f"/audit/v1/{victim.name}/events").status == 403
