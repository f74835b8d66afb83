"""Broken variants of two valid documents, each refused with line, column and reason.

A variant changes one place of the text: `old` becomes `new`. The place expected is told by `at`, a text that occurs once
in the changed document and begins where the problem is; so the table stays readable, and line and column are exact.
"""

import json
from pathlib import Path

import jsonschema
import pytest

from animus_orchestrator.domain import pipeline
from animus_orchestrator.domain.pipeline import JSON, YAML, formats, json_reader, yaml_reader
from animus_orchestrator.domain.pipeline.node import Problems
from animus_orchestrator.domain.pipeline.problem import UnreadableDocument

HERE = Path(__file__).parent / "pipelines"
ALPHA = (HERE / "two-steps.v1alpha1.yaml").read_text()
FULL = (HERE / "full.v1.yaml").read_text()
MINIMAL = (HERE / "minimal.v1alpha1.json").read_text()
A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64

# reason, old, new, at
ALPHA_VARIANTS = [
    # fields
    ("FIELD_REQUIRED", "kind: Pipeline\n", "", "apiVersion"),
    ("FIELD_REQUIRED", 'specVersion: "1.0"\n', "", "apiVersion"),
    ("FIELD_REQUIRED", "      env: []\n", "", "name: ingest"),
    ("FIELD_REQUIRED", '        cpu: "2"\n', "", 'memory: "4Gi"'),
    ("FIELD_REQUIRED", "        artifacts: []\n", "", "datasets: []"),
    ("FIELD_REQUIRED", "          multiplier: 2\n", "", "type: exponential"),
    ("FIELD_REQUIRED", "  dependencies:\n    - from: ingest\n      to: train\n", "", "steps:"),
    ("FIELD_REQUIRED", "    - from: ingest\n      to: train\n", "    - from: ingest\n", "from: ingest"),
    ("FIELD_UNKNOWN", "      env: []\n", "      env: []\n      entrypoint: x\n", "entrypoint"),
    ("FIELD_UNKNOWN", "kind: Pipeline", "kind: Pipeline\nstatus: {}", "status"),
    ("FIELD_UNKNOWN", "      env: []\n", "      env: []\n      timeout: 1h\n", "timeout"),  # not in this version
    ("FIELD_UNKNOWN", "        gpu: 0\n", "        gpu: 0\n        disk: 1Gi\n", "disk"),
    ("API_VERSION_UNKNOWN", "animus/v1alpha1", "animus/v2", "animus/v2"),
    ("NOT_A_CHOICE", "kind: Pipeline", "kind: Job", "Job"),
    ("NOT_A_CHOICE", "type: exponential", "type: linear", "linear"),
    # types
    ("WRONG_TYPE", 'specVersion: "1.0"', "specVersion: 1.0", "1.0"),
    ("WRONG_TYPE", 'cpu: "2"', "cpu: 2", "2\n        memory"),
    ("WRONG_TYPE", "gpu: 0", 'gpu: "0"', '"0"'),
    ("WRONG_TYPE", "maxAttempts: 3", "maxAttempts: 2.5", "2.5"),
    ("WRONG_TYPE", "      env: []", "      env: {}", "{}"),
    ("WRONG_TYPE", 'command: ["python", "-m", "ingest"]', "command: python", "python\n"),
    ("WRONG_TYPE", 'args: ["--epochs", "10"]', 'args: ["--epochs", 10]', "10]"),
    ("WRONG_TYPE", 'value: "1337"', "value: 1337", "1337"),
    # images
    ("IMAGE_NOT_PINNED", f"ingest@{A}", "ingest:latest", "registry.example/acme/ingest:latest"),
    ("IMAGE_NOT_PINNED", f"ingest@{A}", "ingest", "registry.example/acme/ingest\n"),
    ("IMAGE_NOT_PINNED", f"ingest@{A}", f"ingest:v1@{A}", "registry.example/acme/ingest:v1"),
    ("IMAGE_NOT_PINNED", f"ingest@{A}", f"ingest@{A[:-1]}", "registry.example/acme/ingest"),
    ("IMAGE_NOT_PINNED", f"ingest@{A}", f"ingest@{A.upper()}", "registry.example/acme/ingest"),
    # names
    ("NAME_INVALID", "name: ingest", "name: Ingest", "Ingest"),
    ("NAME_INVALID", "name: ingest", "name: in_gest", "in_gest"),
    ("NAME_INVALID", "name: ingest", f"name: {'x' * 64}", "xxx"),
    ("NAME_INVALID", "name: SEED", "name: SE-ED", "SE-ED"),
    ("NAME_INVALID", "datasetRef: labels", "datasetRef: a/b", "a/b"),
    ("EMPTY", "name: ingest", 'name: ""', '""'),
    ("DUPLICATE_NAME", "name: train\n", "name: ingest\n", "ingest\n      image: registry.example/acme/train"),
    ("DUPLICATE_NAME", "- name: raw-data\n            fromStep", "- name: labels\n            fromStep", "labels\n            fromStep"),
    ("DUPLICATE_NAME", '        - name: SEED\n          value: "1337"\n',
     '        - name: SEED\n          value: "1"\n        - name: SEED\n          value: "2"\n', 'SEED\n          value: "2"'),
    ("DUPLICATE_NAME", "            type: model\n", "            type: model\n          - name: model\n            type: report\n",
     "model\n            type: report"),
    # numbers and quantities
    ("OUT_OF_RANGE", "gpu: 0", "gpu: -1", "-1"),
    ("OUT_OF_RANGE", 'cpu: "2"', 'cpu: "-2"', '"-2"'),
    ("OUT_OF_RANGE", 'memory: "4Gi"', 'memory: "-4Gi"', '"-4Gi"'),
    ("OUT_OF_RANGE", 'cpu: "2"', 'cpu: "0"', '"0"'),
    ("QUANTITY_INVALID", 'memory: "4Gi"', 'memory: "4GB"', '"4GB"'),
    ("QUANTITY_INVALID", 'cpu: "2"', 'cpu: "two"', '"two"'),
    ("OUT_OF_RANGE", "maxAttempts: 3", "maxAttempts: 0", "0\n        backoff:\n          type: exponential"),
    ("OUT_OF_RANGE", "initialSeconds: 10", "initialSeconds: -1", "-1"),
    ("OUT_OF_RANGE", "multiplier: 2", "multiplier: 0.5", "0.5"),
    ("INTEGER_TOO_LARGE", "maxAttempts: 3", "maxAttempts: 9007199254740993", "9007199254740993"),
    # edges
    ("UNKNOWN_STEP", "from: ingest", "from: nothing", "nothing"),
    ("UNKNOWN_STEP", "to: train", "to: nothing", "nothing"),
    ("UNKNOWN_STEP", "fromStep: ingest", "fromStep: nothing", "nothing"),
    ("UNKNOWN_ARTIFACT", "artifact: raw-data", "artifact: other", "other"),
    ("SELF_DEPENDENCY", "from: ingest", "from: train", "from: train"),
    ("SELF_DEPENDENCY", "fromStep: ingest", "fromStep: train", "train\n            artifact"),
    ("DUPLICATE_DEPENDENCY", "      to: train\n", "      to: train\n    - {from: ingest, to: train}\n", "{from"),
    ("DEPENDENCY_CYCLE", "      to: train\n", "      to: train\n    - {from: train, to: ingest}\n", "{from"),
    ("DEPENDENCY_MISSING", "  dependencies:\n    - from: ingest\n      to: train\n", "  dependencies: []\n", "ingest\n            artifact"),
    ("COMMAND_EMPTY", 'command: ["python", "-m", "train"]\n      args: ["--epochs", "10"]', "command: []\n      args: []",
     "[]\n      args"),
    ("LIST_EMPTY", ALPHA[ALPHA.index("  steps:"):ALPHA.index("  dependencies:")], "  steps: []\n", "[]\n  dependencies"),
    ("SOURCE_DATE_EPOCH_INVALID", 'name: SEED\n          value: "1337"', 'name: SOURCE_DATE_EPOCH\n          value: "now"', '"now"'),
    # YAML
    ("DUPLICATE_KEY", "kind: Pipeline", "kind: Pipeline\nkind: Pipeline", "kind: Pipeline\nspecVersion"),
    ("DUPLICATE_KEY", "        gpu: 0\n", "        gpu: 0\n        gpu: 0\n", "gpu: 0\n      retryPolicy:\n        maxAttempts: 3"),
    ("YAML_ANCHOR", "env: []", "env: &none []", "&none"),
    ("YAML_ALIAS", "gpu: 0", "gpu: *none", "*none"),
    ("YAML_TAG", "name: ingest", "name: !!str ingest", "!!str"),
    ("YAML_TAG", "env: []", "env: !python/object:os.system []", "!python"),
    ("YAML_MERGE_KEY", "        gpu: 0\n", "        <<: {gpu: 0}\n", "<<"),
    ("YAML_DIRECTIVE", "apiVersion", "%YAML 1.1\n---\napiVersion", "%YAML"),
    ("MULTIPLE_DOCUMENTS", "kind: Pipeline", "kind: Pipeline\n---\nx: y", "---"),
    ("AMBIGUOUS_SCALAR", "name: ingest", "name: on", "on\n      image"),
    ("AMBIGUOUS_SCALAR", "name: ingest", "name: No", "No"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: yes", "yes"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 0777", "0777"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 0o7", "0o7"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 0x1F", "0x1F"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 1_000", "1_000"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 12:30", "12:30"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: 2026-01-01", "2026-01-01"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: .inf", ".inf"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: +1", "+1"),
    ("AMBIGUOUS_SCALAR", 'value: "1337"', "value: TRUE", "TRUE"),
    ("NULL_VALUE", "env: []", "env: null", "null"),
    ("NULL_VALUE", "env: []", "env: ~", "~"),
    ("NULL_VALUE", "      env: []", "      env:", "\n      resources:\n        cpu: \"2\""),
    ("KEY_NOT_STRING", "metadata:", "1: x\nmetadata:", "1: x"),
    ("KEY_NOT_STRING", "metadata:", "[a]: x\nmetadata:", "[a]: x"),
    ("SYNTAX", "env: []", "env: [", ": \"2\""),
    ("SYNTAX", "kind: Pipeline", "kind: Pipeline\n\tx: y", "\tx"),
    ("CONTROL_CHARACTER", 'value: "1337"', 'value: "a\\0b"', '"a\\0b"'),
    ("CONTROL_CHARACTER", "description: Deterministic", "description: Det\x07erministic", "\x07"),
    ("TOO_DEEP", "env: []", "env: " + "[" * 31 + "]" * 31, "[" * 3 + "]"),
    ("TOO_LONG", "description: Deterministic", f"description: {'x' * 4097}", "xxx"),
]  # fmt: skip

FULL_VARIANTS = [
    ("PARAMETER_UNKNOWN", "--seed=${params.seed}", "--seed=${params.sead}", '"--seed='),
    ("PARAMETER_UNKNOWN", "${params.shuffle}", "${params.shuff}", '"${params.shuff}'),
    ("PARAMETER_SYNTAX", "--seed=${params.seed}", "--seed=${params.seed", '"--seed='),
    ("PARAMETER_TYPE", "default: false", "default: 0", "0}"),
    ("PARAMETER_TYPE", 'default: "9007199254740993"', "default: 1.5", "1.5"),
    ("PARAMETER_TYPE", 'default: "9007199254740993"', 'default: "9223372036854775808"', '"9223'),
    ("DUPLICATE_NAME", "name: rate,", "name: seed,", "seed, type: double"),
    ("NOT_A_CHOICE", "type: double", "type: float", "float"),
    ("QUANTITY_INVALID", "timeout: 1h30m", "timeout: 90 minutes", "90 minutes"),
    ("WRONG_TYPE", "timeout: 1h30m", "timeout: 5400", "5400"),
    ("OUT_OF_RANGE", "timeout: 1h30m", "timeout: 0s", "0s"),
    ("NETWORK_ALLOW", 'allow: ["data.example.org:443"]', "allow: []", "[]}\n    - name: train"),
    ("NETWORK_ALLOW", "network: {mode: none, allow: []}", 'network: {mode: none, allow: ["x.org:1"]}', '["x.org'),
    ("HOST_INVALID", "data.example.org:443", "https://data.example.org", '"https'),
    ("ACCELERATOR_WITHOUT_GPU", "gpu: 2", "gpu: 0", "{kind: gpu, model"),
    ("COMPARE_TOLERANCE", "{method: numeric, tolerance: 0.000001}", "{method: numeric}", "{method: numeric}"),
    ("COMPARE_TOLERANCE", "method: numeric", "method: bytes", "{method: bytes"),
    ("UNKNOWN_STEP", "before: [train]", "before: [trian]", "trian"),
    ("DUPLICATE_NAME", "before: [train]", "before: [train, train]", "train], approvals"),
    ("DUPLICATE_NAME", "name: run,", "name: review,", "review, type: approval, before: []"),
    ("OUT_OF_RANGE", "approvals: 2", "approvals: 0", "0}\n    - {name: run"),
    ("FIELD_REQUIRED", "cache: {enabled: true, host: same}", "cache: {enabled: true}", "{enabled: true}"),
    ("WRONG_TYPE", "aslr: false", 'aslr: "false"', '"false"'),
    ("AMBIGUOUS_SCALAR", "aslr: false", "aslr: off", "off}"),
]  # fmt: skip

JSON_VARIANTS = [
    ("SYNTAX", '"dependencies": []', '"dependencies": [],', "}\n}"),
    ("SYNTAX", '"kind"', "'kind'", "'kind'"),
    ("SYNTAX", '"kind"', '// note\n "kind"', "// note"),
    ("SYNTAX", '"gpu": 0', '"gpu": 00', "00\n"),
    ("SYNTAX", '"args": []', '"args": [', ',\n        "inputs"'),
    ("SYNTAX", '"only"', '"on\tly"', "\tly"),
    ("DUPLICATE_KEY", '"kind"', '"kind": "Pipeline", "kind"', '"kind": "Pipeline",\n'),
    ("NUMBER_NOT_FINITE", '"multiplier": 1', '"multiplier": NaN', "NaN"),
    ("NUMBER_NOT_FINITE", '"multiplier": 1', '"multiplier": 1e999', "1e999"),
    ("NULL_VALUE", '"env": []', '"env": null', "null"),
    ("STRING_NOT_UNICODE", '"only"', '"\\ud800"', '"\\ud800"'),
    ("WRONG_TYPE", '"gpu": 0', '"gpu": 0.0', "0.0"),
    ("WRONG_TYPE", '"gpu": 0', '"gpu": false', "false"),
    ("TOO_DEEP", '"env": []', '"env": ' + "[" * 31 + "]" * 31, "[" * 3 + "]"),
]  # fmt: skip

VARIANTS = [
    *((YAML, ALPHA, *variant) for variant in ALPHA_VARIANTS),
    *((YAML, FULL, *variant) for variant in FULL_VARIANTS),
    *((JSON, MINIMAL, *variant) for variant in JSON_VARIANTS),
]
IDS = [f"{index}-{variant[2]}" for index, variant in enumerate(VARIANTS)]


def change(text, old, new):
    """Changes the first place that `old` names; the table makes sure that it is the one meant."""
    assert old in text
    return text.replace(old, new, 1)


def place(text, at):
    """Line and column of `at`."""
    offset = text.index(at)
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


@pytest.mark.parametrize(("media_type", "base", "reason", "old", "new", "at"), VARIANTS, ids=IDS)
def test_a_broken_document_is_refused_with_line_column_and_reason(media_type, base, reason, old, new, at):
    text = change(base, old, new)
    problems = pipeline.validate(text.encode(), media_type)
    found = [(one.line, one.column, one.reason) for one in problems]
    assert (*place(text, at), reason) in found, problems
    assert all(one.path or one.reason in ANYWHERE for one in problems), problems


ANYWHERE = {"SYNTAX", "CONTROL_CHARACTER", "MULTIPLE_DOCUMENTS", "YAML_DIRECTIVE", "KEY_NOT_STRING", "YAML_MERGE_KEY"}


def test_there_are_more_than_forty():
    assert len(VARIANTS) > 100


# --- the whole document -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "media_type", "reason", "where"),
    [
        (b"", YAML, "EMPTY_DOCUMENT", (1, 1)),
        (b" \n\n", JSON, "EMPTY_DOCUMENT", (1, 1)),
        (b"# only a comment\n", YAML, "EMPTY_DOCUMENT", (1, 1)),
        (b"\xef\xbb\xbf{}", JSON, "BYTE_ORDER_MARK", (1, 1)),
        (b"\xef\xbb\xbfa: b", YAML, "BYTE_ORDER_MARK", (1, 1)),
        ("a: b".encode("utf-16"), YAML, "BYTE_ORDER_MARK", (1, 1)),
        (b"a: b\nc: \xc3\xa9\xff", YAML, "NOT_UTF8", (2, 5)),
        (b"x" * (2**20 + 1), YAML, "DOCUMENT_TOO_LARGE", (0, 0)),
        (b"{}", "application/xml", "MEDIA_TYPE_UNKNOWN", (0, 0)),
        (b"[]", JSON, "WRONG_TYPE", (1, 1)),
        (b"{}", JSON, "FIELD_REQUIRED", (1, 1)),
        (b"{}\n{}", JSON, "SYNTAX", (2, 1)),
        (b"[" * 100_000, JSON, "TOO_DEEP", (1, 33)),
        (b"[" * 100_000, YAML, "TOO_DEEP", (1, 33)),
        (b"[" + b"[]," * 250_000 + b"[]]", JSON, "TOO_MANY_VALUES", (1, 299_999)),
        (b"[" + b"[]," * 250_000 + b"[]]", YAML, "TOO_MANY_VALUES", (1, 299_999)),
        (b"a: &a [x]\nb: [*a, *a]\n", YAML, "YAML_ALIAS", (2, 5)),
    ],
)
def test_refused_as_a_whole(data, media_type, reason, where):
    found = [(one.line, one.column, one.reason) for one in pipeline.validate(data, media_type)]
    assert (*where, reason) in found


def test_all_problems_are_told_at_once_in_the_order_of_the_text():
    text = ALPHA.replace("gpu: 0", "gpu: -1").replace("name: SEED", "name: 1X").replace("kind: Pipeline", "kind: Job")
    problems = pipeline.validate(text.replace("to: train", "to: nowhere").encode(), YAML)
    reasons = [one.reason for one in problems]
    assert reasons == ["NOT_A_CHOICE", "OUT_OF_RANGE", "DEPENDENCY_MISSING", "NAME_INVALID", "UNKNOWN_STEP"]
    assert [(one.line, one.column) for one in problems] == sorted((one.line, one.column) for one in problems)


def test_the_cycle_is_named():
    steps = ALPHA.replace("      to: train\n", "      to: train\n    - {from: train, to: ingest}\n")
    (problem,) = pipeline.validate(steps.encode(), YAML)
    assert problem.message == "ingest → train → ingest" and problem.path == "spec.dependencies[1]"


def test_a_bad_name_is_told_once_and_not_again_as_unknown():
    problems = pipeline.validate(ALPHA.replace("name: ingest", "name: In").encode(), YAML)
    assert [one.reason for one in problems] == ["NAME_INVALID"]


def test_columns_count_code_points():
    text = '{"ä😀": 1, "apiVersion": "x"}'
    (problem,) = pipeline.validate(text.encode(), JSON)
    assert (problem.line, problem.column) == (1, text.index('"x"') + 1)
    (problem,) = pipeline.validate('{"ä😀": 1, "apiVersion": x}'.encode(), YAML)
    assert (problem.line, problem.column) == (1, text.index('"x"') + 1)


def test_a_thousand_faults_are_told_up_to_a_bound():
    broken = json.loads(MINIMAL)
    broken["spec"]["dependencies"] = [{"from": "no", "to": "no"}] * 1000
    assert len(pipeline.validate(json.dumps(broken).encode(), JSON)) == 200


def test_a_megabyte_of_steps_is_read_in_reasonable_time():
    value = json.loads(MINIMAL)
    step = value["spec"]["steps"][0]
    value["spec"]["steps"] = [step | {"name": f"s{index}"} for index in range(1000)]
    value["spec"]["dependencies"] = [{"from": f"s{index}", "to": f"s{index + 1}"} for index in range(999)]
    data = json.dumps(value).encode()
    assert len(pipeline.load(data, JSON).steps) == 1000
    assert len(pipeline.load(data, YAML).steps) == 1000


# --- the JSON Schemas ---------------------------------------------------------------------------------------------

# Reasons that a schema can tell as well as the loader can.
BY_SCHEMA = {"FIELD_REQUIRED", "FIELD_UNKNOWN", "API_VERSION_UNKNOWN", "NOT_A_CHOICE", "WRONG_TYPE", "IMAGE_NOT_PINNED"}
BY_SCHEMA |= {"NAME_INVALID", "EMPTY", "QUANTITY_INVALID", "LIST_EMPTY", "HOST_INVALID", "TOO_LONG"}


@pytest.mark.parametrize(("media_type", "base", "reason", "old", "new", "at"), VARIANTS, ids=IDS)
def test_the_schema_refuses_what_it_can_and_nothing_else(media_type, base, reason, old, new, at):
    text = change(base, old, new)
    problems = pipeline.validate(text.encode(), media_type)
    value = readable(text, media_type)
    if value is None:
        return
    version = formats.V1 if base is FULL else formats.V1ALPHA1
    valid = jsonschema.Draft202012Validator(formats.json_schema(version)).is_valid(value)
    if any(one.reason in BY_SCHEMA for one in problems) and new != '"gpu": 0.0':  # to JSON Schema 0.0 is an integer
        assert not valid, problems
    elif not any(one.reason == "OUT_OF_RANGE" for one in problems):
        assert valid, problems


def readable(text, media_type):
    """The plain value of a document that the readers have nothing against."""
    problems = Problems()
    reader = yaml_reader if media_type == YAML else json_reader
    try:
        node = reader.read(text, problems)
    except UnreadableDocument:
        return None
    return None if problems else node.plain()
