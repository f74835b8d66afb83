"""ArtifactService, and the tail that makes artifacts out of the orchestrator's events."""

from __future__ import annotations

import dataclasses

import pytest

from animus.catalog.v1 import artifact_pb2 as pb
from animus.catalog.v1 import blob_pb2
from animus.type.v1.list_order_pb2 import ListOrder
from animus.type.v1.metric_pb2 import Metric
from animus_kit.documents import manifest
from tests.catalog.world import event_of, manifest_of, output, refused


def get(world, name):
    return world.artifacts().GetArtifact(pb.GetArtifactRequest(name=name))


def test_an_artifact_is_what_the_event_says(world):
    attempt = world.attempt()
    files = {"model.bin": b"weights"}
    digest = world.write_output(world.grant(attempt), files)
    name = f"{world.project}/artifacts/r1-train-model"
    world.end_attempt(attempt, output(name, digest, bytes="7"), metrics={"loss": 0.25, "accuracy": 1})
    made = get(world, name)
    assert (made.attempt, made.run, made.step) == (
        attempt,
        f"{world.project}/runs/r1",
        f"{world.project}/runs/r1/steps/train",
    )
    assert (made.output, made.type, made.media_type) == ("model", "model", "application/octet-stream")
    assert (made.manifest_digest, made.file_count, made.size_bytes) == (digest, 1, 7)
    assert list(made.metrics) == [Metric(name="accuracy", value=1.0), Metric(name="loss", value=0.25)]
    kind, payload = world.events()[-1]
    assert kind == "catalog.artifact.created"
    assert (payload["name"], payload["manifestDigest"], payload["attempt"]) == (name, digest, attempt)


def test_an_event_has_its_effect_once(world):
    attempt = world.attempt()
    digest = world.write_output(world.grant(attempt), {"a": b"1"})
    one = event_of(attempt, "committed", [output(f"{world.project}/artifacts/a", digest)])
    for _ in range(2):
        world.apply(one)
    request = pb.ListArtifactsRequest(parent=world.project)
    assert len(world.artifacts().ListArtifacts(request).artifacts) == 1
    assert [kind for kind, _ in world.events()].count("catalog.artifact.created") == 1


def test_events_of_other_kinds_have_none(world):
    world.apply(event_of(world.attempt(), "started"))
    world.apply(event_of(world.attempt(), "leased"))
    assert world.write(world.grant(world.attempt()), b"still open")


def test_an_event_that_cannot_be_read_is_skipped_whole(world):
    """It never gets better, and must not keep what comes after it from the catalog."""
    attempt = world.attempt()
    digest = world.write_output(world.grant(attempt), {"a": b"1"})
    good, foreign = output(f"{world.project}/artifacts/a", digest), output("projects/other/artifacts/a", digest)
    for outputs in ([good, foreign], [good, {"name": "x"}], [good, {**good, "bytes": "many"}]):
        world.apply(event_of(attempt, "committed", outputs))
    world.apply(event_of(attempt, "committed", body={"outputs": 7}))
    for state in ("committed", "failed"):
        world.apply(event_of(attempt, state, body={"attempt": "projects/UPPER/x"}))
        other = event_of(attempt, state)
        world.apply(dataclasses.replace(other, payload=other.payload.replace(b"/steps/", b"/stops/")))
        world.apply(dataclasses.replace(other, payload=b"{"))
    request = pb.ListArtifactsRequest(parent=world.project)
    assert not world.artifacts().ListArtifacts(request).artifacts
    world.end_attempt(attempt, good)
    assert len(world.artifacts().ListArtifacts(request).artifacts) == 1


def test_an_output_that_was_never_written_shows_nothing(world):
    """What a compromised node may claim: a digest that its project does not own."""
    secret = world.version_of_another_project()
    attempt = world.attempt()
    name = f"{world.project}/artifacts/claimed"
    world.end_attempt(attempt, output(name, secret))
    entries = pb.ListArtifactEntriesRequest(parent=name)
    assert refused(world.artifacts().ListArtifactEntries, entries).reason == "BLOB_NOT_FOUND"
    download = blob_pb2.DownloadArtifactRequest(name=name)
    assert refused(world.blobs().DownloadArtifact, download).reason == "BLOB_NOT_FOUND"
    grant = world.grant(world.attempt(2), readable_manifests=(secret,))
    from animus.catalog.v1 import agent_blob_pb2

    read = agent_blob_pb2.ReadBlobRequest(grant=grant, container_digest=secret, digest=secret)
    assert refused(world.agent_blobs().ReadBlob, read).reason == "OUTSIDE_GRANT"


def test_entries_and_downloads(world):
    attempt = world.attempt()
    grant = world.grant(attempt)
    files = {"model.bin": b"weights", "info/card.md": b"# card"}
    several = world.write_output(grant, files)
    single = world.write_output(grant, {"only.txt": b"only"})
    names = [f"{world.project}/artifacts/{id}" for id in ("several", "single")]
    world.end_attempt(attempt, output(names[0], several), output(names[1], single))
    request = pb.ListArtifactEntriesRequest(parent=names[0], page_size=1)
    page = world.artifacts().ListArtifactEntries(request)
    assert [entry.path for entry in page.entries] == ["info/card.md"]
    request.page_token = page.next_page_token
    assert [entry.path for entry in world.artifacts().ListArtifactEntries(request).entries] == ["model.bin"]

    def download(name, path=""):
        request = blob_pb2.DownloadArtifactRequest(name=name, path=path)
        return b"".join(body.data for body in world.blobs().DownloadArtifact(request))

    assert download(names[0], "model.bin") == b"weights"
    assert download(names[1]) == b"only"
    answer = refused(world.blobs().DownloadArtifact, blob_pb2.DownloadArtifactRequest(name=names[0]))
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "PATH_REQUIRED", ["path"])
    answer = refused(world.blobs().DownloadArtifact, blob_pb2.DownloadArtifactRequest(name=names[0], path="no"))
    assert (answer.code, answer.reason) == ("NOT_FOUND", "PATH_NOT_FOUND")
    missing = blob_pb2.DownloadArtifactRequest(name=f"{world.project}/artifacts/none")
    assert refused(world.blobs().DownloadArtifact, missing).reason == "ARTIFACT_NOT_FOUND"


def test_artifacts_are_listed_by_run_and_type(world):
    first = world.commit_artifact("r1")
    second = world.commit_artifact("r2")
    attempt = world.attempt(run="r2", step="evaluate")
    digest = world.write_output(world.grant(attempt), {"report.json": b"{}"})
    report = f"{world.project}/artifacts/r2-evaluate-report"
    world.end_attempt(attempt, output(report, digest, name="report", type="report"))

    def listed(**fields):
        request = pb.ListArtifactsRequest(parent=world.project, **fields)
        return [artifact.name for artifact in world.artifacts().ListArtifacts(request).artifacts]

    assert listed() == [report, second, first]
    assert listed(run=f"{world.project}/runs/r2") == [report, second]
    assert listed(type="model") == [second, first]
    assert listed(run=f"{world.project}/runs/r2", type="model") == [second]


@pytest.mark.parametrize("order", [ListOrder.LIST_ORDER_UNSPECIFIED, ListOrder.LIST_ORDER_NAME_ASC])
def test_a_page_of_many_metrics_ends_early(world, order):
    metrics = {f"{n:0128}": n for n in range(1000)}
    names = [f"{world.project}/artifacts/a{n:02}" for n in range(12)]
    for name in names:
        world.end_attempt(world.attempt(run=name[-3:]), output(name, "sha256:" + "0" * 64), metrics=metrics)
    request = pb.ListArtifactsRequest(parent=world.project, page_size=500, order_by=order)
    first = world.artifacts().ListArtifacts(request)
    request.page_token = first.next_page_token
    second = world.artifacts().ListArtifacts(request)
    assert (len(first.artifacts), len(second.artifacts), second.next_page_token) == (10, 2, "")
    assert sorted(one.name for one in (*first.artifacts, *second.artifacts)) == names


def test_bad_and_missing_names(world):
    answer = refused(world.artifacts().GetArtifact, pb.GetArtifactRequest(name="artifacts/a"))
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["name"])
    missing = pb.GetArtifactRequest(name=f"{world.project}/artifacts/none")
    answer = refused(world.artifacts().GetArtifact, missing)
    assert (answer.code, answer.reason) == ("NOT_FOUND", "ARTIFACT_NOT_FOUND")
    answer = refused(world.artifacts().ListArtifacts, pb.ListArtifactsRequest(parent=world.project, run="r1"))
    assert answer.fields == ["run"]
    answer = refused(world.artifacts().ListArtifactEntries, pb.ListArtifactEntriesRequest(parent=world.project))
    assert answer.fields == ["parent"]


def test_another_projects_artifact_is_denied(world):
    name = world.commit_artifact()
    answer = refused(world.artifacts("bob").GetArtifact, pb.GetArtifactRequest(name=name))
    assert answer.code == "PERMISSION_DENIED"


def test_a_manifest_kept_by_the_project_survives_a_failed_attempt(world):
    """The attempt sealed what a dataset version already is; sweeping it must not take the version's entries."""
    files = {"a.csv": b"1"}
    version = world.version(world.dataset(), files)
    assert manifest_of(files) == manifest_of(files, manifest.ARTIFACT)
    attempt = world.attempt()
    world.write_output(world.grant(attempt), files)
    world.end_attempt(attempt, state="failed")
    request = blob_pb2.DownloadDatasetVersionRequest(name=version.name)
    assert b"".join(body.data for body in world.blobs().DownloadDatasetVersion(request)) == b"1"
