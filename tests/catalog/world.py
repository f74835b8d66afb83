"""What the catalog's tests do over and over: calls as somebody, uploads, manifests, grants, events."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2

from animus.catalog.v1 import (
    agent_blob_pb2,
    agent_blob_pb2_grpc,
    artifact_pb2_grpc,
    blob_pb2,
    blob_pb2_grpc,
    code_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    environment_pb2_grpc,
    experiment_pb2_grpc,
    model_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    resolution_pb2_grpc,
)
from animus_catalog.tail.attempts import Attempts
from animus_kit.db.engine import transaction
from animus_kit.db.tail import Event
from animus_kit.documents import dsse, event, manifest
from animus_kit.documents.contract import Grant

DEADLINE = 20.0


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class World:
    """A running catalog and one project in it."""

    process: Any
    pki: Any
    engine: sa.Engine
    members: Any
    trust: Any
    settings: Any
    staging: Any
    project: str = ""
    _channels: dict[tuple[str, str], Any] = field(default_factory=dict)

    def new_project(self, *subjects: str) -> str:
        """Makes a project, whose members are the subjects, the current one."""
        id = f"p-{uuid.uuid4().hex[:12]}"
        self.projects("root").CreateProject(project_pb2.CreateProjectRequest(project_id=id))
        self.project = f"projects/{id}"
        for subject in subjects:
            self.members.projects_of.setdefault(subject, set()).add(self.project)
        return self.project

    # One stub for each service, as a person.

    def projects(self, subject: str = "alice") -> Caller:
        return Caller(project_pb2_grpc.ProjectServiceStub(self.channel()), subject)

    def datasets(self, subject: str = "alice") -> Caller:
        return Caller(dataset_pb2_grpc.DatasetServiceStub(self.channel()), subject)

    def code(self, subject: str = "alice") -> Caller:
        return Caller(code_pb2_grpc.CodeServiceStub(self.channel()), subject)

    def environments(self, subject: str = "alice") -> Caller:
        return Caller(environment_pb2_grpc.EnvironmentServiceStub(self.channel()), subject)

    def experiments(self, subject: str = "alice") -> Caller:
        return Caller(experiment_pb2_grpc.ExperimentServiceStub(self.channel()), subject)

    def artifacts(self, subject: str = "alice") -> Caller:
        return Caller(artifact_pb2_grpc.ArtifactServiceStub(self.channel()), subject)

    def models(self, subject: str = "alice") -> Caller:
        return Caller(model_pb2_grpc.ModelServiceStub(self.channel()), subject)

    def blobs(self, subject: str = "alice") -> Caller:
        return Caller(blob_pb2_grpc.BlobServiceStub(self.channel("stream")), subject)

    def resolution(self, as_: str = "service/orchestrator") -> Caller:
        return Caller(resolution_pb2_grpc.ResolutionServiceStub(self.channel("sync", as_)), "")

    def agent_blobs(self, agent: str = "node-1") -> Caller:
        return Caller(agent_blob_pb2_grpc.AgentBlobServiceStub(self.channel("agents", f"agent/{agent}")), "")

    def channel(self, listener: str = "sync", as_: str = "gateway") -> Any:
        key = listener, as_
        if key not in self._channels:
            self._channels[key] = self.pki.dial(self.process, listener, as_)
        return self._channels[key]

    # Content.

    def upload(self, content: bytes, project: str = "", subject: str = "alice", **header: Any) -> str:
        """Returns the digest."""
        digest = header.pop("digest", digest_of(content))
        messages = upload_messages(project or self.project, digest, content, **header)
        return self.blobs(subject).UploadBlob(iter(messages)).digest

    def download(self, digest: str, project: str = "", subject: str = "alice", offset: int = 0) -> bytes:
        request = blob_pb2.DownloadBlobRequest(parent=project or self.project, digest=digest, offset_bytes=offset)
        return b"".join(body.data for body in self.blobs(subject).DownloadBlob(request))

    def push(self, files: dict[str, bytes], profile: str = manifest.DATASET, **uploads: Any) -> str:
        """Uploads files and their manifest; returns the manifest's digest."""
        for content in set(files.values()):
            self.upload(content, **uploads)
        return self.upload(manifest_of(files, profile), **uploads)

    def dataset(self, id: str = "digits", **fields: Any) -> str:
        made = dataset_pb2.Dataset(**fields)
        request = dataset_pb2.CreateDatasetRequest(parent=self.project, dataset_id=id, dataset=made)
        return self.datasets().CreateDataset(request).name

    def version(self, dataset: str, files: dict[str, bytes], **fields: Any) -> dataset_pb2.DatasetVersion:
        made = dataset_pb2.DatasetVersion(manifest_digest=self.push(files), **fields)
        request = dataset_pb2.CreateDatasetVersionRequest(parent=dataset, dataset_version=made)
        return self.datasets().CreateDatasetVersion(request)

    # Attempts.

    def attempt(self, number: int = 1, run: str = "r1", step: str = "train") -> str:
        return f"{self.project}/runs/{run}/steps/{step}/attempts/{number}"

    def grant(self, attempt: str, **changes: Any) -> bytes:
        """A signed grant of node-1; changes: fields of the document, or `key`."""
        now = datetime.now(UTC)
        key = changes.pop("key", self.trust.contract_key)
        values = {
            "id": str(uuid.uuid4()),
            "project": self.project,
            "attempt": attempt,
            "agent": "agents/node-1",
            "readable_manifests": (),
            "readable_images": (),
            "write_bytes": 64 << 20,
            "write_blobs": 100,
            "issue_time": now - timedelta(seconds=1),
            "expire_time": now + timedelta(minutes=5),
            **changes,
        }
        return dsse.sign(Grant(**values).to_bytes(), Grant.NOUN, key)

    def write(self, grant: bytes, content: bytes, agent: str = "node-1", **header: Any) -> str:
        digest = header.pop("digest", digest_of(content))
        messages = write_messages(grant, digest, content, **header)
        self.agent_blobs(agent).WriteBlob(iter(messages))
        return digest

    def read(self, grant: bytes, container: str, digest: str, agent: str = "node-1", offset: int = 0) -> bytes:
        request = agent_blob_pb2.ReadBlobRequest(
            grant=grant, container_digest=container, digest=digest, offset_bytes=offset
        )
        return b"".join(answer.data for answer in self.agent_blobs(agent).ReadBlob(request))

    def write_output(self, grant: bytes, files: dict[str, bytes]) -> str:
        """Writes and seals an output; returns its manifest's digest."""
        for content in set(files.values()):
            self.write(grant, content)
        digest = self.write(grant, manifest_of(files, manifest.ARTIFACT))
        self.agent_blobs().SealManifest(agent_blob_pb2.SealManifestRequest(grant=grant, digest=digest))
        return digest

    def end_attempt(self, attempt: str, *outputs: dict[str, Any], state: str = "committed", **body: Any) -> None:
        """Applies the orchestrator's event, as the tail does."""
        self.apply(event_of(attempt, state, outputs, body))

    def apply(self, one: Event) -> None:
        with transaction(self.engine) as conn:
            Attempts(self.staging.remove).apply(conn, one)

    def commit_artifact(self, run: str = "r1", step: str = "train", files: dict[str, bytes] | None = None) -> str:
        """A whole attempt, from grant to commit; returns the artifact's name."""
        attempt = self.attempt(run=run, step=step)
        digest = self.write_output(self.grant(attempt), files or {"model.bin": b"weights of " + run.encode()})
        name = f"{self.project}/artifacts/{run}-{step}-model"
        self.end_attempt(attempt, output(name, digest), metrics={"accuracy": 0.5})
        return name

    def version_of_another_project(self) -> str:
        """Digest of a manifest that some other project owns. The current project stays the current one."""
        mine = self.project
        self.new_project("alice")
        digest = self.version(self.dataset(), {"secret": uuid.uuid4().bytes}).manifest_digest
        self.project = mine
        return digest

    # The log.

    def events(self, project: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(type, payload) of what the catalog has said about the project, in order."""
        with self.engine.connect() as conn:
            rows = conn.execute(
                sa.text("SELECT event_type, payload FROM outbox WHERE project = :p ORDER BY id"),
                {"p": project or self.project},
            ).all()
        return [(row.event_type, json.loads(bytes(row.payload))) for row in rows]


class Caller:
    """A stub whose calls carry a subject's token and a deadline."""

    def __init__(self, stub: Any, subject: str):
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {subject}"),) if subject else ()

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)
        return lambda request: call(request, metadata=self._metadata, timeout=DEADLINE)


class Refusal:
    """What a refused call answered."""

    def __init__(self, error: grpc.RpcError):
        self.code = error.code().name
        self.message = error.details()
        self.details: dict[str, Any] = {}
        packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        if packed:
            for one in status_pb2.Status.FromString(packed).details:
                kind = getattr(error_details_pb2, one.TypeName().rpartition(".")[2])
                self.details[kind.DESCRIPTOR.name] = kind.FromString(one.value)

    @property
    def reason(self) -> str:
        return self.details["ErrorInfo"].reason

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.details["ErrorInfo"].metadata)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.details["BadRequest"].field_violations]

    def shape(self, *secrets: str) -> tuple[Any, ...]:
        """All that a caller can tell refusals apart by, with what it said itself left out."""

        def masked(text: str) -> str:
            for secret in secrets:
                text = text.replace(secret, "…")
            return text

        info = self.details["ErrorInfo"]
        metadata = sorted((key, masked(value)) for key, value in info.metadata.items() if key != "request_id")
        return self.code, masked(self.message), info.reason, tuple(metadata), tuple(sorted(self.details))


def refused(call: Any, request: Any) -> Refusal:
    """Calls, drains, and returns the refusal; fails when there is none."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(request)
        if hasattr(answer, "__next__"):
            list(answer)
    return Refusal(caught.value)


def manifest_of(files: dict[str, bytes], profile: str = manifest.DATASET) -> bytes:
    """Manifest of plain files by path."""
    entries = [
        manifest.Entry(path, manifest.FILE, len(content), hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    ]
    return manifest.dumps(entries, profile)


def upload_messages(
    project: str, digest: str, content: bytes, size: int | None = None, offset: int = 0, piece: int = 1 << 20
) -> list[blob_pb2.UploadBlobRequest]:
    first = blob_pb2.UploadBlobRequest(
        parent=project,
        digest=digest,
        size_bytes=len(content) if size is None else size,
        offset_bytes=offset,
        body=HttpBody(data=content[offset : offset + piece]),
    )
    rest = range(offset + piece, len(content), piece)
    return [first, *(blob_pb2.UploadBlobRequest(body=HttpBody(data=content[at : at + piece])) for at in rest)]


def write_messages(
    grant: bytes, digest: str, content: bytes, size: int | None = None, offset: int = 0, piece: int = 1 << 20
) -> list[agent_blob_pb2.WriteBlobRequest]:
    first = agent_blob_pb2.WriteBlobRequest(
        grant=grant,
        digest=digest,
        size_bytes=len(content) if size is None else size,
        offset_bytes=offset,
        data=content[offset : offset + piece],
    )
    rest = range(offset + piece, len(content), piece)
    return [first, *(agent_blob_pb2.WriteBlobRequest(data=content[at : at + piece]) for at in rest)]


def output(artifact: str, digest: str, **changes: Any) -> dict[str, Any]:
    """One row of a commit event's outputs."""
    return {
        "name": "model",
        "artifact": artifact,
        "type": "model",
        "mediaType": "application/octet-stream",
        "manifestDigest": digest,
        "files": "1",
        "bytes": "42",
        **changes,
    }


def event_of(attempt: str, state: str, outputs: Any = (), body: dict[str, Any] | None = None) -> Event:
    """The event that the orchestrator writes at an attempt's end, as the log gives it to tails."""
    step, _, _ = attempt.partition("/attempts/")
    run, _, _ = step.partition("/steps/")
    kind = f"orchestrator.attempt.{state}"
    payload = event.build_payload(
        kind, {"run": run, "step": step, "attempt": attempt, "outputs": list(outputs), **(body or {})}
    )
    salt = bytes(32)
    envelope = event.build_envelope(
        id=str(uuid.uuid4()),
        source="orchestrator",
        generation=str(uuid.uuid4()),
        seq=1,
        event_type=kind,
        time=datetime.now(UTC),
        resource=attempt,
        actor="service/orchestrator",
        salt=salt,
        payload=payload,
        project="/".join(attempt.split("/")[:2]),
    )
    return Event(0, envelope, payload, salt)
