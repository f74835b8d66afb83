"""The fast encoder and RFC 8785's reference agree on every value that either may write."""

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from animus_kit.documents import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    st.booleans() | SAFE | TEXT | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=500)
def test_every_value_has_its_rfc_8785_form(value):
    assert canonical.dumps(value) == rfc8785.dumps(value)


def test_every_character_is_escaped_alike():
    for code in (*range(0xD800), *range(0xE000, 0x11000)):
        text = chr(code)
        assert canonical.dumps([text]) == rfc8785.dumps([text])


def test_keys_sort_as_utf_16():
    keys = {"\ufb33": "1", "\U0001f600": "2", "€": "3", "a": "4", "A": "5", "\r": "6", "ö": "7", "1": "8"}
    assert canonical.dumps(keys) == rfc8785.dumps(keys)
