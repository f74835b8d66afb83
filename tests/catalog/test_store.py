"""The store and its staging, without a server around them; and the janitor."""

from __future__ import annotations

import os
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from animus_catalog.blobs.janitor import Janitor
from animus_catalog.blobs.staging import Staging
from animus_catalog.blobs.store import BlobStore
from animus_catalog.domain.blobs import KeptUpload, Scope
from animus_catalog.domain.errors import BlobLost, DigestMismatch, SizeMismatch, UploadNotFound
from animus_catalog.store import blobs
from animus_kit.clock import SystemClock
from animus_kit.db.engine import transaction
from tests.catalog.world import digest_of

S3_URL = os.environ.get("ANIMUS_TEST_S3_URL", "")


@pytest.fixture(
    params=[
        "folder",
        pytest.param(
            "bucket",
            marks=pytest.mark.skipif(
                not S3_URL, reason="needs an S3-compatible store: ANIMUS_TEST_S3_URL=s3://bucket and AWS_* variables"
            ),
        ),
    ]
)
def stored(request, tmp_path) -> tuple[BlobStore, Staging]:
    url = f"file://{tmp_path}/blobs" if request.param == "folder" else f"{S3_URL}/{uuid.uuid4()}"
    store = BlobStore.open(url)
    return store, Staging(store.staging_folder or tmp_path / "staging")


def put(store, staging, content):
    file = staging.new(digest_of(content), len(content))
    file.write(content)
    store.adopt(file.finish(), file.digest)
    return file.digest


@pytest.mark.parametrize("size", [0, 5, 7_000_000])
def test_what_was_put_is_read(stored, size):
    store, staging = stored
    content = os.urandom(size)
    digest = put(store, staging, content)
    assert b"".join(store.read(digest, size)) == content
    assert store.read_range(digest, size // 2, size - size // 2) == content[size // 2 :]
    assert os.listdir(staging.path("")) == []


def test_the_same_twice_is_stored_once(stored):
    store, staging = stored
    assert put(store, staging, b"same") == put(store, staging, b"same")
    assert b"".join(store.read(digest_of(b"same"), 4)) == b"same"


def test_a_blob_is_durable_before_anybody_owns_it(tmp_path, monkeypatch):
    """The name in its folder as well as the bytes: a power cut must not leave an owner without the blob."""
    store = BlobStore.open(f"file://{tmp_path}/blobs")
    staging, synced = Staging(store.staging_folder), []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    for _ in range(2):
        synced.clear()
        digest = put(store, staging, b"kept").removeprefix("sha256:")
        assert synced == [f"{tmp_path}/blobs/sha256/{digest[:2]}"]


def test_what_is_there_is_never_overwritten(stored, tmp_path):
    """Not even by a caller that lies about what it verified."""
    store, staging = stored
    digest = put(store, staging, b"first")
    file = staging.new(digest_of(b"other"), 5)
    file.write(b"other")
    store.adopt(file.finish(), digest)
    assert store.read_range(digest, 0, 5) == b"first"


def test_a_lost_blob_is_named(stored):
    store, _ = stored
    with pytest.raises(BlobLost, match="sha256:0000"):
        store.read_range("sha256:" + "0" * 64, 0, 1)


@pytest.mark.parametrize("url", ["blobs", "file://host/blobs", "http://bucket", "s3://", "memory:///"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match="must be"):
        BlobStore.open(url)


@pytest.mark.parametrize("digest", ["sha256:../../x", "../x", "sha256:" + "A" * 64])
def test_a_key_is_made_of_a_digest_only(tmp_path, digest):
    with pytest.raises(ValueError, match="digest"):
        BlobStore.open(f"file://{tmp_path}").read_range(digest, 0, 1)


# Staging.


def test_a_staged_file_is_checked(tmp_path):
    staging = Staging(tmp_path / "staging")
    file = staging.new(digest_of(b"right"), 5)
    with pytest.raises(SizeMismatch):
        file.write(b"too long")
    file.write(b"wrong")
    with pytest.raises(DigestMismatch):
        file.finish()
    file.discard()
    assert os.listdir(staging.path("")) == []


def test_going_on_never_shares_a_file(tmp_path):
    """The writer that was interrupted may still be there; what it writes then must not get into the blob."""
    staging = Staging(tmp_path / "staging")
    content = b"0123456789"
    first = staging.new(digest_of(content), 10)
    first.write(content[:4])
    kept = first.sync()
    second = staging.resume(kept)
    first.write(b"XXXXXX")
    second.write(content[4:])
    assert second.finish().read_bytes() == content


def test_what_is_kept_elsewhere_cannot_be_gone_on_with(tmp_path):
    staging = Staging(tmp_path / "staging")
    with pytest.raises(UploadNotFound):
        staging.resume(KeptUpload(digest_of(b"x"), 1, 1, "on-another-replica"))
    staging.path("cut").write_bytes(b"12")
    with pytest.raises(UploadNotFound):
        staging.resume(KeptUpload(digest_of(b"x"), 5, 3, "cut"))
    assert os.listdir(staging.path("")) == ["cut"]


def test_the_janitor_forgets_what_nobody_came_back_for(world, tmp_path):
    clock = SystemClock()
    staging = Staging(tmp_path / "staging")
    scope = Scope(world.project.removeprefix("projects/"))
    now = clock.now()
    for name, age in (("old", 30), ("new", 1)):
        staging.path(name).write_bytes(b"12345")
        kept = KeptUpload(digest_of(name.encode()), 10, 5, name)
        with transaction(world.engine) as conn:
            blobs.keep_upload(conn, scope, kept, now - timedelta(hours=age))
    staging.path("orphan").write_bytes(b"")
    long_ago = (now - timedelta(days=3)).timestamp()
    os.utime(staging.path("orphan"), (long_ago, long_ago))
    Janitor(world.engine, staging, clock, timedelta(hours=24)).sweep()
    assert os.listdir(staging.path("")) == ["new"]
    with world.engine.connect() as conn:
        left = conn.scalars(sa.text("SELECT staging FROM uploads WHERE project = :p"), {"p": scope.project}).all()
    assert left == ["new"]
