"""One orchestrator for all tests of a worker; every test uses a project and agents of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.orchestrator.agents import Agent
from tests.orchestrator.steering import Ask
from tests.orchestrator.world import World


@pytest.fixture(scope="session")
def world(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = postgres.database(("animus_orchestrator",))
    with World(database, tmp_path_factory.mktemp("pki")) as started:
        yield started
    database.drop()


@pytest.fixture
def ask(world: World) -> Ask:
    """Calls as alice; `ask.refused` wants a refusal."""
    return Ask(world)


@pytest.fixture
def project(world: World) -> str:
    return world.project()


@pytest.fixture
def agent(world: World, project: str) -> Iterator[Callable[..., Agent]]:
    """Makes enrolled agents that serve this test's project alone."""
    made: list[Agent] = []

    def make(**kw: Any) -> Agent:
        kw.setdefault("projects", [project])
        one = Agent(world, **kw)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
