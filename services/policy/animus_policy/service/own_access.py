"""Access decisions over SQL and the policy set: for policy's own door, which calls nobody, and for AccessService."""

from collections import defaultdict

from sqlalchemy import Engine

from animus_kit.db.engine import transaction
from animus_kit.server.authz import denied
from animus_kit.server.context import CallContext

from ..domain.engine import PolicySet, Verdict
from ..domain.roles import Principal, held
from ..store import bindings


class OwnAccess:
    """An animus_kit.server.authz.Access."""

    def __init__(self, engine: Engine, policy_set: PolicySet, platform_admins: frozenset[str]):
        self._engine = engine
        self._policy_set = policy_set
        self._platform_admins = platform_admins

    @property
    def policy_set_digest(self) -> str:
        return self._policy_set.digest

    def check(self, ctx: CallContext, permission: str, project: str | None) -> None:
        """Raises AccessDenied."""
        verdict, _ = self.ask(Principal(ctx.subject, frozenset(ctx.groups)), permission, project)
        if not verdict.allowed:
            raise denied(permission, project)

    def ask(self, principal: Principal, permission: str, project: str | None) -> tuple[Verdict, int]:
        """The verdict, and the revision of the project's bindings that it rests on at least."""
        bound, revision = [], 0
        if project:
            with transaction(self._engine) as conn:
                # The revision first: a change in between leaves an older number than the bindings, never a newer.
                revision = bindings.revision(conn, project)
                bound = bindings.of_members(conn, principal.members, project)
        verdict = self._policy_set.authorize(
            principal, held(principal, bound), permission, project, platform_admins=self._platform_admins
        )
        return verdict, revision

    def projects(self, principal: Principal, permission: str) -> list[str] | None:
        """The projects in which the caller holds the permission, by name; None: in all."""
        if principal.members & self._platform_admins:
            return None
        by_project = defaultdict(list)
        with transaction(self._engine) as conn:
            for binding in bindings.of_members(conn, principal.members):
                by_project[binding.project].append(binding)
        return [
            project
            for project, bound in sorted(by_project.items())
            if self._policy_set.authorize(principal, held(principal, bound), permission, project).allowed
        ]
