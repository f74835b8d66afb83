"""Following runs: watches and logs that go on where they were cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from animus.catalog.v1 import code_pb2, dataset_pb2
from animus.orchestrator.v1 import pipeline_pb2, run_pb2, run_stream_pb2
from animus.type.v1 import value_pb2
from animus_client.errors import ClientError, NotFound, from_call

FOLLOW_ATTEMPTS = 30
"""How often a stream is opened again without a message in between: a service may be restarting."""

SUCCEEDED = run_pb2.Run.STATE_SUCCEEDED
TERMINAL = frozenset({run_pb2.Run.STATE_SUCCEEDED, run_pb2.Run.STATE_FAILED, run_pb2.Run.STATE_CANCELED})


class Runs:
    def __init__(self, client: Any):
        self._client = client

    def watch(self, run: str) -> Iterator[Any]:
        """WatchRunResponse messages until the run has ended; the last has `final` set. Raises ApiError."""
        attempt = 0
        while True:
            token = self._client.token()
            try:
                for message in self._client.run_streams_api.WatchRun(run_stream_pb2.WatchRunRequest(name=run)):
                    attempt = 0
                    yield message
                    if message.final:
                        return
            except grpc.RpcError as error:
                cut = _cut(error)
                if self._client.outlived(cut, token):
                    attempt = 0
                    continue
                attempt += 1
                self._client.pause(cut, attempt, FOLLOW_ATTEMPTS)

    def wait(self, run: str) -> Any:
        """The run when it has ended."""
        for _ in self.watch(run):
            pass
        return self._client.call(self._client.runs_api.GetRun, run_pb2.GetRunRequest(name=run))

    def logs(self, attempt: str, follow: bool = False, offset: int = 0) -> Iterator[Any]:
        """ReadLogsResponse messages, in order and without gaps but those marked `truncated`. Raises ApiError."""
        tries = 0
        while True:
            token = self._client.token()
            request = run_stream_pb2.ReadLogsRequest(name=attempt, offset_bytes=offset, follow=follow)
            try:
                for message in self._client.run_streams_api.ReadLogs(request):
                    tries = 0
                    if message.data:
                        offset = message.offset_bytes + len(message.data)
                    yield message
                    if message.final:
                        return
                if not follow:
                    return
            except grpc.RpcError as error:
                cut = _cut(error)
                if self._client.outlived(cut, token):
                    tries = 0
                    continue
                tries += 1
                self._client.pause(cut, tries, FOLLOW_ATTEMPTS)

    def latest_pipeline(self, pipeline: str) -> str:
        """Full name of the newest version. Raises NotFound, ClientError."""
        request = pipeline_pb2.GetPipelineRequest(name=pipeline)
        found = self._client.call(self._client.pipelines_api.GetPipeline, request)
        if not found.latest_version:
            raise ClientError("NO_PIPELINE_VERSION", f"{pipeline} has no version yet: animus pipeline apply")
        return found.latest_version

    def bindings(
        self,
        project: str,
        pipeline_version: str,
        *,
        datasets: Mapping[str, str] | None = None,
        code: str | Mapping[str, str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        experiment: str = "",
    ) -> Any:
        """What a run is bound to, with everything that was left open resolved here, since the server knows no "latest".

        datasets: local name → dataset, or dataset version. One that is not given is the dataset of the same name. code: a
        snapshot for all steps, or one for each; not given: the project's newest, where there is any.
        """
        request = pipeline_pb2.GetPipelineVersionRequest(name=pipeline_version)
        version = self._client.call(self._client.pipelines_api.GetPipelineVersion, request)
        document = json.loads(version.canonical_document)
        refs = {d["datasetRef"] for step in document["spec"]["steps"] for d in step["inputs"]["datasets"]}
        given = dict(datasets or {})
        if unknown := sorted(set(given) - refs):
            raise ClientError("DATASET_REF_UNKNOWN", f"the pipeline names no dataset {', '.join(unknown)}")
        bound = [
            run_pb2.Bindings.Dataset(
                dataset_ref=ref, dataset_version=self.dataset_version(project, given.get(ref, ref))
            )
            for ref in sorted(refs)
        ]
        if code is None:
            newest = self.newest_code(project)
            codes = {"": newest} if newest else {}
        else:
            codes = {"": code} if isinstance(code, str) else dict(code)
        return run_pb2.Bindings(
            datasets=bound,
            code=[
                run_pb2.Bindings.Code(step=step, code_snapshot=_below(project, "codeSnapshots", name))
                for step, name in codes.items()
            ],
            parameters=[
                value_pb2.Parameter(name=name, value=to_value(value)) for name, value in (parameters or {}).items()
            ],
            labels=labels or {},
            experiment=_below(project, "experiments", experiment) if experiment else "",
        )

    def dataset_version(self, project: str, name: str) -> str:
        """`digits`, `digits@v3` or a full name, as the full name of a version."""
        dataset, _, version = name.partition("@")
        full = _below(project, "datasets", dataset)
        if "/versions/" in full:
            return full
        if version:
            return f"{full}/versions/{version}"
        try:
            found = self._client.call(self._client.datasets_api.GetDataset, dataset_pb2.GetDatasetRequest(name=full))
        except NotFound as error:
            raise ClientError("DATASET_NOT_FOUND", f"{full} does not exist") from error
        if not found.latest_version:
            raise ClientError("NO_DATASET_VERSION", f"{full} has no version yet: animus dataset push")
        return found.latest_version

    def newest_code(self, project: str) -> str:
        """Full name of the project's newest code snapshot; empty when it has none."""
        request = code_pb2.ListCodeSnapshotsRequest(parent=project, page_size=1)
        answer = self._client.call(self._client.code_api.ListCodeSnapshots, request)
        return answer.code_snapshots[0].name if answer.code_snapshots else ""


def to_value(value: Any) -> Any:
    """A Python value as a typed one. Raises ClientError for other types."""
    if isinstance(value, bool):
        return value_pb2.Value(bool_value=value)
    if isinstance(value, int):
        return value_pb2.Value(int_value=value)
    if isinstance(value, float):
        return value_pb2.Value(double_value=value)
    if isinstance(value, str):
        return value_pb2.Value(string_value=value)
    raise ClientError("PARAMETER_TYPE", f"a parameter is a string, an integer, a number or a bool, not {value!r}")


def _below(project: str, collection: str, name: str) -> str:
    return name if name.startswith("projects/") else f"{project}/{collection}/{name}"


def _cut(error: grpc.RpcError) -> Any:
    """A stream that ends with its server says UNKNOWN, INTERNAL or CANCELLED as well; all of it heals by asking again."""
    found = from_call(error)
    if found.code in ("INTERNAL", "UNKNOWN", "CANCELLED", "ABORTED") and found.domain == "":
        found.code = "UNAVAILABLE"
    return found
