"""The planner: pure, ordered, and blind to what must not reach a digest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animus_kit.documents import DocumentError
from animus_kit.documents.action import action_digest
from animus_kit.documents.bindings import Bindings, CodeBinding, DatasetBinding
from animus_kit.documents.plan import Plan
from animus_kit.documents.values import Parameter
from animus_orchestrator.domain import pipeline, planner
from animus_orchestrator.domain.pipeline import JSON, YAML, graph
from animus_orchestrator.domain.plan_diff import plan_diff
from animus_orchestrator.domain.planner import ImageFact, NotPlannable, ResolvedFacts

HERE = Path(__file__).parent / "pipelines"
ALPHA = (HERE / "two-steps.v1alpha1.yaml").read_text()
FULL = (HERE / "full.v1.yaml").read_text()
DATASET = "projects/p/datasets/d/versions/v1"
CODE = "projects/p/codeSnapshots/c"


def digest(char):
    return "sha256:" + char * 64


SNAPSHOT = digest("4")
FACTS = ResolvedFacts(
    dataset_versions={DATASET: digest("1")},
    code_snapshots={CODE: digest("2"), CODE + "2": digest("5")},
    images={
        digest(char): ImageFact("linux/amd64", f"projects/p/environments/e/locks/l{char}", digest("3"))
        for char in "abc"
    },
    features=planner.FEATURES,
)


def bindings(ref="labels", parameters=(), **changes):
    arguments = {
        "datasets": (DatasetBinding(dataset_ref=ref, dataset_version=DATASET),) if ref else (),
        "code": (CodeBinding(code_snapshot=CODE),),
        "parameters": parameters,
        "labels": {},
    }
    return Bindings(**(arguments | changes))


def alpha(text=ALPHA, bound=None, facts=FACTS, snapshot=SNAPSHOT):
    return planner.plan(pipeline.load(text.encode(), YAML), bound or bindings(), facts, snapshot)


TITLE = Parameter(name="title", value="Größe")


def full(text=FULL, bound=None, facts=FACTS):
    return planner.plan(pipeline.load(text.encode(), YAML), bound or bindings("loans", (TITLE,)), facts, SNAPSHOT)


# --- what a plan holds --------------------------------------------------------------------------------------------


def test_the_published_example_plans():
    plan = alpha()
    ingest, train = plan.steps
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert (ingest.name, train.name) == ("ingest", "train") and train.dependencies == ("ingest",)
    assert train.recipe.command == ("python", "-m", "train") and train.recipe.code == digest("2")
    assert train.dataset_sources[0].dataset_version == DATASET
    by_name = {one.name: one for one in train.recipe.inputs}
    assert by_name["labels"].manifest == digest("1")
    assert (by_name["raw-data"].recipe, by_name["raw-data"].output) == (ingest.recipe_digest, "raw-data")
    assert train.recipe.threads == 4 and train.recipe.accelerator.count == 1 and ingest.recipe.accelerator is None
    assert train.environment_lock.resource == "projects/p/environments/e/locks/lb"
    env = {one.name: one.value for one in train.recipe.environment}
    assert env["SEED"] == "1337" and env["OMP_NUM_THREADS"] == "4"
    assert plan.policy_snapshot_digest == SNAPSHOT


def test_v1_writes_its_defaults_and_parameters_out():
    plan = full()
    prepare, train = plan.steps
    assert prepare.recipe.args[2] == "echo ${HOME} Größe ${params.title}"
    assert [one.name for one in prepare.recipe.parameters] == ["title"]
    assert {one.name: one.value for one in train.recipe.parameters} == {
        "seed": 9007199254740993,
        "rate": 1.0,
        "shuffle": False,
    }
    assert train.recipe.args == ("--seed=9007199254740993", "--rate=1")
    assert prepare.recipe.source_date_epoch == 1_700_000_000
    assert train.recipe.source_date_epoch == 946684800
    assert not prepare.recipe.isolation.aslr and train.recipe.isolation.aslr
    assert prepare.recipe.network.allow == ("data.example.org:443",)
    assert prepare.recipe.secrets[0].version == "3"
    assert train.recipe.accelerator.model == "H200"
    assert train.timeout_seconds == 86400 and prepare.timeout_seconds == 5400
    assert prepare.cache.host == "same" and train.cache.enabled
    assert [gate.name for gate in plan.gates] == ["review", "run"]
    assert prepare.compare[0].tolerance == 1e-6


def test_a_bound_parameter_wins_over_its_default_and_keeps_its_type():
    bound = bindings("loans", (TITLE, Parameter(name="seed", value=-(2**63)), Parameter(name="rate", value=2)))
    args = full(bound=bound).step("train").recipe.args
    assert args == (f"--seed={-(2**63)}", "--rate=2")


# --- what changes the digest, and what does not -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: fraud-training", "name: other"),
        ("Deterministic training pipeline", "Another text"),
        ("metadata:\n", "metadata:\n  labels: {team: risk}\n"),
        ('cpu: "2"', 'cpu: "2000m"'),
        ('memory: "16Gi"', 'memory: "16384Mi"'),
        ("registry.example/acme/train@", "mirror.example.org:5000/train@"),
        ("            type: model", "            type: model\n            description: Text for people."),
        ("multiplier: 2", "multiplier: 2.0"),
        ('specVersion: "1.0"', 'specVersion: "1.1"'),
        ("kind: Pipeline", "# a comment\nkind: Pipeline"),
    ],
)
def test_what_is_only_for_people_changes_nothing(old, new):
    assert old in ALPHA
    assert alpha(ALPHA.replace(old, new)).digest == alpha().digest


def test_labels_and_experiment_of_the_run_change_nothing():
    bound = bindings(labels={"a": "b"}, experiment="projects/p/experiments/e")
    assert alpha(bound=bound).digest == alpha().digest


RECIPE_CHANGES = [
    ("train@" + digest("b"), "train@" + digest("c")),
    ('"--epochs", "10"', '"--epochs", "11"'),
    ('value: "1337"', 'value: "1"'),
    ('cpu: "4"', 'cpu: "5"'),
    ("gpu: 1", "gpu: 2"),
    ("type: model", "type: weights"),
    ("- name: labels\n", "- name: targets\n"),
]
PLAN_CHANGES = [
    ('memory: "16Gi"', 'memory: "8Gi"'),
    ("maxAttempts: 1", "maxAttempts: 2"),
    ("initialSeconds: 0", "initialSeconds: 1"),
    ('cpu: "4"', 'cpu: "3500m"'),  # still four threads
]


@pytest.mark.parametrize(("old", "new"), RECIPE_CHANGES)
def test_what_changes_a_result_changes_the_recipe(old, new):
    assert old in ALPHA
    before, after = alpha(), alpha(ALPHA.replace(old, new))
    assert after.step("train").recipe_digest != before.step("train").recipe_digest
    assert after.step("ingest").recipe_digest == before.step("ingest").recipe_digest


@pytest.mark.parametrize(("old", "new"), PLAN_CHANGES)
def test_what_is_out_of_an_action_is_still_in_the_plan(old, new):
    assert old in ALPHA
    before, after = alpha(), alpha(ALPHA.replace(old, new))
    assert after.digest != before.digest
    assert [step.recipe_digest for step in after.steps] == [step.recipe_digest for step in before.steps]


def test_a_producers_change_reaches_its_consumers_recipe():
    before, after = alpha(), alpha(ALPHA.replace("s3://raw-bucket", "s3://other"))
    assert after.step("train").recipe_digest != before.step("train").recipe_digest


def test_step_names_are_out_of_recipes():
    before, after = alpha(), alpha(ALPHA.replace("name: train\n", "name: zrain\n").replace("to: train", "to: zrain"))
    assert after.step("zrain").recipe_digest == before.step("train").recipe_digest
    assert after.digest != before.digest


def test_the_policy_snapshot_and_the_code_of_one_step_are_in():
    assert alpha(snapshot=digest("0")).digest != alpha().digest
    bound = bindings(code=(CodeBinding(code_snapshot=CODE), CodeBinding(step="train", code_snapshot=CODE + "2")))
    after = alpha(bound=bound)
    assert after.step("train").recipe.code == digest("5") and after.step("ingest").recipe.code == digest("2")
    none = alpha(bound=bindings(code=()))
    assert none.step("train").recipe.code is None and none.step("train").code is None


# --- order --------------------------------------------------------------------------------------------------------

STEP = json.loads((HERE / "minimal.v1alpha1.json").read_text())["spec"]["steps"][0]


def document(names, edges):
    """A valid pipeline over any acyclic graph; every edge carries an artifact."""
    steps = []
    for name in names:
        sources = sorted({before for before, after in edges if after == name})
        steps.append(
            STEP
            | {
                "name": name,
                "inputs": {
                    "datasets": [],
                    "artifacts": [{"name": f"i{source}", "fromStep": source, "artifact": "out"} for source in sources],
                },
                "outputs": {"artifacts": [{"name": "out", "type": "data"}]},
            }
        )
    return {
        "apiVersion": "animus/v1alpha1",
        "kind": "Pipeline",
        "specVersion": "1.0",
        "spec": {"steps": steps, "dependencies": [{"from": a, "to": b} for a, b in edges]},
    }


@st.composite
def graphs(draw):
    names = draw(
        st.lists(st.from_regex("[a-z0-9]([a-z0-9-]?[a-z0-9])?", fullmatch=True), min_size=1, max_size=8, unique=True)
    )
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    return names, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@given(graphs(), st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_the_lists(made, random):
    names, edges = made
    value = document(names, edges)
    plan = planner.plan(pipeline.load(json.dumps(value).encode(), JSON), bindings(None), FACTS, SNAPSHOT)
    for items in (value["spec"]["steps"], value["spec"]["dependencies"]):
        random.shuffle(items)
    for step in value["spec"]["steps"]:
        random.shuffle(step["inputs"]["artifacts"])
    again = planner.plan(pipeline.load(json.dumps(value).encode(), JSON), bindings(None), FACTS, SNAPSHOT)
    assert again.to_bytes() == plan.to_bytes()
    place = {step.name: index for index, step in enumerate(plan.steps)}
    assert all(place[before] < place[after] for before, after in edges)
    # Of the steps that are ready the first by name comes first.
    done: set[str] = set()
    for step in plan.steps:
        ready = [name for name in names if name not in done and {a for a, b in edges if b == name} <= done]
        assert step.name == min(ready, key=str.encode)
        done.add(step.name)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"))))
def test_a_cycle_is_found_exactly_when_there_is_one(edges):
    edges = [edge for edge in edges if edge[0] != edge[1]]
    cycle = graph.find_cycle("abcdef", edges)
    assert bool(cycle) == (len(graph.order("abcdef", edges)) < 6)
    if cycle:
        assert all(edge in edges for edge in zip(cycle, cycle[1:] + cycle[:1], strict=True))
        assert cycle == graph.find_cycle("fedcba", reversed(edges))


# --- refusals -----------------------------------------------------------------------------------------------------


def refused(call, *args, **kwargs):
    with pytest.raises(NotPlannable) as error:
        call(*args, **kwargs)
    return [(one.line, one.column, one.path, one.reason) for one in error.value.problems]


def test_all_that_is_missing_is_told_at_once_with_its_place():
    bound = bindings(None, (Parameter(name="nothing", value=1), Parameter(name="seed", value="x")))
    assert [(path, reason) for _, _, path, reason in refused(full, bound=bound)] == [
        ("bindings.parameters.nothing", "PARAMETER_UNKNOWN"),
        ("bindings.parameters.seed", "PARAMETER_TYPE"),
        ("bindings.parameters.title", "PARAMETER_NOT_BOUND"),
        ("spec.steps[0].inputs.datasets[0].datasetRef", "DATASET_NOT_BOUND"),
    ]
    line, column = refused(full, bound=bound)[3][:2]
    assert FULL.splitlines()[line - 1][column - 1 :].startswith("loans}")


def test_bindings_that_mean_nothing_are_refused():
    two = (*bindings().datasets, DatasetBinding(dataset_ref="other", dataset_version=DATASET))
    assert refused(alpha, bound=bindings(datasets=two))[0][2:] == ("bindings.datasets[1]", "DATASET_REF_UNKNOWN")
    code = (CodeBinding(step="trian", code_snapshot=CODE),)
    assert refused(alpha, bound=bindings(code=code))[0][2:] == ("bindings.code[0]", "UNKNOWN_STEP")
    parameters = (Parameter(name="x", value=1),)
    assert refused(alpha, bound=bindings(parameters=parameters))[0][3] == "PARAMETER_UNKNOWN"


def test_what_was_not_found_is_told_where_it_was_named():
    empty = replace(FACTS, dataset_versions={}, images={}, code_snapshots={})
    found = {(path, reason) for _, _, path, reason in refused(alpha, facts=empty)}
    assert found >= {
        ("spec.steps[0].image", "ENVIRONMENT_NOT_LOCKED"),
        ("bindings.datasets[0].datasetVersion", "DATASET_VERSION_NOT_FOUND"),
        ("bindings.code[0].codeSnapshot", "CODE_SNAPSHOT_NOT_FOUND"),
    }
    told = replace(FACTS, problems=((digest("a"), "IMAGE_INDEX_DIGEST", "choose linux/amd64"),))
    ((line, _, path, reason),) = refused(alpha, facts=told)
    assert (path, reason) == ("spec.steps[0].image", "IMAGE_INDEX_DIGEST")
    assert "acme/ingest@" in ALPHA.splitlines()[line - 1]


def test_what_an_installation_cannot_do_is_refused_never_left_out():
    found = refused(full, facts=replace(FACTS, features=frozenset()))
    assert {(path, reason) for _, _, path, reason in found} == {
        ("spec.gates[0]", "FEATURE_NOT_AVAILABLE"),
        ("spec.steps[0].network", "FEATURE_NOT_AVAILABLE"),
        ("spec.steps[0].secrets", "FEATURE_NOT_AVAILABLE"),
    }
    assert all(line for line, *_ in found)


def test_a_parameter_cannot_make_a_bad_environment():
    text = FULL.replace('value: "1700000000"', 'value: "${params.title}"')
    assert refused(full, text)[0][2:] == ("spec.steps[0]", "SOURCE_DATE_EPOCH_INVALID")


# --- readiness ----------------------------------------------------------------------------------------------------


def test_a_ready_step_becomes_an_action():
    train = alpha().step("train")
    assert [(one.name, one.step, one.output) for one in train.artifact_sources] == [("raw-data", "ingest", "raw-data")]
    action = train.recipe.fill({"raw-data": digest("6")})
    assert action.complete and {one.name: one.manifest for one in action.inputs}["raw-data"] == digest("6")
    assert action_digest(action) != train.recipe_digest
    with pytest.raises(DocumentError) as error:
        action_digest(train.recipe)
    assert error.value.reason == "ACTION_INCOMPLETE"
    ingest = alpha().step("ingest")
    assert action_digest(ingest.recipe) == ingest.recipe_digest


def test_equal_results_of_a_changed_producer_give_the_same_action():
    """Early cut-off: the action knows what was made, not how."""
    made = {"raw-data": digest("6")}
    before, after = alpha().step("train"), alpha(ALPHA.replace("s3://raw", "s3://other")).step("train")
    assert before.recipe_digest != after.recipe_digest
    assert action_digest(before.recipe.fill(made)) == action_digest(after.recipe.fill(made))


def test_references_are_what_is_used_each_once():
    wanted = planner.references(pipeline.load(ALPHA.encode(), YAML), bindings(experiment="projects/p/experiments/e"))
    assert wanted.dataset_versions == (DATASET,)
    assert wanted.code_snapshots == (CODE,)
    assert wanted.image_digests == (digest("a"), digest("b"))
    assert wanted.experiment == "projects/p/experiments/e"


# --- differences --------------------------------------------------------------------------------------------------


def test_differences_name_the_cause_and_not_its_consequences():
    after = alpha(ALPHA.replace("s3://raw", "s3://other").replace('value: "1337"', 'value: "1"'))
    found = {one.path: (one.before, one.after) for one in plan_diff(alpha(), after)}
    assert found.keys() == {"steps.ingest.recipe.args", "steps.train.recipe.environment.SEED.value"}
    assert found["steps.train.recipe.environment.SEED.value"] == ("1337", "1")


def test_a_renamed_step_and_a_new_snapshot():
    after = alpha(ALPHA.replace("name: train\n", "name: fit\n").replace("to: train", "to: fit"), snapshot=digest("0"))
    assert {(one.path, one.before, one.after) for one in plan_diff(alpha(), after)} == {
        ("policySnapshotDigest", SNAPSHOT, digest("0")),
        ("steps.fit", "", "present"),
        ("steps.train", "present", ""),
    }


def test_equal_plans_do_not_differ():
    assert plan_diff(full(), full()) == ()
