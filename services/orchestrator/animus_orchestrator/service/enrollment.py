"""`animus.agent.v1.EnrollmentService`: the one service without a client certificate."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any
from urllib.parse import unquote

from animus.agent.v1 import enrollment_pb2 as pb
from animus.agent.v1 import enrollment_pb2_grpc as pb_grpc
from animus_kit.clock import Clock
from animus_orchestrator.dispatch.enrolment import Enrolment
from animus_orchestrator.domain.errors import EnrollmentRate

RATE_PER_SECOND = 5.0
BURST = 50.0
MAX_ADDRESSES = 10_000


class EnrollmentService(pb_grpc.EnrollmentServiceServicer):
    def __init__(self, enrolment: Enrolment, clock: Clock):
        self._enrolment = enrolment
        self._clock = clock
        # Address → what is left of its burst, and when that was. The one that asked longest ago comes first.
        self._left: dict[str, tuple[float, float]] = {}

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollResponse:
        self._limit(address_of(context.peer()))
        return await asyncio.to_thread(self._enrolment.enroll, request)

    def _limit(self, address: str) -> None:
        """Nobody is known here but by an address: guessing secrets must be slow, and junk keep no other one out."""
        now = self._clock.monotonic()
        left, at = self._left.pop(address, (BURST, now))
        left = min(BURST, left + (now - at) * RATE_PER_SECOND)
        enough = left >= 1.0
        self._left[address] = (left - 1.0 if enough else left, now)
        if len(self._left) > MAX_ADDRESSES:
            del self._left[next(iter(self._left))]
        if not enough:
            raise EnrollmentRate("too many enrolments at once", retry_after=1.0)


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, without the port; of IPv6 the /64, out of which a host takes any it likes.

    peer: for example `ipv4:10.0.0.7:53124` or `ipv6:%5B2001:db8::7%5D:53124` (gRPC's naming.md).
    """
    kind, _, rest = unquote(peer).partition(":")
    try:
        address = ipaddress.ip_address(rest.rpartition(":")[0].strip("[]"))
    except ValueError:
        return kind
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address) >> 64 << 64))
