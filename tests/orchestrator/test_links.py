"""Streams of agents: bounded on both sides, and the newest session wins in whichever order they come."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from animus.agent.v1 import dispatch_pb2 as pb
from animus_orchestrator.dispatch import links
from animus_orchestrator.dispatch.idle import SKEW_SECONDS, WHOLE_SECONDS, Idle
from animus_orchestrator.dispatch.links import MAX_PUSHED, MAX_UNANSWERED, STUCK_SECONDS, Link, Links
from animus_orchestrator.dispatch.work import SessionState, Size
from animus_orchestrator.domain.agent import Agent
from animus_orchestrator.domain.errors import SessionSuperseded

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def session(number: int = 1) -> SessionState:
    agent = Agent(id="node-1", pool="default", session=number)
    return SessionState(agent=agent, spool_id="s", attestation_key=b"")


def all_links() -> Links:
    return Links(SimpleNamespace(), SimpleNamespace(on=lambda *_: None))  # type: ignore[arg-type]


async def ending(link: Link) -> object:
    try:
        return [message async for message in link.messages()]
    except Exception as error:
        return error


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_newer_session_wins_whichever_is_added_first(order: tuple[int, int]) -> None:
    async def play() -> None:
        found = all_links()
        made = {number: found.add(session(number)) for number in order}
        assert isinstance(await asyncio.wait_for(ending(made[1]), 5), SessionSuperseded)
        assert found._links["node-1"] is made[2]
        found.remove(made[1])
        assert len(found) == 1

    asyncio.run(play())


def test_an_agent_that_takes_nothing_of_what_is_pushed_is_cut_off() -> None:
    async def play() -> None:
        cuts: list[int] = []
        link = Link(session(), lambda: cuts.append(1))
        for _ in range(MAX_PUSHED):
            link.push(pb.ControlMessage())
        assert not cuts
        link.push(pb.ControlMessage())
        assert cuts

    asyncio.run(play())


def test_an_agent_that_takes_what_is_pushed_is_pushed_any_number() -> None:
    async def play() -> None:
        cuts: list[int] = []
        link = Link(session(), lambda: cuts.append(1))
        taken = link.messages()
        for _ in range(MAX_PUSHED * 3):
            link.push(pb.ControlMessage())
            await anext(taken)
        assert not cuts

    asyncio.run(play())


def test_questions_wait_for_room_until_their_answers_were_taken() -> None:
    async def play() -> None:
        link = Link(session())
        for _ in range(MAX_UNANSWERED):
            await asyncio.wait_for(link.answer_with(pb.Directive()), 5)
        asking = asyncio.ensure_future(link.answer_with(pb.Directive()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asking.done()
        taken = link.messages()
        # The next one is asked for when the first was sent.
        await anext(taken)
        await anext(taken)
        await asyncio.wait_for(asking, 5)

    asyncio.run(play())


def test_a_message_that_is_not_taken_for_long_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        at = [100.0]
        monkeypatch.setattr(links, "time", SimpleNamespace(monotonic=lambda: at[0]))
        link = Link(session())
        assert not link.stuck(at[0] + 1000)
        link.push(pb.ControlMessage())
        taken = link.messages()
        await anext(taken)  # and nothing asks for the next: it is being sent
        assert not link.stuck(at[0] + STUCK_SECONDS)
        assert link.stuck(at[0] + STUCK_SECONDS + 1)

    asyncio.run(play())


# Heartbeats that the database need not hear of.


def status(sequence: int, wall: datetime = NOW, **fields: Any) -> pb.Status:
    made = pb.Status(sequence=sequence, room=pb.Room(attempts=4), **fields)
    made.client_time.FromDatetime(wall)
    return made


async def settled(idle: Idle, of: SessionState, said: pb.Status, monotonic: float = 0.0) -> None:
    """The writer has answered `said`."""
    answer = asyncio.get_running_loop().create_future()
    idle.follow(of, said, answer, monotonic)
    answer.set_result(None)
    await asyncio.sleep(0)


def test_what_is_new_is_looked_at_and_what_is_not_is_answered_at_once() -> None:
    async def play() -> None:
        idle, one = Idle(), session()
        assert idle.answer(one, status(1), NOW, 0.0) is None, "nobody has looked at it yet"
        await settled(idle, one, status(1))
        later = NOW + timedelta(seconds=9)
        assert idle.answer(one, status(2, later), later, 9.0) == pb.Directive(status_sequence=2)
        assert idle.answer(one, status(3, draining=True), NOW, 9.0) is None
        drifted = NOW + timedelta(seconds=SKEW_SECONDS + 1)
        assert idle.answer(one, status(3, drifted), NOW, 9.0) is None
        assert idle.answer(one, status(3), NOW, WHOLE_SECONDS) is None, "that it lives has to be written down"

    asyncio.run(play())


@pytest.mark.parametrize("change", ["version", "given", "listed", "closed"])
def test_a_session_that_changed_is_looked_at(change: str) -> None:
    async def play() -> None:
        idle, one = Idle(), session()
        await settled(idle, one, status(1))
        assert idle.answer(one, status(2), NOW, 1.0) is not None
        match change:
            case "version":
                one.version += 1
            case "given":
                one.given["a"] = Size(1, 1)
            case "listed":
                one.listed.add("a")
            case "closed":
                one.closed = True
        assert idle.answer(one, status(3), NOW, 1.0) is None

    asyncio.run(play())


def test_an_answer_that_failed_is_not_built_on() -> None:
    async def play() -> None:
        idle, one = Idle(), session()
        answer = asyncio.get_running_loop().create_future()
        idle.follow(one, status(1), answer, 0.0)
        answer.set_exception(RuntimeError("the database is away"))
        await asyncio.sleep(0)
        assert idle.answer(one, status(2), NOW, 1.0) is None
        assert isinstance(answer.exception(), RuntimeError)

    asyncio.run(play())


def test_who_holds_something_is_always_looked_at() -> None:
    async def play() -> None:
        idle, one = Idle(), session()
        await settled(idle, one, status(1, held=[pb.HeldAttempt(attempt="a")]))
        assert idle.answer(one, status(2, held=[pb.HeldAttempt(attempt="a")]), NOW, 1.0) is None

    asyncio.run(play())
