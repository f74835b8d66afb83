"""Failure classes that the agent decides."""

from __future__ import annotations

import pytest

from animus_agent.attempt.failure import FailureClass
from animus_agent.attempt.steps import classify
from animus_agent.errors import BlobError


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        # The project stores as much as it may: another attempt would be refused as well, and is not made.
        ("STORAGE_QUOTA_EXCEEDED", FailureClass.POLICY),
        ("GRANT_EXPIRED", FailureClass.INFRASTRUCTURE),
        (None, FailureClass.INFRASTRUCTURE),
    ],
)
def test_what_the_catalog_refuses_is_told_by_its_reason(reason: str | None, expected: FailureClass) -> None:
    found = classify(BlobError("write: no", reason))
    assert found.failure_class is expected
    assert found.reason == (reason or "BLOB_UNAVAILABLE")
