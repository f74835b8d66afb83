"""Keeps the tests of one module on one worker, and all system stories on one.

Modules start servers once; scattered over workers each would start them again. The stories of tests/system share one
running stack, which is the most expensive thing the run starts.
"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            path = item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group("system" if path.startswith("tests/system/") else path))
