"""PipelineService, with good and bad input."""

from __future__ import annotations

import json
import uuid

import pytest

from animus.orchestrator.v1 import pipeline_pb2
from animus.type.v1 import list_order_pb2
from tests.orchestrator.samples import IMAGE, chain, single


def create(project: str, name: str = "train", **kw) -> pipeline_pb2.CreatePipelineRequest:
    return pipeline_pb2.CreatePipelineRequest(parent=project, pipeline_id=name, **kw)


def test_pipelines_are_made_read_changed_and_listed(world, project, ask):
    request = create(project, pipeline={"display_name": "Train", "labels": {"a": "b"}}, request_id=str(uuid.uuid4()))
    made = ask(world.pipelines.CreatePipeline, request)
    assert ask(world.pipelines.CreatePipeline, request) == made, "a repeat gets the first answer"
    assert made.creator == "alice" and made.etag
    assert ask.refused(world.pipelines.CreatePipeline, create(project)).reason == "PIPELINE_EXISTS"
    request.pipeline_id = "other"
    assert ask.refused(world.pipelines.CreatePipeline, request).reason == "REQUEST_ID_REUSED"

    update = pipeline_pb2.UpdatePipelineRequest(
        pipeline={"name": made.name, "display_name": "New", "etag": made.etag}, update_mask={"paths": ["display_name"]}
    )
    changed = ask(world.pipelines.UpdatePipeline, update)
    assert changed.display_name == "New" and dict(changed.labels) == {"a": "b"} and changed.etag != made.etag
    assert ask.refused(world.pipelines.UpdatePipeline, update).reason == "ETAG_MISMATCH"
    update.update_mask.paths[0] = "creator"
    assert ask.refused(world.pipelines.UpdatePipeline, update).reason == "MASK_INVALID"
    assert ask(world.pipelines.GetPipeline, pipeline_pb2.GetPipelineRequest(name=made.name)) == changed

    for i in range(3):
        ask(world.pipelines.CreatePipeline, create(project, f"p{i}"))
    page = ask(
        world.pipelines.ListPipelines,
        pipeline_pb2.ListPipelinesRequest(parent=project, page_size=3, order_by=list_order_pb2.LIST_ORDER_NAME_ASC),
    )
    rest = ask(
        world.pipelines.ListPipelines,
        pipeline_pb2.ListPipelinesRequest(
            parent=project, page_size=3, order_by=list_order_pb2.LIST_ORDER_NAME_ASC, page_token=page.next_page_token
        ),
    )
    assert [p.name.rsplit("/", 1)[1] for p in (*page.pipelines, *rest.pipelines)] == ["p0", "p1", "p2", "train"]
    found = ask(world.pipelines.ListPipelines, pipeline_pb2.ListPipelinesRequest(parent=project, labels=["a=b"]))
    assert [p.name for p in found.pipelines] == [made.name]
    bad = pipeline_pb2.ListPipelinesRequest(parent=project, page_token="x")
    assert ask.refused(world.pipelines.ListPipelines, bad).reason == "PAGE_TOKEN_INVALID"


def test_versions_are_counted_and_equal_ones_are_one(world, project, ask):
    first = world.version(project, chain())
    assert first.name.endswith("/versions/v1") and first.document == chain()
    assert world.version(project, chain() + b"\n# a comment\n").name == first.name, "the canonical form is the same"
    second = world.version(project, single())
    assert second.name.endswith("/versions/v2")
    read = ask(world.pipelines.GetPipelineVersion, pipeline_pb2.GetPipelineVersionRequest(name=first.name))
    assert json.loads(read.canonical_document)["kind"] == "Pipeline"
    listed = ask(
        world.pipelines.ListPipelineVersions,
        pipeline_pb2.ListPipelineVersionsRequest(parent=f"{project}/pipelines/train"),
    ).pipeline_versions
    assert [v.name[-2:] for v in listed] == ["v2", "v1"] and not listed[0].document
    parent = ask(world.pipelines.GetPipeline, pipeline_pb2.GetPipelineRequest(name=f"{project}/pipelines/train"))
    assert parent.latest_version == second.name


@pytest.mark.parametrize("version", ["v3", "v0", "v01", "one", "v99999999999999999999"])
def test_a_version_that_does_not_exist(world, project, ask, version):
    world.version(project, single())
    request = pipeline_pb2.GetPipelineVersionRequest(name=f"{project}/pipelines/train/versions/{version}")
    assert ask.refused(world.pipelines.GetPipelineVersion, request).reason == "PIPELINE_VERSION_NOT_FOUND"


def test_a_broken_document_is_refused_with_its_places(world, project, ask):
    ask(world.pipelines.CreatePipeline, create(project))
    broken = single().replace(IMAGE.encode(), b"latest")
    request = pipeline_pb2.CreatePipelineVersionRequest(
        parent=f"{project}/pipelines/train", document=broken, media_type="application/yaml"
    )
    error = ask.refused(world.pipelines.CreatePipelineVersion, request)
    assert error.reason == "PIPELINE_INVALID" and error.code == "INVALID_ARGUMENT"
    assert error.violations[0].field == "document:7:14:spec.steps[0].image"
    answer = ask(
        world.pipelines.ValidatePipeline,
        pipeline_pb2.ValidatePipelineRequest(parent=project, document=broken, media_type="application/yaml"),
    )
    assert [(p.line, p.column, p.reason) for p in answer.problems] == [(7, 14, "IMAGE_NOT_PINNED")]
    good = ask(
        world.pipelines.ValidatePipeline,
        pipeline_pb2.ValidatePipelineRequest(parent=project, document=single(), media_type="application/yaml"),
    )
    assert not good.problems and good.pipeline_digest.startswith("sha256:") and good.canonical_document
    request.media_type = "text/plain"
    assert ask.refused(world.pipelines.CreatePipelineVersion, request).reason == "REQUEST_INVALID"
    request.media_type, request.parent = "application/yaml", f"{project}/pipelines/none"
    request.document = single()
    assert ask.refused(world.pipelines.CreatePipelineVersion, request).reason == "PIPELINE_NOT_FOUND"
