"""Golden files hold the bytes of each document: a change of them is a change of every digest in every log.

`ANIMUS_WRITE_GOLDEN=1 pytest tests/kit/documents/test_golden.py` writes the files of new documents. A file that exists is
never rewritten: a new form of a document is a new type and a new file.
"""

import json
import os
from pathlib import Path

import pytest
import rfc8785

from animus_kit.documents import DocumentError, canonical, dsse, manifest
from tests.kit.documents import samples

GOLDEN = Path(__file__).parent.parent / "golden"
MANIFEST = manifest.dumps(
    [
        manifest.Entry("run.sh", manifest.EXECUTABLE, 12, "1" * 64),
        manifest.Entry("a/b", manifest.FILE, 2**40, "2" * 64),
        manifest.Entry("a-b", manifest.FILE, 0, "3" * 64),
        manifest.Entry('Größe "quoted" \\ 😀', manifest.FILE, 1, "4" * 64),
        manifest.Entry("\ufb33", manifest.FILE, 1, "5" * 64),
        manifest.Entry("lib/link", manifest.SYMLINK, target="../a/b"),
    ],
    manifest.CODE,
)
FILES = {
    **{name: document.to_bytes() for name, document in samples.DOCUMENTS.items()},
    "event-payload": samples.PAYLOAD,
    "manifest": MANIFEST,
    "envelope": dsse.sign(samples.GRANT.to_bytes(), "grant", samples.key(1)),
}


@pytest.mark.parametrize("name", FILES)
def test_bytes_are_those_of_the_golden_file(name):
    path = GOLDEN / f"{name}.json"
    if os.environ.get("ANIMUS_WRITE_GOLDEN") and not path.exists():
        path.write_bytes(FILES[name])
    assert FILES[name] == path.read_bytes()


def test_every_golden_file_is_checked():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_golden_files_are_rfc_8785(name):
    data = (GOLDEN / f"{name}.json").read_bytes()
    assert rfc8785.dumps(json.loads(data)) == data


@pytest.mark.parametrize("name", samples.DOCUMENTS)
def test_a_document_reads_back_equal(name):
    document = samples.DOCUMENTS[name]
    assert type(document).from_bytes(document.to_bytes()) == document


@pytest.mark.parametrize("name", samples.DOCUMENTS)
def test_an_unknown_field_is_refused(name):
    document = samples.DOCUMENTS[name]
    data = canonical.dumps(document.to_dict() | {"extra": "x"})
    with pytest.raises(DocumentError) as error:
        type(document).from_bytes(data)
    assert error.value.reason in ("FIELD_UNKNOWN", "NOT_CANONICAL")


@pytest.mark.parametrize("name", samples.DOCUMENTS)
def test_each_required_field_is_required(name):
    document = samples.DOCUMENTS[name]
    whole = document.to_dict()
    optional = {"checkpoint", "code", "accelerator", "egress", "gpuUuids", "project", "requestId", "experiment"} | {
        "cpuFlagsSha256",
        "configurationSha256",
        "seccompSha256",
    }
    for field in whole.keys() - optional:
        with pytest.raises(DocumentError):
            type(document).from_bytes(canonical.dumps({key: item for key, item in whole.items() if key != field}))


@pytest.mark.parametrize("name", samples.DOCUMENTS)
def test_another_type_is_refused(name):
    document = samples.DOCUMENTS[name]
    with pytest.raises(DocumentError, match="expected animus.dev"):
        type(document).from_bytes(canonical.dumps(document.to_dict() | {"type": "animus.dev/other/v1"}))
    with pytest.raises(DocumentError, match="expected animus.dev"):
        type(document).from_bytes(document.to_bytes().replace(b"/v1", b"/v2"))


def test_digests_stand_still():
    """The digests that other documents and rows refer to, in one place for a reviewer's eye."""
    assert samples.ACTION.digest == "sha256:" + GOLDEN_DIGESTS["action"]
    assert samples.RECIPE.digest == "sha256:" + GOLDEN_DIGESTS["recipe"]
    assert samples.PLAN.digest == "sha256:" + GOLDEN_DIGESTS["plan"]


GOLDEN_DIGESTS = {
    "action": "2eaaf2b0ebb96c0ec4bbe0698fc08ef993eb5f7135b56d2f02d36dc63932dc73",
    "recipe": "88a01cf0cd4bfcc9f7ea1d2ceec81c8c5e4e538c9ce1357825232bd2fc8e332f",
    "plan": "873e7e0a3dbf78f8bd809dc5d62be7efeed903e693de497e11355b3f31154c5e",
}


@pytest.mark.parametrize("name", samples.DOCUMENTS)
def test_what_is_written_at_once_is_the_canonical_form_of_the_dictionary(name):
    document = samples.DOCUMENTS[name]
    assert document.to_bytes() == rfc8785.dumps(document.to_dict())
