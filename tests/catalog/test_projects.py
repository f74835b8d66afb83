"""ProjectService."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from animus.catalog.v1 import artifact_pb2, code_pb2, dataset_pb2, model_pb2
from animus.catalog.v1 import project_pb2 as pb
from animus.type.v1.list_order_pb2 import ListOrder
from tests.catalog.world import Refusal, refused


def new_id() -> str:
    return f"q-{uuid.uuid4().hex[:12]}"


def test_create_get_and_event(world):
    wanted = pb.Project(display_name="Digits", labels={"team": "vision"})
    made = world.projects("root").CreateProject(pb.CreateProjectRequest(project_id=new_id(), project=wanted))
    assert made.state == pb.Project.STATE_ACTIVE
    assert (made.creator, made.display_name, made.etag) == ("root", "Digits", "1")
    assert world.projects("root").GetProject(pb.GetProjectRequest(name=made.name)) == made
    ((kind, payload),) = world.events(made.name)
    assert kind == "catalog.project.created"
    assert (payload["name"], payload["actor"]) == (made.name, "root")


def test_only_platform_administrators_create(world):
    answer = refused(world.projects().CreateProject, pb.CreateProjectRequest(project_id=new_id()))
    assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")


def test_a_taken_id_is_refused(world):
    request = pb.CreateProjectRequest(project_id=world.project.removeprefix("projects/"))
    answer = refused(world.projects("root").CreateProject, request)
    assert (answer.code, answer.reason) == ("ALREADY_EXISTS", "PROJECT_EXISTS")


def test_a_repeated_request_id_answers_the_first_answer(world):
    request = pb.CreateProjectRequest(project_id=new_id(), request_id=str(uuid.uuid4()))
    first = world.projects("root").CreateProject(request)
    assert world.projects("root").CreateProject(request) == first
    request.project_id = new_id()
    assert refused(world.projects("root").CreateProject, request).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("bad", ["", "Upper", "-a", "a" * 64, "a/b", "a.b", "ä"])
def test_a_bad_id_is_located(world, bad):
    answer = refused(world.projects("root").CreateProject, pb.CreateProjectRequest(project_id=bad))
    assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["project_id"])


def test_control_characters_are_refused(world):
    request = pb.CreateProjectRequest(project_id=new_id(), project=pb.Project(description="a\x1b[31m"))
    assert refused(world.projects("root").CreateProject, request).fields == ["project.description"]


def test_update_follows_mask_and_etag(world):
    name = world.project
    wanted = pb.Project(name=name, display_name="A", description="B", labels={"k": "v"})
    updated = world.projects().UpdateProject(
        pb.UpdateProjectRequest(project=wanted, update_mask=FieldMask(paths=["description"]))
    )
    assert (updated.display_name, updated.description, dict(updated.labels)) == ("", "B", {})
    updated = world.projects().UpdateProject(pb.UpdateProjectRequest(project=wanted))
    assert (updated.display_name, dict(updated.labels), updated.etag) == ("A", {"k": "v"}, "3")
    stale = pb.UpdateProjectRequest(project=pb.Project(name=name, display_name="C", etag="1"))
    answer = refused(world.projects().UpdateProject, stale)
    assert (answer.code, answer.reason) == ("ABORTED", "ETAG_MISMATCH")
    current = pb.UpdateProjectRequest(project=pb.Project(name=name, display_name="C", etag="3"))
    assert world.projects().UpdateProject(current).display_name == "C"


def test_a_mask_names_mutable_fields_only(world):
    request = pb.UpdateProjectRequest(project=pb.Project(name=world.project), update_mask=FieldMask(paths=["state"]))
    answer = refused(world.projects().UpdateProject, request)
    assert (answer.reason, answer.fields) == ("UPDATE_MASK_INVALID", ["update_mask"])


def test_an_archived_project_is_read_and_not_changed(world):
    stale = pb.ArchiveProjectRequest(name=world.project, etag="7")
    assert refused(world.projects().ArchiveProject, stale).reason == "ETAG_MISMATCH"
    archived = world.projects().ArchiveProject(pb.ArchiveProjectRequest(name=world.project))
    assert archived.state == pb.Project.STATE_ARCHIVED
    assert world.projects().ArchiveProject(pb.ArchiveProjectRequest(name=world.project)) == archived
    assert world.projects().GetProject(pb.GetProjectRequest(name=world.project)) == archived
    create = dataset_pb2.CreateDatasetRequest(parent=world.project, dataset_id="d")
    answer = refused(world.datasets().CreateDataset, create)
    assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "PROJECT_ARCHIVED")
    update = pb.UpdateProjectRequest(project=pb.Project(name=world.project, display_name="x"))
    assert refused(world.projects().UpdateProject, update).reason == "PROJECT_ARCHIVED"
    assert [kind for kind, _ in world.events()] == ["catalog.project.created", "catalog.project.archived"]


def test_list_shows_what_the_caller_may_read(world):
    mine = {world.project, world.new_project("bob"), world.new_project("bob")}
    world.new_project()
    mine.discard(min(mine - world.members.projects_of["bob"]))
    seen, token = [], ""
    while True:
        page = world.projects("bob").ListProjects(pb.ListProjectsRequest(page_size=1, page_token=token))
        seen += [project.name for project in page.projects]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(world.members.projects_of["bob"])
    assert world.projects("nobody").ListProjects(pb.ListProjectsRequest()).projects == []


def test_list_orders_and_filters(world):
    names = [world.new_project("carol") for _ in range(3)]
    for name, color in zip(names, ["red", "red", "blue"], strict=True):
        project = pb.Project(name=name, labels={"color": color})
        world.projects("carol").UpdateProject(pb.UpdateProjectRequest(project=project))
    caller = world.projects("carol")

    def listed(**fields):
        return [project.name for project in caller.ListProjects(pb.ListProjectsRequest(**fields)).projects]

    assert listed() == names[::-1]
    assert listed(order_by=ListOrder.LIST_ORDER_CREATE_TIME_ASC) == names
    assert listed(order_by=ListOrder.LIST_ORDER_NAME_ASC) == sorted(names)
    assert listed(labels=["color=red"]) == names[1::-1]
    middle = caller.GetProject(pb.GetProjectRequest(name=names[1])).create_time
    assert listed(min_create_time=middle) == names[:0:-1]
    assert listed(max_create_time=middle) == names[:1]


def test_a_page_token_belongs_to_its_question(world):
    for _ in range(2):
        world.new_project("dave")
    caller = world.projects("dave")
    token = caller.ListProjects(pb.ListProjectsRequest(page_size=1)).next_page_token
    other = pb.ListProjectsRequest(page_size=1, page_token=token, labels=["a=b"])
    assert refused(caller.ListProjects, other).reason == "PAGE_TOKEN_INVALID"
    version, question, (time, _) = json.loads(base64.urlsafe_b64decode(token + "=="))
    for key in (["x", "y"], [time], [time, 5], [time, "\ud800"], []):
        forged = base64.urlsafe_b64encode(json.dumps([version, question, key]).encode()).decode()
        request = pb.ListProjectsRequest(page_size=1, page_token=forged)
        assert refused(caller.ListProjects, request).reason == "PAGE_TOKEN_INVALID", key
    damaged = pb.ListProjectsRequest(page_token="nonsense")
    assert refused(caller.ListProjects, damaged).reason == "PAGE_TOKEN_INVALID"


def test_another_project_is_denied_whether_it_exists_or_not(world):
    foreign = world.new_project()
    there = refused(world.projects().GetProject, pb.GetProjectRequest(name=foreign))
    nowhere = refused(world.projects().GetProject, pb.GetProjectRequest(name="projects/none-such"))
    assert isinstance(there, Refusal)
    assert there.shape(foreign) == nowhere.shape("projects/none-such")
    missing = refused(world.projects("root").GetProject, pb.GetProjectRequest(name="projects/none-such"))
    assert (missing.code, missing.reason) == ("NOT_FOUND", "PROJECT_NOT_FOUND")


def test_a_denial_is_an_event(world):
    foreign = world.new_project()
    refused(world.projects("mallory").GetProject, pb.GetProjectRequest(name=foreign))
    kind, payload = world.events(foreign)[-1]
    assert kind == "catalog.access.denied"
    assert payload["permission"] == "catalog.projects.get"


def test_a_list_in_a_project_that_does_not_exist_is_not_empty(world):
    empty, absent = world.project, "projects/none"
    for listing, request in (
        (world.datasets("root").ListDatasets, dataset_pb2.ListDatasetsRequest),
        (world.code("root").ListCodeSnapshots, code_pb2.ListCodeSnapshotsRequest),
        (world.artifacts("root").ListArtifacts, artifact_pb2.ListArtifactsRequest),
        (world.models("root").ListModels, model_pb2.ListModelsRequest),
    ):
        assert not listing(request(parent=empty)).next_page_token
        assert refused(listing, request(parent=absent)).reason == "PROJECT_NOT_FOUND"
