"""DatasetService."""

from __future__ import annotations

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from animus.catalog.v1 import blob_pb2
from animus.catalog.v1 import dataset_pb2 as pb
from animus.type.v1 import manifest_pb2
from animus.type.v1.list_order_pb2 import ListOrder
from animus.type.v1.value_pb2 import Value
from animus_kit.documents import manifest
from tests.catalog.world import digest_of, manifest_of, refused

NOBODYS = "sha256:" + "0" * 64


def create_version(world, dataset, digest, **fields):
    version = pb.DatasetVersion(manifest_digest=digest, **fields)
    return pb.CreateDatasetVersionRequest(parent=dataset, dataset_version=version)


# Datasets, which stand for environments, experiments and models too: they share service/entries.py.


def test_a_dataset_is_made_read_changed_and_listed(world):
    name = world.dataset("digits", display_name="Digits", labels={"kind": "image"})
    assert name == f"{world.project}/datasets/digits"
    made = world.datasets().GetDataset(pb.GetDatasetRequest(name=name))
    assert (made.creator, made.etag, made.latest_version) == ("alice", "1", "")
    change = pb.Dataset(name=name, description="8x8 pixels", etag="1")
    updated = world.datasets().UpdateDataset(pb.UpdateDatasetRequest(dataset=change))
    assert (updated.display_name, updated.description, updated.etag) == ("Digits", "8x8 pixels", "2")
    assert refused(world.datasets().UpdateDataset, pb.UpdateDatasetRequest(dataset=change)).reason == "ETAG_MISMATCH"
    bad = pb.UpdateDatasetRequest(dataset=pb.Dataset(name=name), update_mask=FieldMask(paths=["creator"]))
    assert refused(world.datasets().UpdateDataset, bad).reason == "UPDATE_MASK_INVALID"
    listed = world.datasets().ListDatasets(pb.ListDatasetsRequest(parent=world.project)).datasets
    assert list(listed) == [updated]
    kinds = [kind for kind, _ in world.events()]
    assert kinds == ["catalog.project.created", "catalog.dataset.created", "catalog.dataset.updated"]


def test_a_mask_may_empty_a_field(world):
    name = world.dataset("digits", display_name="Digits", labels={"kind": "image"})
    request = pb.UpdateDatasetRequest(dataset=pb.Dataset(name=name), update_mask=FieldMask(paths=["labels"]))
    updated = world.datasets().UpdateDataset(request)
    assert (updated.display_name, dict(updated.labels)) == ("Digits", {})


def test_a_taken_id_and_a_missing_one(world):
    name = world.dataset()
    request = pb.CreateDatasetRequest(parent=world.project, dataset_id="digits")
    answer = refused(world.datasets().CreateDataset, request)
    assert (answer.code, answer.reason) == ("ALREADY_EXISTS", "DATASET_EXISTS")
    missing = pb.GetDatasetRequest(name=name + "2")
    answer = refused(world.datasets().GetDataset, missing)
    assert (answer.code, answer.reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")
    assert answer.details["ResourceInfo"].resource_name == name + "2"
    change = pb.UpdateDatasetRequest(dataset=pb.Dataset(name=name + "2", display_name="x"))
    assert refused(world.datasets().UpdateDataset, change).reason == "DATASET_NOT_FOUND"


@pytest.mark.parametrize(
    "name", ["", "digits", "projects/p/datasets/", "projects/p/datasets/A", "projects/p/datasets/a/b"]
)
def test_a_bad_name_is_located(world, name):
    for call, request in [
        (world.datasets().GetDataset, pb.GetDatasetRequest(name=name)),
        (world.datasets().ListDatasetVersions, pb.ListDatasetVersionsRequest(parent=name)),
    ]:
        answer = refused(call, request)
        assert (answer.code, answer.fields) == ("INVALID_ARGUMENT", ["name" if hasattr(request, "name") else "parent"])


def test_labels_follow_their_rules(world):
    for labels in ({"UPPER": "x"}, {"a": "x" * 257}, {"a": "line\nbreak"}, {f"k{n}": "v" for n in range(65)}):
        request = pb.CreateDatasetRequest(parent=world.project, dataset_id="d", dataset=pb.Dataset(labels=labels))
        assert refused(world.datasets().CreateDataset, request).code == "INVALID_ARGUMENT"


def test_pages_go_on_where_the_last_one_ended(world):
    names = [world.dataset(f"d{n}") for n in range(5)]
    for order, expected in [
        (ListOrder.LIST_ORDER_UNSPECIFIED, names[::-1]),
        (ListOrder.LIST_ORDER_CREATE_TIME_ASC, names),
        (ListOrder.LIST_ORDER_NAME_ASC, names),
    ]:
        seen, token = [], ""
        for _ in range(3):
            request = pb.ListDatasetsRequest(parent=world.project, page_size=2, page_token=token, order_by=order)
            page = world.datasets().ListDatasets(request)
            seen += [dataset.name for dataset in page.datasets]
            token = page.next_page_token
        assert (seen, token) == (expected, "")


# Versions.


def test_a_version_says_what_was_pushed(world):
    dataset = world.dataset()
    source = world.version(dataset, {"raw": b"raw"})
    files = {"train/x.csv": b"1,2\n", "test/x.csv": b"3\n", "z-copy.csv": b"1,2\n"}
    schema = [pb.Column(name="x", type="int64", nullable=True)]
    statistics = [
        pb.Statistic(name="rows", value=Value(int_value=2**53 + 1)),
        pb.Statistic(name="mean", value=Value(double_value=1.0)),
        pb.Statistic(name="split", value=Value(string_value="80/20")),
        pb.Statistic(name="clean", value=Value(bool_value=False)),
    ]
    made = world.version(
        dataset,
        files,
        schema=schema,
        statistics=statistics,
        source="a disk",
        parents=[source.name],
        labels={"a": "b"},
    )
    assert made.name == f"{dataset}/versions/v2"
    assert (made.file_count, made.size_bytes, made.creator) == (3, 10, "alice")
    assert list(made.schema) == schema and list(made.statistics) == statistics
    assert made == world.datasets().GetDatasetVersion(pb.GetDatasetVersionRequest(name=made.name))
    assert world.datasets().GetDataset(pb.GetDatasetRequest(name=dataset)).latest_version == made.name
    kind, payload = world.events()[-1]
    assert kind == "catalog.dataset-version.created"
    assert payload["name"] == made.name
    assert payload["manifestDigest"] == made.manifest_digest
    assert payload["parents"] == [source.name]


def test_the_same_again_is_the_same_version(world):
    dataset = world.dataset()
    first = world.version(dataset, {"a": b"1"})
    assert world.version(dataset, {"a": b"1"}) == first
    changed = world.version(dataset, {"a": b"1"}, schema=[pb.Column(name="x", type="int64")])
    assert changed.name.endswith("/v2")
    # Only the newest counts: going back is a version of its own.
    assert world.version(dataset, {"a": b"1"}).name.endswith("/v3")


def test_versions_pushed_at_once_are_counted(world):
    dataset = world.dataset()
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: world.version(dataset, {"a": b"%d" % n}).name, range(6)))
    assert sorted(made) == [f"{dataset}/versions/v{n}" for n in range(1, 7)]


def test_a_repeated_request_id_makes_one_version(world):
    dataset = world.dataset()
    request = create_version(world, dataset, world.push({"a": b"1"}))
    request.request_id = str(uuid.uuid4())
    first = world.datasets().CreateDatasetVersion(request)
    world.version(dataset, {"a": b"2"})
    assert world.datasets().CreateDatasetVersion(request) == first
    request.dataset_version.description = "another"
    assert refused(world.datasets().CreateDatasetVersion, request).reason == "REQUEST_ID_REUSED"


def test_a_manifest_names_only_what_the_project_owns(world):
    dataset = world.dataset()
    answer = refused(world.datasets().CreateDatasetVersion, create_version(world, dataset, NOBODYS))
    assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "BLOB_NOT_IN_PROJECT")
    assert answer.metadata["digest"] == NOBODYS
    digest = world.upload(manifest_of({"a": b"here", "b": b"not uploaded"}))
    world.upload(b"here")
    answer = refused(world.datasets().CreateDatasetVersion, create_version(world, dataset, digest))
    assert (answer.reason, answer.metadata["path"]) == ("BLOB_NOT_IN_PROJECT", "b")


def test_a_manifest_with_a_stolen_digest_is_refused_like_an_unknown_one(world):
    secret = b"the first project's"
    world.upload(secret)
    world.new_project("bob", "alice")
    dataset = world.dataset()

    def attempt(entry):
        digest = world.upload(manifest.dumps([entry], manifest.DATASET))
        answer = refused(world.datasets().CreateDatasetVersion, create_version(world, dataset, digest))
        return answer.shape(entry.digest, digest)

    stolen = manifest.Entry("a", manifest.FILE, len(secret), hashlib.sha256(secret).hexdigest())
    unknown = manifest.Entry("a", manifest.FILE, len(secret), "0" * 64)
    assert attempt(stolen) == attempt(unknown)
    # Nor does the manifest of another project serve as one's own.
    foreign = digest_of(manifest_of({"a": secret}))
    refusal = refused(world.datasets().CreateDatasetVersion, create_version(world, dataset, foreign))
    assert refusal.reason == "BLOB_NOT_IN_PROJECT"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "NOT_CANONICAL"),
        (b"{}", "NOT_CANONICAL"),
        (b'{"type":"animus.dev/manifest/v1","entries":[]}', "NOT_CANONICAL"),
        (manifest.dumps([manifest.Entry("x", manifest.EXECUTABLE, 0, "0" * 64)], manifest.CODE), "KIND_NOT_ALLOWED"),
        (manifest.dumps([manifest.Entry("x", manifest.SYMLINK, target="y")], manifest.CODE), "KIND_NOT_ALLOWED"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(world, content, problem):
    request = create_version(world, world.dataset(), world.upload(content))
    answer = refused(world.datasets().CreateDatasetVersion, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "MANIFEST_INVALID")
    assert answer.fields == ["dataset_version.manifest_digest"]
    assert problem in answer.message


def test_a_manifest_must_tell_the_sizes(world):
    digest = world.upload(b"abc")
    entry = manifest.Entry("a", manifest.FILE, 4, digest.removeprefix("sha256:"))
    request = create_version(world, world.dataset(), world.upload(manifest.dumps([entry], manifest.DATASET)))
    assert "a has 3 bytes, not 4" in refused(world.datasets().CreateDatasetVersion, request).message


def test_a_version_needs_its_dataset_and_a_manifest(world):
    request = create_version(world, f"{world.project}/datasets/none", world.push({"a": b"1"}))
    assert refused(world.datasets().CreateDatasetVersion, request).reason == "DATASET_NOT_FOUND"
    request = pb.CreateDatasetVersionRequest(parent=world.dataset(), dataset_version=pb.DatasetVersion())
    assert refused(world.datasets().CreateDatasetVersion, request).code == "INVALID_ARGUMENT"
    missing = pb.GetDatasetVersionRequest(name=f"{world.project}/datasets/digits/versions/v1")
    assert refused(world.datasets().GetDatasetVersion, missing).reason == "DATASET_VERSION_NOT_FOUND"


def test_parents_are_in_the_project_and_exist(world):
    elsewhere = world.version(world.dataset(), {"a": b"1"}).name
    world.new_project("alice")
    dataset, digest = world.dataset(), world.push({"b": b"2"})
    request = create_version(world, dataset, digest, parents=[elsewhere])
    answer = refused(world.datasets().CreateDatasetVersion, request)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", "REFERENCE_OUTSIDE_PROJECT")
    assert answer.fields == ["dataset_version.parents[0]"]
    for parent in (f"{dataset}/versions/v9", f"{world.project}/artifacts/none"):
        request = create_version(world, dataset, digest, parents=[parent])
        answer = refused(world.datasets().CreateDatasetVersion, request)
        assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "PARENT_NOT_FOUND")
    artifact = world.commit_artifact()
    assert list(world.version(dataset, {"b": b"2"}, parents=[artifact]).parents) == [artifact]


def test_entries_are_paged_in_the_order_of_bytes(world):
    # U+FF5E sorts before U+1F600 by UTF-8 bytes, and behind it by UTF-16 units.
    paths = ["B", "a", "a-b", "ab", "ä", "～", "😀"]
    files = {path: path.encode() for path in paths}
    version = world.version(world.dataset(), files)
    seen, token = [], ""
    while True:
        request = pb.ListDatasetVersionEntriesRequest(parent=version.name, page_size=3, page_token=token)
        page = world.datasets().ListDatasetVersionEntries(request)
        seen += page.entries
        token = page.next_page_token
        if not token:
            break
    assert [entry.path for entry in seen] == sorted(paths, key=str.encode)
    assert seen[0] == manifest_pb2.ManifestEntry(
        path="B", kind=manifest_pb2.ManifestEntry.KIND_FILE, size_bytes=1, digest=digest_of(b"B")
    )


def test_two_versions_are_compared_by_path_and_digest(world):
    dataset = world.dataset()
    older = world.version(dataset, {"same": b"1", "changed": b"2", "removed": b"3"})
    newer = world.version(dataset, {"same": b"1", "changed": b"two", "added": b"4"})
    seen, token = [], ""
    for _ in range(2):
        request = pb.DiffDatasetVersionsRequest(name=newer.name, base=older.name, page_size=2, page_token=token)
        page = world.datasets().DiffDatasetVersions(request)
        seen += page.changes
        token = page.next_page_token
    assert token == ""
    change = pb.DiffDatasetVersionsResponse.Change
    assert [(one.kind, one.path) for one in seen] == [
        (change.KIND_ADDED, "added"),
        (change.KIND_CHANGED, "changed"),
        (change.KIND_REMOVED, "removed"),
    ]
    assert not seen[0].HasField("before") and not seen[2].HasField("after")
    assert (seen[1].before.digest, seen[1].after.digest) == (digest_of(b"2"), digest_of(b"two"))
    same = pb.DiffDatasetVersionsRequest(name=newer.name, base=newer.name)
    assert not world.datasets().DiffDatasetVersions(same).changes
    elsewhere = pb.DiffDatasetVersionsRequest(name=newer.name, base="projects/other/datasets/d/versions/v1")
    assert refused(world.datasets().DiffDatasetVersions, elsewhere).reason == "REFERENCE_OUTSIDE_PROJECT"


def test_files_of_a_version_are_downloaded(world):
    files = {"a/résumé.csv": b"1,2", "b": b""}
    version = world.version(world.dataset(), files)
    for path, content in files.items():
        request = blob_pb2.DownloadDatasetVersionRequest(name=version.name, path=path)
        call = world.blobs().DownloadDatasetVersion(request)
        headers = dict(call.initial_metadata())
        assert b"".join(body.data for body in call) == content
        assert headers["animus-digest"] == digest_of(content)
    request = blob_pb2.DownloadDatasetVersionRequest(name=version.name, path="a/résumé.csv")
    headers = dict(world.blobs().DownloadDatasetVersion(request).initial_metadata())
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''r%C3%A9sum%C3%A9.csv"
    request = blob_pb2.DownloadDatasetVersionRequest(name=version.name)
    assert refused(world.blobs().DownloadDatasetVersion, request).reason == "PATH_REQUIRED"
    request.path = "none"
    assert refused(world.blobs().DownloadDatasetVersion, request).reason == "PATH_NOT_FOUND"


def test_a_large_manifest_is_taken_and_paged(world):
    """Several times the batch in which ownership is looked up."""
    digest = world.upload(b"the same file")
    hex = digest.removeprefix("sha256:")
    entries = [manifest.Entry(f"f/{n:06}", manifest.FILE, 13, hex) for n in range(12_000)]
    request = create_version(world, world.dataset(), world.upload(manifest.dumps(entries, manifest.DATASET)))
    made = world.datasets().CreateDatasetVersion(request)
    assert (made.file_count, made.size_bytes) == (12_000, 156_000)
    request = pb.ListDatasetVersionEntriesRequest(parent=made.name, page_size=10_000)
    page = world.datasets().ListDatasetVersionEntries(request)
    assert len(page.entries) == 500 and page.next_page_token


def test_versions_are_listed_and_filtered(world):
    dataset = world.dataset()
    for n in range(3):
        world.version(dataset, {"a": b"%d" % n}, labels={"parity": "even" if n % 2 == 0 else "odd"})
    request = pb.ListDatasetVersionsRequest(parent=dataset, labels=["parity=even"])
    found = world.datasets().ListDatasetVersions(request).dataset_versions
    assert [version.name.rpartition("/")[2] for version in found] == ["v3", "v1"]
    missing = pb.ListDatasetVersionsRequest(parent=dataset + "x")
    assert refused(world.datasets().ListDatasetVersions, missing).reason == "DATASET_NOT_FOUND"


def test_lists_leave_out_what_has_no_bound(world):
    dataset = world.dataset()
    statistics = [pb.Statistic(name="rows", value=Value(int_value=1))]
    made = world.version(dataset, {"a": b"1"}, schema=[pb.Column(name="x", type="int64")], statistics=statistics)
    (listed,) = world.datasets().ListDatasetVersions(pb.ListDatasetVersionsRequest(parent=dataset)).dataset_versions
    made.ClearField("schema")
    made.ClearField("statistics")
    assert listed == made


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "\u0085\u2028\ufeff", "\U0001f600 \uffff", "x" * 4096])
def test_free_text_of_any_kind_is_kept(world, text):
    name = world.dataset("d", display_name=text, description=text)
    assert world.datasets().GetDataset(pb.GetDatasetRequest(name=name)).display_name == text
    made = world.version(
        name,
        {"a": b"1"},
        source=text,
        description=text,
        schema=[pb.Column(name=text[:64], type="\x01")],
        labels={"k": text.replace("\n", "").replace("\t", "")[:60]},
    )
    assert (made.source, made.schema[0].type) == (text, "\x01")


def test_a_text_that_no_database_holds_is_refused(world):
    digest = world.push({"a": b"1"})
    request = create_version(world, world.dataset(), digest, schema=[pb.Column(name="a\0b", type="x")])
    assert refused(world.datasets().CreateDatasetVersion, request).code == "INVALID_ARGUMENT"
    name = world.version(world.dataset("other"), {"a": b"1"}).name
    download = blob_pb2.DownloadDatasetVersionRequest(name=name, path="a\0b")
    assert refused(world.blobs().DownloadDatasetVersion, download).code == "INVALID_ARGUMENT"
