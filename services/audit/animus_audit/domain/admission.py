"""What may follow in a source's history: only its next seq, or a true repeat of what the log has.

A plain rule over plain data; the writer brings what the log holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .envelope import Leaf
from .errors import GenerationSuperseded, SequenceGap, SourceForked


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log is with one generation of a source."""

    source: str
    generation: str
    last_seq: int = 0
    # A newer generation of the same source has written: this one is history.
    superseded: bool = False


def admit(position: Position, leaves: Sequence[Leaf], known: Callable[[int, int], Sequence[bytes]]) -> Sequence[Leaf]:
    """Returns the leaves of a request that are new.

    leaves: of one source and generation, at least one, in the order sent.
    known: gives the leaf hashes of the log for the seqs from first to last, both included.
    Raises SequenceGap, SourceForked, GenerationSuperseded.
    """
    first = leaves[0].seq
    for offset, leaf in enumerate(leaves):
        if leaf.seq != first + offset:
            raise SequenceGap(position.source, first + offset - 1, leaf.seq)
    if first > position.last_seq + 1:
        raise SequenceGap(position.source, position.last_seq, first)
    repeated = min(position.last_seq - first + 1, len(leaves))
    if repeated > 0:
        for leaf, stored in zip(leaves, known(first, first + repeated - 1), strict=False):
            if leaf.leaf_hash != stored:
                raise SourceForked(position.source, leaf.seq)
    new = leaves[repeated:]
    if new and position.superseded:
        raise GenerationSuperseded(position.source, position.generation)
    return new
