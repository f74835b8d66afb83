"""Keeps the tests of one module on one worker, and all system stories on one.

Modules start servers once; scattered over workers each would start them again. The stories of tests/system share one
running stack, which is the most expensive thing the run starts.
"""

from typing import Any

import pytest

SYSTEM = "tests/system"
# Each of these runs a whole stack: two at once would take each other's time.
WHOLE_SYSTEMS = ("tests/system/", "tests/chaos/test_chaos.py")


def group_of(nodeid: str) -> str:
    """What runs on one worker, in one go."""
    path = nodeid.partition("::")[0]
    return SYSTEM if path.startswith(WHOLE_SYSTEMS) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # Marks (--dist loadgroup) do not reach xdist's scheduler: it reads them off node ids that pytest 9 keeps as they are.
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
