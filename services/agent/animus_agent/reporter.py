"""An attempt's news as rows of the spool: `animus.agent.v1.SpoolEvent` without its seq, which the spool gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from animus.agent.v1 import dispatch_pb2 as pb
from animus.orchestrator.v1 import run_pb2
from animus.type.v1 import metric_pb2
from animus_agent.attempt.failure import Failure, FailureClass
from animus_agent.attempt.ports import Point, Result
from animus_agent.sandbox.logs import Chunk, Cursor
from animus_agent.spool import Row, Spool
from animus_kit.clock import Clock

State = run_pb2.Attempt.State
POINTS_A_MESSAGE = 1000
MAX_REPORT_BYTES = 262144
"""As dispatch.proto bounds it."""


class SpoolReporter:
    """A Reporter over the spool. `changed` hears of each new state, for the agent's own statement."""

    def __init__(self, spool: Spool, attempt: str, clock: Clock, changed: Callable[[int], None]) -> None:
        self._spool = spool
        self._attempt = attempt
        self._clock = clock
        self._changed = changed

    def first(self) -> bytes:
        """The event that goes with the acceptance."""
        return self._event(state_changed=pb.StateChanged(state=State.STATE_PREPARING))

    def state(self, state: str) -> None:
        number = State.Value(f"STATE_{state}")
        # PREPARING was told with the acceptance.
        if state != "PREPARING":
            event = self._event(state_changed=pb.StateChanged(state=number))
            # That it ran counts against maxAttempts, whatever happens next.
            self._spool.state(self._attempt, event, durable=state == "RUNNING")
        self._changed(number)

    def log(self, chunks: list[Chunk]) -> None:
        bodies = [
            self._event(log_chunk=pb.LogChunk(offset_bytes=chunk.offset, data=chunk.data, stderr=chunk.stderr))
            for chunk in chunks
            if chunk.data
        ]
        after = chunks[-1].after
        self._spool.log(self._attempt, bodies, after.raw, after.text)

    def log_cursor(self) -> Cursor:
        cursors = self._spool.cursors(self._attempt)
        return Cursor(cursors.log_raw, cursors.log_text)

    def points(self, first_index: int, points: list[Point], offset: int) -> None:
        if not points:
            # Lines without one. What was read is not read again, or reading on would never end.
            return self._spool.points(self._attempt, None, first_index, offset)
        for at in range(0, len(points), POINTS_A_MESSAGE):
            part = points[at : at + POINTS_A_MESSAGE]
            rows = [metric_pb2.MetricPoint(name=p.name, step=p.step, value=p.value) for p in part]
            event = self._event(metric_points=pb.MetricPoints(first_index=first_index + at, points=rows))
            last = at + len(part) == len(points)
            # Should we die in between, the rest is read again and dispatch drops indices that it has.
            known = self._spool.cursors(self._attempt).points_offset
            self._spool.points(self._attempt, event, first_index + at + len(part) if last else first_index,
                               offset if last else known)  # fmt: skip

    def points_cursor(self) -> tuple[int, int]:
        cursors = self._spool.cursors(self._attempt)
        return cursors.points, cursors.points_offset

    def result(self, result: Result) -> None:
        result = _deliverable(result)
        event = self._event(result=to_proto(result))
        self._spool.result(self._attempt, event)
        self._changed(outcome(result))

    def _event(self, **what: object) -> bytes:
        event = pb.SpoolEvent(attempt=self._attempt, **what)  # type: ignore[arg-type]
        event.client_time.FromDatetime(self._clock.now())
        return event.SerializeToString()


def _deliverable(result: Result) -> Result:
    """A row that dispatch takes. One it cannot take would be sent again and again, before those of all other attempts."""
    if len(result.sandbox_report) <= MAX_REPORT_BYTES:
        return result
    message = f"the sandbox report has more than {MAX_REPORT_BYTES} bytes"
    failure = result.failure or Failure(FailureClass.INFRASTRUCTURE, "SANDBOX_REPORT_TOO_LARGE", message)
    return replace(result, failure=failure, sandbox_report=b"", provenance=b"", outputs=(), metrics={})


def outcome(result: Result) -> int:
    """The terminal state of a result."""
    if result.failure is None:
        return State.STATE_SUCCEEDED
    canceled = result.failure.failure_class is FailureClass.CANCELED
    return State.STATE_CANCELED if canceled else State.STATE_FAILED


def to_proto(result: Result) -> pb.AttemptResult:
    message = pb.AttemptResult(
        state=outcome(result),
        outputs=[
            pb.OutputResult(name=o.name, manifest_digest=o.manifest, file_count=o.files, size_bytes=o.bytes)
            for o in result.outputs
        ],
        metrics=[metric_pb2.Metric(name=name, value=value) for name, value in sorted(result.metrics.items())],
        sandbox_report=result.sandbox_report,
        provenance=result.provenance,
        log_size_bytes=result.log_size_bytes,
    )
    if result.exit_code is not None:
        message.exit_code = result.exit_code
    if result.failure is not None:
        failure_class = f"FAILURE_CLASS_{result.failure.failure_class.value}"
        message.failure_class = run_pb2.Attempt.FailureClass.Value(failure_class)
        message.reason = result.failure.reason
        message.message = _bounded(result.failure.message)
    return message


def to_event(row: Row) -> pb.SpoolEvent:
    """A row as it is sent."""
    event = pb.SpoolEvent.FromString(row.body)
    event.seq = row.seq
    return event


def _bounded(text: str) -> str:
    """At most 4096 bytes, cut at a character."""
    return text.encode()[:4096].decode("utf-8", "ignore")
