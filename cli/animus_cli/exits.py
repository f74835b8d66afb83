"""Exit codes, and what a person can do about an error."""

from __future__ import annotations

from collections.abc import Mapping

OK = 0
ERROR = 1
USAGE = 2
REQUIREMENT = 3
DENIED = 4
NOT_FOUND = 5
RUN_FAILED = 6
UNAVAILABLE = 7

BY_CODE: Mapping[str, int] = {
    "PERMISSION_DENIED": DENIED,
    "UNAUTHENTICATED": DENIED,
    "NOT_FOUND": NOT_FOUND,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
    "RESOURCE_EXHAUSTED": UNAVAILABLE,
}

BY_REASON: Mapping[str, int] = {
    "NOT_CONFIGURED": REQUIREMENT,
    "GIT_MISSING": REQUIREMENT,
    "DATASET_NOT_FOUND": NOT_FOUND,
    "REVISION_NOT_FOUND": NOT_FOUND,
    "REGISTRY_NOT_FOUND": NOT_FOUND,
    "REGISTRY_DENIED": DENIED,
    "REGISTRY_TLS": DENIED,
    "REGISTRY_UNAVAILABLE": UNAVAILABLE,
    "REGISTRY_TOO_SLOW": UNAVAILABLE,
}

NEXT: Mapping[str, str] = {
    "NOT_CONFIGURED": "animus up --detach, or animus login ENDPOINT --token-file FILE",
    "TOKEN_INVALID": "animus login again, or check the clock of this machine",
    "TOKEN_MISSING": "animus login",
    "UNAUTHENTICATED": "animus login",
    "PERMISSION_DENIED": "ask an administrator of the project for a role: animus access grant",
    "ACCESS_DENIED": "ask an administrator of the project for a role: animus access grant",
    "UNAVAILABLE": "animus status; is the stack up?",
    "PROJECT_EXISTS": "choose another id; also an archived project keeps its own",
    "ENVIRONMENT_NOT_LOCKED": "animus image import LAYOUT --environment NAME",
    "REGISTRY_DENIED": "name the registry's user name and password file in --registries FILE",
    "REGISTRY_TLS": "name the registry's certificate authority (ca) in --registries FILE",
    "IMAGE_INDEX_DIGEST": "name the digest of one platform's manifest; animus image import prints it",
    "IDENTITY_CLONED": "animus agent join AGENT --replace, enrol the node again, then uncordon it",
    "AGENT_REVOKED": "there is no way back: the node joins under another name",
    "AGENT_EXISTS": "choose another name; animus agent tokens, and revoke-token for one that is still good",
    "TOKEN_USED": "animus agent revoke, if the node is not yours",
    "PLAN_CHANGED": "animus run plan again, and look at what changed",
    "RUN_NOT_PLANNABLE": "animus run plan tells every problem",
    "DATASET_NOT_FOUND": "animus dataset push; a run binds another one with --dataset REF=NAME",
    "DATASET_VERSION_NOT_FOUND": "animus dataset list",
    "PIPELINE_INVALID": "animus pipeline validate FILE",
    "ARTIFACT_NOT_COMMITTED": "animus run show; the catalog may lag behind by a moment",
    "SUBMODULE_NOT_RESOLVED": "vendor the submodule's files, or push the repository without it",
    "LFS_POINTER": "git lfs migrate export, or push the files as a dataset",
    "ENDPOINT_INVALID": "animus login https://HOST:PORT --token-file FILE",
}


def of_client(reason: str) -> int:
    """For what went wrong on this side, before or without a request."""
    return BY_REASON.get(reason, ERROR)


def next_step(reason: str, code: str) -> str:
    return NEXT.get(reason) or NEXT.get(code, "")
