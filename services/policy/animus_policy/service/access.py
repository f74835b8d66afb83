"""AccessService: proto ⇄ domain. Reads only; a denial is an answer."""

from collections import defaultdict
from datetime import timedelta

from sqlalchemy import Engine

from animus.policy.v1 import access_pb2 as pb
from animus.policy.v1 import access_pb2_grpc as rpc
from animus_kit.db.engine import transaction

from ..domain.engine import PolicySet
from ..domain.roles import Principal, held
from ..store import bindings

# How long an allow may be kept: a revoked right is gone everywhere within two seconds.
ALLOW_TTL = timedelta(seconds=1)


class AccessService(rpc.AccessServiceServicer):
    def __init__(self, engine: Engine, policy_set: PolicySet, platform_admins: frozenset[str]):
        self._engine = engine
        self._policy_set = policy_set
        self._platform_admins = platform_admins

    def CheckAccess(self, request: pb.CheckAccessRequest, context) -> pb.CheckAccessResponse:
        principal = Principal(request.subject, frozenset(request.groups))
        project = request.project or None
        bound, revision = [], 0
        if project:
            with transaction(self._engine) as conn:
                # The revision first: a change in between leaves an older number than the bindings, never a newer.
                revision = bindings.revision(conn, project)
                bound = bindings.of_members(conn, principal.members, project)
        verdict = self._policy_set.authorize(
            principal, held(principal, bound), request.permission, project, platform_admins=self._platform_admins
        )
        return pb.CheckAccessResponse(
            allowed=verdict.allowed,
            reasons=verdict.reasons,
            revision=revision,
            policy_set_digest=self._policy_set.digest,
            ttl=ALLOW_TTL if verdict.allowed else timedelta(0),
        )

    def ListAccessibleProjects(
        self, request: pb.ListAccessibleProjectsRequest, context
    ) -> pb.ListAccessibleProjectsResponse:
        principal = Principal(request.subject, frozenset(request.groups))
        if principal.members & self._platform_admins:
            return pb.ListAccessibleProjectsResponse(all=True)
        by_project = defaultdict(list)
        with transaction(self._engine) as conn:
            for binding in bindings.of_members(conn, principal.members):
                by_project[binding.project].append(binding)
        allowed = [
            project
            for project, bound in sorted(by_project.items())
            if self._policy_set.authorize(principal, held(principal, bound), request.permission, project).allowed
        ]
        return pb.ListAccessibleProjectsResponse(projects=allowed)
