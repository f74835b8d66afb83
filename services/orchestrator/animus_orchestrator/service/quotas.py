"""`animus.orchestrator.v1.QuotaService`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from animus.orchestrator.v1 import quota_pb2 as pb
from animus.orchestrator.v1 import quota_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.errors import FieldViolation
from animus_kit.names import project_of
from animus_kit.server import context
from animus_kit.server.idempotency import once
from animus_orchestrator.domain import errors
from animus_orchestrator.domain.quota import LIMITS, Limits
from animus_orchestrator.service import convert
from animus_orchestrator.store import quotas as store
from animus_orchestrator.store import usage
from animus_orchestrator.store.graph import notify
from animus_orchestrator.store.listen import READY

_PATHS = ("weight", "limits", *(f"limits.{name}" for name in LIMITS))


class QuotaService(pb_grpc.QuotaServiceServicer):
    def __init__(self, engine: Engine, clock: Clock, stored_bytes: Callable[[str], int | None]):
        """stored_bytes: what the catalog says that a project (its full name) stores; None when it does not answer."""
        self._engine = engine
        self._clock = clock
        self._stored = stored_bytes

    def GetQuota(self, request: pb.GetQuotaRequest, _: Any) -> pb.Quota:
        stored = self._stored(project_of(request.name))
        with transaction(self._engine) as conn:
            return _quota(conn, store.get(conn, _id(request.name)), stored)

    def UpdateQuota(self, request: pb.UpdateQuotaRequest, _: Any) -> pb.Quota:
        ctx, project = context.current(), _id(request.quota.name)
        change = _masked(request)
        stored = self._stored(project_of(request.quota.name))

        def update() -> pb.Quota:
            now = self._clock.now()
            store.ensure(conn, project, now)
            one = store.get(conn, project, lock=True)
            if request.quota.etag and request.quota.etag != str(one.revision):
                raise errors.EtagMismatch(f"{request.quota.name} has changed: read it again")
            one = replace(change(one), update_time=now, revision=one.revision + 1)
            store.save(conn, one)
            emit(
                conn,
                "orchestrator.quota.updated",
                f"projects/{project}",
                request.quota.name,
                ctx.actor,
                # An absent limit is none. 64-bit numbers are decimal strings in documents.
                {
                    "limits": {
                        _camel(name): str(value) for name in LIMITS if (value := getattr(one.limits, name)) is not None
                    },
                    "weight": one.weight,
                    "revision": str(one.revision),
                },
                ctx.request_id,
            )
            store.admit(conn, project)
            notify(conn, READY, [""])  # what was held back may go now
            return _quota(conn, one, stored)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Quota, update)


def _id(name: str) -> str:
    return project_of(name).removeprefix("projects/")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def _masked(request: pb.UpdateQuotaRequest) -> Callable[[store.Quota], store.Quota]:
    """What to change. Raises: MaskInvalid."""
    paths = set(request.update_mask.paths)
    if unknown := paths - set(_PATHS):
        raise errors.MaskInvalid(
            f"{min(unknown)} cannot be changed",
            violations=[FieldViolation("update_mask", "FIELD_NOT_MUTABLE", f"one of {', '.join(_PATHS)}")],
        )
    told, weight = request.quota.limits, request.quota.weight
    given = {name: getattr(told, name) if told.HasField(name) else None for name in LIMITS}
    if not paths:
        paths = {f"limits.{name}" for name in LIMITS if told.HasField(name)} | ({"weight"} if weight else set())
    if "weight" in paths and not weight:
        raise errors.MaskInvalid(
            "the weight is at least 1", violations=[FieldViolation("quota.weight", "WEIGHT_INVALID", "1 to 1000")]
        )

    def change(one: store.Quota) -> store.Quota:
        limits = Limits(**given) if "limits" in paths else one.limits
        limits = replace(limits, **{name: given[name] for name in LIMITS if f"limits.{name}" in paths})
        return replace(one, limits=limits, weight=weight if "weight" in paths else one.weight)

    return change


def _quota(conn: Connection, one: store.Quota, stored: int | None) -> pb.Quota:
    used = usage.used(conn, [one.project]).get(one.project, usage.Used())
    out = pb.Quota(
        name=f"projects/{one.project}/quota",
        limits=pb.Quota.Limits(**{name: getattr(one.limits, name) for name in LIMITS}),
        weight=one.weight,
        usage=pb.Quota.Usage(
            cpu_millis=used.amount.cpu_millis,
            memory_bytes=used.amount.memory_bytes,
            gpus=used.amount.gpus,
            attempts=used.attempts,
            active_runs=store.active_runs(conn, one.project),
            waiting_runs=store.waiting_runs(conn, one.project),
        ),
        update_time=convert.time(one.update_time) if one.revision else None,
        etag=str(one.revision),
    )
    if stored is not None:
        out.usage.stored_bytes = stored
    return out
