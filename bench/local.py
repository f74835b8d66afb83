"""A local stack of a benchmark's own: the real processes, in a folder that is gone afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from animus.catalog.v1 import project_pb2
from animus_cli import requirements
from animus_cli.stack import stack
from animus_cli.stack.layout import Layout
from animus_client.client import Client
from animus_client.config import Config
from bench.report import tell

MISSING = 3


def need_sandbox() -> None:
    """Ends the process with status 3, and one line for each thing this machine lacks, where no step can run."""
    missing = requirements.missing()
    if missing:
        print("\n".join(missing), file=sys.stderr)
        raise SystemExit(MISSING)


@contextmanager
def folder() -> Iterator[Path]:
    """On a disk, not in memory, and open to the account that services run as."""
    path = Path(tempfile.mkdtemp(prefix="animus-bench-", dir="/var/tmp"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def local_stack(*, agent: bool = True) -> Iterator[Layout]:
    """Up, and down with everything it left, whatever happens in between."""
    with folder() as root:
        layout = Layout(root)
        try:
            stack.up(layout, tell, agent=agent)
            yield layout
        finally:
            stack.down(layout, tell)


def client(layout: Layout) -> Client:
    """The operator of that stack."""
    environment = {"ANIMUS_DIR": str(layout.root), "PATH": os.environ.get("PATH", "")}
    return Client(Config.discover(environment))


def create_project(who: Client, project: str) -> str:
    """Answers its name."""
    request = project_pb2.CreateProjectRequest(project_id=project)
    request.project.display_name = project
    return who.call(who.projects_api.CreateProject, request).name
