"""One channel, every public service, and the helpers over them."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import grpc

from animus.audit.v1 import event_pb2_grpc, event_stream_pb2_grpc
from animus.catalog.v1 import (
    artifact_pb2_grpc,
    blob_pb2_grpc,
    code_pb2_grpc,
    dataset_pb2_grpc,
    environment_pb2_grpc,
    experiment_pb2_grpc,
    model_pb2_grpc,
    project_pb2_grpc,
)
from animus.lineage.v1 import graph_pb2_grpc
from animus.orchestrator.v1 import agent_pb2_grpc, pipeline_pb2_grpc, run_pb2_grpc, run_stream_pb2_grpc
from animus.policy.v1 import decision_pb2_grpc, role_binding_pb2_grpc
from animus_client.config import Config
from animus_client.errors import ApiError, ClientError, from_call

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 6
# ABORTED is not here: whoever gets it must read again first.
TRANSIENT = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 << 20),
]

_STUBS = {
    "projects_api": project_pb2_grpc.ProjectServiceStub,
    "datasets_api": dataset_pb2_grpc.DatasetServiceStub,
    "code_api": code_pb2_grpc.CodeServiceStub,
    "environments_api": environment_pb2_grpc.EnvironmentServiceStub,
    "experiments_api": experiment_pb2_grpc.ExperimentServiceStub,
    "artifacts_api": artifact_pb2_grpc.ArtifactServiceStub,
    "models_api": model_pb2_grpc.ModelServiceStub,
    "blobs_api": blob_pb2_grpc.BlobServiceStub,
    "pipelines_api": pipeline_pb2_grpc.PipelineServiceStub,
    "runs_api": run_pb2_grpc.RunServiceStub,
    "run_streams_api": run_stream_pb2_grpc.RunStreamServiceStub,
    "agents_api": agent_pb2_grpc.AgentServiceStub,
    "role_bindings_api": role_binding_pb2_grpc.RoleBindingServiceStub,
    "decisions_api": decision_pb2_grpc.DecisionServiceStub,
    "graph_api": graph_pb2_grpc.GraphServiceStub,
    "events_api": event_pb2_grpc.EventServiceStub,
    "event_streams_api": event_stream_pb2_grpc.EventStreamServiceStub,
}


class Client:
    """`client.projects_api` and so on are the generated stubs; call them through `client.call`, which adds request id,
    deadline, retries and typed errors. `client.blobs`, `.datasets`, `.code`, `.images`, `.runs` do the long work.

    Thread-safe. Close it, or use it in a `with`.
    """

    def __init__(self, config: Config, sleep: Callable[[float], object] = time.sleep):
        self.config = config
        self._sleep = sleep
        root = config.ca.read_bytes() if config.ca else None
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(root), grpc.metadata_call_credentials(_Bearer(config))
        )
        self.channel = grpc.secure_channel(config.target, credentials, options=_OPTIONS)

    @classmethod
    def from_environment(cls, subject: str | None = None) -> Client:
        """As animus_client.config says. Raises NotConfigured."""
        return cls(Config.discover(subject=subject))

    def __getattr__(self, name: str) -> Any:
        factory = _STUBS.get(name)
        if factory is None:
            raise AttributeError(name)
        stub = factory(self.channel)
        self.__dict__[name] = stub
        return stub

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()

    def call(self, method: Any, request: Any, timeout: float = TIMEOUT_SECONDS) -> Any:
        """One unary call. Raises ApiError.

        A mutation without a request_id gets one, once, so that every try is the same call to the server. Transient
        errors are tried again, with growing waits.
        """
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid.uuid4())
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return method(request, timeout=timeout)
            except grpc.RpcError as error:
                self.pause(from_call(error), attempt)
        raise AssertionError

    def pause(self, error: ApiError, attempt: int, attempts: int = ATTEMPTS) -> None:
        """Waits before the next try; raises the error when there is none."""
        if error.code not in TRANSIENT or attempt >= attempts:
            raise error
        wait = min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
        self._sleep(max(wait, error.retry_after or 0.0))

    def pages(self, method: Any, request: Any, field: str, limit: int | None = None) -> Iterator[Any]:
        """Every item of a List method, page by page; at most limit of them."""
        found = type(request)()
        found.CopyFrom(request)
        found.page_size = min(found.page_size or 200, limit or 500)
        count = 0
        while True:
            answer = self.call(method, found)
            for item in getattr(answer, field):
                yield item
                count += 1
                if limit is not None and count >= limit:
                    return
            if not answer.next_page_token:
                return
            found.page_token = answer.next_page_token

    @cached_property
    def blobs(self) -> Any:
        from animus_client.blobs import Blobs

        return Blobs(self)

    @cached_property
    def datasets(self) -> Any:
        from animus_client.datasets import Datasets

        return Datasets(self)

    @cached_property
    def code(self) -> Any:
        from animus_client.code import Code

        return Code(self)

    @cached_property
    def images(self) -> Any:
        from animus_client.images import Images

        return Images(self)

    @cached_property
    def runs(self) -> Any:
        from animus_client.runs import Runs

        return Runs(self)


class _Bearer(grpc.AuthMetadataPlugin):
    def __init__(self, config: Config):
        self._tokens = config.tokens

    def __call__(self, context: Any, callback: Any) -> None:
        try:
            callback([("authorization", f"Bearer {self._tokens.token()}")], None)
        except (OSError, ValueError, ClientError) as error:
            callback([], error)
