"""AccessService over mTLS: a denial is an answer, and follows the bindings at once."""

import uuid

import pytest

from animus.policy.v1 import access_pb2 as pb
from animus.policy.v1 import access_pb2_grpc as rpc
from animus.policy.v1 import role_binding_pb2
from tests.policy.test_role_bindings import ADMIN, EDITOR, VIEWER, create
from tests.services import ADMINS, refused


@pytest.fixture
def project() -> str:
    return f"projects/a-{uuid.uuid4().hex[:8]}"


def check(access, permission, project="", subject="alice", groups=()) -> pb.CheckAccessResponse:
    return access.CheckAccess(
        pb.CheckAccessRequest(subject=subject, groups=groups, permission=permission, project=project)
    )


def test_allow_and_deny(access, bindings, people, project):
    before = check(access, "catalog.datasets.create", project)
    assert not before.allowed and not before.reasons and not before.ttl.ToMilliseconds() and before.revision == 0
    made = create(bindings, people.root, project, role=EDITOR)
    after = check(access, "catalog.datasets.create", project)
    assert after.allowed and list(after.reasons) == ["editors-change"]
    assert after.ttl.ToMilliseconds() == 1000 and after.revision == 1
    assert after.policy_set_digest == before.policy_set_digest and after.policy_set_digest.startswith("sha256:")
    assert not check(access, "catalog.projects.archive", project).allowed
    assert not check(access, "catalog.datasets.create", project, subject="bob").allowed
    assert not check(access, "catalog.datasets.create", "projects/other").allowed
    bindings.DeleteRoleBinding(role_binding_pb2.DeleteRoleBindingRequest(name=made.name), metadata=people.root)
    gone = check(access, "catalog.datasets.create", project)
    assert not gone.allowed and gone.revision == 2


def test_groups_and_platform(access, bindings, people, project):
    create(bindings, people.root, project, member="group:ml", role=VIEWER)
    assert check(access, "catalog.datasets.get", project, groups=["ml"]).allowed
    assert not check(access, "catalog.datasets.get", project, groups=["mlx"]).allowed
    for subject, groups in (("x", [ADMINS]), ("boss", [])):
        assert check(access, "catalog.projects.create", subject=subject, groups=groups).allowed
        assert check(access, "catalog.datasets.create", project, subject=subject, groups=groups).allowed
    assert not check(access, "catalog.projects.create").allowed
    assert not check(access, "catalog.datasets.get").allowed


def test_an_unknown_permission_says_so(access, project):
    answer = check(access, "catalog.nothing.fly", project, subject="boss")
    assert not answer.allowed and list(answer.reasons) == ["unknown-permission"]


def test_accessible_projects(access, bindings, people):
    subject = f"u-{uuid.uuid4().hex[:8]}"
    names = sorted(f"projects/l{i}-{uuid.uuid4().hex[:8]}" for i in range(3))
    for name, role in zip(names, (VIEWER, EDITOR, ADMIN), strict=True):
        create(bindings, people.root, name, member=f"user:{subject}", role=role)

    def accessible(permission, groups=()):
        return access.ListAccessibleProjects(
            pb.ListAccessibleProjectsRequest(subject=subject, groups=groups, permission=permission)
        )

    assert list(accessible("catalog.projects.get").projects) == names
    assert list(accessible("catalog.datasets.create").projects) == names[1:]
    assert list(accessible("catalog.projects.archive").projects) == names[2:]
    assert not accessible("catalog.projects.create").projects
    everything = accessible("catalog.projects.get", [ADMINS])
    assert everything.all and not everything.projects


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"subject": ""}, "subject"),
        ({"permission": "x"}, "permission"),
        ({"permission": "catalog.datasets get"}, "permission"),
        ({"project": "p"}, "project"),
        ({"groups": ["g" * 300]}, "groups[0]"),
    ],
)
def test_bad_requests(access, changes, field):
    good = {"subject": "alice", "permission": "catalog.datasets.get", "project": "projects/p"}
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID") as refusal:
        access.CheckAccess(pb.CheckAccessRequest(**good | changes))
    assert field in refusal.fields
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID"):
        access.ListAccessibleProjects(pb.ListAccessibleProjectsRequest(subject="", permission="a.b"))


def test_a_nul_in_a_subject_is_the_callers_fault(access):
    with refused("INVALID_ARGUMENT", "VALUE_NOT_STORABLE"):
        check(access, "catalog.datasets.get", "projects/p", subject="a\0b")


def test_only_services_may_ask(process, pki, people):
    request = pb.CheckAccessRequest(subject="alice", permission="catalog.datasets.get")
    for peer, allowed in (("catalog", True), ("lineage", True), ("audit", True), ("policy", False)):
        with pki.dial(process, "sync", f"service/{peer}") as channel:
            if allowed:
                assert not rpc.AccessServiceStub(channel).CheckAccess(request).allowed
            else:
                with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
                    rpc.AccessServiceStub(channel).CheckAccess(request)
    with pki.dial(process, "sync", "gateway") as channel:
        with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
            rpc.AccessServiceStub(channel).CheckAccess(request, metadata=people.root)
