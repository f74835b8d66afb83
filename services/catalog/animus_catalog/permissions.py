"""Who may call what. A method without a row keeps the catalog from starting.

The permissions' names stand in the policy service's permissions.toml too; a test compares the two.
"""

from __future__ import annotations

from animus_kit.server.authz import Row, Rows, from_agents, in_project, internal, public

LIST_PROJECTS = "catalog.projects.get"
"""Asked by ListProjects itself, for every project at once."""

_V1 = "/animus.catalog.v1."


def _in(permission: str, path: str) -> Row:
    """For people who hold catalog.<permission> in the project of the name at `path`."""
    return public(f"catalog.{permission}", in_project(path))


def _entries(service: str, noun: str) -> Rows:
    """Get, List, Create and Update; noun as in the methods' names, for example Dataset."""
    nouns = f"{noun.lower()}s"
    prefix = f"{_V1}{service}/"
    return {
        f"{prefix}Get{noun}": _in(f"{nouns}.get", "name"),
        f"{prefix}List{noun}s": _in(f"{nouns}.list", "parent"),
        f"{prefix}Create{noun}": _in(f"{nouns}.create", "parent"),
        f"{prefix}Update{noun}": _in(f"{nouns}.update", f"{noun.lower()}.name"),
    }


SYNC_ROWS: Rows = {
    _V1 + "ProjectService/GetProject": _in("projects.get", "name"),
    _V1 + "ProjectService/ListProjects": public(None),
    _V1 + "ProjectService/CreateProject": public("catalog.projects.create"),
    _V1 + "ProjectService/UpdateProject": _in("projects.update", "project.name"),
    _V1 + "ProjectService/ArchiveProject": _in("projects.archive", "name"),
    **_entries("DatasetService", "Dataset"),
    _V1 + "DatasetService/GetDatasetVersion": _in("datasetVersions.get", "name"),
    _V1 + "DatasetService/ListDatasetVersions": _in("datasetVersions.list", "parent"),
    _V1 + "DatasetService/CreateDatasetVersion": _in("datasetVersions.create", "parent"),
    _V1 + "DatasetService/ListDatasetVersionEntries": _in("datasetVersions.get", "parent"),
    _V1 + "DatasetService/DiffDatasetVersions": _in("datasetVersions.get", "name"),
    _V1 + "CodeService/GetCodeSnapshot": _in("codeSnapshots.get", "name"),
    _V1 + "CodeService/ListCodeSnapshots": _in("codeSnapshots.list", "parent"),
    _V1 + "CodeService/CreateCodeSnapshot": _in("codeSnapshots.create", "parent"),
    _V1 + "CodeService/ListCodeSnapshotEntries": _in("codeSnapshots.get", "parent"),
    **_entries("EnvironmentService", "Environment"),
    _V1 + "EnvironmentService/GetEnvironmentLock": _in("environmentLocks.get", "name"),
    _V1 + "EnvironmentService/ListEnvironmentLocks": _in("environmentLocks.list", "parent"),
    _V1 + "EnvironmentService/CreateEnvironmentLock": _in("environmentLocks.create", "parent"),
    **_entries("ExperimentService", "Experiment"),
    _V1 + "ArtifactService/GetArtifact": _in("artifacts.get", "name"),
    _V1 + "ArtifactService/ListArtifacts": _in("artifacts.list", "parent"),
    _V1 + "ArtifactService/ListArtifactEntries": _in("artifacts.get", "parent"),
    **_entries("ModelService", "Model"),
    _V1 + "ModelService/GetModelVersion": _in("modelVersions.get", "name"),
    _V1 + "ModelService/ListModelVersions": _in("modelVersions.list", "parent"),
    _V1 + "ModelService/CreateModelVersion": _in("modelVersions.create", "parent"),
    _V1 + "ResolutionService/ResolveBindings": internal("orchestrator"),
    _V1 + "ResolutionService/GetStoredBytes": internal("orchestrator"),
}

STREAM_ROWS: Rows = {
    _V1 + "BlobService/UploadBlob": _in("blobs.write", "parent"),
    _V1 + "BlobService/UploadSmallBlobs": _in("blobs.write", "parent"),
    _V1 + "BlobService/GetUpload": _in("blobs.write", "parent"),
    _V1 + "BlobService/ListMissingBlobs": _in("blobs.write", "parent"),
    _V1 + "BlobService/DownloadBlob": _in("blobs.read", "parent"),
    _V1 + "BlobService/DownloadArtifact": _in("blobs.read", "name"),
    _V1 + "BlobService/DownloadDatasetVersion": _in("blobs.read", "name"),
}

# What an agent may touch is in its grant; see service/agent_blobs.py.
AGENT_ROWS: Rows = {
    _V1 + "AgentBlobService/ReadBlob": from_agents(),
    _V1 + "AgentBlobService/WriteBlob": from_agents(),
    _V1 + "AgentBlobService/WriteSmallBlobs": from_agents(),
    _V1 + "AgentBlobService/StatBlob": from_agents(),
    _V1 + "AgentBlobService/SealManifest": from_agents(),
}

ROWS: Rows = {**SYNC_ROWS, **STREAM_ROWS, **AGENT_ROWS}
