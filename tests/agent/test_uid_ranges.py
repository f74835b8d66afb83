"""Which user ids containers have: no two that are there at once the same."""

from pathlib import Path

import pytest

from animus_agent import uids
from animus_agent.errors import SandboxUnavailable
from animus_agent.sandbox import quota
from tests.agent.control import until


def test_no_two_volumes_that_are_there_have_one_range_of_user_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uids, "RANGES", 4)
    pool = quota.QuotaPool(quota.FolderVolumes(tmp_path), spare=0)
    (tmp_path / "v5").mkdir()
    pool.start({"v5"})
    long_running, _ = pool.take(1)
    for _ in range(6):
        name, _ = pool.take(1)
        assert int(name[1:]) % 4 not in (1, int(long_running[1:]) % 4)
        pool.give_back(name)
        until(lambda name=name: not (tmp_path / name).exists() and len(pool._taken) == 2, "that it is gone")
    others = [pool.take(1)[0] for _ in range(2)]
    with pytest.raises(SandboxUnavailable, match="every range"):
        pool.take(1)
    assert len({int(name[1:]) % 4 for name in (long_running, "v5", *others)}) == 4
    pool.close()
