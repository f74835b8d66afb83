"""ExperimentService."""

from __future__ import annotations

from animus.catalog.v1 import experiment_pb2 as pb
from tests.catalog.world import refused


def test_experiments_are_made_changed_and_listed(world):
    wanted = pb.Experiment(display_name="Sweep", labels={"goal": "accuracy"})
    request = pb.CreateExperimentRequest(parent=world.project, experiment_id="sweep", experiment=wanted)
    made = world.experiments().CreateExperiment(request)
    assert made.name == f"{world.project}/experiments/sweep"
    assert world.experiments().GetExperiment(pb.GetExperimentRequest(name=made.name)) == made
    change = pb.UpdateExperimentRequest(experiment=pb.Experiment(name=made.name, description="learning rates"))
    updated = world.experiments().UpdateExperiment(change)
    assert (updated.display_name, updated.description) == ("Sweep", "learning rates")
    listed = world.experiments().ListExperiments(pb.ListExperimentsRequest(parent=world.project)).experiments
    assert list(listed) == [updated]
    assert [kind for kind, _ in world.events()][1:] == ["catalog.experiment.created", "catalog.experiment.updated"]


def test_bad_taken_and_missing_names(world):
    request = pb.CreateExperimentRequest(parent=world.project, experiment_id="-")
    assert refused(world.experiments().CreateExperiment, request).fields == ["experiment_id"]
    request.experiment_id = "sweep"
    world.experiments().CreateExperiment(request)
    assert refused(world.experiments().CreateExperiment, request).reason == "EXPERIMENT_EXISTS"
    missing = pb.GetExperimentRequest(name=f"{world.project}/experiments/none")
    assert refused(world.experiments().GetExperiment, missing).reason == "EXPERIMENT_NOT_FOUND"
    bad = pb.ListExperimentsRequest(parent=world.project, page_size=-1)
    assert refused(world.experiments().ListExperiments, bad).fields == ["page_size"]
    bad = pb.UpdateExperimentRequest(experiment=pb.Experiment(name="sweep"))
    assert refused(world.experiments().UpdateExperiment, bad).code == "INVALID_ARGUMENT"
