"""One stack for all stories: the processes, the certificates, PostgreSQL, Envoy and the sandbox are the real ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from animus_cli.stack import stack as stacks
from animus_cli.stack.layout import Layout
from animus_kit.testing.fixtures import _why_no_runc
from tests.system.world import Client, Project


def _why_not() -> str:
    reason = _why_no_runc()
    if reason:
        return f"the stack's agent {reason}"
    if not os.path.exists("/dev/loop-control"):
        return "the stack's agent needs loop devices"
    return ""


@pytest.fixture(scope="session")
def layout() -> Iterator[Layout]:
    """A running stack. Everything of it is gone afterwards."""
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    # Not below pytest's own folder, which is closed to the account that services run as.
    folder = Path(tempfile.mkdtemp(prefix="animus-", dir="/var/tmp"))
    folder.chmod(0o711)
    layout = Layout(folder)
    try:
        stacks.up(layout, print)
        yield layout
    finally:
        stacks.down(layout, print)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def operator(layout: Layout) -> Client:
    return Client(layout)


@pytest.fixture(scope="module")
def project(operator: Client, request: pytest.FixtureRequest) -> Project:
    """A project of the story's own, named after its file."""
    return Project.create(operator, request.module.__name__.rpartition(".")[2].replace("_", "-"))


@pytest.fixture(scope="module")
def image(project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a busybox image, locked in the project."""
    return project.import_busybox(tmp_path_factory.mktemp("image"))
