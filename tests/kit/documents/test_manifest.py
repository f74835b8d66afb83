import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from animus_kit.documents import DocumentError, canonical, manifest
from animus_kit.documents.manifest import ARTIFACT, CODE, DATASET, EXECUTABLE, FILE, SYMLINK, Entry
from animus_kit.documents.shape import digest_of

H = "ab" * 32


def file(path, kind=FILE, size=1):
    return Entry(path, kind, size, H)


def link(path, target):
    return Entry(path, SYMLINK, target=target)


def reason_of(call, *args):
    with pytest.raises(DocumentError) as error:
        call(*args)
    return error.value.reason


GOOD_PATHS = [
    "a",
    "a/b/c",
    "-",
    "...",
    "a b",
    "é",
    "😀/ß",
    'q"uote\\',
    "x" * 1024,
    "ä" * 512,
    "~",
    "CON",
    "a:b",
    "\u200b",
]
BAD_PATHS = ["", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/./b", "a/..", "../a", "a\nb", "a\0b", "a\x7fb", "a\x85b"]
BAD_PATHS += ["\ud800", "x" * 1025, "ä" * 513]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_good_paths(path):
    data = manifest.dumps([file(path)], DATASET)
    assert manifest.loads(data, DATASET) == (file(path),)
    assert canonical.dumps(canonical.parse(data)) == data


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths(path):
    assert reason_of(manifest.dumps, [file(path)], DATASET) == "PATH_INVALID"


def test_entries_are_sorted_by_utf8_bytes_not_by_utf16():
    names = ["\U0001f600", "\ufb33", "a/b", "a-b", "Z", "a"]
    paths = [entry.path for entry in manifest.loads(manifest.dumps(map(file, names[:-1]), DATASET), DATASET)]
    assert paths == ["Z", "a-b", "a/b", "\ufb33", "\U0001f600"]
    assert sorted(paths, key=lambda path: path.encode("utf-16-be")) != paths


def test_order_and_duplicates_are_refused():
    writer = manifest.Writer(lambda data: None, DATASET)
    writer.add(file("b"))
    assert reason_of(writer.add, file("a")) == "NOT_SORTED"
    assert reason_of(manifest.dumps, [file("a"), file("a")], DATASET) == "DUPLICATE_PATH"


@pytest.mark.parametrize("between", [(), ("a-b", "a.c", "a!"), ("a-", "a-/x")])
def test_no_path_is_a_folder_of_another_however_far_apart(between):
    entries = [file("a"), *(file(one) for one in between), file("a/b")]
    expected = "PATH_IS_FOLDER"
    assert reason_of(manifest.dumps, entries, DATASET) == expected


def test_names_that_only_begin_alike_are_no_conflict():
    manifest.dumps(map(file, ["a", "ab", "ab-c", "abc/d", "abc-"]), DATASET)


@pytest.mark.parametrize(
    ("profile", "allowed"), [(DATASET, {FILE}), (ARTIFACT, {FILE, EXECUTABLE}), (CODE, {FILE, EXECUTABLE, SYMLINK})]
)
def test_each_profile_allows_its_kinds(profile, allowed):
    for entry in (file("a"), file("a", EXECUTABLE), link("a", "b")):
        if entry.kind in allowed:
            assert manifest.loads(manifest.dumps([entry], profile), profile) == (entry,)
        else:
            assert reason_of(manifest.dumps, [entry], profile) == "KIND_NOT_ALLOWED"


def test_the_profile_is_not_in_the_digest():
    assert manifest.dumps([file("a")], DATASET) == manifest.dumps([file("a")], CODE)


GOOD_LINKS = [
    ("l", "a"),
    ("d/l", "../a"),
    ("d/e/l", "../../a"),
    ("l", "a/b"),
    ("l", "./a"),
    ("d/l", ".."),
    ("l", "."),
    ("l", "a/"),
]
BAD_LINKS = [
    ("l", "/etc/passwd"),
    ("l", ".."),
    ("d/l", "../.."),
    ("d/l", "../../x"),
    ("d/e/l", "x/../../../../y"),
    ("l", "a/../../x"),
    ("d/e/up", "x/.."),  # harmless by its letters, not where x is a link upwards
    ("l", ""),
    ("l", "a\nb"),
    ("l", "x" * 1025),
]


@pytest.mark.parametrize(("path", "target"), GOOD_LINKS)
def test_links_that_stay_inside(path, target):
    entry = link(path, target)
    assert manifest.loads(manifest.dumps([entry], CODE), CODE) == (entry,)


@pytest.mark.parametrize(("path", "target"), BAD_LINKS)
def test_links_that_lead_out(path, target):
    assert reason_of(manifest.dumps, [link(path, target)], CODE) == "TARGET_INVALID"


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", FILE, 1, ""),
        Entry("a", FILE, 1, H.upper()),
        Entry("a", FILE, -1, H),
        Entry("a", FILE, 2**63, H),
        Entry("a", FILE, 1, H, "t"),
        Entry("a", SYMLINK, 1, "", "t"),
        Entry("a", SYMLINK, 0, H, "t"),
    ],
)
def test_entries_hold_what_their_kind_has(entry):
    assert reason_of(manifest.dumps, [entry], CODE) == "ENTRY_INVALID"


def test_an_empty_manifest_is_one():
    data = manifest.dumps([], DATASET)
    assert data == b'{"entries":[],"type":"animus.dev/manifest/v1"}'
    assert manifest.loads(data, DATASET) == ()


GOOD = manifest.dumps([file("a"), link("b", "a"), file("c", EXECUTABLE)], CODE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + GOOD,
        GOOD.replace(b",", b", ", 1),
        GOOD.replace(b'"size":"1"', b'"size":1'),
        GOOD.replace(b'"size":"1"', b'"size":"01"'),
        GOOD.replace(b'"path":"a"', b'"path":"\\u0061"'),
        GOOD.replace(b'"path":"a"', b'"path":"\\/"'),
        GOOD.replace(b'"kind":"file",', b""),
        GOOD.replace(b'"kind":"file"', b'"kind":"file","mode":1'),
        GOOD.replace(b"/v1", b"/v2"),
        GOOD.replace(b"}],", b"},],"),
        GOOD.replace(b"[{", b"[,{"),
        GOOD.replace(b'"path":"a"', b'"path":"\xff"'),
        b'{"type":"animus.dev/manifest/v1","entries":[]}',
    ],
)
def test_every_other_form_is_refused(data):
    assert reason_of(manifest.loads, data, CODE) in ("NOT_CANONICAL", "NOT_UTF8")


def test_every_single_byte_matters():
    for index in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[index] ^= 0x01
        try:
            entries = manifest.loads(bytes(changed), CODE)
        except DocumentError:
            continue
        assert manifest.dumps(entries, CODE) == bytes(changed)


def test_reads_the_same_in_pieces_of_any_size():
    entries = [file(f"d{i % 7}/f{i:05d}", size=i) for i in range(3000)]
    data = manifest.dumps(entries, DATASET)
    whole = manifest.loads(data, DATASET)
    for size in (1, 7, 4096, 70_000):
        pieces = (data[start : start + size] for start in range(0, len(data), size))
        assert tuple(manifest.read(pieces, DATASET)) == whole
    assert manifest.summarize(data, DATASET) == manifest.Summary(digest_of(data), 3000, sum(range(3000)))


def test_an_endless_entry_does_not_fill_memory():
    def chunks():
        yield b'{"entries":[{"kind":"file","path":"'
        for _ in range(10_000):
            yield b"x" * 65536
        raise AssertionError("read on after what no entry can be")

    assert reason_of(list, manifest.read(chunks(), DATASET)) == "NOT_CANONICAL"


paths = st.lists(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=6).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map("/".join)


@given(st.sets(paths, max_size=12))
def test_round_trip(names):
    try:
        data = manifest.dumps(map(file, names), DATASET)
    except DocumentError as error:
        assert error.reason == "PATH_IS_FOLDER"
        assert any(one.startswith(other + "/") for one in names for other in names)
        return
    assert not any(one.startswith(other + "/") for one in names for other in names)
    assert {entry.path for entry in manifest.loads(data, DATASET)} == names
    assert rfc8785.dumps(canonical.parse(data)) == data
