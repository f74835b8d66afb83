"""The outbox keeps what the log has had for a day, and no longer."""

import sqlalchemy as sa

from animus_kit.db import sequencer
from animus_kit.db.engine import transaction
from tests.kit.test_sequencer import Log, db, run, say, until

__all__ = ["db", "run"]
PACKAGES = ()


def test_what_was_delivered_long_ago_is_deleted_also_by_one_who_never_rests(db, run, monkeypatch):
    monkeypatch.setattr(sequencer, "PRUNE_EVERY", 0.0)
    monkeypatch.setattr(sequencer, "PRUNE_ROWS", 10)
    log, engine = Log(), db.engine("catalog")
    plain = log.deliver

    def busy(generation, batch):
        with transaction(engine) as conn:
            say(conn, 1000)
        return plain(generation, batch)

    log.deliver = busy
    with transaction(engine) as conn:
        for n in range(45):
            say(conn, n)
        conn.execute(sa.text("UPDATE outbox SET event_time = now() - interval '25 hours'"))
    run(db, log)

    def old():
        with transaction(engine) as conn:
            return conn.execute(
                sa.text("SELECT count(*) FROM outbox WHERE event_time < now() - interval '1 hour'")
            ).scalar_one()

    until(lambda: old() == 0)
    # What is young stays.
    with transaction(engine) as conn:
        assert conn.execute(sa.text("SELECT min(seq) FROM outbox")).scalar_one() == 46
