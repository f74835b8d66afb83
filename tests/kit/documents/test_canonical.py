import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from animus_kit.documents import DocumentError, canonical

T = "animus.dev/sample/v1"


def doc(**fields):
    return {"type": T, **fields}


# Value, and the JSON of it: the table of edge cases (RFC 8785 §3.2.2 and Appendix B, and ours).
FORMS = [
    (0.0, "0"),
    (-0.0, "0"),
    (1.0, "1"),
    (1e21, "1e+21"),
    (1e20, "100000000000000000000"),
    (5e-324, "5e-324"),
    (1.7976931348623157e308, "1.7976931348623157e+308"),
    (1e-7, "1e-7"),
    (0.000001, "0.000001"),
    (333333333.3333333, "333333333.3333333"),
    (9007199254740991, "9007199254740991"),
    (-9007199254740991, "-9007199254740991"),
    (float(2**53), "9007199254740992"),
    (float(2**63), "9223372036854776000"),
    (True, "true"),
    ("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
    ("\x7f\u2028😀é", '"\x7f\u2028😀é"'),
    ("e\u0301", '"e\u0301"'),  # nothing is normalised
    ([], "[]"),
    ({}, "{}"),
    ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
    # Keys sort by UTF-16 code units: U+1F600 (D83D DE00) before U+FB33, other than by UTF-8 bytes.
    ({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3, "1": 4, "\r": 5, "\u0080": 6, "ö": 7},
     '{"\\r":5,"1":4,"\x80":6,"ö":7,"€":3,"😀":2,"\ufb33":1}'),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), FORMS, ids=[text[:24] for _, text in FORMS])
def test_canonical_forms(value, text):
    data = canonical.dumps(doc(x=value))
    assert data == f'{{"type":"{T}","x":{text}}}'.encode()
    assert canonical.loads(data, T)["x"] == value
    assert canonical.dumps(canonical.loads(data, T)) == data


REFUSED_VALUES = [
    (None, "NULL"),
    ([1, None], "NULL"),
    (float("nan"), "NUMBER_NOT_FINITE"),
    (float("inf"), "NUMBER_NOT_FINITE"),
    (-float("inf"), "NUMBER_NOT_FINITE"),
    (2**53, "INTEGER_TOO_LARGE"),
    (-(2**53), "INTEGER_TOO_LARGE"),
    ("\ud800", "STRING_NOT_UNICODE"),
    ({"\udfff": 1}, "STRING_NOT_UNICODE"),
    ({1: 2}, "KEY_NOT_STRING"),
    (b"bytes", "NOT_JSON"),
    ({1, 2}, "NOT_JSON"),
    (datetime.now(UTC), "NOT_JSON"),
]


@pytest.mark.parametrize(
    ("value", "reason"), REFUSED_VALUES, ids=[f"{i}-{r}" for i, (_, r) in enumerate(REFUSED_VALUES)]
)
def test_values_that_are_no_document(value, reason):
    with pytest.raises(DocumentError) as error:
        canonical.dumps(doc(a=[{"x": value}]))
    assert error.value.reason == reason
    assert error.value.path.startswith("a[0].x")


REFUSED_BYTES = [
    (b'{"type":"%s","a":1,"a":1}', "DUPLICATE_KEY"),
    (b'{"type":"%s","type":"%s"}', "DUPLICATE_KEY"),
    (b'{"a":{"b":1,"b":2},"type":"%s"}', "DUPLICATE_KEY"),
    (b'{"type":"%s","a":1}', "NOT_CANONICAL"),  # order of keys
    (b'{"a": 1,"type":"%s"}', "NOT_CANONICAL"),  # space
    (b'{"a":1,"type":"%s"}\n', "NOT_CANONICAL"),
    (b'{"a":1.0,"type":"%s"}', "NOT_CANONICAL"),
    (b'{"a":1e0,"type":"%s"}', "NOT_CANONICAL"),
    (b'{"a":-0,"type":"%s"}', "NOT_CANONICAL"),
    (b'{"a":9007199254740993,"type":"%s"}', "NOT_CANONICAL"),  # a double cannot tell it from …992
    (b'{"a":"\\u00e9","type":"%s"}', "NOT_CANONICAL"),
    (b'{"a":"\\/","type":"%s"}', "NOT_CANONICAL"),
    (b'{"a":"\\ud800","type":"%s"}', "STRING_NOT_UNICODE"),
    (b'{"a":null,"type":"%s"}', "NULL"),
    (b'{"a":NaN,"type":"%s"}', "NUMBER_NOT_FINITE"),
    (b'{"a":-Infinity,"type":"%s"}', "NUMBER_NOT_FINITE"),
    (b'{"a":1e400,"type":"%s"}', "NUMBER_NOT_FINITE"),
    (b'{"a":01,"type":"%s"}', "NOT_JSON"),
    (b'{"a":1,}', "NOT_JSON"),
    (b"", "NOT_JSON"),
    (b'\xef\xbb\xbf{"type":"%s"}', "NOT_JSON"),
    (b'{"a":"\xff","type":"%s"}', "NOT_UTF8"),
    (b'{"a":"\xed\xa0\x80","type":"%s"}', "NOT_UTF8"),  # a surrogate in UTF-8
    (b'["%s"]', "WRONG_TYPE"),
    (b'"x"', "WRONG_TYPE"),
    (b'{"a":1}', "WRONG_TYPE"),
    (b'{"type":"animus.dev/other/v1"}', "WRONG_TYPE"),
    (b'{"a":' + b"[" * 70 + b"]" * 70 + b',"type":"%s"}', "TOO_DEEP"),
    (b"[" * 200_000, "TOO_DEEP"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED_BYTES, ids=[f"{i}-{r}" for i, (_, r) in enumerate(REFUSED_BYTES)])
def test_bytes_that_are_refused(data, reason):
    with pytest.raises(DocumentError) as error:
        canonical.loads(data.replace(b"%s", T.encode()), T)
    assert error.value.reason == reason


def test_without_an_expected_type_it_must_still_be_one_of_ours():
    assert canonical.loads(b'{"type":"animus.dev/x-y/v12"}')
    for kind in (b"animus.dev/x", b"example.org/x/v1", b"animus.dev/X/v1", b"animus.dev/x/v0"):
        with pytest.raises(DocumentError, match="type"):
            canonical.loads(b'{"type":"%b"}' % kind)


def test_depth_of_64_is_allowed_and_no_more():
    value: object = 1
    for _ in range(63):
        value = [value]
    canonical.loads(canonical.dumps(doc(x=value)))
    with pytest.raises(DocumentError, match="64 levels"):
        canonical.dumps(doc(x=[[value]]))


json_values = st.recursive(
    st.booleans()
    | st.integers(-canonical.MAX_SAFE_INTEGER, canonical.MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_round_trip(value):
    data = canonical.dumps(doc(x=value))
    back = canonical.loads(data, T)
    assert back["x"] == value
    assert canonical.dumps(back) == data == rfc8785.dumps(json.loads(data, parse_int=float))


@given(st.binary(max_size=64))
def test_whatever_comes_is_read_or_refused_with_a_reason(data):
    try:
        value = canonical.parse(data)
    except DocumentError as error:
        assert error.reason
    else:
        assert canonical.dumps(value) == data


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_exactly(value):
    back = canonical.parse(canonical.dumps([value]))[0]
    assert float(back) == value and math.copysign(1, back) == (1 if value == 0 else math.copysign(1, value))


INT64 = [("0", 0), ("-1", -1), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63))]
NOT_INT64 = [
    "",
    "-0",
    "+1",
    "01",
    " 1",
    "1 ",
    "1.0",
    "1e3",
    "0x1",
    "9223372036854775808",
    "-9223372036854775809",
    "١",
    1,
    None,
]


@pytest.mark.parametrize(("text", "value"), INT64)
def test_int64(text, value):
    assert canonical.int64(text) == value


@pytest.mark.parametrize("text", NOT_INT64)
def test_not_int64(text):
    with pytest.raises(ValueError):
        canonical.int64(text)


def test_times_are_utc_with_microseconds():
    zone = timezone(timedelta(hours=2))
    assert canonical.format_time(datetime(2026, 1, 1, 1, 0, 0, 5, zone)) == "2025-12-31T23:00:00.000005Z"
    assert canonical.format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000000Z"
    assert canonical.parse_time("2026-02-28T23:59:59.999999Z").microsecond == 999999
    with pytest.raises(ValueError):
        canonical.format_time(datetime(2026, 1, 1))
    for text in (
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.000Z",
        "2026-01-01t00:00:00.000000z",
        "2026-01-01T00:00:00.000000+00:00",
        "2026-02-30T00:00:00.000000Z",
        "2026-01-01 00:00:00.000000Z",
        "２026-01-01T00:00:00.000000Z",
    ):
        with pytest.raises(ValueError):
            canonical.parse_time(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_round_trip(value):
    assert canonical.parse_time(canonical.format_time(value)) == value
