"""`animus.orchestrator.v1.AgentService`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from animus.orchestrator.v1 import agent_pb2 as pb
from animus.orchestrator.v1 import agent_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.ids import Ids
from animus_kit.server import context
from animus_kit.server.idempotency import once
from animus_kit.server.paging import Page
from animus_orchestrator.dispatch.authority import DEFAULT_TOKEN_LIFETIME, SECRET_BYTES, TokenText
from animus_orchestrator.domain.agent import AgentState
from animus_orchestrator.domain.errors import AgentExists, AgentNotFound
from animus_orchestrator.service import convert
from animus_orchestrator.store import agents as store
from animus_orchestrator.store import runs
from animus_orchestrator.store.schema import agents


class AgentService(pb_grpc.AgentServiceServicer):
    def __init__(self, engine: Engine, clock: Clock, ids: Ids, dispatch_pin: str):
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._pin = dispatch_pin

    def GetAgent(self, request: pb.GetAgentRequest, _: Any) -> pb.Agent:
        agent_id = request.name.removeprefix("agents/")
        with transaction(self._engine) as conn:
            found = store.get(conn, agent_id)
            if found is None:
                raise AgentNotFound(f"{request.name} does not exist", resource=("animus.dev/Agent", request.name))
            return convert.agent(found, runs.attempts_held(conn, [agent_id]).get(agent_id, []))

    def ListAgents(self, request: pb.ListAgentsRequest, _: Any) -> pb.ListAgentsResponse:
        query = sa.select(agents)
        if request.pool:
            query = query.where(agents.c.pool == request.pool)
        wanted = {AgentState(pb.Agent.State.Name(s).removeprefix("STATE_")) for s in request.states if s}
        if wanted:
            query = query.where(sa.or_(*(_is(s) for s in sorted(wanted))))
        with transaction(self._engine) as conn:
            rows, token = Page.parse(request).fetch(conn, query, agents.c.enroll_time, agents.c.id)
            held = runs.attempts_held(conn, [row.id for row in rows])
        found = [convert.agent(store.record(row), held.get(row.id, [])) for row in rows]
        return pb.ListAgentsResponse(agents=found, next_page_token=token)

    def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, _: Any) -> pb.CreateJoinTokenResponse:
        ctx = context.current()
        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.CreateJoinTokenResponse, lambda: self._make(conn, ctx, request))

    def _make(
        self, conn: sa.Connection, ctx: context.CallContext, request: pb.CreateJoinTokenRequest
    ) -> pb.CreateJoinTokenResponse:
        now = self._clock.now()
        agent_id = request.agent_id or f"agent-{self._ids.token(5)}"
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"agent {agent_id}"))))
        if store.token_reserves(conn, agent_id, now):
            raise AgentExists(
                f"agents/{agent_id} has enrolled, or a token for it is still good",
                resource=("animus.dev/Agent", f"agents/{agent_id}"),
            )
        lifetime = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TOKEN_LIFETIME
        text = TokenText(self._ids.token(8), self._ids.token(SECRET_BYTES), self._pin)
        token = store.JoinToken(
            id=text.id,
            secret_hash=text.secret_hash,
            agent=agent_id,
            pool=request.pool or "default",
            projects=tuple(sorted(p.removeprefix("projects/") for p in request.projects)),
            labels=dict(request.labels),
            creator=ctx.subject,
            create_time=now,
            expire_time=now + max(lifetime, timedelta(seconds=1)),
        )
        store.insert_token(conn, token)
        emit(
            conn,
            "orchestrator.join-token.created",
            "",
            f"agents/{agent_id}",
            ctx.actor,
            {
                "token": token.id,
                "pool": token.pool,
                "projects": [f"projects/{p}" for p in token.projects],
                "labels": token.labels,
            },
            ctx.request_id,
        )
        return pb.CreateJoinTokenResponse(
            token=str(text), agent=f"agents/{agent_id}", expire_time=convert.time(token.expire_time)
        )


def _is(wanted: AgentState) -> sa.ColumnElement[bool]:
    """The condition under which `state` answers this. The order is that of its rules."""
    c = agents.c
    free = ~c.revoked & (c.cordoned == "")
    return {
        AgentState.REVOKED: c.revoked,
        AgentState.CORDONED: ~c.revoked & (c.cordoned != ""),
        AgentState.ENROLLED: free & (c.session == 0),
        AgentState.OFFLINE: free & (c.session > 0) & ~c.session_open,
        AgentState.ONLINE: free & c.session_open & ~c.draining,
        AgentState.DRAINING: free & c.session_open & c.draining,
    }[wanted]
