"""RoleBindingService: proto ⇄ domain."""

from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Connection, Engine

from animus.policy.v1 import role_binding_pb2 as pb
from animus.policy.v1 import role_binding_pb2_grpc as rpc
from animus_kit.clock import Clock
from animus_kit.db import outbox
from animus_kit.db.engine import transaction
from animus_kit.ids import Ids
from animus_kit.server import idempotency
from animus_kit.server.context import CallContext, current
from animus_kit.server.paging import Page

from ..domain.errors import RoleBindingNotFound
from ..domain.roles import Role, RoleBinding
from ..store import bindings
from ..store.tables import role_bindings

_ROLES = {role: pb.RoleBinding.Role.Value(f"ROLE_{role.name}") for role in Role}
_FROM_PROTO = {number: role for role, number in _ROLES.items()}


class RoleBindingService(rpc.RoleBindingServiceServicer):
    def __init__(self, engine: Engine, clock: Clock, ids: Ids):
        self._engine = engine
        self._clock = clock
        self._ids = ids

    def GetRoleBinding(self, request: pb.GetRoleBindingRequest, context) -> pb.RoleBinding:
        with transaction(self._engine) as conn:
            binding = bindings.get(conn, request.name)
        if binding is None:
            raise RoleBindingNotFound(request.name)
        return to_proto(binding)

    def ListRoleBindings(self, request: pb.ListRoleBindingsRequest, context) -> pb.ListRoleBindingsResponse:
        page = Page.parse(request)
        query = bindings.listing(request.parent, request.member)
        with transaction(self._engine) as conn:
            rows, token = page.fetch(conn, query, role_bindings.c.create_time, role_bindings.c.name)
        return pb.ListRoleBindingsResponse(
            role_bindings=[to_proto(bindings.from_row(row)) for row in rows], next_page_token=token
        )

    def CreateRoleBinding(self, request: pb.CreateRoleBindingRequest, context) -> pb.RoleBinding:
        ctx = current()
        with transaction(self._engine) as conn:
            return idempotency.once(conn, ctx, request, pb.RoleBinding, lambda: self._create(conn, ctx, request))

    def DeleteRoleBinding(self, request: pb.DeleteRoleBindingRequest, context) -> Empty:
        ctx = current()
        with transaction(self._engine) as conn:
            return idempotency.once(conn, ctx, request, Empty, lambda: self._delete(conn, ctx, request.name))

    def _create(self, conn: Connection, ctx: CallContext, request: pb.CreateRoleBindingRequest) -> pb.RoleBinding:
        project, member = request.parent, request.role_binding.member
        role = _FROM_PROTO[request.role_binding.role]
        bindings.lock_project(conn, project)
        existing = bindings.find(conn, project, member, role)
        if existing:
            return to_proto(existing)
        binding = RoleBinding(
            name=f"{project}/roleBindings/{self._ids.uuid()}",
            project=project,
            member=member,
            role=role,
            creator=ctx.subject,
            create_time=self._clock.now(),
        )
        bindings.add(conn, binding)
        bindings.bump_revision(conn, project)
        self._emit(conn, ctx, "policy.role-binding.created", binding)
        return to_proto(binding)

    def _delete(self, conn: Connection, ctx: CallContext, name: str) -> Empty:
        project = name.rpartition("/roleBindings/")[0]
        bindings.lock_project(conn, project)
        binding = bindings.get(conn, name)
        if binding is None:
            raise RoleBindingNotFound(name)
        bindings.remove(conn, name)
        bindings.bump_revision(conn, project)
        self._emit(conn, ctx, "policy.role-binding.deleted", binding)
        return Empty()

    def _emit(self, conn: Connection, ctx: CallContext, event_type: str, binding: RoleBinding) -> None:
        payload = {"roleBinding": binding.name, "member": binding.member, "role": binding.role.value}
        outbox.emit(conn, event_type, binding.project, binding.name, ctx.actor, payload, ctx.request_id)


def to_proto(binding: RoleBinding) -> pb.RoleBinding:
    return pb.RoleBinding(
        name=binding.name,
        member=binding.member,
        role=_ROLES[binding.role],
        creator=binding.creator,
        create_time=binding.create_time,
    )
