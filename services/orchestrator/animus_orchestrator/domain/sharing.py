"""Which ready step gets which room: fair between projects, in order within one.

Weighted dominant-resource fairness (Ghodsi and others, NSDI 2011, "Dominant Resource Fairness"): a project's dominant
share is the largest part it has of any resource, divided by its weight. Whoever has the smallest share gets the next
lease, so that shares go towards the weights, and nothing that can be used is left unused. Within a project the queue's
order holds; a step that fits nowhere now lets those behind it pass.

What keeps a large step from waiting for ever while small ones pass: a step that has waited for `Waiting.aged` holds back
those behind it in its own project while it waits for its quota, and may have a node reserved (`reservations`), on which
nothing new is placed that would be in its way.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from animus_orchestrator.domain.quota import Amount, Standing, exceeded, never_allowed, shares
from animus_orchestrator.domain.rooms import Rooms
from animus_orchestrator.domain.scheduler import Need, Placement, Room, obstacle, take


@dataclass(frozen=True, slots=True)
class Waiting:
    """A ready step in its project's queue. `since` is when it became ready; `aged`: it has waited long enough to be
    waited for."""

    need: Need
    since: datetime
    aged: bool = False


def dominant_share(standing: Standing, used: Amount, total: Amount) -> float:
    return max(shares(used, total), default=0.0) / standing.weight


def distribute(
    waiting: Mapping[str, Sequence[Waiting]],
    standings: Mapping[str, Standing],
    total: Amount,
    rooms: Rooms,
    limit: int,
    reserved: Mapping[int, Room] | None = None,
) -> list[Placement]:
    """Fills the rooms, which it changes. At most `limit` placements.

    waiting: each project's steps in its queue's order. total: what all nodes have, used or not. reserved: for steps with
    a reservation, the whole of the reserved room; in `rooms` stands only what others may have of it.
    """
    used = {project: standings[project].used for project in waiting}
    placed: list[Placement] = []

    def put(one: Waiting, room: Room) -> None:
        left, gpus = take(one.need, room)
        rooms.put(left)
        used[one.need.project] += one.need
        placed.append(Placement(one.need.step_uid, room.agent, gpus))

    done: set[int] = set()
    if reserved:
        for one in (w for queue in waiting.values() for w in queue if w.need.step_uid in reserved):
            room, standing = reserved[one.need.step_uid], standings[one.need.project]
            if obstacle(one.need, room) is None and not exceeded(standing.limits, used[one.need.project], one.need):
                put(one, room)
                done.add(one.need.step_uid)

    queues = {project: iter(queue) for project, queue in waiting.items()}
    heads: list[tuple[float, datetime, str, Waiting]] = []

    def push(project: str) -> None:
        head = next(queues[project], None)
        if head is not None:
            share = dominant_share(standings[project], used[project], total)
            heapq.heappush(heads, (share, head.since, project, head))

    for project in queues:
        push(project)
    # Rooms only get smaller here: what did not fit once does not fit later.
    too_large: set[tuple[object, ...]] = set()
    while heads and len(placed) < limit:
        _, _, project, one = heapq.heappop(heads)
        if one.need.step_uid not in done and one.need.demand not in too_large:
            if exceeded(standings[project].limits, used[project], one.need):
                # Of a step that no waiting helps, since a quota was lowered, nobody waits.
                if one.aged and not never_allowed(standings[project].limits, one.need):
                    continue  # and none behind it, or it would never get its turn
            else:
                room = rooms.best(one.need)
                if room is not None:
                    put(one, room)
                else:
                    too_large.add(one.need.demand)
        push(project)
    return placed
