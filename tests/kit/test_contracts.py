"""The checks that every service's table goes through, tried on tables with a fault."""

import pytest

from animus_kit.server.authz import Row, in_project, internal, no_project, public
from animus_kit.testing.contracts import assert_acyclic, assert_no_streams, assert_table_covers, services

ACCESS = "/animus.policy.v1.AccessService/"
GOOD = {ACCESS + "CheckAccess": internal("catalog"), ACCESS + "ListAccessibleProjects": internal("catalog")}


def test_a_whole_table_passes():
    assert_table_covers(GOOD, ["animus.policy.v1.AccessService"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({ACCESS + "CheckAccess": None}, "without a row"),
        ({ACCESS + "Gone": internal("catalog")}, "without a method"),
        ({ACCESS + "CheckAccess": public("a.b")}, "no HTTP rule"),
        ({ACCESS + "CheckAccess": internal()}, "nobody"),
        ({ACCESS + "CheckAccess": Row("a.b", frozenset({"service/catalog"}), no_project)}, "never be checked"),
    ],
)
def test_faults_are_named(change, word):
    rows = {name: row for name, row in {**GOOD, **change}.items() if row is not None}
    with pytest.raises(AssertionError, match=word):
        assert_table_covers(rows, ["animus.policy.v1.AccessService"])


def test_a_public_method_is_for_the_gateway_alone():
    prefix = "/animus.lineage.v1.GraphService/"
    rows = {
        prefix + name: public("lineage.graph.get", in_project("name"))
        for name in ("SearchUpstream", "SearchDownstream")
    }
    assert_table_covers(rows, ["animus.lineage.v1.GraphService"])
    with pytest.raises(AssertionError, match="for the gateway alone"):
        assert_table_covers(
            {**rows, prefix + "SearchUpstream": internal("catalog")}, ["animus.lineage.v1.GraphService"]
        )


def test_streams_are_found():
    assert_no_streams(["animus.policy.v1.AccessService"])
    with pytest.raises(AssertionError, match="WatchRun"):
        assert_no_streams(["animus.orchestrator.v1.RunStreamService"])


def test_circles_are_found_and_loops_do_not_count():
    tables = {
        "policy": {ACCESS + "CheckAccess": internal("catalog")},
        "catalog": {"/animus.catalog.v1.ResolutionService/ResolveBindings": internal("orchestrator")},
        "audit": {"/animus.audit.v1.EventIngestService/AppendEvents": internal("policy", "catalog")},
    }
    assert_acyclic(tables)
    tables["catalog"]["/animus.catalog.v1.X/Y"] = internal("policy")
    with pytest.raises(AssertionError, match="circle"):
        assert_acyclic(tables)


def test_streaming_and_unary_methods_stand_in_services_of_their_own_or_are_all_on_aio():
    """Every service that streams is on an aio listener as a whole; this pins which ones those are."""
    streaming = {
        name
        for name, service in services().items()
        if any(method.client_streaming or method.server_streaming for method in service.method)
    }
    assert streaming == {
        "animus.agent.v1.DispatchService",
        "animus.audit.v1.EventStreamService",
        "animus.audit.v1.EventTailService",
        "animus.catalog.v1.AgentBlobService",
        "animus.catalog.v1.BlobService",
        "animus.orchestrator.v1.RunStreamService",
    }
