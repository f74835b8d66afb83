"""Agents' certificates: the one in force, the next one, and the attestation key's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from animus_orchestrator.store.schema import agents


def set_next(
    conn: Connection, agent_id: str, *, serial: str, certificate: bytes, key_digest: str, expire_time: datetime
) -> None:
    conn.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(
            next_serial=serial, next_certificate=certificate, next_key_digest=key_digest, next_expire_time=expire_time
        )
    )


def set_attestation(conn: Connection, agent_id: str, certificate: bytes, not_after: datetime) -> None:
    conn.execute(
        sa.update(agents)
        .where(agents.c.id == agent_id)
        .values(attestation_certificate=certificate, attestation_not_after=not_after)
    )


def replace_identity(conn: Connection, agent_id: str, values: Mapping[str, Any]) -> None:
    """New keys, and what the token fixes. No certificate of before is good any more."""
    nothing = dict.fromkeys(("next_serial", "next_certificate", "next_key_digest", "next_expire_time"))
    conn.execute(sa.update(agents).where(agents.c.id == agent_id).values({**nothing, **values}))


def promote(conn: Connection, agent_id: str, serial: str) -> bool:
    """The next certificate was used: from now on only it is good."""
    statement = (
        sa.update(agents)
        .where(agents.c.id == agent_id, agents.c.next_serial == serial)
        .values(
            serial=agents.c.next_serial,
            certificate=agents.c.next_certificate,
            certificate_expire_time=agents.c.next_expire_time,
            next_serial=None,
            next_certificate=None,
            next_key_digest=None,
            next_expire_time=None,
        )
    )
    return conn.execute(statement).rowcount == 1
