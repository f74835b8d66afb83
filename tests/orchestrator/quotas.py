"""What tests of quotas and of the queue do, through the real services."""

from __future__ import annotations

import uuid

from google.protobuf import field_mask_pb2

from animus.orchestrator.v1 import pool_pb2, quota_pb2
from tests.orchestrator.samples import pipeline, step_yaml


def limit(ask, world, project: str, *paths: str, weight: int = 0, **limits: int) -> quota_pb2.Quota:
    quota = quota_pb2.Quota(name=f"{project}/quota", limits=quota_pb2.Quota.Limits(**limits), weight=weight)
    mask = field_mask_pb2.FieldMask(paths=paths)
    return ask(world.quotas.UpdateQuota, quota_pb2.UpdateQuotaRequest(quota=quota, update_mask=mask))


def quota_of(ask, world, project: str) -> quota_pb2.Quota:
    return ask(world.quotas.GetQuota, quota_pb2.GetQuotaRequest(name=f"{project}/quota"))


def waits(world, run: str, step: str = "only") -> tuple[str, str]:
    found = world.steps(run)[step]
    return found.state_reason, found.state_message


def steps(count: int, **kw) -> bytes:
    return pipeline(*(step_yaml(f"s{i}", **kw) for i in range(count)))


def pool(ask, world, name: str = "", **fields) -> pool_pb2.Pool:
    name = name or f"q{uuid.uuid4().hex[:8]}"
    return ask(world.pools.CreatePool, pool_pb2.CreatePoolRequest(pool_id=name, pool=pool_pb2.Pool(**fields)))
