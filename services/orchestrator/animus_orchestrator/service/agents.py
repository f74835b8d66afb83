"""`animus.orchestrator.v1.AgentService`. What follows from a decision is drawn in dispatch/outage.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from animus.orchestrator.v1 import agent_pb2 as pb
from animus.orchestrator.v1 import agent_pb2_grpc as pb_grpc
from animus_kit.clock import Clock, rfc3339
from animus_kit.db.engine import transaction
from animus_kit.db.outbox import emit
from animus_kit.ids import Ids
from animus_kit.server import context
from animus_kit.server.idempotency import once
from animus_kit.server.paging import Page
from animus_orchestrator.dispatch import outage
from animus_orchestrator.dispatch.authority import DEFAULT_TOKEN_LIFETIME, SECRET_BYTES, TokenText
from animus_orchestrator.domain import agent as rules
from animus_orchestrator.domain.agent import Agent, AgentState
from animus_orchestrator.domain.errors import (
    AgentExists,
    AgentNotFound,
    AgentRevoked,
    EtagMismatch,
    JoinTokenNotFound,
    PoolNotFound,
    TokenUsed,
)
from animus_orchestrator.service import convert
from animus_orchestrator.store import agent_attempts, agent_logs, join_tokens, pools, runs
from animus_orchestrator.store import agents as store
from animus_orchestrator.store.graph import db_now, notify
from animus_orchestrator.store.listen import AGENT
from animus_orchestrator.store.schema import agents


class AgentService(pb_grpc.AgentServiceServicer):
    def __init__(self, engine: Engine, clock: Clock, ids: Ids, dispatch_pin: str):
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._pin = dispatch_pin

    # -- reading ------------------------------------------------------------------------------------------------------

    def GetAgent(self, request: pb.GetAgentRequest, _: Any) -> pb.Agent:
        with transaction(self._engine) as conn:
            return _shown(conn, request.name)

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

    def ListAgentAttempts(self, request: pb.ListAgentAttemptsRequest, _: Any) -> pb.ListAgentAttemptsResponse:
        with transaction(self._engine) as conn:
            rows, token = agent_attempts.page(conn, _existing(conn, request.parent).agent.id, request)
        return pb.ListAgentAttemptsResponse(attempts=map(convert.agent_attempt, rows), next_page_token=token)

    def ListAgentLogs(self, request: pb.ListAgentLogsRequest, _: Any) -> pb.ListAgentLogsResponse:
        with transaction(self._engine) as conn:
            rows, token = agent_logs.page(conn, _existing(conn, request.parent).agent.id, request)
        return pb.ListAgentLogsResponse(lines=map(convert.agent_log_line, rows), next_page_token=token)

    # -- taking out of service ------------------------------------------------------------------------------------------

    def CordonAgent(self, request: pb.CordonAgentRequest, _: Any) -> pb.Agent:
        return self._decide(request, "cordoned", lambda _, it: rules.cordon(it, request.reason))

    def UncordonAgent(self, request: pb.UncordonAgentRequest, _: Any) -> pb.Agent:
        return self._decide(request, "uncordoned", lambda _, it: rules.uncordon(it))

    def DrainAgent(self, request: pb.DrainAgentRequest, _: Any) -> pb.Agent:
        grace = request.grace.ToTimedelta() if request.HasField("grace") else None
        # By the database's clock, which is the one that will say when the time is over.
        return self._decide(
            request, "drain-requested", lambda conn, it: rules.drain(it, db_now(conn), grace, request.reason)
        )

    def RevokeAgent(self, request: pb.RevokeAgentRequest, _: Any) -> pb.Agent:
        answer = self._decide(request, "revoked", lambda conn, it: rules.revoke(it, db_now(conn), request.reason))
        # The decision is made. Its attempts end in a transaction of their own, here or wherever time is counted: they
        # lie in runs, which must not be waited for while the agent's row is held.
        with transaction(self._engine) as conn:
            outage.take_back(conn)
        return answer

    def _decide(self, request: Any, event: str, rule: Callable[[Connection, Agent], Agent]) -> pb.Agent:
        """Changes an agent as the rule says, tells the log, and hints to whoever has its stream."""
        ctx = context.current()

        def change() -> pb.Agent:
            found = _existing(conn, request.name, lock=True)
            if request.etag and request.etag != str(found.agent.revision):
                raise EtagMismatch(f"{request.name} has changed: read it again")
            after = rule(conn, found.agent)
            if after is not found.agent:
                store.save_decision(conn, after)
                emit(
                    conn,
                    f"orchestrator.agent.{event}",
                    "",
                    request.name,
                    ctx.actor,
                    _told(after, event),
                    ctx.request_id,
                )
                notify(conn, AGENT, [after.id])
            return _shown(conn, request.name)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.Agent, change)

    # -- join tokens ----------------------------------------------------------------------------------------------------

    def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, _: Any) -> pb.CreateJoinTokenResponse:
        ctx = context.current()
        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.CreateJoinTokenResponse, lambda: self._make(conn, ctx, request))

    def ListJoinTokens(self, request: pb.ListJoinTokensRequest, _: Any) -> pb.ListJoinTokensResponse:
        with transaction(self._engine) as conn:
            found, token = join_tokens.page(conn, request)
        now = self._clock.now()
        return pb.ListJoinTokensResponse(
            join_tokens=[convert.join_token(one, now) for one in found], next_page_token=token
        )

    def RevokeJoinToken(self, request: pb.RevokeJoinTokenRequest, _: Any) -> pb.JoinToken:
        ctx = context.current()

        def revoke() -> pb.JoinToken:
            token_id, now = request.name.removeprefix("joinTokens/"), self._clock.now()
            found = join_tokens.lock(conn, token_id)
            if found is None:
                raise JoinTokenNotFound(
                    f"{request.name} does not exist", resource=("animus.dev/JoinToken", request.name)
                )
            if found.used_by is not None:
                raise TokenUsed(f"agents/{found.agent} has joined with it: revoke the agent")
            if found.revoke_time is None:
                join_tokens.revoke(conn, token_id, now)
                payload = {"token": token_id}
                agent = f"agents/{found.agent}"
                emit(conn, "orchestrator.join-token.revoked", "", agent, ctx.actor, payload, ctx.request_id)
            again = join_tokens.lock(conn, token_id)
            assert again is not None
            return convert.join_token(again, now)

        with transaction(self._engine) as conn:
            return once(conn, ctx, request, pb.JoinToken, revoke)

    def _make(
        self, conn: sa.Connection, ctx: context.CallContext, request: pb.CreateJoinTokenRequest
    ) -> pb.CreateJoinTokenResponse:
        now = self._clock.now()
        agent_id = request.agent_id or f"agent-{self._ids.token(5)}"
        conn.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"agent {agent_id}"))))
        self._check_name(conn, request, agent_id, now)
        pool = request.pool or pools.DEFAULT
        if pools.get(conn, pool) is None:
            raise PoolNotFound(f"pools/{pool} does not exist", resource=("animus.dev/Pool", f"pools/{pool}"))
        lifetime = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TOKEN_LIFETIME
        text = TokenText(self._ids.token(8), self._ids.token(SECRET_BYTES), self._pin)
        token = join_tokens.JoinToken(
            id=text.id,
            secret_hash=text.secret_hash,
            agent=agent_id,
            pool=pool,
            projects=tuple(sorted(p.removeprefix("projects/") for p in request.projects)),
            labels=dict(request.labels),
            creator=ctx.subject,
            create_time=now,
            expire_time=now + max(lifetime, timedelta(seconds=1)),
            replace_identity=request.replace_identity,
        )
        join_tokens.insert(conn, token)
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
                "replaceIdentity": token.replace_identity,
                "expireTime": rfc3339(token.expire_time),
            },
            ctx.request_id,
        )
        return pb.CreateJoinTokenResponse(
            token=str(text), agent=f"agents/{agent_id}", expire_time=convert.time(token.expire_time)
        )

    def _check_name(self, conn: Connection, request: pb.CreateJoinTokenRequest, agent_id: str, now: Any) -> None:
        """Raises: AgentExists, AgentNotFound, AgentRevoked."""
        resource = ("animus.dev/Agent", f"agents/{agent_id}")
        if request.replace_identity:
            if _existing(conn, f"agents/{agent_id}").agent.revoked:
                raise AgentRevoked(f"agents/{agent_id} is revoked: the node joins under another name")
            if join_tokens.reserves(conn, agent_id, now, agents_too=False):
                raise AgentExists(f"a token for agents/{agent_id} is still good", resource=resource)
        elif join_tokens.reserves(conn, agent_id, now):
            raise AgentExists(f"agents/{agent_id} has enrolled, or a token for it is still good", resource=resource)


def _existing(conn: Connection, name: str, *, lock: bool = False) -> store.AgentRecord:
    """Raises: AgentNotFound."""
    agent_id = name.removeprefix("agents/")
    found = store.lock_out(conn, agent_id) if lock else store.get(conn, agent_id)
    if found is None:
        raise AgentNotFound(f"{name} does not exist", resource=("animus.dev/Agent", name))
    return found


def _shown(conn: Connection, name: str) -> pb.Agent:
    found = _existing(conn, name)
    return convert.agent(found, runs.attempts_held(conn, [found.agent.id]).get(found.agent.id, []))


def _told(after: Agent, event: str) -> dict[str, Any]:
    payload: dict[str, Any] = {"reason": after.cordoned or None, "message": after.message or None}
    if event == "drain-requested" and after.drain_until is not None:
        payload["deadline"] = rfc3339(after.drain_until)
    return payload


def _is(wanted: AgentState) -> sa.ColumnElement[bool]:
    """The condition under which `state` answers this. The order is that of its rules."""
    c = agents.c
    kept = ~c.revoked & c.drain_time.is_(None)
    free = kept & (c.cordoned == "")
    return {
        AgentState.REVOKED: c.revoked,
        AgentState.DRAINED: ~c.revoked & c.drain_time.is_not(None) & c.drained_time.is_not(None),
        AgentState.CORDONED: kept & (c.cordoned != ""),
        AgentState.ENROLLED: free & (c.session == 0),
        AgentState.OFFLINE: free & (c.session > 0) & ~c.session_open,
        AgentState.ONLINE: free & c.session_open & ~c.draining,
        AgentState.DRAINING: (~c.revoked & c.drain_time.is_not(None) & c.drained_time.is_(None))
        | (free & c.session_open & c.draining),
    }[wanted]
