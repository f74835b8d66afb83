"""ModelService."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from animus.catalog.v1 import model_pb2 as pb
from animus.type.v1.metric_pb2 import Metric
from tests.catalog.world import refused


def model(world, id="digits"):
    return world.models().CreateModel(pb.CreateModelRequest(parent=world.project, model_id=id)).name


def register(parent, artifact, **fields):
    version = pb.ModelVersion(artifact=artifact, **fields)
    return pb.CreateModelVersionRequest(parent=parent, model_version=version)


def test_an_artifact_becomes_the_next_version(world):
    parent, artifact = model(world), world.commit_artifact()
    made = world.models().CreateModelVersion(register(parent, artifact, description="best", labels={"a": "b"}))
    assert made.name == f"{parent}/versions/v1"
    assert (made.state, made.artifact, made.run) == (
        pb.ModelVersion.STATE_REGISTERED,
        artifact,
        f"{world.project}/runs/r1",
    )
    assert list(made.metrics) == [Metric(name="accuracy", value=0.5)]
    assert (made.description, dict(made.labels), made.creator) == ("best", {"a": "b"}, "alice")
    assert made == world.models().GetModelVersion(pb.GetModelVersionRequest(name=made.name))
    assert world.models().GetModel(pb.GetModelRequest(name=parent)).latest_version == made.name
    kind, payload = world.events()[-1]
    assert kind == "catalog.model-version.created"
    assert (payload["name"], payload["artifact"], payload["run"]) == (made.name, artifact, made.run)
    assert payload["manifestDigest"] == made.manifest_digest


def test_the_same_artifact_again_answers_its_version(world):
    parent, artifact = model(world), world.commit_artifact("r1")
    first = world.models().CreateModelVersion(register(parent, artifact))
    second = world.models().CreateModelVersion(register(parent, world.commit_artifact("r2")))
    assert second.name == f"{parent}/versions/v2"
    assert world.models().CreateModelVersion(register(parent, artifact)) == first
    other = world.models().CreateModelVersion(register(model(world, "other"), artifact))
    assert other.name.endswith("models/other/versions/v1")


def test_versions_registered_at_once_are_counted(world):
    parent = model(world)
    artifacts = [world.commit_artifact(f"r{n}") for n in range(4)]
    with ThreadPoolExecutor(8) as pool:
        requests = [register(parent, artifact) for artifact in artifacts * 2]
        made = {version.name for version in pool.map(world.models().CreateModelVersion, requests)}
    assert made == {f"{parent}/versions/v{n}" for n in range(1, 5)}


def test_an_artifact_that_is_not_there_yet(world):
    answer = refused(
        world.models().CreateModelVersion, register(model(world), f"{world.project}/artifacts/r1-train-model")
    )
    assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "ARTIFACT_NOT_COMMITTED")
    assert answer.details["RetryInfo"].retry_delay.seconds == 1


def test_another_projects_artifact_is_refused(world):
    elsewhere = world.commit_artifact()
    world.new_project("alice")
    answer = refused(world.models().CreateModelVersion, register(model(world), elsewhere))
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "REFERENCE_OUTSIDE_PROJECT")
    assert answer.fields == ["model_version.artifact"]


def test_models_are_made_changed_and_listed(world):
    names = [model(world, id) for id in ("a", "b")]
    change = pb.UpdateModelRequest(model=pb.Model(name=names[0], labels={"stage": "x"}), request_id=str(uuid.uuid4()))
    updated = world.models().UpdateModel(change)
    assert world.models().UpdateModel(change) == updated
    assert (dict(updated.labels), updated.etag) == ({"stage": "x"}, "2")
    listed = world.models().ListModels(pb.ListModelsRequest(parent=world.project, labels=["stage=x"])).models
    assert [one.name for one in listed] == names[:1]


def test_versions_are_listed(world):
    parent = model(world)
    for n in range(3):
        world.models().CreateModelVersion(register(parent, world.commit_artifact(f"r{n}")))
    request = pb.ListModelVersionsRequest(parent=parent, page_size=2)
    page = world.models().ListModelVersions(request)
    assert [one.name.rpartition("/")[2] for one in page.model_versions] == ["v3", "v2"]
    request.page_token = page.next_page_token
    page = world.models().ListModelVersions(request)
    assert [one.name.rpartition("/")[2] for one in page.model_versions] == ["v1"]


def test_bad_and_missing_names(world):
    cases = [
        (world.models().GetModel, pb.GetModelRequest(name=f"{world.project}/models/no"), "MODEL_NOT_FOUND"),
        (
            world.models().GetModelVersion,
            pb.GetModelVersionRequest(name=f"{world.project}/models/no/versions/v1"),
            "MODEL_VERSION_NOT_FOUND",
        ),
        (
            world.models().ListModelVersions,
            pb.ListModelVersionsRequest(parent=f"{world.project}/models/no"),
            "MODEL_NOT_FOUND",
        ),
        (
            world.models().CreateModelVersion,
            register(f"{world.project}/models/no", world.commit_artifact()),
            "MODEL_NOT_FOUND",
        ),
    ]
    for call, request, reason in cases:
        answer = refused(call, request)
        assert (answer.code, answer.reason) == ("NOT_FOUND", reason)
    answer = refused(world.models().CreateModel, pb.CreateModelRequest(parent=world.project, model_id="A"))
    assert answer.fields == ["model_id"]
    empty = pb.CreateModelVersionRequest(parent=model(world), model_version=pb.ModelVersion())
    assert refused(world.models().CreateModelVersion, empty).code == "INVALID_ARGUMENT"
    taken = pb.CreateModelRequest(parent=world.project, model_id="digits")
    assert refused(world.models().CreateModel, taken).reason == "MODEL_EXISTS"
