"""What is chosen for a local stack holds for every later start of each process."""

from __future__ import annotations

from pathlib import Path

import pytest

from animus_cli.stack import options, programs
from animus_cli.stack.layout import FOR_NODES, Layout
from animus_cli.stack.options import Options, OptionsError
from animus_kit.db.embedded import Embedded


def test_only_what_nodes_dial_leaves_loopback(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    options.save(layout.options_file, Options(node_address="192.0.2.7"))
    hosts = {name: layout.address(name).partition(":")[0] for name in layout.ports}
    assert {name for name, host in hosts.items() if host == "192.0.2.7"} == set(FOR_NODES)
    assert {host for name, host in hosts.items() if name not in FOR_NODES} == {"127.0.0.1"}


def test_a_setting_goes_over_the_stacks_own_and_to_its_process_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    chosen = options.parse("127.0.0.1", ["dispatch.lease_duration=20s", "agent.agent_max_attempts=2"], programs.ALL)
    options.save(layout.options_file, chosen)
    layout.run.mkdir()
    (layout.folder("gateway")).mkdir()
    every = programs.control_plane(layout, Embedded(layout.postgres))
    assert every["dispatch"].environment["ANIMUS_LEASE_DURATION"] == "20s"
    assert "ANIMUS_LEASE_DURATION" not in every["orchestrator"].environment
    assert programs.agent(layout).environment["ANIMUS_AGENT_MAX_ATTEMPTS"] == "2"


@pytest.mark.parametrize("text", ["lease=20s", "dispatch.lease", "nobody.lease=20s", "dispatch.=20s"])
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(OptionsError):
        options.parse("127.0.0.1", [text], programs.ALL)


def test_without_a_choice_everything_stays_on_loopback(tmp_path: Path) -> None:
    assert options.load(tmp_path / "options.json") == Options()
