"""One channel, every public service, and the helpers over them."""

from __future__ import annotations

import importlib
import random
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import grpc

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

# Attribute → (owner, proto file, service). Imported when first used: all of them take a fifth of a second.
_STUBS = {
    "projects_api": ("catalog", "project", "ProjectService"),
    "datasets_api": ("catalog", "dataset", "DatasetService"),
    "code_api": ("catalog", "code", "CodeService"),
    "environments_api": ("catalog", "environment", "EnvironmentService"),
    "experiments_api": ("catalog", "experiment", "ExperimentService"),
    "artifacts_api": ("catalog", "artifact", "ArtifactService"),
    "models_api": ("catalog", "model", "ModelService"),
    "blobs_api": ("catalog", "blob", "BlobService"),
    "pipelines_api": ("orchestrator", "pipeline", "PipelineService"),
    "runs_api": ("orchestrator", "run", "RunService"),
    "run_streams_api": ("orchestrator", "run_stream", "RunStreamService"),
    "agents_api": ("orchestrator", "agent", "AgentService"),
    "pools_api": ("orchestrator", "pool", "PoolService"),
    "quotas_api": ("orchestrator", "quota", "QuotaService"),
    "role_bindings_api": ("policy", "role_binding", "RoleBindingService"),
    "decisions_api": ("policy", "decision", "DecisionService"),
    "graph_api": ("lineage", "graph", "GraphService"),
    "events_api": ("audit", "event", "EventService"),
    "event_streams_api": ("audit", "event_stream", "EventStreamService"),
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
        if name not in _STUBS:
            raise AttributeError(name)
        owner, file, service = _STUBS[name]
        module = importlib.import_module(f"animus.{owner}.v1.{file}_pb2_grpc")
        stub = getattr(module, f"{service}Stub")(self.channel)
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

    def token(self) -> str:
        """What a call that begins now shows, or empty when there is none. To be asked before a stream is opened."""
        try:
            return self.config.tokens.token()
        except (OSError, ValueError, ClientError):
            return ""

    def outlived(self, error: ApiError, token: str) -> bool:
        """Whether a stream that was opened with this token ended because the token did, and there is another one by now.

        Services end a stream with the token behind it; whoever follows for hours opens it many times.
        """
        return error.reason == "TOKEN_INVALID" and self.token() not in ("", token)

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
