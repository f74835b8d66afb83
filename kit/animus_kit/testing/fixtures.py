"""All fixtures in one place: `from animus_kit.testing.fixtures import *` in a conftest."""

from __future__ import annotations

import os
import shutil

import pytest

from animus_kit.testing.clock import FakeClock
from animus_kit.testing.ids import FakeIds
from animus_kit.testing.pki import pki_fixture, running
from animus_kit.testing.postgres import database, fresh_database, postgres


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ids() -> FakeIds:
    return FakeIds()


def _why_no_runc() -> str:
    if shutil.which("runc") is None:
        return "needs runc on the PATH"
    if shutil.which("conmon") is None:
        return "needs conmon on the PATH"
    if os.geteuid() != 0:
        return "needs root: the reference driver makes cgroups and mounts"
    return ""


requires_runc = pytest.mark.skipif(bool(_why_no_runc()), reason=_why_no_runc() or "runc is here")
"""For tests that start real containers."""

__all__ = ["clock", "database", "fresh_database", "ids", "pki_fixture", "postgres", "requires_runc", "running"]
