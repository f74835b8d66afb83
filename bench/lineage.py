"""Everything upstream of a node that has 10,000 of them, out of a large graph, beside the raw recursive query.

    .venv/bin/python -m bench.lineage [edges]

All of it runs in this process against one PostgreSQL. The product's answer has every node with its name, kind and
digest and every edge among them, as the log's first N events tell it. It stands beside two floors: the recursive query
that finds the nodes' ids, and the same with the rows of nodes and edges fetched, by psycopg alone.
"""

from __future__ import annotations

import sys
import time

import psycopg

from animus_kit.db.embedded import Embedded
from animus_kit.db.engine import create_engine
from animus_kit.db.migrate import upgrade
from animus_kit.db.provision import provision
from animus_lineage.store.graph import walk
from bench.local import folder
from bench.report import Line, emit, median, tell

NAME = "lineage"
UPSTREAM = 10_000
# Each node is made from this many earlier ones, mostly near ones, as steps are from artifacts.
PARENTS = 3
ROUNDS = 15
BUDGET = 1.5
# Nodes come in families of UPSTREAM, so that the walk from the last of a family finds just that one.
FILL_NODES = """
INSERT INTO nodes (name, project, kind, digest, from_index)
SELECT 'projects/bench/artifacts/a' || n, 'projects/bench', 'artifact', 'sha256:' || repeat('0', 64), n
FROM generate_series(1, %(nodes)s) AS n
"""
FILL_EDGES = """
INSERT INTO edges (source_id, target_id, kind, from_index)
SELECT first.id + place - back, first.id + place, 'derived', first.id + place
FROM generate_series(1, %(nodes)s, %(family)s) AS first(id), generate_series(1, %(family)s - 1) AS place,
     LATERAL (SELECT DISTINCT least(place, 1 + (place * part * 7919) %% (1 + (part - 1) * (part - 1) * 16)) AS back
              FROM generate_series(1, %(parents)s) AS part) AS parents
ON CONFLICT DO NOTHING
"""
RAW = """
WITH RECURSIVE up(id) AS (SELECT %s::bigint UNION SELECT e.source_id FROM up JOIN edges e ON e.target_id = up.id)
SELECT id FROM up
"""

RAW_NODES = "SELECT id, name, kind, digest FROM nodes WHERE id = ANY(%s)"
RAW_EDGES = "SELECT source_id, target_id, kind, from_index, declared FROM edges WHERE target_id = ANY(%s)"


def main(edges: int) -> None:
    families = max(1, edges // (UPSTREAM * PARENTS))
    with folder() as root, Embedded(root / "pg").running() as server:
        server.create_database("animus")
        provision(server.dsn("animus"), {"lineage": "bench"})
        upgrade(server.dsn("animus"), "animus_lineage")
        with psycopg.connect(server.dsn("animus"), options="-c search_path=lineage", autocommit=True) as conn:
            shape = {"nodes": families * UPSTREAM, "family": UPSTREAM, "parents": PARENTS}
            conn.execute(FILL_NODES, shape)
            conn.execute(FILL_EDGES, shape)
            conn.execute("VACUUM ANALYZE nodes")
            conn.execute("VACUUM ANALYZE edges")
            found = conn.execute("SELECT count(*) FROM edges").fetchone()
            total = found[0] if found else 0
            tell(f"{shape['nodes']} nodes, {total} edges")
            start = (families // 2 + 1) * UPSTREAM
            ids, rows, product = measure(conn, server.dsn("animus", "lineage", "bench"), start)
    what = f"upstream of {UPSTREAM} nodes, {total} edges"
    met = median(product) <= BUDGET * median(ids)
    emit(NAME, Line(what, "ms", median(ids), median(product), "the query for their ids", f"≤ {BUDGET} × it", met))
    emit(NAME, Line(what, "ms", median(rows), median(product), "the query, and the rows of nodes and edges"))


def measure(raw: psycopg.Connection, dsn: str, start: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of the query for ids, of it and the rows, and of the product's walk, in turns."""
    bare, rows, product = [], [], []
    engine = create_engine(dsn, 1)
    with engine.connect() as conn:
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            ids = [id for (id,) in raw.execute(RAW, (start,)).fetchall()]
            bare.append((time.perf_counter() - begin) * 1000)
            raw.execute(RAW_NODES, (ids,)).fetchall()
            raw.execute(RAW_EDGES, (ids,)).fetchall()
            rows.append((time.perf_counter() - begin) * 1000)
            begin = time.perf_counter()
            walked = walk(conn, start, upstream=True, as_of=1 << 40, max_nodes=UPSTREAM)
            product.append((time.perf_counter() - begin) * 1000)
            if len(ids) != UPSTREAM or len(walked.nodes) != UPSTREAM:
                raise RuntimeError(f"found {len(ids)} and {len(walked.nodes)} nodes")
    engine.dispose()
    return bare, rows, product


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
