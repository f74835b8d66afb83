"""What looks like a secret does not leave in a log line; what only looks like one at first sight does."""

from __future__ import annotations

import pytest

from animus_kit import scrub

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("enrolled with animus1.abc.s3cret-S3CRET.pin", "enrolled with [scrubbed]"),
        (f"header Authorization: Bearer {JWT}", "header Authorization: [scrubbed]"),
        (f"claims {JWT} refused", "claims [scrubbed] refused"),
        (f"read {PEM} from disk", "read [scrubbed] from disk"),
        (PEM[:40], "[scrubbed]"),
        ("postgresql://orchestrator:hunter2@db:5432/x", "postgresql://[scrubbed]@db:5432/x"),
        ("AKIAIOSFODNN7EXAMPLE was used", "[scrubbed] was used"),
        ("ghp_0123456789abcdefghij", "[scrubbed]"),
        ("https://host:443/path?x=1", "https://host:443/path?x=1"),
        ("sha256:0123456789abcdef", "sha256:0123456789abcdef"),
        ("projects/p/runs/r/steps/s/attempts/1", "projects/p/runs/r/steps/s/attempts/1"),
    ],
)
def test_forms(text: str, kept: str) -> None:
    assert scrub.text(text) == kept


@pytest.mark.parametrize(
    "name",
    ["token", "join_token", "secret", "client_secret", "password", "passwd", "api_key", "private_key", "cookies"],
)
def test_names_of_fields_that_hold_secrets(name: str) -> None:
    assert scrub.field(name, "anything") == scrub.SCRUBBED
    assert scrub.field(name, "") == ""


@pytest.mark.parametrize("name", ["key_id", "token_id", "monkey", "path", "keyboard"])
def test_other_names_are_left_alone(name: str) -> None:
    assert scrub.field(name, "value") == "value"


def test_one_line_without_what_a_terminal_obeys() -> None:
    found = scrub.text("a\x1b[31mb\r\nc\x00\u202ed\u2028e")
    assert "\x1b" not in found and "\n" not in found and "\u202e" not in found and "\u2028" not in found
    assert found.startswith("a ") and found.endswith("e")


def test_text_is_cut_to_bytes_and_stays_text() -> None:
    found = scrub.text("ä" * 1000, 101)
    assert len(found.encode()) <= 101 and found.endswith("…")
    assert scrub.text("ä" * 10, 101) == "ä" * 10
    assert scrub.text("\ud800 lone surrogate", 100).endswith("lone surrogate")
