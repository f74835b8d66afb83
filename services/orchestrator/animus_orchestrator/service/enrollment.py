"""`animus.agent.v1.EnrollmentService`: the one service without a client certificate."""

from __future__ import annotations

import asyncio
from typing import Any

from animus.agent.v1 import enrollment_pb2 as pb
from animus.agent.v1 import enrollment_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_orchestrator.dispatch.enrolment import Enrolment
from animus_orchestrator.domain.errors import EnrollmentRate

RATE_PER_SECOND = 5.0
BURST = 50.0


class EnrollmentService(pb_grpc.EnrollmentServiceServicer):
    def __init__(self, enrolment: Enrolment, clock: Clock):
        self._enrolment = enrolment
        self._clock = clock
        self._tokens, self._at = BURST, clock.monotonic()

    async def Enroll(self, request: pb.EnrollRequest, _: Any) -> pb.EnrollResponse:
        self._limit()
        return await asyncio.to_thread(self._enrolment.enroll, request)

    def _limit(self) -> None:
        """Nobody is known here, so that the limit is one for all: guessing secrets must be slow."""
        now = self._clock.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE_PER_SECOND)
        self._at = now
        if self._tokens < 1.0:
            raise EnrollmentRate("too many enrolments at once", retry_after=1.0)
        self._tokens -= 1.0
