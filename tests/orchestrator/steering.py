"""What tests ask, and what they do to the database in place of waiting."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from animus.orchestrator.v1 import run_pb2
from animus_kit.status import RemoteError, from_rpc_error


def expire(world, attempt: str) -> None:
    """Lets a lease run out, as the database's clock would."""
    with world.engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE attempts SET lease_until = now() - interval '1 second' WHERE name = :n"), {"n": attempt}
        )


def hurry(world, run: str) -> None:
    """Lets backoffs pass."""
    with world.engine.begin() as conn:
        conn.execute(
            sa.text(
                "UPDATE steps SET not_before = now() - interval '1 second', quiet_at = NULL"
                " WHERE state = 'RETRYING' AND run_uid = (SELECT uid FROM runs WHERE id = :id AND project = :p)"
            ),
            {"id": run.rsplit("/", 1)[1], "p": run.split("/")[1]},
        )


def attempt_of(world, name: str) -> run_pb2.Attempt:
    return world.runs.GetAttempt(run_pb2.GetAttemptRequest(name=name), **world.as_user())


def refused(call: Any, *args: Any, **kw: Any) -> RemoteError:
    """What a call is refused with."""
    with pytest.raises(grpc.RpcError) as error:
        call(*args, **kw)
    return from_rpc_error(error.value)


class Ask:
    def __init__(self, world: Any):
        self._world = world

    def __call__(self, method: Any, request: Any) -> Any:
        return method(request, **self._world.as_user())

    def refused(self, method: Any, request: Any) -> RemoteError:
        return refused(method, request, **self._world.as_user())
