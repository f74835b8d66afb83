"""docs/execution.md, "What is in an action": a test for each row of the table."""

from dataclasses import fields, replace

import pytest

from animus_kit.documents import DocumentError, action
from animus_kit.documents.action import (
    Accelerator,
    Action,
    EnvVar,
    Input,
    Network,
    Output,
    SecretRef,
    action_digest,
    process_environment,
    recipe_digest,
    threads_for,
)
from animus_kit.documents.values import Parameter
from tests.kit.documents.samples import ACTION, RECIPE, digest

SECRET = SecretRef(name="token", reference="vault:kv/x", version="3")
FIRST_PARAMETERS = ACTION.parameters[1:]

IN = {
    "action type": None,
    "image": {"image": digest("0")},
    "platform": {"platform": "linux/arm64"},
    "command": {"command": ("python3", "-m", "evaluate")},
    "args": {"args": ("--lr", "0.2")},
    "the order of args": {"args": ("0.1", "--lr")},
    "environment": {"environment": (*ACTION.environment, EnvVar(name="X", value=""))},
    "parameter value": {"parameters": (*FIRST_PARAMETERS, Parameter(name="lr", value=0.2))},
    "parameter type": {"parameters": (*FIRST_PARAMETERS, Parameter(name="lr", value="0.1"))},
    "input manifest": {"inputs": (ACTION.inputs[0], replace(ACTION.inputs[1], manifest=digest("0")))},
    "input mount name": {"inputs": (ACTION.inputs[0], replace(ACTION.inputs[1], name="other"))},
    "code": {"code": digest("0")},
    "no code": {"code": None},
    "output name": {"outputs": (Output(name="m", type="model", media_type="application/octet-stream"),)},
    "output type": {"outputs": (Output(name="model", type="data", media_type="application/octet-stream"),)},
    "output media type": {"outputs": (Output(name="model", type="model"),)},
    "threads": {"threads": 3},
    "accelerator kind": {"accelerator": Accelerator(kind="tpu", count=1, model="H200")},
    "accelerator count": {"accelerator": Accelerator(kind="gpu", count=2, model="H200")},
    "accelerator model": {"accelerator": Accelerator(kind="gpu", count=1)},
    "network": {"network": Network(mode="allow-list", allow=("example.org:443",))},
    "secret": {"secrets": (SECRET,)},
    "secret version": {"secrets": (replace(SECRET, version="4"),)},
    "aslr": {"isolation": replace(ACTION.isolation, aslr=False)},
    "hostname": {"isolation": replace(ACTION.isolation, hostname="other")},
    "uid": {"isolation": replace(ACTION.isolation, uid=1)},
    "gid": {"isolation": replace(ACTION.isolation, gid=1)},
    "seccomp": {"isolation": replace(ACTION.isolation, seccomp="animus-seccomp-v2")},
    "source date epoch": {"source_date_epoch": 0},
}


def test_every_change_of_what_is_in_gives_another_digest():
    digests = [ACTION.digest, *(replace(ACTION, **change).digest for change in IN.values() if change)]
    assert len(set(digests)) == len(digests)


def test_every_field_of_an_action_is_varied_above():
    varied = {name for change in IN.values() if change for name in change}
    assert varied == {field.name for field in fields(Action)}


def test_the_type_is_in():
    assert ACTION.to_dict()["type"] == "animus.dev/action/v1"


def test_what_has_no_order_changes_nothing():
    for name in ("environment", "parameters", "inputs"):
        assert replace(ACTION, **{name: tuple(reversed(getattr(ACTION, name)))}).digest == ACTION.digest


@pytest.mark.parametrize(
    "word",
    [
        "project",
        "run",
        "attempt",
        "memory",
        "timeout",
        "retry",
        "priority",
        "label",
        "gate",
        "compare",
        "agent",
        "resource",
    ]
    + ["registry", "repository", "host", "kernel", "driver", "dataset", "step"],
)
def test_what_is_out_has_no_place(word):
    def names(value):
        if isinstance(value, dict):
            for key, item in value.items():
                yield key
                yield from names(item)
        elif isinstance(value, list):
            for item in value:
                yield from names(item)

    assert not [name for name in names(ACTION.to_dict()) if word in name.lower() and name != "hostname"]


def test_memory_does_not_count_and_cpu_does_as_threads():
    assert [threads_for(millis) for millis in (1, 999, 1000, 1001, 2000, 2001)] == [1, 1, 1, 2, 2, 3]


def test_a_recipe_becomes_an_action_when_its_inputs_are_known():
    assert not RECIPE.complete and recipe_digest(RECIPE) != ACTION.digest
    filled = RECIPE.fill({"base": digest("c")})
    assert filled == ACTION
    assert action_digest(filled) == ACTION.digest
    with pytest.raises(DocumentError) as error:
        action_digest(RECIPE)
    assert error.value.reason == "ACTION_INCOMPLETE"
    for unknown in ("data", "nothing"):
        with pytest.raises(DocumentError):
            RECIPE.fill({unknown: digest("c")})


def test_a_step_without_artifacts_has_one_digest():
    assert recipe_digest(ACTION) == action_digest(ACTION)


def test_the_recipe_names_producer_and_output():
    other = replace(RECIPE, inputs=(RECIPE.inputs[1], Input(name="base", recipe=digest("e"), output="weights")))
    assert other.digest != RECIPE.digest


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "x"},
        {"name": "x", "manifest": digest("a"), "recipe": digest("b"), "output": "o"},
        {"name": "x", "recipe": digest("b")},
        {"name": "x", "manifest": digest("a"), "output": "o"},
        {"name": "X", "manifest": digest("a")},
        {"name": "x", "manifest": "a" * 64},
    ],
)
def test_an_input_has_one_source(arguments):
    with pytest.raises(DocumentError):
        Input(**arguments)


@pytest.mark.parametrize("change", [{"command": (), "args": ()}, {"command": ("",)}, {"command": ("a\0b",)}])
def test_an_action_names_a_program(change):
    with pytest.raises(DocumentError):
        replace(ACTION, **change)


def test_the_environment_is_whole_and_explicit():
    env = {one.name: one.value for one in process_environment([("TZ", "CET"), ("A", "")], 4, 7)}
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == "4"
    assert env["SOURCE_DATE_EPOCH"] == "7"
    assert env["TZ"] == "CET" and env["A"] == ""
    assert env["PATH"] == action.BASE_ENVIRONMENT["PATH"]
    assert [one.name for one in ACTION.environment] == sorted(one.name for one in ACTION.environment)


def test_a_way_out_is_in_the_environment_where_there_is_one():
    network = Network(mode="allow-list", allow=("example.org:443",))
    env = {one.name: one.value for one in process_environment([("NO_PROXY", "*")], 1, 0, network)}
    assert env["https_proxy"] == env["HTTP_PROXY"] == "http://127.0.0.1:3128" and env["NO_PROXY"] == "*"
    assert not {name for name in (one.name.lower() for one in process_environment([], 1, 0)) if "proxy" in name}


def test_a_network_is_none_or_names_hosts():
    for arguments in (
        {"mode": "none", "allow": ("a:1",)},
        {"mode": "allow-list", "allow": ()},
        {"mode": "allow-list", "allow": ("a:65536",)},
    ):
        with pytest.raises(DocumentError):
            Network(**arguments)


@pytest.mark.parametrize(
    ("declared", "model", "fits"),
    [
        ("H200", "NVIDIA H200", True),
        ("nvidia h200", "NVIDIA H200", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A100-SXM4", "NVIDIA A100-SXM4-80GB", True),
        ("H100", "NVIDIA H1000", False),
        ("A100 80GB", "NVIDIA A100-SXM4-80GB", False),
        ("NVIDIA H200 NVL", "NVIDIA H200", False),
    ],
)
def test_a_declared_model_is_whole_words_of_the_drivers_name(declared, model, fits):
    assert Accelerator(kind="gpu", count=1, model=declared).takes(model) is fits
    assert Accelerator(kind="gpu", count=1).takes(model)
