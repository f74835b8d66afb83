"""ExperimentService."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from animus.catalog.v1 import experiment_pb2 as pb
from animus.catalog.v1 import experiment_pb2_grpc
from animus_catalog.service.entries import Entries
from animus_kit.clock import Clock


class ExperimentService(experiment_pb2_grpc.ExperimentServiceServicer):
    def __init__(self, engine: sa.Engine, clock: Clock):
        self._experiments = Entries(engine, clock, "Experiment", pb.Experiment)

    def GetExperiment(self, request: pb.GetExperimentRequest, context: Any) -> pb.Experiment:
        return self._experiments.get(request.name)

    def ListExperiments(self, request: pb.ListExperimentsRequest, context: Any) -> pb.ListExperimentsResponse:
        found, token = self._experiments.page(request)
        return pb.ListExperimentsResponse(experiments=found, next_page_token=token)

    def CreateExperiment(self, request: pb.CreateExperimentRequest, context: Any) -> pb.Experiment:
        return self._experiments.create(request, request.experiment_id, request.experiment)

    def UpdateExperiment(self, request: pb.UpdateExperimentRequest, context: Any) -> pb.Experiment:
        return self._experiments.update(request, request.experiment)
