"""What the loader makes of documents that are valid."""

import json
from pathlib import Path

import pytest
import rfc8785
import yaml
from hypothesis import given
from hypothesis import strategies as st

from animus_orchestrator.domain import pipeline
from animus_orchestrator.domain.pipeline import JSON, YAML, quantity, template

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((Path(__file__).parent / "pipelines").iterdir()) + sorted((ROOT / "examples").glob("*/*.yaml"))


def media_type(path):
    return JSON if path.suffix == ".json" else YAML


def load(name):
    path = Path(__file__).parent / "pipelines" / name
    return pipeline.load(path.read_bytes(), media_type(path))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_valid_documents_load_and_keep_their_bytes(path):
    data = path.read_bytes()
    document = pipeline.load(data, media_type(path))
    assert document.original == data
    assert rfc8785.dumps(json.loads(document.canonical)) == document.canonical


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_json_and_yaml_of_one_document_have_one_digest(path):
    document = pipeline.load(path.read_bytes(), media_type(path))
    value = json.loads(document.canonical)
    as_json = pipeline.load(json.dumps(value, indent=3).encode(), JSON)
    assert as_json.digest == document.digest
    # JSON is YAML, but for escapes of characters beyond the first plane.
    assert pipeline.load(json.dumps(value, ensure_ascii=False).encode(), YAML).digest == document.digest
    block = yaml.safe_dump(value, allow_unicode=True, default_flow_style=False)
    assert pipeline.load(block.encode(), YAML).digest == document.digest
    assert pipeline.load(document.canonical, JSON).steps == document.steps


def test_the_published_example():
    document = load("two-steps.v1alpha1.yaml")
    ingest, train = document.steps
    assert document.api_version == "animus/v1alpha1" and document.name == "fraud-training"
    assert ingest.image_digest == "sha256:" + "a" * 64
    assert train.resources.cpu_millis == 4000 and train.resources.memory_bytes == 16 << 30 and train.resources.gpu == 1
    assert train.dataset_inputs[0].dataset_ref == "labels"
    assert (train.artifact_inputs[0].from_step, train.artifact_inputs[0].artifact) == ("ingest", "raw-data")
    assert train.env == (("SEED", "1337"),)
    assert ingest.retry.backoff.type == "exponential" and ingest.retry.backoff.multiplier == 2.0
    assert document.dependencies == (("ingest", "train"),)
    # What animus/v1 adds is written out with its default.
    assert train.timeout_seconds == 86400 and train.cache_enabled and train.network_mode == "none" and train.aslr
    assert train.outputs[0].compare == "bytes" and not train.secrets and not document.gates


def test_every_addition_of_v1():
    document = load("full.v1.yaml")
    prepare, train = document.steps
    assert {one.name: one.default for one in document.parameters} == {
        "seed": 9007199254740993,
        "rate": 1.0,
        "title": None,
        "shuffle": False,
    }
    assert type(document.parameters[1].default) is float
    assert prepare.timeout_seconds == 5400
    assert prepare.resources.memory_bytes == 1_500_000_000
    assert prepare.cache_enabled and prepare.cache_host == "same"
    assert not prepare.aslr and prepare.network_allow == ("data.example.org:443",)
    assert prepare.outputs[0].compare == "numeric" and prepare.outputs[0].tolerance == 1e-6
    assert train.accelerator_model == "H200"
    assert [gate.before for gate in document.gates] == [("train",), ()]
    assert document.labels == {"team": "risk", "purpose": "on"}


def test_network_or_secrets_are_not_cached_unless_the_step_says_so():
    path = Path(__file__).parent / "pipelines" / "full.v1.yaml"
    data = path.read_bytes().replace(b"      cache: {enabled: true, host: same}\n", b"")
    assert not pipeline.load(data, YAML).steps[0].cache_enabled
    only_secrets = data.replace(b'      network: {mode: allow-list, allow: ["data.example.org:443"]}\n', b"")
    assert not pipeline.load(only_secrets, YAML).steps[0].cache_enabled


def test_the_published_format_knows_no_parameters_and_leaves_text_alone():
    path = Path(__file__).parent / "pipelines" / "two-steps.v1alpha1.yaml"
    data = path.read_bytes().replace(b"--epochs", b"${params.x}")
    assert pipeline.load(data, YAML).steps[1].args[0] == "${params.x}"


@pytest.mark.parametrize(
    ("text", "millis"), [("1", 1000), ("500m", 500), ("1m", 1), ("0.5", 500), ("1.001", 1001), ("4096", 4_096_000)]
)
def test_cpu(text, millis):
    assert quantity.cpu_millis(text) == millis


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Mi", 1 << 20),
        ("2Gi", 2 << 30),
        ("1.5Gi", 3 << 29),
        ("1048576", 1 << 20),
        ("2M", 2 * 10**6),
        ("1024Ti", 1 << 50),
    ],
)
def test_memory(text, size):
    assert quantity.memory_bytes(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "0m", "-500m", "4097"])
def test_cpu_out_of_range(text):
    with pytest.raises(ValueError, match="between"):
        quantity.cpu_millis(text)


@pytest.mark.parametrize("text", ["0", "-2Gi", "1023Ki", "1025Ti", "1.001"])
def test_memory_out_of_range(text):
    with pytest.raises(ValueError):
        quantity.memory_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("24h", 86400), ("1h30m10s", 5410), ("720h", 2592000)])
def test_durations(text, seconds):
    assert quantity.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${params.a}", "x"),
        ("a${params.a}b${params.b}", "axb9007199254740993"),
        ("$${params.a}", "${params.a}"),
        ("$$${params.a}", "$${params.a}"),
        ("${HOME} $a {params.a}", "${HOME} $a {params.a}"),
    ],
)
def test_templates(text, result):
    assert template.render(text, {"a": "x", "b": 2**53 + 1}) == result


def test_a_value_is_not_read_again_as_a_template():
    assert template.render("${params.a}", {"a": "${params.b}", "b": "secret"}) == "${params.b}"


@pytest.mark.parametrize("text", ["${params.}", "${params.a", "${params.a b}", "${params.1}", "${params.a.b}"])
def test_bad_references(text):
    with pytest.raises(template.BadReference):
        list(template.references(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_whatever_comes_is_answered_with_located_problems(value):
    for problem in pipeline.validate(json.dumps(value).encode(), JSON):
        assert problem.reason.isupper() and problem.line >= 1 and problem.column >= 1


@given(st.binary(max_size=200) | st.text("{}[]:,-?&*!|>'\"%@`#\n abc01~", max_size=60).map(str.encode))
def test_whatever_bytes_come(data):
    for kind in (JSON, YAML):
        for problem in pipeline.validate(data, kind):
            assert problem.reason


def mutated():
    """A valid document with one character taken out, put in or doubled: refused with a place, or still valid."""
    text = (Path(__file__).parent / "pipelines" / "full.v1.yaml").read_text()
    return st.tuples(st.integers(0, len(text) - 1), st.sampled_from(["", "x", "-", ":", '"', "\n", " ", "&", "*"])).map(
        lambda change: text[: change[0]] + change[1] + text[change[0] + 1 :]
    )


@given(mutated())
def test_a_slip_of_the_hand_is_located(text):
    for problem in pipeline.validate(text.encode(), YAML):
        assert problem.line >= 1 and problem.column >= 1, problem
        assert problem.line <= text.count("\n") + 2
