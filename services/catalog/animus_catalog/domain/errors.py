"""What the catalog refuses, and why.

AppError
├── InvalidArgument
│   ├── UpdateMaskInvalid        UPDATE_MASK_INVALID
│   ├── ReferenceOutsideProject  REFERENCE_OUTSIDE_PROJECT
│   ├── ManifestInvalid          MANIFEST_INVALID
│   ├── CommitObjectInvalid      COMMIT_OBJECT_INVALID
│   ├── GitIdMismatch            GIT_ID_MISMATCH
│   ├── SubmoduleNotResolved     SUBMODULE_NOT_RESOLVED
│   ├── LfsPointer               LFS_POINTER
│   ├── ImageInvalid             IMAGE_INVALID
│   ├── ImageIndexDigest         IMAGE_INDEX_DIGEST
│   ├── PackagesInvalid          PACKAGES_INVALID
│   ├── UploadHeaderInvalid      UPLOAD_HEADER_INVALID
│   ├── DigestMismatch           DIGEST_MISMATCH
│   ├── SizeMismatch             SIZE_MISMATCH
│   └── PathRequired             PATH_REQUIRED
├── NotFound
│   ├── ResourceNotFound         <NOUN>_NOT_FOUND: PROJECT, DATASET, DATASET_VERSION, CODE_SNAPSHOT, ENVIRONMENT,
│   │                            ENVIRONMENT_LOCK, EXPERIMENT, ARTIFACT, MODEL, MODEL_VERSION
│   ├── BlobNotFound             BLOB_NOT_FOUND
│   ├── UploadNotFound           UPLOAD_NOT_FOUND
│   └── PathNotFound             PATH_NOT_FOUND
├── AlreadyExists
│   └── ResourceExists           <NOUN>_EXISTS: PROJECT, DATASET, CODE_SNAPSHOT, ENVIRONMENT, EXPERIMENT, MODEL
├── FailedPrecondition
│   ├── ProjectArchived          PROJECT_ARCHIVED
│   ├── BlobNotInProject         BLOB_NOT_IN_PROJECT
│   ├── ArtifactNotCommitted     ARTIFACT_NOT_COMMITTED
│   ├── ParentNotFound           PARENT_NOT_FOUND
│   ├── StorageQuotaExceeded     STORAGE_QUOTA_EXCEEDED
│   ├── UploadOffsetMismatch     UPLOAD_OFFSET_MISMATCH
│   └── UploadIncomplete         UPLOAD_INCOMPLETE
├── OutOfRange
│   └── OffsetBeyondEnd          OFFSET_BEYOND_END
├── Aborted
│   └── EtagMismatch             ETAG_MISMATCH
├── PermissionDenied
│   ├── GrantInvalid             GRANT_INVALID
│   ├── GrantExpired             GRANT_EXPIRED
│   ├── AgentRevoked             AGENT_REVOKED
│   ├── CertificateSuperseded    CERTIFICATE_SUPERSEDED
│   └── OutsideGrant             OUTSIDE_GRANT
├── ResourceExhausted
│   └── VerifierBusy             VERIFIER_BUSY
└── Internal
    └── BlobLost                 BLOB_LOST
"""

from animus_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
)

# What a resource is called in messages, in its reasons and in ResourceInfo.
_NOUNS = {
    "Project": "project",
    "Dataset": "dataset",
    "DatasetVersion": "dataset version",
    "CodeSnapshot": "code snapshot",
    "Environment": "environment",
    "EnvironmentLock": "environment lock",
    "Experiment": "experiment",
    "Artifact": "artifact",
    "Model": "model",
    "ModelVersion": "model version",
}


def _reason(noun: str, suffix: str) -> str:
    return f"{_NOUNS[noun].replace(' ', '_').upper()}_{suffix}"


class UpdateMaskInvalid(InvalidArgument):
    reason = "UPDATE_MASK_INVALID"

    def __init__(self, path: str, mutable: tuple[str, ...]):
        problem = f"{path} cannot be updated; only {', '.join(mutable)} can"
        super().__init__(problem, violations=[FieldViolation("update_mask", self.reason, problem)])


class ReferenceOutsideProject(InvalidArgument):
    """No reference crosses a project. Says nothing about whether the other resource exists."""

    reason = "REFERENCE_OUTSIDE_PROJECT"

    def __init__(self, field: str, reference: str, project: str):
        problem = f"{reference} is not in {project}"
        super().__init__(
            problem,
            metadata={"reference": reference, "project": project},
            violations=[FieldViolation(field, self.reason, problem)],
        )


class ManifestInvalid(InvalidArgument):
    reason = "MANIFEST_INVALID"

    def __init__(self, digest: str, problem: str, field: str):
        super().__init__(
            f"manifest {digest}: {problem}",
            metadata={"digest": digest},
            violations=[FieldViolation(field, self.reason, problem)],
        )


class CommitObjectInvalid(InvalidArgument):
    reason = "COMMIT_OBJECT_INVALID"

    def __init__(self, problem: str, field: str = "commit_object"):
        super().__init__(problem, violations=[FieldViolation(field, self.reason, problem)])


class GitIdMismatch(InvalidArgument):
    """Object is commit or tree; given is what the caller or the commit says, computed what the content gives."""

    reason = "GIT_ID_MISMATCH"

    def __init__(self, object_kind: str, given: str, computed: str):
        super().__init__(
            f"the {object_kind} id is {computed}, not {given}",
            metadata={"object": object_kind, "given": given, "computed": computed},
        )


class SubmoduleNotResolved(InvalidArgument):
    reason = "SUBMODULE_NOT_RESOLVED"

    def __init__(self, paths: list[str], given: str, computed: str):
        super().__init__(
            f"the commit holds submodules that a snapshot cannot carry: {', '.join(paths)}",
            metadata={"paths": ",".join(paths), "given": given, "computed": computed},
        )


class LfsPointer(InvalidArgument):
    reason = "LFS_POINTER"

    def __init__(self, path: str):
        super().__init__(f"{path} is a Git LFS pointer, not the content it stands for", metadata={"path": path})


class ImageInvalid(InvalidArgument):
    reason = "IMAGE_INVALID"

    def __init__(self, digest: str, problem: str):
        super().__init__(
            f"image {digest}: {problem}",
            metadata={"digest": digest},
            violations=[FieldViolation("image_digest", self.reason, problem)],
        )


class ImageIndexDigest(InvalidArgument):
    """Metadata maps each platform of the index to the digest to use instead."""

    reason = "IMAGE_INDEX_DIGEST"

    def __init__(self, digest: str, platforms: dict[str, str]):
        choices = ", ".join(f"{platform} is {child}" for platform, child in platforms.items()) or "it names none"
        problem = f"{digest} is an index of several platforms; name one of its manifests: {choices}"
        super().__init__(
            problem,
            metadata={"digest": digest, **platforms},
            violations=[FieldViolation("image_digest", self.reason, problem)],
        )


class PackagesInvalid(InvalidArgument):
    reason = "PACKAGES_INVALID"

    def __init__(self, problem: str):
        super().__init__(problem, violations=[FieldViolation("packages", self.reason, problem)])


class UploadHeaderInvalid(InvalidArgument):
    """The first message of an upload lacks a field, or a later one names something else."""

    reason = "UPLOAD_HEADER_INVALID"

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}", violations=[FieldViolation(field, self.reason, problem)])


class DigestMismatch(InvalidArgument):
    reason = "DIGEST_MISMATCH"

    def __init__(self, given: str, computed: str):
        super().__init__(
            f"the content's digest is {computed}, not {given}", metadata={"given": given, "computed": computed}
        )


class SizeMismatch(InvalidArgument):
    reason = "SIZE_MISMATCH"

    def __init__(self, declared: int, received: int):
        super().__init__(
            f"{declared} bytes were announced, at least {received} came",
            metadata={"declared": str(declared), "received": str(received)},
        )


class PathRequired(InvalidArgument):
    reason = "PATH_REQUIRED"

    def __init__(self, name: str, count: int):
        problem = f"{name} holds {count} files: name one"
        super().__init__(problem, violations=[FieldViolation("path", self.reason, problem)])


class ResourceNotFound(NotFound):
    """Also what a name in another project answers."""

    def __init__(self, noun: str, name: str):
        self.reason = _reason(noun, "NOT_FOUND")
        super().__init__(f"there is no {_NOUNS[noun]} {name}", resource=(f"animus.dev/{noun}", name))


class BlobNotFound(NotFound):
    """The project does not own the digest. The same for one that nobody has and one that another project has."""

    reason = "BLOB_NOT_FOUND"

    def __init__(self, project: str, digest: str):
        super().__init__(f"{project} has no blob {digest}", resource=("animus.dev/Blob", digest))


class UploadNotFound(NotFound):
    reason = "UPLOAD_NOT_FOUND"

    def __init__(self, digest: str):
        super().__init__(f"no interrupted upload of {digest} is kept", resource=("animus.dev/Upload", digest))


class PathNotFound(NotFound):
    reason = "PATH_NOT_FOUND"

    def __init__(self, name: str, path: str):
        super().__init__(f"{name} has no file {path}", resource=("animus.dev/ManifestEntry", path))


class ResourceExists(AlreadyExists):
    def __init__(self, noun: str, name: str):
        self.reason = _reason(noun, "EXISTS")
        super().__init__(f"the {_NOUNS[noun]} {name} exists", resource=(f"animus.dev/{noun}", name))


class ProjectArchived(FailedPrecondition):
    reason = "PROJECT_ARCHIVED"

    def __init__(self, project: str):
        super().__init__(f"{project} is archived: it can be read, and nothing in it changes")


class BlobNotInProject(FailedPrecondition):
    reason = "BLOB_NOT_IN_PROJECT"

    def __init__(self, project: str, digest: str, path: str = ""):
        where = f" (for {path})" if path else ""
        super().__init__(
            f"{project} has no blob {digest}{where}: upload it first",
            metadata={"digest": digest, **({"path": path} if path else {})},
        )


class ArtifactNotCommitted(FailedPrecondition):
    reason = "ARTIFACT_NOT_COMMITTED"

    def __init__(self, name: str):
        super().__init__(f"there is no artifact {name} yet", metadata={"artifact": name}, retry_after=1.0)


class ParentNotFound(FailedPrecondition):
    reason = "PARENT_NOT_FOUND"

    def __init__(self, name: str):
        super().__init__(f"the parent {name} does not exist", metadata={"parent": name})


class UploadOffsetMismatch(FailedPrecondition):
    """An upload goes on from the offset that is kept, or from 0."""

    reason = "UPLOAD_OFFSET_MISMATCH"

    def __init__(self, offset: int, kept: int):
        super().__init__(
            f"the upload cannot go on from {offset}: {kept} bytes are kept", metadata={"offset_bytes": str(kept)}
        )


class UploadIncomplete(FailedPrecondition):
    """The sender ended before the announced size. What came is kept."""

    reason = "UPLOAD_INCOMPLETE"

    def __init__(self, declared: int, received: int):
        super().__init__(
            f"{declared} bytes were announced, {received} came: go on from there",
            metadata={"size_bytes": str(declared), "offset_bytes": str(received)},
        )


class OffsetBeyondEnd(OutOfRange):
    reason = "OFFSET_BEYOND_END"

    def __init__(self, offset: int, size: int):
        super().__init__(f"offset {offset} is beyond the end, {size}", metadata={"size_bytes": str(size)})


class EtagMismatch(Aborted):
    reason = "ETAG_MISMATCH"

    def __init__(self, name: str):
        super().__init__(f"{name} has changed since it was read: read it again")


class GrantInvalid(PermissionDenied):
    reason = "GRANT_INVALID"

    def __init__(self, problem: str):
        super().__init__(f"the grant is not valid: {problem}")


class GrantExpired(PermissionDenied):
    """Its time is over, or its attempt has ended."""

    reason = "GRANT_EXPIRED"

    def __init__(self, problem: str):
        super().__init__(problem)


class AgentRevoked(PermissionDenied):
    """The log says that this node is out. Final."""

    reason = "AGENT_REVOKED"


class CertificateSuperseded(PermissionDenied):
    """The node has enrolled again: whoever holds its former keys is out."""

    reason = "CERTIFICATE_SUPERSEDED"


class StorageQuotaExceeded(FailedPrecondition):
    """What the project stores and this together would be more than its quota."""

    reason = "STORAGE_QUOTA_EXCEEDED"

    def __init__(self, project: str, limit: int, stored: int, size: int):
        super().__init__(
            f"projects/{project} stores {stored} bytes and may store {limit}: {size} more are too many",
            metadata={"limit": str(limit), "stored": str(stored), "size": str(size)},
        )


class OutsideGrant(PermissionDenied):
    """One answer for content that is not there and content that the grant does not name."""

    reason = "OUTSIDE_GRANT"

    def __init__(self, problem: str, limit: str = ""):
        super().__init__(problem, metadata={"limit": limit} if limit else {})


class VerifierBusy(ResourceExhausted):
    reason = "VERIFIER_BUSY"

    def __init__(self) -> None:
        super().__init__("too many snapshots are being verified", retry_after=2.0)


class BlobLost(Internal):
    """The project owns it and the store does not have it: the store was cut or restored behind the database."""

    reason = "BLOB_LOST"

    def __init__(self, digest: str):
        super().__init__(f"the store has lost {digest}", metadata={"digest": digest})
