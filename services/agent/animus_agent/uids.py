"""Which user ids the containers of this machine have: each agent a block of its own, each attempt a range in it.

Two agents on one machine that gave out the same range would make one step's files, and its processes' limits, those of
another's user. A block is claimed for as long as the machine is up, since containers outlive their agent.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from animus_agent.errors import SandboxUnavailable
from animus_agent.files import opened, write_atomic

CLAIMS = Path("/run/animus-uids")
RANGE = 65536
RANGES = 1024
BLOCK = RANGE * RANGES
# The first block's worth of ids is the machine's own, and the last one ends before the id that means none.
BLOCKS = range(1, (1 << 32) // BLOCK - 1)


def base(block: int, number: int) -> int:
    """The first host id of the `number`-th attempt's range."""
    return block * BLOCK + number % RANGES * RANGE


def claim(state_dir: Path, claims: Path = CLAIMS) -> int:
    """This agent's block: the one it has, or the first that nobody has. Raises SandboxUnavailable."""
    owner = str(state_dir.resolve())
    try:
        claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        with opened(claims / "lock", os.O_WRONLY | os.O_CREAT) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taken = _taken(claims)
            for block, other in taken.items():
                if other == owner:
                    return block
            for block in BLOCKS:
                # Of an agent whose folder is gone: it cannot come back, and what it left running is ended by others.
                if block not in taken or not Path(taken[block]).exists():
                    write_atomic(claims / str(block), owner.encode(), durable=False)
                    return block
    except OSError as error:
        raise SandboxUnavailable(f"no user ids can be claimed: {error}", "UID_RANGES_UNAVAILABLE") from error
    raise SandboxUnavailable(f"all {len(BLOCKS)} blocks of user ids are taken in {claims}", "UID_RANGES_UNAVAILABLE")


def release(state_dir: Path, claims: Path = CLAIMS) -> None:
    """Once no container of this agent is left."""
    owner = str(state_dir.resolve())
    if not claims.is_dir():
        return
    with opened(claims / "lock", os.O_WRONLY | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for block, other in _taken(claims).items():
            if other == owner:
                (claims / str(block)).unlink()


def _taken(claims: Path) -> dict[int, str]:
    return {int(path.name): path.read_text() for path in claims.iterdir() if path.name.isdigit()}
