"""Fixtures that every test may use: the real things from animus_kit.testing."""

from animus_kit.testing.fixtures import *  # noqa: F403
