"""`animus.orchestrator.v1.PoolService`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine

from animus.orchestrator.v1 import pool_pb2 as pb
from animus.orchestrator.v1 import pool_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.errors import FieldViolation
from animus_kit.server import context
from animus_kit.server.idempotency import once
from animus_orchestrator.domain import errors
from animus_orchestrator.service import convert
from animus_orchestrator.store import pools as store
from animus_orchestrator.store.graph import notify
from animus_orchestrator.store.listen import READY

_MUTABLE = ("description", "projects", "paused")


class PoolService(pb_grpc.PoolServiceServicer):
    def __init__(self, engine: Engine, clock: Clock):
        self._engine = engine
        self._clock = clock

    def GetPool(self, request: pb.GetPoolRequest, _: Any) -> pb.Pool:
        with transaction(self._engine) as conn:
            return _shown(conn, _get(conn, request.name))

    def ListPools(self, request: pb.ListPoolsRequest, _: Any) -> pb.ListPoolsResponse:
        with transaction(self._engine) as conn:
            found, token = store.page(conn, request)
            online = store.online(conn, [one.id for one in found])
        return pb.ListPoolsResponse(pools=[_pool(one, online.get(one.id, 0)) for one in found], next_page_token=token)

    def CreatePool(self, request: pb.CreatePoolRequest, _: Any) -> pb.Pool:
        ctx, now = context.current(), self._clock.now()
        one = store.Pool(
            id=request.pool_id,
            description=request.pool.description,
            projects=_projects(request.pool),
            paused=request.pool.paused,
            creator=ctx.subject,
            create_time=now,
            update_time=now,
        )

        def create() -> pb.Pool:
            if not store.insert(conn, one):
                raise errors.PoolExists(f"{_name(one)} exists", resource=("animus.dev/Pool", _name(one)))
            emit(conn, "orchestrator.pool.created", "", _name(one), ctx.actor, _payload(one), ctx.request_id)
            return _shown(conn, one)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Pool, create)

    def UpdatePool(self, request: pb.UpdatePoolRequest, _: Any) -> pb.Pool:
        ctx = context.current()
        changes = _masked(request)

        def update() -> pb.Pool:
            one = _get(conn, request.pool.name, lock=True)
            if request.pool.etag and request.pool.etag != str(one.revision):
                raise errors.EtagMismatch(f"{request.pool.name} has changed: read it again")
            one = replace(one, **changes, update_time=self._clock.now(), revision=one.revision + 1)
            store.update(conn, one)
            emit(conn, "orchestrator.pool.updated", "", _name(one), ctx.actor, _payload(one), ctx.request_id)
            notify(conn, READY, [""])  # what was held back may go now
            return _shown(conn, one)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Pool, update)


def _name(one: store.Pool) -> str:
    return f"pools/{one.id}"


def _payload(one: store.Pool) -> dict[str, Any]:
    return {"description": one.description, "projects": [f"projects/{p}" for p in one.projects], "paused": one.paused}


def _get(conn: Connection, name: str, *, lock: bool = False) -> store.Pool:
    found = store.get(conn, name.removeprefix("pools/"), lock=lock)
    if found is None:
        raise errors.PoolNotFound(f"{name} does not exist", resource=("animus.dev/Pool", name))
    return found


def _projects(told: pb.Pool) -> tuple[str, ...]:
    return tuple(sorted(p.removeprefix("projects/") for p in told.projects))


def _masked(request: pb.UpdatePoolRequest) -> dict[str, Any]:
    """What to change. An empty mask means every mutable field that is set."""
    paths = set(request.update_mask.paths)
    if unknown := paths - set(_MUTABLE):
        raise errors.MaskInvalid(
            f"{min(unknown)} cannot be changed",
            violations=[FieldViolation("update_mask", "FIELD_NOT_MUTABLE", f"one of {', '.join(_MUTABLE)}")],
        )
    given = {
        "description": request.pool.description,
        "projects": _projects(request.pool),
        "paused": request.pool.paused,
    }
    return {f: v for f, v in given.items() if f in paths or (not paths and v)}


def _shown(conn: Connection, one: store.Pool) -> pb.Pool:
    return _pool(one, store.online(conn, [one.id]).get(one.id, 0))


def _pool(one: store.Pool, online: int) -> pb.Pool:
    return pb.Pool(
        name=_name(one),
        description=one.description,
        projects=[f"projects/{p}" for p in one.projects],
        paused=one.paused,
        creator=one.creator,
        create_time=convert.time(one.create_time),
        update_time=convert.time(one.update_time),
        etag=str(one.revision),
        online_agents=online,
    )
