import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animus_kit.documents import DocumentError, canonical, values

TABLE = [
    ("", {"string": ""}, ""),
    ("Größe 😀\n", {"string": "Größe 😀\n"}, "Größe 😀\n"),
    ("1", {"string": "1"}, "1"),
    (1, {"int64": "1"}, "1"),
    (2**53 + 1, {"int64": "9007199254740993"}, "9007199254740993"),
    (-(2**63), {"int64": "-9223372036854775808"}, "-9223372036854775808"),
    (1.0, {"double": 1.0}, "1"),
    (0.1, {"double": 0.1}, "0.1"),
    (-0.0, {"double": 0.0}, "0"),
    (1e21, {"double": 1e21}, "1e+21"),
    (5e-324, {"double": 5e-324}, "5e-324"),
    (True, {"bool": True}, "true"),
    (False, {"bool": False}, "false"),
]


@pytest.mark.parametrize(("value", "json", "text"), TABLE)
def test_forms(value, json, text):
    assert values.to_json(values.check(value)) == json
    assert values.render(value) == text
    back = values.from_json(canonical.parse(canonical.dumps(json)))
    assert back == value and type(back) is type(value)


def test_types_are_never_confused():
    forms = [canonical.dumps(values.to_json(value)) for value in (1, 1.0, True, "1", "true")]
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize(
    "value",
    [None, b"x", [], {}, 2**63, -(2**63) - 1, math.nan, math.inf, "a\0b", "x" * 65537],
)
def test_refused_values(value):
    with pytest.raises(DocumentError):
        values.check(value)


@pytest.mark.parametrize(
    "json",
    [
        {},
        "x",
        {"int64": 1},
        {"int64": "01"},
        {"int64": "9223372036854775808"},
        {"double": "1"},
        {"double": True},
        {"string": 1},
        {"bool": 1},
        {"int32": "1"},
        {"string": "a", "bool": True},
    ],
)
def test_refused_json(json):
    with pytest.raises(DocumentError):
        values.from_json(json)


scalars = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)


@given(scalars)
def test_round_trip(value):
    parameter = values.Parameter(name="x", value=value)
    back = values.Parameter.from_dict(canonical.parse(canonical.dumps(parameter.to_dict())))
    assert back == parameter and type(back.value) is type(value)
