"""A page of runs through the gateway, out of many, beside the same page read by SQL.

    .venv/bin/python -m bench.run_list [runs]

The rows are inserted by SQL: what is measured is reading them. Pages of 50, at the beginning and half way in.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import psycopg

from animus.orchestrator.v1 import run_pb2
from animus_cli.stack import database
from animus_cli.stack.layout import Layout
from animus_client.client import Client
from animus_kit.db.embedded import Embedded
from bench.local import client, create_project, local_stack
from bench.report import Line, emit, median, percentile, tell

NAME = "run_list"
PROJECT = "bench"
PAGE = 50
WALK = 500
"""The largest page, on the way in."""
CALLS = 200
WARM = 20
BUDGET_MS = 50
FILL = """
INSERT INTO runs (project, id, pipeline, pipeline_version, bindings, state, plan_digest, policy_snapshot_digest, labels,
                  creator, create_time)
SELECT %(project)s, 'r' || n, 'p' || n %% 20, 'projects/bench/pipelines/p' || n %% 20 || '/versions/v1', '{}',
       (ARRAY['SUCCEEDED', 'FAILED', 'CANCELED'])[1 + n %% 3], 'sha256:' || repeat('0', 64),
       'sha256:' || repeat('0', 64), jsonb_build_object('team', 't' || n %% 10), 'somebody',
       now() - make_interval(secs => n)
FROM generate_series(1, %(runs)s) AS n
"""
READ = "SELECT * FROM runs WHERE project = %s ORDER BY create_time DESC, id DESC LIMIT 51"


def main(runs: int) -> None:
    with local_stack(agent=False) as layout, client(layout) as who:
        create_project(who, PROJECT)
        with psycopg.connect(admin(layout), autocommit=True, options="-c search_path=orchestrator") as conn:
            conn.execute(FILL, {"project": PROJECT, "runs": runs})
            conn.execute("ANALYZE runs")
            tell(f"{runs} runs inserted")
            floor = timed(lambda: conn.execute(READ, (PROJECT,)).fetchall())
        first = run_pb2.ListRunsRequest(parent=f"projects/{PROJECT}", page_size=PAGE)
        # Deep pages must cost what the first one does. A token goes with every size of page.
        deep = run_pb2.ListRunsRequest(parent=first.parent, page_size=WALK)
        for _ in range(runs // 2 // WALK):
            deep.page_token = who.call(who.runs_api.ListRuns, deep).next_page_token
        deep.page_size = PAGE
        labelled = run_pb2.ListRunsRequest(parent=first.parent, page_size=PAGE, states=[run_pb2.Run.STATE_FAILED])
        for what, request in (
            ("the first page", first),
            ("the page half way in", deep),
            ("the first page of failed runs", labelled),
        ):
            took = timed(lambda request=request: page(who, request))  # type: ignore[misc]
            line = Line(
                f"{what} of {runs} runs through the gateway, p95", "ms", percentile(floor, 0.95),
                percentile(took, 0.95), "the same page by SQL, p95", f"≤ {BUDGET_MS} ms",
                percentile(took, 0.95) <= BUDGET_MS, {"p50_ms": round(median(took), 2)},
            )  # fmt: skip
            emit(NAME, line)


def page(who: Client, request: run_pb2.ListRunsRequest) -> None:
    if len(who.call(who.runs_api.ListRuns, request).runs) != PAGE:
        raise RuntimeError("not a full page")


def timed(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each call after the warm ones."""
    took = []
    for _ in itertools.repeat(None, WARM + CALLS):
        begin = time.perf_counter()
        call()
        took.append((time.perf_counter() - begin) * 1000)
    return took[WARM:]


def admin(layout: Layout) -> str:
    return Embedded(layout.postgres).dsn(database.DATABASE)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
