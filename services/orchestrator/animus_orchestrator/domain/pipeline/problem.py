"""A located fault in a document."""

from dataclasses import dataclass

MAX_PROBLEMS = 200
"""What one answer tells; a document with more faults is not the one that was meant."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """`line` and `column` (in code points) count from 1 and are 0 where the fault has no place in a text. `path` is for
    example spec.steps[1].image, `reason` is stable UPPER_SNAKE."""

    line: int
    column: int
    path: str
    reason: str
    message: str


class UnreadableDocument(Exception):
    """The text cannot be read on; the problems so far, this one included, are in the reader's list."""
