"""What others wrote is data: nothing of it is obeyed, neither by the terminal nor by rich."""

from __future__ import annotations

import pytest
from google.protobuf import timestamp_pb2

from animus.orchestrator.v1 import run_pb2
from animus_cli import show


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\rb", "a\N{REPLACEMENT CHARACTER}b"),
        ("bell\x07", "bell\N{REPLACEMENT CHARACTER}"),
        ("\x9b31m", "\N{REPLACEMENT CHARACTER}31m"),
        ("abc\u202ecba", "abc\N{REPLACEMENT CHARACTER}cba"),
        ("lines\nand\ttabs", "lines\nand\ttabs"),
    ],
)
def test_escapes_do_not_reach_a_terminal(hostile: str, shown: str) -> None:
    assert show.clean(hostile) == shown


def test_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(["name"], [("[red]x[/red]",), ("[link=http://evil]y[/link]",)])
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out and "[link=http://evil]y[/link]" in out


def test_an_empty_table_is_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(["name"], [])
    assert capsys.readouterr().out == ""


def test_small_things() -> None:
    assert [show.size(n) for n in (0, 1023, 1024, 1536 * 1024)] == ["0 B", "1023 B", "1.0 KiB", "1.5 MiB"]
    assert show.state(run_pb2.Run(state=run_pb2.Run.STATE_SUCCEEDED)) == "SUCCEEDED"
    start, end = timestamp_pb2.Timestamp(seconds=1), timestamp_pb2.Timestamp(seconds=2, nanos=500_000_000)
    assert show.seconds(start, end) == "1.50s" and show.seconds(start, timestamp_pb2.Timestamp()) == ""
    assert show.short("sha256:" + "a" * 64) == "sha256:" + "a" * 12


def test_json_of_messages_has_every_field() -> None:
    found = show.to_json({"run": run_pb2.Run(name="projects/p/runs/r")})
    assert found["run"]["name"] == "projects/p/runs/r" and found["run"]["state"] == "STATE_UNSPECIFIED"
