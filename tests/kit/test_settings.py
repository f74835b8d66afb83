"""Settings: everything that is wrong, at once, by name."""

import dataclasses
from pathlib import Path

import pytest

from animus_kit.settings import Duration, SettingsError, load


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    listen: str
    workers: int = 16
    ratio: float = 0.5
    verbose: bool = False
    folder: Path | None = None
    timeout: Duration = Duration(30)
    peers: tuple[str, ...] = ()

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError("ANIMUS_WORKERS: must be at least 1")


Settings.__module__ = "animus_catalog.settings"
__import__("sys").modules.setdefault("animus_catalog.settings", __import__("sys").modules[__name__])


def test_each_type_is_read():
    found = load(
        Settings,
        {
            "ANIMUS_LISTEN": "127.0.0.1:0", "ANIMUS_WORKERS": "4", "ANIMUS_RATIO": "0.25", "ANIMUS_VERBOSE": "true",
            "ANIMUS_FOLDER": "/x", "ANIMUS_TIMEOUT": "1.5m", "ANIMUS_PEERS": "a, b,,c", "PATH": "/bin",
        },
    )  # fmt: skip
    assert found == Settings(
        listen="127.0.0.1:0", workers=4, ratio=0.25, verbose=True, folder=Path("/x"), timeout=Duration(90),
        peers=("a", "b", "c"),
    )  # fmt: skip


def test_defaults_hold_and_empty_means_absent():
    assert load(Settings, {"ANIMUS_LISTEN": "x", "ANIMUS_WORKERS": ""}) == Settings(listen="x")


def test_all_problems_come_at_once():
    environ = {
        "ANIMUS_WORKERS": "many", "ANIMUS_VERBOSE": "perhaps", "ANIMUS_TIMEOUT": "30", "ANIMUS_CATALOG_LISTN": "x",
        "ANIMUS_POLICY_TARGET": "of another process",
    }  # fmt: skip
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)
    told = {problem.partition(":")[0] for problem in caught.value.problems}
    assert told == {"ANIMUS_LISTEN", "ANIMUS_WORKERS", "ANIMUS_VERBOSE", "ANIMUS_TIMEOUT", "ANIMUS_CATALOG_LISTN"}


def test_the_classes_own_check_is_told_too():
    with pytest.raises(SettingsError, match="ANIMUS_WORKERS"):
        load(Settings, {"ANIMUS_LISTEN": "x", "ANIMUS_WORKERS": "0"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("24h", 86400), ("7d", 604800)]
)
def test_durations(text, seconds):
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 s", "1e3s", "1w"])
def test_bad_durations(text):
    with pytest.raises(ValueError):
        Duration.parse(text)
