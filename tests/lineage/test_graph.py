"""GraphService over mTLS, fed by a real audit: from data and code to a registered model and back."""

import uuid

import pytest

from animus.lineage.v1 import graph_pb2 as pb
from animus.policy.v1.role_binding_pb2 import RoleBinding
from animus_kit.testing.contracts import assert_no_streams, assert_table_covers
from animus_lineage.permissions import ROWS
from tests.services import eventually, refused

PACKAGES = ("animus_audit", "animus_policy", "animus_lineage")
D = "sha256:" + "d" * 64


class Story:
    """A project with one run: digits v1 → prepare → train (code, lock) → model 1."""

    def __init__(self, tell, project: str):
        self.tell, self.project = tell, project
        self.data = f"{project}/datasets/digits/versions/1"
        self.code = f"{project}/codeSnapshots/abc"
        self.lock = f"{project}/environments/py/locks/1f"
        self.prepare = f"{project}/runs/r/steps/prepare/attempts/1"
        self.train = f"{project}/runs/r/steps/train/attempts/2"
        self.table = f"{project}/artifacts/r-prepare-table"
        self.weights = f"{project}/artifacts/r-train-weights"
        self.model = f"{project}/models/digits/versions/1"

    def attempt(self, name: str, inputs, outputs) -> int:
        body = {
            "run": f"{self.project}/runs/r",
            "attempt": name,
            "actionDigest": D,
            "inputs": [{"mount": "in", "resource": i, "manifestDigest": D} for i in inputs],
            "code": {"resource": self.code, "manifestDigest": D},
            "environmentLock": self.lock,
            "outputs": [{"name": "out", "artifact": o, "type": "file", "manifestDigest": D} for o in outputs],
        }
        return self.tell("orchestrator.attempt.committed", self.project, name, body)

    def run(self) -> list[int]:
        return [
            self.tell("catalog.dataset-version.created", self.project, self.data, {"manifestDigest": D}),
            self.tell("catalog.code-snapshot.created", self.project, self.code, {"manifestDigest": D}),
            self.tell("catalog.environment-lock.created", self.project, self.lock, {}),
            self.attempt(self.prepare, [self.data], [self.table]),
            self.attempt(self.train, [self.table], [self.weights]),
            self.tell("catalog.model-version.created", self.project, self.model, {"artifact": self.weights}),
        ]


@pytest.fixture
def story(tell) -> Story:
    return Story(tell, f"projects/g-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def told(story, graph, people):
    """The story, told and applied: (story, indices)."""
    indices = story.run()
    wait_for(graph, people, story.data, indices[-1] + 1)
    return story, indices


def search(graph, people, name, *, down=False, metadata=None, **fields) -> pb.Graph:
    call = graph.SearchDownstream if down else graph.SearchUpstream
    request = pb.SearchDownstreamRequest if down else pb.SearchUpstreamRequest
    return call(request(name=name, **fields), metadata=metadata or people.root)


def wait_for(graph, people, name, index) -> None:
    """Until the view has applied everything below index: the way that a client waits, by the error's reason."""

    def applied() -> bool:
        try:
            search(graph, people, name, as_of_index=index)
        except Exception as error:
            from animus_kit.status import from_rpc_error

            assert from_rpc_error(error).reason in ("INDEX_NOT_APPLIED", "NODE_NOT_FOUND")
            return from_rpc_error(error).reason == "NODE_NOT_FOUND"
        return True

    eventually(applied)


def edges(answer) -> set[tuple[str, str, str]]:
    return {(e.source, e.kind, e.target) for e in answer.edges}


def test_upstream_of_a_model_is_everything_it_was_made_from(told, graph, people):
    s, indices = told
    answer = search(graph, people, s.model)
    assert {n.name: (n.kind, n.depth) for n in answer.nodes} == {
        s.model: ("model-version", 0),
        s.weights: ("artifact", 1),
        s.train: ("attempt", 2),
        s.table: ("artifact", 3),
        s.code: ("code-snapshot", 3),
        s.lock: ("environment-lock", 3),
        s.prepare: ("attempt", 4),
        s.data: ("dataset-version", 5),
    }
    assert edges(answer) == {
        (s.weights, "registered-as", s.model),
        (s.train, "generated", s.weights),
        (s.table, "used-input", s.train),
        (s.code, "used-code", s.train),
        (s.lock, "used-environment", s.train),
        (s.prepare, "generated", s.table),
        (s.data, "used-input", s.prepare),
        (s.code, "used-code", s.prepare),
        (s.lock, "used-environment", s.prepare),
    }
    assert {e.log_index for e in answer.edges} == set(indices[3:]) and not any(e.declared for e in answer.edges)
    assert answer.applied_index > indices[-1] and not answer.truncated
    assert {n.digest for n in answer.nodes if n.kind != "environment-lock" and n.name != s.model} == {D}


def test_downstream_of_a_dataset_is_everything_that_came_of_it(told, graph, people):
    s, _ = told
    answer = search(graph, people, s.data, down=True)
    assert [n.name for n in answer.nodes] == [s.data, s.prepare, s.table, s.train, s.weights, s.model]
    assert [n.depth for n in answer.nodes] == list(range(6))
    assert {n.name for n in search(graph, people, s.code, down=True).nodes} == {
        s.code, s.prepare, s.table, s.train, s.weights, s.model,
    }  # fmt: skip


def test_as_of_an_earlier_index(told, graph, people):
    s, indices = told
    before_train = search(graph, people, s.data, down=True, as_of_index=indices[4])
    assert [n.name for n in before_train.nodes] == [s.data, s.prepare, s.table]
    assert before_train.applied_index == indices[4]
    with refused("NOT_FOUND", "NODE_NOT_FOUND"):
        search(graph, people, s.model, as_of_index=indices[-1])
    with refused("FAILED_PRECONDITION", "INDEX_NOT_APPLIED") as refusal:
        search(graph, people, s.model, as_of_index=indices[-1] + 10_000)
    assert int(refusal.metadata["applied_index"]) > indices[-1]
    assert refusal.error.retry_after and refusal.error.retry_after > 0


def test_limits(told, graph, people):
    s, _ = told
    shallow = search(graph, people, s.model, max_depth=2)
    assert {n.name for n in shallow.nodes} == {s.model, s.weights, s.train} and shallow.truncated
    few = search(graph, people, s.model, max_nodes=4)
    assert len(few.nodes) == 4 and few.truncated
    kept = {n.name for n in few.nodes}
    assert all({e.source, e.target} <= kept for e in few.edges)
    assert not search(graph, people, s.model, max_nodes=8).truncated


def test_dataset_versions_derive_from_their_parents(told, graph, people, tell):
    s, _ = told
    child = f"{s.project}/datasets/digits/versions/2"
    index = tell("catalog.dataset-version.created", s.project, child, {"manifestDigest": D, "parents": [s.data]})
    wait_for(graph, people, child, index + 1)
    assert edges(search(graph, people, child)) == {(s.data, "derived-from", child)}


def test_the_same_fact_told_twice_keeps_its_first_index(told, graph, people, tell):
    s, indices = told
    index = tell("catalog.model-version.created", s.project, s.model, {"artifact": s.weights})
    wait_for(graph, people, s.model, index + 1)
    (edge,) = search(graph, people, s.model, max_depth=1).edges
    assert edge.log_index == indices[-1]


def test_an_event_that_cannot_be_read_stops_nobody(told, graph, people, tell, database):
    import sqlalchemy as sa

    s, _ = told
    bad = [
        tell("catalog.model-version.created", s.project, f"{s.project}/models/m/versions/2", {"artifact": 7}),
        tell("catalog.model-version.created", s.project, s.model, {"artifact": "projects/x/artifacts/a"}),
        tell("orchestrator.attempt.committed", s.project, s.train, {}, payload=b"not json"),
    ]
    good = tell("catalog.model-version.created", s.project, f"{s.project}/models/m/versions/3", {"artifact": s.table})
    wait_for(graph, people, s.data, good + 1)
    assert search(graph, people, f"{s.project}/models/m/versions/3").nodes
    with refused("NOT_FOUND", "NODE_NOT_FOUND"):
        search(graph, people, f"{s.project}/models/m/versions/2")
    with database.engine("lineage", 1).connect() as conn:
        skipped = conn.execute(sa.text("SELECT index FROM skipped_events WHERE index >= :i"), {"i": bad[0]}).scalars()
        assert sorted(skipped) == bad


def test_who_may_ask(told, graph, people, bind):
    s, _ = told
    alice = people.as_("alice")
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        search(graph, people, s.model, metadata=alice)
    bind(s.project, "user:alice", RoleBinding.ROLE_VIEWER)
    assert search(graph, people, s.model, metadata=alice).nodes
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        search(graph, people, "projects/other/datasets/d/versions/1", metadata=alice)


def test_a_denial_is_in_the_log(told, graph, people, database):
    import sqlalchemy as sa

    s, _ = told
    subject = f"m-{uuid.uuid4().hex[:6]}"
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        search(graph, people, s.model, metadata=people.as_(subject))
    query = sa.text("SELECT count(*) FROM events WHERE event_type = 'lineage.access.denied' AND project = :p")

    def logged() -> bool:
        with database.engine("audit", 1).connect() as conn:
            return conn.execute(query, {"p": s.project}).scalar() == 1

    eventually(logged)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "projects/p"}, "name"),
        ({"name": "x"}, "name"),
        ({"name": "projects/p/datasets/a b"}, "name"),
        ({"max_depth": -1}, "max_depth"),
        ({"max_depth": 1001}, "max_depth"),
        ({"max_nodes": 10_001}, "max_nodes"),
        ({"as_of_index": -1}, "as_of_index"),
    ],
)
@pytest.mark.parametrize("down", [False, True])
def test_bad_requests(graph, people, fields, field, down):
    with refused("INVALID_ARGUMENT", "REQUEST_INVALID") as refusal:
        search(graph, people, **{"name": "projects/p/artifacts/a"} | fields, down=down)
    assert refusal.fields == {field}


def test_what_the_log_does_not_speak_of(graph, people):
    with refused("NOT_FOUND", "NODE_NOT_FOUND"):
        search(graph, people, "projects/p/artifacts/none")


def test_the_table_covers_the_descriptors():
    assert_table_covers(ROWS, ["animus.lineage.v1.GraphService"])
    assert_no_streams(["animus.lineage.v1.GraphService"])
