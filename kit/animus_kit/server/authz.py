"""Who may call what is a table: full method name → permission and allowed peers.

A method without a row keeps the process from starting, and an unknown caller is refused: the default is no.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from animus.policy.v1 import access_pb2 as pb
from animus_kit import names
from animus_kit.clock import Clock
from animus_kit.errors import PermissionDenied, ResourceExhausted, Unavailable
from animus_kit.server.context import CallContext

GATEWAY = frozenset({"gateway"})
AGENTS = frozenset({"agent"})
NO_CERTIFICATE = frozenset({"none"})

# An allow may be kept this long, so that a right that was taken away is gone within two seconds.
ALLOW_SECONDS = 1.0
ACCESS_DEADLINE_SECONDS = 5.0


class AccessDenied(PermissionDenied):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class PeerRefused(PermissionDenied):
    """This method is not for this kind of caller."""

    reason = "PEER_NOT_ALLOWED"


class PolicyUnavailable(Unavailable):
    """Policy cannot be asked, so nothing is allowed."""

    reason = "POLICY_UNAVAILABLE"


@dataclass(frozen=True)
class Row:
    """One method's row.

    permission: what a person needs, for example ``catalog.datasets.create``; None when the peer alone decides, or when
    the handler asks itself because the project stands in the answer.
    peers: who may call, as labels without agents' names: ``gateway``, ``service/catalog``, ``agent``, ``none``.
    project: the project that a request is about, ``projects/p``, or None for what belongs to none.
    """

    permission: str | None
    peers: frozenset[str]
    project: Callable[[Any], str | None]


Rows = Mapping[str, Row]


def in_project(path: str) -> Callable[[Any], str]:
    """The project of the resource name at a dotted field path, for example ``dataset.name``."""
    fields = path.split(".")

    def find(request: Any) -> str:
        value = request
        for field in fields:
            value = getattr(value, field)
        return names.project_of(value)

    return find


def no_project(_: Any) -> None:
    """For what belongs to no project."""
    return None


def public(permission: str | None, project: Callable[[Any], str | None] = no_project) -> Row:
    """A method for people, through the gateway."""
    return Row(permission, GATEWAY, project)


def internal(*services: str) -> Row:
    """A method for these services; their SPIFFE id is the permission."""
    return Row(None, frozenset(f"service/{name}" for name in services), no_project)


def from_agents() -> Row:
    """A method for enrolled agents; what each may touch is checked against contract and grant."""
    return Row(None, AGENTS, no_project)


class Access(Protocol):
    """Decides for a person."""

    def check(self, ctx: CallContext, permission: str, project: str | None) -> None:
        """Raises AccessDenied, or PolicyUnavailable when nobody can tell."""


class DenialSink(Protocol):
    """Makes denials events."""

    def record(self, ctx: CallContext, permission: str, project: str | None, reason: str = "") -> None:
        """Called for an authenticated caller that was refused. `reason`: the error's, where no permission was missing."""


class PolicyAccess:
    """Asks the policy service, and keeps allows for at most a second. Thread-safe."""

    def __init__(self, stub: Any, clock: Clock, *, outgoing: threading.Semaphore | None = None) -> None:
        """stub: AccessServiceStub. outgoing: bounds how many workers may wait for policy at once."""
        self._stub = stub
        self._clock = clock
        self._outgoing = outgoing or threading.Semaphore(1024)
        self._allowed: dict[tuple[str, tuple[str, ...], str, str], float] = {}

    def check(self, ctx: CallContext, permission: str, project: str | None) -> None:
        key = (ctx.subject, ctx.groups, permission, project or "")
        now = self._clock.monotonic()
        if self._allowed.get(key, 0.0) > now:
            return
        request = pb.CheckAccessRequest(
            subject=ctx.subject, groups=ctx.groups, permission=permission, project=project or ""
        )
        answer = self._ask(request)
        if not answer.allowed:
            raise denied(permission, project)
        if len(self._allowed) > 10_000:
            self._allowed.clear()
        ttl = answer.ttl.seconds + answer.ttl.nanos / 1e9
        self._allowed[key] = now + min(ttl, ALLOW_SECONDS)

    def projects(self, ctx: CallContext, permission: str) -> frozenset[str] | None:
        """The projects in which the caller holds a permission; None means every one."""
        request = pb.ListAccessibleProjectsRequest(subject=ctx.subject, groups=ctx.groups, permission=permission)
        answer = self._call(lambda: self._stub.ListAccessibleProjects(request, timeout=ACCESS_DEADLINE_SECONDS))
        return None if answer.all else frozenset(answer.projects)

    def _ask(self, request: pb.CheckAccessRequest) -> pb.CheckAccessResponse:
        return self._call(lambda: self._stub.CheckAccess(request, timeout=ACCESS_DEADLINE_SECONDS))

    def _call(self, action: Callable[[], Any]) -> Any:
        if not self._outgoing.acquire(blocking=False):
            raise ResourceExhausted("too many calls wait for the policy service", retry_after=0.5)
        try:
            return action()
        except grpc.RpcError as error:
            raise PolicyUnavailable("the policy service does not answer", retry_after=1.0) from error
        finally:
            self._outgoing.release()


def denied(permission: str, project: str | None) -> AccessDenied:
    """The same words whether the project exists or not."""
    where = f" in {project}" if project else ""
    metadata = {"permission": permission, **({"project": project} if project else {})}
    return AccessDenied(f"permission {permission} is missing{where}", metadata=metadata)


def check_rows(rows: Rows, methods: Iterable[str]) -> None:
    """Raises RuntimeError for methods without a row: such a process must not start."""
    missing = sorted(set(methods) - set(rows))
    if missing:
        raise RuntimeError("methods without a permission row: " + ", ".join(missing))
