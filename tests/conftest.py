"""Fixtures that every test may use: the real things from animus_kit.testing."""

import os

# Before gRPC is loaded: refused handshakes are what many tests ask for, and each would write three lines of its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from animus_kit.testing.fixtures import *  # noqa: E402, F403
