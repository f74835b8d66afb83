"""EnvironmentService."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from animus.catalog.v1 import environment_pb2 as pb
from animus.type.v1.list_order_pb2 import ListOrder
from animus_catalog.domain.environments import parse_image, parse_platform
from animus_catalog.domain.errors import ImageIndexDigest, ImageInvalid
from animus_kit.documents.environment import EnvironmentLock
from tests.catalog.world import digest_of, refused

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
FOUND = [
    pb.Package(kind="python", name="numpy", version="2.1.0", digest=digest_of(b"wheel")),
    pb.Package(kind="deb", name="libc6", version="2.36-9"),
]


def environment(world, id="train"):
    request = pb.CreateEnvironmentRequest(parent=world.project, environment_id=id)
    return world.environments().CreateEnvironment(request).name


def descriptor(content, size=None):
    return {"mediaType": "x", "digest": digest_of(content), "size": len(content) if size is None else size}


def image_document(config_content=b"", layer_contents=(b"layer",), **changes):
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config_content),
        "layers": [descriptor(layer) for layer in layer_contents],
        **changes,
    }


def image(world, layers=(b"layer one", b"layer two"), platform=None, **changes):
    """Uploads an image; returns its digest."""
    config = json.dumps(platform or {"os": "linux", "architecture": "amd64"}).encode()
    for content in (config, *layers):
        world.upload(content)
    return world.upload(json.dumps(image_document(config, layers, **changes)).encode())


def lock(world, parent, digest, packages=FOUND):
    request = pb.CreateEnvironmentLockRequest(parent=parent, image_digest=digest, packages=packages)
    return world.environments().CreateEnvironmentLock(request)


def refused_lock(world, digest, packages=FOUND):
    request = pb.CreateEnvironmentLockRequest(parent=environment(world), image_digest=digest, packages=packages)
    return refused(world.environments().CreateEnvironmentLock, request)


def test_a_lock_is_a_document_under_its_digest(world):
    parent, digest = environment(world), image(world)
    made = lock(world, parent, digest)
    document = EnvironmentLock.from_bytes(made.document)
    assert made.lock_digest == digest_of(made.document)
    assert made.name == f"{parent}/locks/{made.lock_digest[7:47]}"
    assert (made.image_digest, made.platform) == (digest, "linux/amd64")
    assert (document.image, document.platform) == (digest, "linux/amd64")
    assert [package.name for package in made.packages] == ["libc6", "numpy"]
    assert made.packages[1] == FOUND[0]
    assert made.size_bytes > len(b"layer onelayer two")
    assert made == world.environments().GetEnvironmentLock(pb.GetEnvironmentLockRequest(name=made.name))
    kind, payload = world.events()[-1]
    assert kind == "catalog.environment-lock.created"
    assert (payload["lockDigest"], payload["imageDigest"]) == (made.lock_digest, digest)


def test_the_same_lock_again_answers_the_first(world):
    parent, digest = environment(world), image(world)
    first = lock(world, parent, digest)
    assert lock(world, parent, digest, FOUND[::-1]) == first
    assert lock(world, parent, digest, FOUND[:1]).name != first.name


def test_variants_and_docker_manifests(world):
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    made = lock(world, environment(world), image(world, platform=platform, mediaType=docker))
    assert made.platform == "linux/arm64/v8"


def test_an_index_is_refused_with_the_platforms(world):
    amd, arm = digest_of(b"amd"), digest_of(b"arm")
    rows = [
        {"digest": amd, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": arm, "size": 1, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {"digest": amd, "size": 1, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    digest = world.upload(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}).encode())
    answer = refused_lock(world, digest)
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "IMAGE_INDEX_DIGEST", ["image_digest"])
    assert {key: answer.metadata[key] for key in ("linux/amd64", "linux/arm64/v8")} == {
        "linux/amd64": amd,
        "linux/arm64/v8": arm,
    }


def test_every_part_must_be_the_projects(world):
    assert refused_lock(world, digest_of(b"nothing")).reason == "BLOB_NOT_IN_PROJECT"
    digest = world.upload(json.dumps(image_document(b"config", [b"one"])).encode())
    answer = refused(
        world.environments().CreateEnvironmentLock,
        pb.CreateEnvironmentLockRequest(parent=environment(world, "b"), image_digest=digest),
    )
    assert (answer.code, answer.metadata["path"]) == ("FAILED_PRECONDITION", "config")


def test_another_projects_image_is_not_ours(world):
    stolen = image(world)
    world.new_project("alice")
    answer = refused_lock(world, stolen)
    assert answer.reason == "BLOB_NOT_IN_PROJECT"


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"schemaVersion": 2},
        image_document(mediaType="text/plain"),
        image_document(schemaVersion=1),
        image_document(layers=[]),
        image_document(layers=[{"digest": "sha512:0", "size": 1}]),
        image_document(config={"digest": digest_of(b""), "size": -1}),
        image_document(config={"digest": digest_of(b""), "size": True}),
        image_document(config="config"),
    ],
)
def test_what_is_no_image_is_refused(world, document):
    answer = refused_lock(world, world.upload(json.dumps(document).encode()))
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "IMAGE_INVALID", ["image_digest"])


def test_a_wrong_size_and_a_config_without_platform(world):
    world.upload(b"config")
    world.upload(b"layer")
    wrong = image_document(b"config", layers=[descriptor(b"layer", size=99)])
    assert "has 5 bytes, not 99" in refused_lock(world, world.upload(json.dumps(wrong).encode())).message
    digest = image(world, platform={"os": "linux"})
    request = pb.CreateEnvironmentLockRequest(parent=environment(world, "b"), image_digest=digest)
    assert refused(world.environments().CreateEnvironmentLock, request).reason == "IMAGE_INVALID"


def test_packages_stand_once(world):
    answer = refused_lock(world, image(world), [FOUND[0], FOUND[0]])
    assert (answer.code, answer.reason, answer.fields) == ("INVALID_ARGUMENT", "PACKAGES_INVALID", ["packages"])
    bad = pb.CreateEnvironmentLockRequest(
        parent=f"{world.project}/environments/train",
        image_digest=digest_of(b""),
        packages=[pb.Package(kind="Deb", name="x", version="1")],
    )
    assert refused(world.environments().CreateEnvironmentLock, bad).fields == ["packages[0].kind"]


def test_locks_are_listed_over_environments_and_by_image(world):
    first, second = environment(world, "a"), environment(world, "b")
    digest, other = image(world), image(world, layers=(b"other",))
    made = [lock(world, first, digest), lock(world, second, digest), lock(world, second, other)]

    def listed(parent, **fields):
        request = pb.ListEnvironmentLocksRequest(parent=parent, **fields)
        answer = world.environments().ListEnvironmentLocks(request)
        return [one.name for one in answer.environment_locks], answer.next_page_token

    everywhere = f"{world.project}/environments/-"
    names = [one.name for one in made]
    assert listed(everywhere) == (names[::-1], "")
    assert listed(everywhere, image_digest=digest) == (names[1::-1], "")
    assert listed(first) == (names[:1], "")
    page, token = listed(everywhere, page_size=2, order_by=ListOrder.LIST_ORDER_NAME_ASC)
    rest, last = listed(everywhere, page_size=2, order_by=ListOrder.LIST_ORDER_NAME_ASC, page_token=token)
    assert (page + rest, last) == (sorted(names), "")
    missing = pb.ListEnvironmentLocksRequest(parent=f"{world.project}/environments/none")
    assert refused(world.environments().ListEnvironmentLocks, missing).reason == "ENVIRONMENT_NOT_FOUND"


def test_lists_leave_out_what_has_no_bound(world):
    parent = environment(world)
    made = lock(world, parent, image(world))
    (listed,) = (
        world.environments().ListEnvironmentLocks(pb.ListEnvironmentLocksRequest(parent=parent)).environment_locks
    )
    made.ClearField("document")
    made.ClearField("packages")
    assert listed == made


def test_environments_are_made_changed_and_missed(world):
    name = environment(world)
    change = pb.UpdateEnvironmentRequest(environment=pb.Environment(name=name, description="for training"))
    assert world.environments().UpdateEnvironment(change).description == "for training"
    listed = world.environments().ListEnvironments(pb.ListEnvironmentsRequest(parent=world.project))
    assert [one.name for one in listed.environments] == [name]
    missing = pb.GetEnvironmentRequest(name=name + "x")
    assert refused(world.environments().GetEnvironment, missing).reason == "ENVIRONMENT_NOT_FOUND"
    missing = pb.GetEnvironmentLockRequest(name=name + "/locks/none")
    assert refused(world.environments().GetEnvironmentLock, missing).reason == "ENVIRONMENT_LOCK_NOT_FOUND"
    bad = pb.CreateEnvironmentRequest(parent=world.project, environment_id="-")
    assert refused(world.environments().CreateEnvironment, bad).fields == ["environment_id"]


def test_a_grant_for_an_image_opens_its_parts(world):
    digest = image(world)
    lock(world, environment(world), digest)
    grant = world.grant(world.attempt(), readable_images=(digest,))
    assert world.read(grant, digest, digest_of(b"layer two")) == b"layer two"
    assert json.loads(world.read(grant, digest, digest))["schemaVersion"] == 2


# The rules alone.


def test_a_manifest_without_media_type_is_told_by_its_shape():
    document = image_document()
    del document["mediaType"]
    assert parse_image("d", json.dumps(document).encode()).layers
    with pytest.raises(ImageIndexDigest):
        parse_image("d", b'{"schemaVersion": 2, "manifests": []}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([MANIFEST, INDEX]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def shaped(**fields):
    """Objects with these keys, each with its right kind of value, with any other, or absent."""
    return st.fixed_dictionaries({}, optional={key: good | JSON for key, good in fields.items()})


DESCRIPTOR = shaped(digest=st.just(digest_of(b"")), size=st.integers(0, 9))
PLATFORM = shaped(os=st.just("linux"), architecture=st.just("amd64"), variant=st.just("v8"))
DOCUMENT = shaped(
    schemaVersion=st.just(2),
    mediaType=st.sampled_from([MANIFEST, INDEX]),
    config=DESCRIPTOR,
    layers=st.lists(DESCRIPTOR, max_size=2),
    manifests=st.lists(shaped(digest=st.just(digest_of(b"")), platform=PLATFORM), max_size=2),
)


@given(DOCUMENT | PLATFORM | JSON)
@settings(deadline=None)
@example({"mediaType": [MANIFEST]})
@example({"mediaType": {}})
def test_any_json_is_an_image_or_an_invalid_one(document):
    content = json.dumps(document).encode()
    for parse in (parse_image, parse_platform):
        with contextlib.suppress(ImageInvalid, ImageIndexDigest):
            parse("d", content)


@pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"[" * 100_000, b'{"a": NaN}'])
def test_hostile_json_is_an_invalid_image(content):
    with pytest.raises(ImageInvalid):
        parse_image("d", content)
