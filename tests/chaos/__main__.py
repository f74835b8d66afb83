"""`python -m tests.chaos`: runs small pipelines on three nodes while everything is killed, cut and confused, and proves
from the record that nothing was lost, doubled or left behind.

    make chaos
    make chaos ARGS="--seed 7 --runs 50"
    python -m tests.chaos --check out/chaos/history.json

The seed decides which faults come in which order and what is submitted; with the same seed they come again, and meet
the system where it then is. Exit status: 0 well, 1 something is wrong, 3 the machine cannot.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.chaos import checker, enclosure
from tests.chaos.history import History

KEEP = Path(__file__).resolve().parent.parent.parent / "out" / "chaos"
# Beyond the storm: starting, and coming to rest.
AROUND_SECONDS = 105.0
# And then reading what can be read, ending everything, and the report.
END_SECONDS = 75.0


def main(arguments: list[str] | None = None) -> int:
    given, more = _parser().parse_known_args(arguments)
    if given.check is not None:
        wrong = checker.check(History.load(given.check))
        print("\n".join(wrong) or f"all {len(checker.RULES)} rules hold")
        return 1 if wrong else 0
    if lacking := enclosure.missing():
        print("\n".join(lacking), file=sys.stderr)
        return 3
    root = enclosure.folder()
    words = [
        str(root), "--keep", str(given.keep), "--seed", str(given.seed), "--runs", str(given.runs),
        "--storm-seconds", str(given.storm_seconds), "--seconds", str(given.storm_seconds + AROUND_SECONDS), *more,
    ]  # fmt: skip
    return enclosure.run("tests.chaos.inside", words, root, given.storm_seconds + AROUND_SECONDS + END_SECONDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="default: another each time")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--storm-seconds", type=float, default=240.0, help="no fault begins later")
    parser.add_argument("--keep", type=Path, default=KEEP, help="where the history, and logs of a failure, go")
    parser.add_argument("--check", type=Path, help="check the history of an earlier run, and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
