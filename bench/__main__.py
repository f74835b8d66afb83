"""`make bench`: every measurement, each in a process of its own, or those that are named.

    .venv/bin/python -m bench [name ...]

Results are JSON lines on standard output, and a table at the end. Exit status: 0 when all of it was measured, 1 when
something could not be, 3 when this machine cannot run sandboxes (the rest is measured all the same). Whether a budget
is met never fails the run: read it in the table. What does not fit into `--seconds` is ended, or not begun, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

MISSING = 3
# For a stack to come down after it was told to.
GRACE_SECONDS = 60
TOTAL_SECONDS = 580
# A stack alone takes as long to come up and go down.
LEAST_SECONDS = 20


@dataclass(frozen=True)
class Bench:
    """seconds: when it is ended, far beyond what it takes on two idle cores."""

    name: str
    about: str
    seconds: int
    arguments: tuple[str, ...] = ()


BENCHES = (
    Bench("chain", "a chain of ten sandboxed steps, submit to committed and in the log", 150, ("3",)),
    Bench("independent", "independent sandboxed steps, beside bare containers", 120, ("40",)),
    Bench("attempts", "attempts leased, reported and committed by dispatch", 90, ("3000",)),
    Bench("audit_append", "events into the log, batches of 100 and more", 90, ("2",)),
    Bench("agents", "5,000 idle agents on one dispatch process", 180, ("5000", "30")),
    Bench("placement", "placing steps on 5,000 agents, fairly between projects", 60, ("5000", "1000")),
    Bench("dataset", "hashing and storing a dataset", 90),
    Bench("run_list", "a page of runs through the gateway", 90),
    Bench("lineage", "upstream of 10,000 nodes", 90),
)


def main(arguments: list[str]) -> int:
    names = [bench.name for bench in BENCHES]
    listed = "\n".join(f"  {bench.name:14} {bench.about}" for bench in BENCHES)
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures beside the raw floor of this machine:\n" + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="name", help="what to measure; everything without one")
    parser.add_argument("--seconds", type=int, default=TOTAL_SECONDS, help="for all of it (default: %(default)s)")
    given = parser.parse_args(arguments)
    chosen = given.names or names
    deadline = time.monotonic() + given.seconds
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(names)}")
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    status, lines = 0, []
    for bench in BENCHES:
        if bench.name not in chosen:
            continue
        print(f"{bench.name}: {bench.about}", file=sys.stderr, flush=True)
        code, found = measure(bench, min(bench.seconds, deadline - time.monotonic()))
        lines += found
        if code:
            print(f"{bench.name}: not finished, exit status {code}", file=sys.stderr)
            status = code if code == MISSING and status == 0 else status if code == MISSING else 1
    show(lines)
    return status


def measure(bench: Bench, seconds: float) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and lines. A process of its own: the memory and threads of one do not weigh on the next."""
    if seconds < LEAST_SECONDS:
        print(f"{bench.name}: no time is left for it (--seconds)", file=sys.stderr)
        return 1, []
    command = [sys.executable, "-m", f"bench.{bench.name}", *bench.arguments]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as cut:
            # As Ctrl-C does, so that its stack comes down; killed only when even that hangs.
            process.send_signal(signal.SIGINT)
            try:
                out, _ = process.communicate(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
            if isinstance(cut, KeyboardInterrupt):
                raise
            print(f"{bench.name}: took more than {seconds:.0f} s", file=sys.stderr)
    sys.stdout.write(out)
    sys.stdout.flush()
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return process.returncode, [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def show(lines: list[dict[str, Any]]) -> None:
    table = Table("what", "unit", title=None)
    for heading in ("floor", "Animus", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("the floor is")
    table.add_column("budget")
    table.add_column("met")
    for line in lines:
        met = {True: "yes", False: "no", None: ""}[line["met"]]
        numbers = ["" if line[key] is None else f"{line[key]:g}" for key in ("floor", "product", "ratio")]
        table.add_row(f"{line['bench']}: {line['what']}", line["unit"], *numbers, line["floor_is"], line["budget"], met)
    if lines:
        Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
