"""The node of tests/agent."""

from tests.agent.conftest import node_dir, runc_driver, runc_world

__all__ = ["node_dir", "runc_driver", "runc_world"]
