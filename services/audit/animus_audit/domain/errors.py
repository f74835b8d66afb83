"""What audit refuses, and why.

AppError
├── InvalidArgument
│   └── EnvelopeInvalid         ENVELOPE_INVALID
├── NotFound
│   └── EventNotFound           EVENT_NOT_FOUND
├── Aborted
│   └── SourceForked            SOURCE_FORKED
├── OutOfRange
│   └── IndexBeyondLog          INDEX_BEYOND_LOG
├── FailedPrecondition
│   ├── SequenceGap             SEQUENCE_GAP
│   └── GenerationSuperseded    GENERATION_SUPERSEDED
├── ResourceExhausted
│   └── WriterBusy              WRITER_BUSY
└── Unavailable
    └── LogUnavailable          LOG_UNAVAILABLE
"""

from animus_kit.errors import (
    Aborted,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)


class EnvelopeInvalid(InvalidArgument):
    """An event's envelope is not what its source must send. One located violation."""

    reason = "ENVELOPE_INVALID"

    def __init__(self, position: int, seq: int, problem: str):
        super().__init__(
            f"event with seq {seq}: {problem}",
            metadata={"seq": str(seq)},
            violations=[FieldViolation(f"events[{position}]", "ENVELOPE_INVALID", problem)],
        )


class EventNotFound(NotFound):
    reason = "EVENT_NOT_FOUND"

    def __init__(self, name: str):
        super().__init__(f"{name} is not in the log", resource=("animus.dev/Event", name))


class SourceForked(Aborted):
    """The source tells a second history: a seq that is in the log comes with another body."""

    reason = "SOURCE_FORKED"

    def __init__(self, source: str, seq: int):
        super().__init__(
            f"{source} sent another body for seq {seq}, which is in the log",
            metadata={"source": source, "seq": str(seq)},
        )


class SequenceGap(FailedPrecondition):
    reason = "SEQUENCE_GAP"

    def __init__(self, source: str, last_seq: int, seq: int):
        super().__init__(
            f"{source} sent seq {seq}, expected {last_seq + 1}",
            metadata={"source": source, "last_seq": str(last_seq), "seq": str(seq)},
        )


class GenerationSuperseded(FailedPrecondition):
    """A database that was restored under a new generation writes on under its old one: two histories of one source."""

    reason = "GENERATION_SUPERSEDED"

    def __init__(self, source: str, generation: str):
        super().__init__(
            f"{source} writes under generation {generation}, which a newer one has replaced",
            metadata={"source": source, "generation": generation},
        )


class WriterBusy(ResourceExhausted):
    reason = "WRITER_BUSY"

    def __init__(self) -> None:
        super().__init__("too many events wait for the log", retry_after=0.2)


class LogUnavailable(Unavailable):
    """The log's database is away or this replica is stopping. What was sent may or may not be in the log: send again."""

    reason = "LOG_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the log cannot be written now", retry_after=1.0)


class IndexBeyondLog(OutOfRange):
    """A consumer has seen more than the log holds: the log was rolled back, or the consumer belongs to another log."""

    reason = "INDEX_BEYOND_LOG"

    def __init__(self, index: int, size: int):
        super().__init__(
            f"index {index} is beyond the log's size {size}", metadata={"index": str(index), "log_size": str(size)}
        )
