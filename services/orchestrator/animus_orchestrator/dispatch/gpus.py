"""GPUs are given by UUID, one attempt each: never twice while an attempt is live, or lost with its lease not run out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import Connection

from animus_kit.log import get_logger
from animus_orchestrator.domain.scheduler import Placement, Room
from animus_orchestrator.store import gpus as gpu_store

log = get_logger(__name__)


def less_held(conn: Connection, rooms: list[Room]) -> list[Room]:
    """The rooms without GPUs that are somebody's by our own record, whatever the node says of them: a restarted agent,
    or one that lies, may state as free what an attempt has."""
    if not any(room.gpus for room in rooms):
        return rooms
    held = gpu_store.held(conn, [room.agent for room in rooms if room.gpus])
    return [
        replace(room, gpus=tuple(gpu for gpu in room.gpus if gpu.uuid not in held.get(room.agent, ())))
        for room in rooms
    ]


def still_free(conn: Connection, placements: Iterable[Placement]) -> list[Placement]:
    """Those whose GPUs are still nobody's, with their agents locked until the transaction ends. The steps of the others
    stay ready."""
    found = list(placements)
    wanting = {p.agent for p in found if p.gpu_uuids}
    if not wanting:
        return found
    held = gpu_store.lock(conn, wanting)
    kept = [p for p in found if not p.gpu_uuids or (p.agent in held and held[p.agent].isdisjoint(p.gpu_uuids))]
    if len(kept) < len(found):
        log.warning("GPUs were given by somebody else meanwhile", extra={"placements": len(found) - len(kept)})
    return kept
