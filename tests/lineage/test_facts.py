"""From events to facts, without a database."""

import pytest

from animus_lineage.domain.facts import EVENT_TYPES, Edge, FactsInvalid, Node, facts_of

P = "projects/p"
ATTEMPT = f"{P}/runs/r/steps/train/attempts/1"
DATA = f"{P}/datasets/digits/versions/1"
CODE = f"{P}/codeSnapshots/abc"
LOCK = f"{P}/environments/py/locks/1f"
MODEL_FILE = f"{P}/artifacts/r-train-model"

COMMITTED = {
    "run": f"{P}/runs/r",
    "step": f"{P}/runs/r/steps/train",
    "actionDigest": "sha256:a",
    "inputs": [
        {"mount": "data", "resource": DATA, "manifestDigest": "sha256:d"},
        {"mount": "again", "resource": DATA, "manifestDigest": "sha256:d"},
    ],
    "code": {"resource": CODE, "manifestDigest": "sha256:c"},
    "environmentLock": LOCK,
    "outputs": [{"name": "model", "artifact": MODEL_FILE, "type": "model", "manifestDigest": "sha256:m"}],
}


def test_a_commit_states_what_was_used_and_made():
    facts = facts_of("orchestrator.attempt.committed", P, ATTEMPT, COMMITTED)
    assert set(facts.nodes.values()) == {
        Node(ATTEMPT, "attempt", "sha256:a"),
        Node(DATA, "dataset-version", "sha256:d"),
        Node(CODE, "code-snapshot", "sha256:c"),
        Node(LOCK, "environment-lock"),
        Node(MODEL_FILE, "artifact", "sha256:m"),
    }
    # The same dataset under two mounts is one edge.
    assert facts.edges == [
        Edge(DATA, ATTEMPT, "used-input"),
        Edge(CODE, ATTEMPT, "used-code"),
        Edge(LOCK, ATTEMPT, "used-environment"),
        Edge(ATTEMPT, MODEL_FILE, "generated"),
    ]


def test_a_commit_without_code_inputs_or_outputs():
    facts = facts_of("orchestrator.attempt.committed", P, ATTEMPT, {})
    assert list(facts.nodes) == [ATTEMPT] and facts.edges == []


def test_versions_state_their_origin():
    child = f"{P}/datasets/digits/versions/2"
    facts = facts_of("catalog.dataset-version.created", P, child, {"manifestDigest": "sha256:e", "parents": [DATA]})
    assert facts.edges == [Edge(DATA, child, "derived-from")]
    assert facts.nodes[child].digest == "sha256:e"
    model = f"{P}/models/m/versions/1"
    facts = facts_of("catalog.model-version.created", P, model, {"artifact": MODEL_FILE})
    assert facts.edges == [Edge(MODEL_FILE, model, "registered-as")]


@pytest.mark.parametrize(("event_type", "name", "kind"), [
    ("catalog.code-snapshot.created", CODE, "code-snapshot"),
    ("catalog.environment-lock.created", LOCK, "environment-lock"),
])  # fmt: skip
def test_nodes_alone(event_type, name, kind):
    facts = facts_of(event_type, P, name, {})
    assert facts.nodes == {name: Node(name, kind)} and not facts.edges


def test_other_events_state_nothing():
    assert not facts_of("catalog.project.created", P, P, {}).nodes
    assert not facts_of("policy.access.denied", None, "x", {}).nodes


@pytest.mark.parametrize(
    ("changes", "resource", "project"),
    [
        ({"inputs": [{"resource": "projects/q/datasets/d/versions/1"}]}, ATTEMPT, P),
        ({"inputs": [{"resource": "projects/p/unknown/d"}]}, ATTEMPT, P),
        ({"inputs": [{}]}, ATTEMPT, P),
        ({"inputs": ["x"]}, ATTEMPT, P),
        ({"inputs": {"a": 1}}, ATTEMPT, P),
        ({"code": 7}, ATTEMPT, P),
        ({"environmentLock": ["x"]}, ATTEMPT, P),
        ({"actionDigest": 5}, ATTEMPT, P),
        ({}, "projects/q/runs/r/steps/s/attempts/1", P),
        ({}, ATTEMPT, None),
    ],
)
def test_what_does_not_hold_states_nothing(changes, resource, project):
    with pytest.raises(FactsInvalid):
        facts_of("orchestrator.attempt.committed", project, resource, COMMITTED | changes)


def test_the_tail_asks_for_what_is_read():
    assert "orchestrator.attempt.committed" in EVENT_TYPES and list(EVENT_TYPES) == sorted(EVENT_TYPES)
