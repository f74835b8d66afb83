"""The policy set: who may do what by role, what denies, and that it holds together."""

import tomllib
from importlib.resources import files

import pytest

from animus_policy.domain.engine import SUBMIT, PolicySet, PolicySetInvalid
from animus_policy.domain.roles import Principal, Role

PROJECT = "projects/p"
ALICE = Principal("alice", frozenset({"ml"}))
DATA = files("animus_policy.cedar")
GROUPS = tomllib.loads(DATA.joinpath("permissions.toml").read_text())
SCHEMA = DATA.joinpath("schema.cedarschema").read_text()
POLICIES = DATA.joinpath("policies.cedar").read_text()

# The least role of a permission, and the roles that have it.
HAVE = {
    "viewer": set(Role),
    "editor": {Role.EDITOR, Role.ADMIN},
    "approver": {Role.APPROVER, Role.ADMIN},
    "auditor": {Role.AUDITOR, Role.ADMIN},
    "admin": {Role.ADMIN},
    "platform": set(),
}


@pytest.fixture(scope="module")
def policy_set() -> PolicySet:
    return PolicySet.load()


def context_of(permission: str) -> dict | None:
    return {"factsDigest": "sha256:0", "resource": "r"} if permission == SUBMIT else None


@pytest.mark.parametrize("role", list(Role))
def test_every_permission_by_role(policy_set, role):
    for permission, least in policy_set.permissions.items():
        verdict = policy_set.authorize(
            ALICE, [("user:alice", role)], permission, PROJECT, context=context_of(permission)
        )
        assert verdict.allowed == (role in HAVE[least]), (permission, role)
        assert bool(verdict.reasons) == verdict.allowed


def test_a_role_counts_for_its_member_only(policy_set):
    def allowed(held):
        return policy_set.authorize(ALICE, held, "catalog.datasets.create", PROJECT).allowed

    assert allowed([("group:ml", Role.EDITOR)])
    assert not allowed([("user:bob", Role.EDITOR), ("group:ops", Role.ADMIN), ("user:ml", Role.ADMIN)])
    assert not allowed([])
    # A group that is called like a subject is not that subject.
    other = Principal("ml", frozenset({"alice"}))
    assert not policy_set.authorize(other, [("user:alice", Role.ADMIN)], "catalog.datasets.get", PROJECT).allowed


def test_outside_of_projects_only_platform_admins_act(policy_set):
    admins = frozenset({"group:platform-admins", "user:root"})
    held = [("user:alice", Role.ADMIN)]
    for permission in policy_set.permissions:
        assert not policy_set.authorize(
            ALICE, held, permission, None, platform_admins=admins, context=context_of(permission)
        ).allowed
    for principal in (Principal("root"), Principal("x", frozenset({"platform-admins"}))):
        verdict = policy_set.authorize(principal, [], "audit.log.list", None, platform_admins=admins)
        assert verdict.allowed and verdict.reasons == ("platform-admins",)
        assert policy_set.authorize(principal, [], "catalog.datasets.create", PROJECT, platform_admins=admins).allowed


@pytest.mark.parametrize("subject", ['al"ice', "a\nb", 'x"::Role::"platform/admin', "Ω", "a\\", " "])
def test_hostile_subjects_are_only_strings(policy_set, subject):
    principal = Principal(subject, frozenset({subject}))
    assert not policy_set.authorize(principal, [], "catalog.datasets.get", PROJECT).allowed
    bound = [(f"user:{subject}", Role.VIEWER)]
    assert policy_set.authorize(principal, bound, "catalog.datasets.get", PROJECT).allowed


def test_an_unknown_permission_is_denied(policy_set):
    verdict = policy_set.authorize(ALICE, [("user:alice", Role.ADMIN)], "catalog.datasets.fly", PROJECT)
    assert (verdict.allowed, verdict.reasons) == (False, ("unknown-permission",))


def test_an_evaluation_error_denies():
    # A forbid that fails to evaluate is skipped by Cedar, which then allows: the trap of Cedar's error model.
    policies = (
        POLICIES
        + '\n@id("over")\nforbid (principal, action in Action::"viewer", resource) when { 9223372036854775807 + 1 == 0 };'
    )
    verdict = PolicySet.of(policies, SCHEMA, GROUPS).authorize(
        ALICE, [("user:alice", Role.VIEWER)], "catalog.datasets.get", PROJECT
    )
    assert not verdict.allowed
    assert "overflow" in verdict.reasons[0]


def test_a_missing_context_denies(policy_set):
    assert not policy_set.authorize(ALICE, [("user:alice", Role.EDITOR)], SUBMIT, PROJECT).allowed


@pytest.mark.parametrize(
    ("policies", "groups", "problem"),
    [
        (POLICIES.replace("resource.viewers", "resource.viewerz"), GROUPS, "viewerz"),
        (POLICIES.replace('@id("viewers-read")', ""), GROUPS, "@id"),
        (POLICIES.replace('@id("viewers-read")', '@id("editors-change")'), GROUPS, "@id"),
        (POLICIES, GROUPS | {"editor": [*GROUPS["editor"], "catalog.datasets.get"]}, "catalog.datasets.get"),
        (POLICIES, {"viewer": []}, "grouped"),
    ],
)
def test_a_policy_set_that_does_not_hold_together_does_not_load(policies, groups, problem):
    with pytest.raises(PolicySetInvalid, match=problem):
        PolicySet.of(policies, SCHEMA, groups).validate()


def test_the_digest_covers_policies_and_permissions(policy_set):
    assert PolicySet.of(POLICIES, SCHEMA, GROUPS).digest == policy_set.digest
    assert PolicySet.of(POLICIES + "\n", SCHEMA, GROUPS).digest != policy_set.digest
    moved = GROUPS | {"admin": [*GROUPS["admin"], "catalog.datasets.get"], "viewer": GROUPS["viewer"][:1]}
    assert PolicySet.of(POLICIES, SCHEMA, moved).digest != policy_set.digest
