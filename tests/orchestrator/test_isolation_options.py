"""A network allow-list and fixed addresses: from the pipeline to the one node that can give them, and into the record."""

import json

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_kit.documents.action import EGRESS_ENVIRONMENT
from animus_orchestrator.service.planning import CAPABILITIES
from tests.orchestrator.samples import single
from tests.orchestrator.steering import attempt_of
from tests.orchestrator.world import until

HOSTS = ("data.example.org:443", "mirror.example.org:80")


def document(options: str) -> bytes:
    """One step with options of animus/v1."""
    text = single().decode().replace("animus/v1alpha1", "animus/v1")
    return text.replace("      env: []\n", f"      env: []\n{options}").encode()


NETWORK = document(f"      network: {{mode: allow-list, allow: {json.dumps(HOSTS)}}}\n")


def capable(*names: str) -> dict:
    return {"capabilities": [{"name": name, "available": True} for name in (*CAPABILITIES, *names)]}


@pytest.mark.parametrize(
    ("pipeline", "capability"),
    [(NETWORK, "network-allow-list"), (document("      isolation: {aslr: false}\n"), "no-aslr")],
    ids=["network", "aslr"],
)
def test_only_a_node_that_showed_it_can_gets_the_step(world, project, agent, pipeline, capability):
    plain = agent()
    plain.connect()
    run = world.submit(project, pipeline)
    # What is shown before: no node, and why.
    version = run.pipeline_version
    asked = run_pb2.PlanRunRequest(parent=project, pipeline_version=version, bindings=run.bindings)
    planned = world.runs.PlanRun(asked, **world.as_user())
    assert capability in str(planned)
    able = agent()
    able.connect(**capable(capability))
    (one,) = able.take()
    contract = able.contracts[one.attempt]
    assert set(contract.required_capabilities) == {*CAPABILITIES, capability}
    able.running(one.attempt)
    able.succeed(one.attempt)
    until(lambda: world.state(run.name) == "SUCCEEDED")


def test_the_action_holds_the_list_and_the_way_to_it(world, project, agent):
    node = agent()
    node.connect(**capable("network-allow-list"))
    world.submit(project, NETWORK)
    (one,) = node.take()
    action = node.contracts[one.attempt].action
    assert (action.network.mode, action.network.allow) == ("allow-list", HOSTS)
    assert EGRESS_ENVIRONMENT.items() <= {one.name: one.value for one in action.environment}.items()


@pytest.mark.parametrize("told", [(), HOSTS[:1], (*HOSTS, "evil.example.org:443")], ids=["none", "less", "more"])
def test_a_report_of_another_egress_is_no_proof(world, project, agent, told):
    node = agent()
    node.connect(**capable("network-allow-list"))
    run = world.submit(project, NETWORK)
    (one,) = node.take()
    node.running(one.attempt)
    node.succeed(one.attempt, report_egress=told)
    attempt = attempt_of(world, one.attempt)
    assert (attempt.state_reason, world.state(run.name)) == ("PROVENANCE_INVALID", "FAILED")
