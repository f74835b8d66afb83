"""request_id: once, whatever the client repeats."""

import threading
import time
import uuid

import pytest
import sqlalchemy as sa

from animus.orchestrator.v1 import agent_pb2
from animus.policy.v1 import role_binding_pb2 as pb
from animus_kit.db.engine import transaction
from animus_kit.errors import DeadlineExceeded, InvalidArgument
from animus_kit.server.context import CallContext
from animus_kit.server.idempotency import RequestIdReused, SecretAlreadyShown, once
from animus_kit.testing.schema import create_kit_tables
from animus_kit.tls import Peer

PACKAGES = ()
METHOD = "/animus.policy.v1.RoleBindingService/CreateRoleBinding"


@pytest.fixture(scope="module")
def engine(database):
    create_kit_tables(database, "policy")
    return database.engine("policy")


def context(subject="alice", method=METHOD, deadline=None):
    return CallContext(
        request_id="r", peer=Peer("gateway", "", "spiffe://animus.local/gateway"), method=method, subject=subject,
        deadline=deadline,
    )  # fmt: skip


def request(request_id=None, parent="projects/p"):
    return pb.CreateRoleBindingRequest(parent=parent, request_id=request_id or str(uuid.uuid4()))


def create(engine, asked, calls, ctx=None):
    def work():
        calls.append(asked.parent)
        return pb.RoleBinding(name=f"{asked.parent}/roleBindings/{len(calls)}")

    with transaction(engine) as conn:
        return once(conn, ctx or context(), asked, pb.RoleBinding, work)


def test_a_repeat_gets_the_first_answer(engine):
    calls, asked = [], request()
    assert create(engine, asked, calls).name == create(engine, asked, calls).name
    assert len(calls) == 1


def test_without_an_id_it_is_done_each_time(engine):
    calls = []
    asked = pb.CreateRoleBindingRequest(parent="projects/p")
    create(engine, asked, calls)
    create(engine, asked, calls)
    assert len(calls) == 2


def test_another_body_is_refused(engine):
    calls, asked = [], request()
    create(engine, asked, calls)
    with pytest.raises(RequestIdReused):
        create(engine, request(asked.request_id, "projects/q"), calls)


def test_callers_and_methods_do_not_collide(engine):
    calls, asked = [], request()
    create(engine, asked, calls)
    create(engine, asked, calls, context(subject="bob"))
    create(engine, asked, calls, context(method=METHOD + "2"))
    assert len(calls) == 3


def test_a_failure_is_not_kept(engine):
    calls, asked = [], request()

    def fail():
        raise InvalidArgument("no")

    with pytest.raises(InvalidArgument), transaction(engine) as conn:
        once(conn, context(), asked, pb.RoleBinding, fail)
    create(engine, asked, calls)
    assert len(calls) == 1


def test_an_expired_answer_is_forgotten(engine):
    calls, asked = [], request()
    create(engine, asked, calls)
    with transaction(engine) as conn:
        conn.execute(
            sa.text("UPDATE requests SET create_time = now() - interval '8 days' WHERE request_id = :i"),
            {"i": asked.request_id},
        )
    create(engine, asked, calls)
    create(engine, asked, calls)
    assert len(calls) == 2


def test_the_second_waits_for_the_first(engine):
    calls, asked = [], request()
    inside, go = threading.Event(), threading.Event()
    answers = []

    def slow():
        inside.set()
        go.wait(10)
        calls.append(1)
        return pb.RoleBinding(name="first")

    def first():
        with transaction(engine) as conn:
            answers.append(once(conn, context(), asked, pb.RoleBinding, slow).name)

    def second():
        with transaction(engine) as conn:
            answers.append(once(conn, context(), asked, pb.RoleBinding, lambda: pb.RoleBinding(name="second")).name)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'policy'")
    deadline = time.monotonic() + 10
    while True:
        with engine.connect() as conn:
            if conn.execute(waiting).scalar_one():
                break
        assert time.monotonic() < deadline
    go.set()
    for thread in threads:
        thread.join()
    assert answers == ["first", "first"] and calls == [1]


def test_waiting_ends_at_the_callers_deadline(engine):
    asked = request()
    with transaction(engine) as conn:
        once(conn, context(), asked, pb.RoleBinding, lambda: pb.RoleBinding(name="x"))
        raised = []

        def second():
            try:
                with transaction(engine) as other:
                    ctx = context(deadline=time.monotonic() + 0.1)
                    once(other, ctx, asked, pb.RoleBinding, lambda: pb.RoleBinding())
            except Exception as e:
                raised.append(e)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(10)
    assert isinstance(raised[0], DeadlineExceeded)


def test_a_secret_is_not_kept(engine):
    asked = agent_pb2.CreateJoinTokenRequest(request_id=str(uuid.uuid4()))
    answer = agent_pb2.CreateJoinTokenResponse(token="animus1.id.very-secret.pin")

    def run():
        with transaction(engine) as conn:
            return once(conn, context(), asked, agent_pb2.CreateJoinTokenResponse, lambda: answer)

    assert run().token == answer.token
    with engine.connect() as conn:
        stored = conn.execute(
            sa.text("SELECT answer FROM requests WHERE request_id = :i"), {"i": asked.request_id}
        ).scalar_one()
    assert b"secret" not in bytes(stored)
    with pytest.raises(SecretAlreadyShown):
        run()
