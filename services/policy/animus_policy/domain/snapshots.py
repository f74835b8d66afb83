"""Policy snapshots: everything that decides in a project, fixed, as one document with one digest.

A snapshot is a function of the policy set and the project's rules, so it can be told without being stored; it becomes a
row with the first decision under it.
"""

from dataclasses import dataclass
from datetime import datetime

from animus_kit.documents import decision as documents

from .engine import PolicySet


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """document: canonical bytes, exactly as digested. create_time: None until it was first decided under."""

    project: str
    document: bytes
    digest: str
    create_time: datetime | None = None

    @property
    def name(self) -> str:
        return snapshot_name(self.project, self.digest)


def snapshot_name(project: str, digest: str) -> str:
    """digest: "sha256:<hex>"; its first 40 hex digits are the last part of the name."""
    return f"{project}/policySnapshots/{digest.removeprefix('sha256:')[:40]}"


def current_snapshot(policy_set: PolicySet, project: str) -> PolicySnapshot:
    """The snapshot in force. A project has no rules of its own yet."""
    document = documents.PolicySnapshot(
        project=project,
        policy_set_digest=policy_set.digest,
        policies=tuple(documents.PolicyRef(id=i, digest=d) for i, d in policy_set.policy_digests.items()),
        rules=(),
    )
    return PolicySnapshot(project, document.to_bytes(), document.digest)
