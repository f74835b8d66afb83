"""RoleBindingService over mTLS: who has which role, and who may say so."""

import base64
import json
import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from animus.policy.v1 import role_binding_pb2 as pb
from animus.policy.v1 import role_binding_pb2_grpc as rpc
from animus.type.v1.list_order_pb2 import ListOrder
from animus_kit.server.paging import Page
from tests.services import refused

VIEWER, EDITOR, ADMIN = pb.RoleBinding.ROLE_VIEWER, pb.RoleBinding.ROLE_EDITOR, pb.RoleBinding.ROLE_ADMIN


@pytest.fixture
def project() -> str:
    return f"projects/p-{uuid.uuid4().hex[:8]}"


def create(bindings, metadata, project, member="user:alice", role=EDITOR, request_id="") -> pb.RoleBinding:
    return bindings.CreateRoleBinding(
        pb.CreateRoleBindingRequest(
            parent=project, role_binding=pb.RoleBinding(member=member, role=role), request_id=request_id
        ),
        metadata=metadata,
    )


def events(database, project) -> list[tuple[str, dict]]:
    with database.engine("policy").connect() as conn:
        rows = conn.execute(
            sa.text("SELECT event_type, payload FROM outbox WHERE project = :p ORDER BY id"), {"p": project}
        )
        return [(row.event_type, json.loads(row.payload)) for row in rows]


def test_create_get_list_delete(bindings, people, project, database):
    made = create(bindings, people.root, project)
    assert made.name.startswith(f"{project}/roleBindings/")
    assert (made.member, made.role, made.creator) == ("user:alice", EDITOR, "root")
    got = bindings.GetRoleBinding(pb.GetRoleBindingRequest(name=made.name), metadata=people.root)
    assert got == made
    listed = bindings.ListRoleBindings(pb.ListRoleBindingsRequest(parent=project), metadata=people.root)
    assert list(listed.role_bindings) == [made] and not listed.next_page_token
    bindings.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name=made.name), metadata=people.root)
    with refused("NOT_FOUND", "ROLE_BINDING_NOT_FOUND"):
        bindings.GetRoleBinding(pb.GetRoleBindingRequest(name=made.name), metadata=people.root)
    with refused("NOT_FOUND", "ROLE_BINDING_NOT_FOUND"):
        bindings.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name=made.name), metadata=people.root)
    told = events(database, project)
    assert [t for t, _ in told] == ["policy.role-binding.created", "policy.role-binding.deleted"]
    assert told[0][1]["member"] == "user:alice" and told[0][1]["role"] == "editor" and told[0][1]["actor"] == "root"


def test_the_same_member_and_role_again_is_the_same_binding(bindings, people, project, database):
    first = create(bindings, people.root, project)
    assert create(bindings, people.root, project, request_id=str(uuid.uuid4())) == first
    assert len(events(database, project)) == 1
    assert create(bindings, people.root, project, role=VIEWER).name != first.name


def test_request_ids(bindings, people, project, database):
    request_id = str(uuid.uuid4())
    first = create(bindings, people.root, project, request_id=request_id)
    bindings.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name=first.name), metadata=people.root)
    # The first answer again, though the binding is gone: the request was carried out once.
    assert create(bindings, people.root, project, request_id=request_id) == first
    assert len(events(database, project)) == 2
    with refused("FAILED_PRECONDITION", "REQUEST_ID_REUSED"):
        create(bindings, people.root, project, member="user:bob", request_id=request_id)
    request_id = str(uuid.uuid4())
    again = create(bindings, people.root, project)
    for _ in range(2):
        bindings.DeleteRoleBinding(
            pb.DeleteRoleBindingRequest(name=again.name, request_id=request_id), metadata=people.root
        )


def test_who_may(bindings, people, project):
    alice, bob = people.as_("alice"), people.as_("bob", "ml")
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED") as refusal:
        create(bindings, alice, project)
    assert refusal.metadata["permission"] == "policy.roleBindings.create"
    create(bindings, people.root, project, member="user:alice", role=ADMIN)
    # A project's administrator gives roles in it, and in no other.
    create(bindings, alice, project, member="group:ml", role=VIEWER)
    listed = bindings.ListRoleBindings(pb.ListRoleBindingsRequest(parent=project), metadata=bob)
    assert len(listed.role_bindings) == 2
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        create(bindings, bob, project, member="user:bob", role=ADMIN)
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        create(bindings, alice, "projects/other")
    # In force at once where policy itself decides.
    mine = next(b for b in listed.role_bindings if b.member == "group:ml")
    bindings.DeleteRoleBinding(pb.DeleteRoleBindingRequest(name=mine.name), metadata=alice)
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        bindings.ListRoleBindings(pb.ListRoleBindingsRequest(parent=project), metadata=bob)


def test_a_denial_is_an_event(bindings, people, project, database):
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        create(bindings, people.as_("mallory"), project)
    ((event_type, payload),) = events(database, project)
    assert event_type == "policy.access.denied"
    assert payload["permission"] == "policy.roleBindings.create" and payload["actor"] == "mallory"


@pytest.mark.parametrize("order", [0, *(v for v in ListOrder.values() if v)])
def test_pages(bindings, people, project, order):
    made = [create(bindings, people.root, project, member=f"user:u{i}") for i in range(7)]
    found, token = [], ""
    while True:
        page = bindings.ListRoleBindings(
            pb.ListRoleBindingsRequest(parent=project, page_size=3, page_token=token, order_by=order),
            metadata=people.root,
        )
        found += page.role_bindings
        token = page.next_page_token
        if not token:
            break
        assert len(page.role_bindings) == 3
    expected = sorted(made, key=lambda b: b.name) if order == ListOrder.LIST_ORDER_NAME_ASC else made
    if order in (ListOrder.LIST_ORDER_UNSPECIFIED, ListOrder.LIST_ORDER_CREATE_TIME_DESC):
        expected = expected[::-1]
    assert found == expected


def test_filter_by_member(bindings, people, project):
    create(bindings, people.root, project, member="user:a")
    create(bindings, people.root, project, member="user:b")
    listed = bindings.ListRoleBindings(
        pb.ListRoleBindingsRequest(parent=project, member="user:b"), metadata=people.root
    )
    assert [b.member for b in listed.role_bindings] == ["user:b"]


@pytest.mark.parametrize("token", ["x", "AAAA", "W10", "eyJhIjoxfQ"])
def test_a_bad_page_token(bindings, people, project, token):
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
        bindings.ListRoleBindings(pb.ListRoleBindingsRequest(parent=project, page_token=token), metadata=people.root)


def test_page_tokens_that_somebody_made(bindings, people, project):
    """The token's question can be computed by anybody, so its key may hold anything."""
    request = pb.ListRoleBindingsRequest(parent=project)
    page = Page.parse(request)
    now = datetime.now(UTC)
    keys = [(1, "n"), ("x", "n"), (now, 5), ("2026-01-01", "n"), (now,), (now, "n", "m"), (now, now), (True, "n")]
    for token in (*(page.token(*key) for key in keys), base64.urlsafe_b64encode(b"[" * 90_000).decode()):
        request.page_token = token
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
            bindings.ListRoleBindings(request, metadata=people.root)
    request.page_token = page.token(now, "\0")
    with refused("INVALID_ARGUMENT", "VALUE_NOT_STORABLE"):
        bindings.ListRoleBindings(request, metadata=people.root)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parent": "projects/P"}, "parent"),
        ({"parent": ""}, "parent"),
        ({"parent": "projects/p/x"}, "parent"),
        ({"role_binding": None}, "role_binding"),
        ({"role_binding": pb.RoleBinding(member="alice", role=EDITOR)}, "role_binding.member"),
        ({"role_binding": pb.RoleBinding(member="user:a b", role=EDITOR)}, "role_binding.member"),
        ({"role_binding": pb.RoleBinding(member="user:a")}, "role_binding.role"),
        ({"role_binding": pb.RoleBinding(member="user:a", role=99)}, "role_binding.role"),
        ({"request_id": "not-a-uuid"}, "request_id"),
    ],
)
def test_bad_requests(bindings, people, changes, field):
    good = {"parent": "projects/p", "role_binding": pb.RoleBinding(member="user:a", role=EDITOR)}
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID") as refusal:
        bindings.CreateRoleBinding(pb.CreateRoleBindingRequest(**good | changes), metadata=people.root)
    assert field in refusal.fields


def test_bad_names(bindings, people):
    for call, request in (
        (bindings.GetRoleBinding, pb.GetRoleBindingRequest(name="projects/p/roleBindings/")),
        (bindings.DeleteRoleBinding, pb.DeleteRoleBindingRequest(name="x")),
        (bindings.ListRoleBindings, pb.ListRoleBindingsRequest(parent="projects/p", page_size=-1)),
    ):
        with refused("INVALID_ARGUMENT", "REQUEST_INVALID"):
            call(request, metadata=people.root)


def test_people_come_through_the_gateway_with_a_token(process, pki, bindings, people, project):
    with refused("UNAUTHENTICATED", "TOKEN_MISSING"):
        bindings.ListRoleBindings(pb.ListRoleBindingsRequest(parent=project))
    with pki.dial(process, "sync", "service/catalog") as channel:
        with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
            rpc.RoleBindingServiceStub(channel).ListRoleBindings(
                pb.ListRoleBindingsRequest(parent=project), metadata=people.root
            )
