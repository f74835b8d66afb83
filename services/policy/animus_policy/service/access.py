"""AccessService: proto ⇄ domain. Reads only; a denial is an answer."""

from datetime import timedelta

from animus.policy.v1 import access_pb2 as pb
from animus.policy.v1 import access_pb2_grpc as rpc

from ..domain.roles import Principal
from .own_access import OwnAccess

# How long an allow may be kept: a revoked right is gone everywhere within two seconds.
ALLOW_TTL = timedelta(seconds=1)


class AccessService(rpc.AccessServiceServicer):
    def __init__(self, access: OwnAccess):
        self._access = access

    def CheckAccess(self, request: pb.CheckAccessRequest, context) -> pb.CheckAccessResponse:
        principal = Principal(request.subject, frozenset(request.groups))
        verdict, revision = self._access.ask(principal, request.permission, request.project or None)
        return pb.CheckAccessResponse(
            allowed=verdict.allowed,
            reasons=verdict.reasons,
            revision=revision,
            policy_set_digest=self._access.policy_set_digest,
            ttl=ALLOW_TTL if verdict.allowed else timedelta(0),
        )

    def ListAccessibleProjects(
        self, request: pb.ListAccessibleProjectsRequest, context
    ) -> pb.ListAccessibleProjectsResponse:
        principal = Principal(request.subject, frozenset(request.groups))
        projects = self._access.projects(principal, request.permission)
        return pb.ListAccessibleProjectsResponse(all=projects is None, projects=projects or ())
