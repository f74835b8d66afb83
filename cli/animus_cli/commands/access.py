"""animus access"""

from __future__ import annotations

from typing import Annotated

import typer

from animus_cli import exits, show
from animus_cli.base import Limit, Project, Stop, Subject, answer, client, command, full, group

app = group("Who has which role in a project.")
Role = Annotated[str, typer.Argument(help="viewer, editor, approver, admin or auditor.")]
Member = Annotated[str, typer.Argument(help="user:SUBJECT or group:NAME.")]


@command(app)
def grant(member: Member, role: Role, project: Project = "", as_: Subject = "") -> None:
    """Give a role."""
    from animus.policy.v1 import role_binding_pb2

    roles = dict(role_binding_pb2.RoleBinding.Role.items())
    if f"ROLE_{role.upper()}" not in roles:
        raise Stop(exits.USAGE, f"no role {role!r}: viewer, editor, approver, admin, auditor", "USAGE")
    binding = role_binding_pb2.RoleBinding(member=member, role=roles[f"ROLE_{role.upper()}"])
    with client(as_) as it:
        request = role_binding_pb2.CreateRoleBindingRequest(parent=full(project), role_binding=binding)
        found = it.call(it.role_bindings_api.CreateRoleBinding, request)
    answer(found, lambda: print(found.name))


@command(app)
def revoke(
    binding: Annotated[str, typer.Argument(help="As `access list` shows it.")], project: Project = "", as_: Subject = ""
) -> None:
    """Take a role away; in force everywhere within two seconds."""
    from animus.policy.v1 import role_binding_pb2

    with client(as_) as it:
        request = role_binding_pb2.DeleteRoleBindingRequest(name=full(project, "roleBindings", binding))
        it.call(it.role_bindings_api.DeleteRoleBinding, request)
    answer({}, lambda: print("revoked"))


@command(app, "list")
def list_(project: Project = "", limit: Limit = 100, as_: Subject = "") -> None:
    """Role bindings of a project."""
    from animus.policy.v1 import role_binding_pb2

    with client(as_) as it:
        request = role_binding_pb2.ListRoleBindingsRequest(parent=full(project))
        found = list(it.pages(it.role_bindings_api.ListRoleBindings, request, "role_bindings", limit))
    names = role_binding_pb2.RoleBinding.Role.Name
    rows = [(b.name, b.member, names(b.role).removeprefix("ROLE_").lower(), show.moment(b.create_time)) for b in found]
    answer({"roleBindings": found}, lambda: show.table(["binding", "member", "role", "created"], rows))
