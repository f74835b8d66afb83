"""docs/execution.md has one table of failure classes; it says what the code does."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from animus.orchestrator.v1 import run_pb2
from animus_orchestrator.domain.failure import RULES, FailureClass
from animus_orchestrator.domain.retry import Again, Over, RetryPolicy, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOCUMENT = Path(__file__).parents[2] / "docs" / "execution.md"


def table() -> dict[str, tuple[str, str]]:
    """class → (retried, counts against maxAttempts)"""
    section = DOCUMENT.read_text().partition("## Failure classes")[2].partition("\n## ")[0]
    rows: dict[str, tuple[str, str]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and re.match(r"[A-Z_]{4,}", cells[0]):
            for name in cells[0].split():
                rows[name] = (cells[2], cells[3])
    return rows


def test_every_class_is_in_the_table_and_on_the_wire() -> None:
    on_the_wire = {name.removeprefix("FAILURE_CLASS_") for name in run_pb2.Attempt.FailureClass.keys()}
    assert set(table()) == set(FailureClass) == set(RULES) == on_the_wire - {"UNSPECIFIED"}


@pytest.mark.parametrize("failure", list(FailureClass))
def test_a_row_says_what_is_done(failure: FailureClass) -> None:
    retried, counts = table()[failure.value]
    policy = RetryPolicy(max_attempts=2)

    def after(*, ran: bool, attempts: int) -> Again | Over:
        return decide(
            policy, failure, ran=ran, counted=attempts, early_losses=0 if ran else 1, now=NOW, lease_until=None
        )

    assert isinstance(after(ran=True, attempts=1), Again) == (retried == "yes")
    if retried == "no":
        assert counts == "-"
        return
    assert isinstance(after(ran=True, attempts=2), Over)
    # Two that ran, one of them this one's forerunner: an end before the run uses nothing up where it is ours.
    early = after(ran=False, attempts=2)
    assert isinstance(early, Again) == (counts == "if it ran")


def test_no_retry_before_the_former_attempt_is_dead() -> None:
    """Whatever the backoff says: an attempt that is not known to be dead holds the next one up until its lease is out."""
    until = NOW + timedelta(seconds=45)
    for failure in (FailureClass.LOST_NODE, FailureClass.INFRASTRUCTURE):
        answer = decide(
            RetryPolicy(max_attempts=3), failure, ran=True, counted=1, early_losses=0, now=NOW, lease_until=until
        )
        assert isinstance(answer, Again) and answer.not_before == until
