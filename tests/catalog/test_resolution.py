"""ResolutionService: what a run's bindings stand for."""

from __future__ import annotations

import json

from animus.catalog.v1 import experiment_pb2, project_pb2
from animus.catalog.v1 import resolution_pb2 as pb
from tests.catalog.test_code import Repository, push
from tests.catalog.test_environments import environment, image, lock
from tests.catalog.world import digest_of, refused


def resolve(world, **fields):
    request = pb.ResolveBindingsRequest(**{"project": world.project, **fields})
    return world.resolution().ResolveBindings(request)


def problems(answer):
    return [(one.reference, one.reason) for one in answer.unresolved]


def test_everything_a_run_needs_in_one_answer(world, tmp_path):
    dataset = world.dataset()
    versions = [world.version(dataset, {"a": b"%d" % n}) for n in range(2)]
    repository = Repository(tmp_path / "r").init()
    repository.write("train.py", b"pass\n")
    repository.commit()
    snapshot = world.code().CreateCodeSnapshot(push(world, repository))
    digest = image(world)
    older = lock(world, environment(world), digest)
    newer = lock(world, environment(world, "other"), digest, [])
    request = experiment_pb2.CreateExperimentRequest(parent=world.project, experiment_id="e")
    experiment = world.experiments().CreateExperiment(request).name
    answer = resolve(
        world,
        dataset_versions=[version.name for version in versions],
        code_snapshots=[snapshot.name],
        image_digests=[digest],
        experiment=experiment,
    )
    assert problems(answer) == []
    assert [(one.name, one.manifest_digest, one.size_bytes) for one in answer.dataset_versions] == [
        (version.name, version.manifest_digest, 1) for version in versions
    ]
    assert [(one.name, one.manifest_digest) for one in answer.code_snapshots] == [
        (snapshot.name, snapshot.manifest_digest)
    ]
    (found,) = answer.images
    assert (found.image_digest, found.environment_lock, found.lock_digest, found.platform) == (
        digest,
        newer.name,
        newer.lock_digest,
        "linux/amd64",
    )
    assert older.name != newer.name


def test_all_problems_are_told_at_once(world):
    elsewhere = "projects/elsewhere/datasets/d/versions/v1"
    missing = f"{world.project}/datasets/d/versions/v1"
    code = f"{world.project}/codeSnapshots/sha1-none"
    experiment = f"{world.project}/experiments/none"
    unlocked = digest_of(b"nothing")
    index = world.upload(json.dumps({"schemaVersion": 2, "manifests": []}).encode())
    answer = resolve(
        world,
        dataset_versions=[elsewhere, missing, "nonsense", "projects/"],
        code_snapshots=[code],
        image_digests=[unlocked, index],
        experiment=experiment,
    )
    assert problems(answer) == [
        (elsewhere, "REFERENCE_OUTSIDE_PROJECT"),
        ("nonsense", "DATASET_VERSION_NOT_FOUND"),
        ("projects/", "DATASET_VERSION_NOT_FOUND"),
        (missing, "DATASET_VERSION_NOT_FOUND"),
        (code, "CODE_SNAPSHOT_NOT_FOUND"),
        (experiment, "EXPERIMENT_NOT_FOUND"),
        (unlocked, "ENVIRONMENT_NOT_LOCKED"),
        (index, "IMAGE_INDEX_DIGEST"),
    ]


def test_another_projects_lock_does_not_serve(world):
    digest = image(world)
    lock(world, environment(world), digest)
    world.new_project("alice")
    assert problems(resolve(world, image_digests=[digest])) == [(digest, "ENVIRONMENT_NOT_LOCKED")]


def test_projects_that_cannot_run_anything(world):
    answer = resolve(world, project="projects/no-such")
    assert problems(answer) == [("projects/no-such", "PROJECT_NOT_FOUND")]
    world.projects().ArchiveProject(project_pb2.ArchiveProjectRequest(name=world.project))
    assert problems(resolve(world)) == [(world.project, "PROJECT_ARCHIVED")]


def test_a_bad_project_is_located(world):
    answer = refused(world.resolution().ResolveBindings, pb.ResolveBindingsRequest(project="p"))
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["project"])


def test_only_the_orchestrator_asks(world):
    request = pb.ResolveBindingsRequest(project=world.project)
    for peer in ("gateway", "service/lineage", "service/policy"):
        answer = refused(world.resolution(peer).ResolveBindings, request)
        assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "PEER_NOT_ALLOWED")
