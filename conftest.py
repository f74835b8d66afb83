"""Plugins of the whole test run. Fixtures stand in tests/conftest.py."""

pytest_plugins = ["tests.plugins.groups", "tests.plugins.skips"]
