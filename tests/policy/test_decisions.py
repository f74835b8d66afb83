"""DecisionPointService and DecisionService over mTLS: what is recorded, and that it can be checked."""

import json
import uuid

import pytest
import sqlalchemy as sa

from animus.policy.v1 import decision_pb2 as pb
from animus_kit.digest import sha256
from animus_kit.documents import decision as documents
from tests.policy.test_role_bindings import EDITOR, create, events
from tests.services import refused

ALLOW, DENY = pb.Decision.EFFECT_ALLOW, pb.Decision.EFFECT_DENY
FACTS = b'{"planDigest":"sha256:0"}'


@pytest.fixture
def project(bindings, people) -> str:
    name = f"projects/d-{uuid.uuid4().hex[:8]}"
    create(bindings, people.root, name, member="user:alice", role=EDITOR)
    return name


def snapshot(point, project) -> pb.PolicySnapshot:
    return point.GetCurrentSnapshot(pb.GetCurrentSnapshotRequest(project=project))


def decide(stub, within, /, metadata=(), **changes) -> pb.Decision:
    fields = {
        "project": within,
        "point": pb.Decision.POINT_SUBMIT,
        "subject": "alice",
        "policy_snapshot_digest": snapshot(stub, within).snapshot_digest,
        "resource": f"{within}/runs/r",
        "facts": FACTS,
    }
    return stub.Decide(pb.DecideRequest(**fields | changes), metadata=metadata)


def rows(database, table, project) -> int:
    with database.engine("policy").connect() as conn:
        return conn.execute(sa.text(f"SELECT count(*) FROM {table} WHERE project = :p"), {"p": project}).scalar()


def test_the_snapshot_is_everything_that_decides(point, decisions, people, project, database):
    current = snapshot(point, project)
    document = documents.PolicySnapshot.from_bytes(current.document)
    assert document.project == project and document.digest == current.snapshot_digest and document.rules == ()
    assert [p.id for p in document.policies] == sorted(p.id for p in document.policies) and document.policies
    assert current.name == f"{project}/policySnapshots/{current.snapshot_digest[7:47]}"
    # Telling it stores nothing; it can be read all the same, and has no time yet.
    assert rows(database, "policy_snapshots", project) == 0
    got = decisions.GetPolicySnapshot(pb.GetPolicySnapshotRequest(name=current.name), metadata=people.root)
    assert got == current and not got.HasField("create_time")
    decide(point, project)
    decide(point, project)
    assert rows(database, "policy_snapshots", project) == 1
    got = decisions.GetPolicySnapshot(pb.GetPolicySnapshotRequest(name=current.name), metadata=people.root)
    assert got.document == current.document and got.HasField("create_time")
    assert snapshot(point, project) == got
    with refused("NOT_FOUND", "POLICY_SNAPSHOT_NOT_FOUND"):
        decisions.GetPolicySnapshot(
            pb.GetPolicySnapshotRequest(name=f"{project}/policySnapshots/{'0' * 40}"), metadata=people.root
        )


def test_an_allow_is_recorded_as_a_document_and_an_event(point, decisions, people, project, database):
    made = decide(point, project, groups=["b", "a"])
    assert made.effect == ALLOW and made.point == pb.Decision.POINT_SUBMIT
    document = documents.Decision.from_bytes(made.document)
    assert document.digest == made.decision_digest
    assert (document.effect, document.subject, document.groups) == ("ALLOW", "alice", ("a", "b"))
    assert document.policies == ("editors-change",) and document.facts_digest == sha256(FACTS)
    assert document.policy_snapshot_digest == made.policy_snapshot_digest
    assert made.name == f"{project}/decisions/{document.id}"
    assert decisions.GetDecision(pb.GetDecisionRequest(name=made.name), metadata=people.as_("alice")) == made
    event_type, payload = events(database, project)[-1]
    assert event_type == "policy.decision.made"
    assert payload["decision"] == made.name and payload["decisionDigest"] == made.decision_digest
    assert payload["effect"] == "ALLOW" and payload["policies"] == ["editors-change"]


@pytest.mark.parametrize(
    ("stated", "actor"),
    [("a-" + "0" * 32, "a-" + "0" * 32), ("alice", "service/orchestrator"), ("agent/n1", "service/orchestrator")],
)
def test_the_event_names_the_person_whom_the_caller_names(point, project, database, stated, actor):
    made = decide(point, project, metadata=[("animus-actor", stated)])
    with database.engine("policy").connect() as conn:
        query = sa.text("SELECT actor, payload FROM outbox WHERE resource = :r")
        (row,) = conn.execute(query, {"r": made.name})
    assert row.actor == actor and json.loads(row.payload)["peer"] == "service/orchestrator"
    assert made.effect == ALLOW, "a statement decides nothing"


def test_a_denial_is_recorded_too(point, project):
    made = decide(point, project, subject="bob")
    assert made.effect == DENY and "editor" in made.message
    assert documents.Decision.from_bytes(made.document).policies == ()


def test_a_dry_run_stores_nothing(point, project, database):
    before = len(events(database, project))
    for subject, effect in (("alice", ALLOW), ("bob", DENY)):
        made = decide(point, project, subject=subject, dry_run=True, request_id=str(uuid.uuid4()))
        assert made.effect == effect and made.message and not made.name and not made.document
    assert rows(database, "decisions", project) == rows(database, "policy_snapshots", project) == 0
    assert len(events(database, project)) == before


def test_request_ids(point, project, database):
    request_id = str(uuid.uuid4())
    first = decide(point, project, request_id=request_id)
    assert decide(point, project, request_id=request_id) == first
    assert rows(database, "decisions", project) == 1
    with refused("FAILED_PRECONDITION", "REQUEST_ID_REUSED"):
        decide(point, project, request_id=request_id, subject="bob")
    assert decide(point, project).name != first.name


def test_only_the_snapshot_in_force(point, project):
    with refused("FAILED_PRECONDITION", "POLICY_SNAPSHOT_NOT_IN_FORCE") as refusal:
        decide(point, project, policy_snapshot_digest="sha256:" + "0" * 64)
    assert refusal.metadata["current_policy_snapshot_digest"] == snapshot(point, project).snapshot_digest
    other = snapshot(point, "projects/other").snapshot_digest
    with refused("FAILED_PRECONDITION", "POLICY_SNAPSHOT_NOT_IN_FORCE"):
        decide(point, project, policy_snapshot_digest=other)


@pytest.mark.parametrize("facts", [b"{", b'{"b":1,"a":2}', b'{"a": 1}', b"\xff", b'{"a":null}'])
def test_facts_must_be_canonical(point, project, facts):
    with refused("INVALID_ARGUMENT", "FACTS_NOT_CANONICAL"):
        decide(point, project, facts=facts)


def test_a_question_that_no_document_can_hold(point, project):
    with refused("INVALID_ARGUMENT", "QUESTION_INVALID") as refusal:
        decide(point, project, resource="")
    assert refusal.fields == {"resource"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"project": "p"}, "project"),
        ({"point": 0}, "point"),
        ({"point": 9}, "point"),
        ({"subject": ""}, "subject"),
        ({"policy_snapshot_digest": "sha256:1"}, "policy_snapshot_digest"),
        ({"resource": "x" * 513}, "resource"),
        ({"request_id": "1"}, "request_id"),
    ],
)
def test_bad_requests(point, project, changes, field):
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID") as refusal:
        decide(point, project, **changes)
    assert field in refusal.fields


def test_listing(point, decisions, people, project):
    made = [decide(point, project, subject=s) for s in ("alice", "bob", "alice", "bob", "alice")]

    def listed(**fields):
        return decisions.ListDecisions(pb.ListDecisionsRequest(parent=project, **fields), metadata=people.root)

    page = listed(page_size=3)
    rest = listed(page_size=3, page_token=page.next_page_token)
    found = [*page.decisions, *rest.decisions]
    assert [d.name for d in found] == [d.name for d in made[::-1]] and not rest.next_page_token
    assert not any(d.document for d in found) and all(d.decision_digest for d in found)
    assert [d.name for d in listed(effect=DENY).decisions] == [made[3].name, made[1].name]
    assert not listed(max_create_time=made[0].create_time).decisions
    assert len(listed(min_create_time=made[2].create_time).decisions) == 3
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
        listed(page_token=page.next_page_token, effect=DENY)


def test_who_may_read(point, decisions, people, project):
    made = decide(point, project)
    for call, request in (
        (decisions.GetDecision, pb.GetDecisionRequest(name=made.name)),
        (decisions.ListDecisions, pb.ListDecisionsRequest(parent=project)),
        (decisions.GetPolicySnapshot, pb.GetPolicySnapshotRequest(name=snapshot(point, project).name)),
    ):
        call(request, metadata=people.as_("alice"))
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            call(request, metadata=people.as_("bob"))
    with refused("NOT_FOUND", "DECISION_NOT_FOUND"):
        decisions.GetDecision(pb.GetDecisionRequest(name=f"{project}/decisions/none"), metadata=people.root)


def test_only_the_orchestrator_decides(process, pki, project):
    from animus.policy.v1 import decision_pb2_grpc as rpc

    with pki.dial(process, "sync", "service/catalog") as channel:
        with refused("PERMISSION_DENIED", "PEER_NOT_ALLOWED"):
            snapshot(rpc.DecisionPointServiceStub(channel), project)


@pytest.mark.parametrize("table", ["decisions", "policy_snapshots"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET project = ''", "TRUNCATE {}"])
def test_records_are_append_only(database, table, statement):
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        with database.engine("policy").begin() as conn:
            conn.execute(sa.text(statement.format(table)))


def test_payloads_are_json(database, point, project):
    decide(point, project)
    assert all(json.dumps(payload) for _, payload in events(database, project))
