"""animus lineage"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from animus_cli import show
from animus_cli.base import Project, Subject, answer, client, command, full, group

app = group("What something was made from, and what was made of it.")
Name = Annotated[str, typer.Argument(help="A resource, for example models/digits/versions/v1.")]
Depth = Annotated[int, typer.Option(help="At most so many steps away; 0 for all.")]
At = Annotated[int, typer.Option("--as-of", help="As the log's first N events tell it.")]


@command(app)
def up(name: Name, project: Project = "", depth: Depth = 0, as_of: At = 0, as_: Subject = "") -> None:
    """Everything that it was made from."""
    _search("Upstream", name, project, depth, as_of, as_)


@command(app)
def down(name: Name, project: Project = "", depth: Depth = 0, as_of: At = 0, as_: Subject = "") -> None:
    """Everything that was made from it."""
    _search("Downstream", name, project, depth, as_of, as_)


def _search(side: str, name: str, project: str, depth: int, as_of: int, subject: str) -> None:
    from animus.lineage.v1 import graph_pb2

    whole = name if name.startswith("projects/") else f"{full(project)}/{name}"
    with client(subject) as it:
        kind = getattr(graph_pb2, f"Search{side}Request")
        found = it.call(
            getattr(it.graph_api, f"Search{side}"), kind(name=whole, max_depth=depth, as_of_index=as_of), timeout=60
        )
    answer(found, lambda: tree(found, whole, side == "Upstream"))


def tree(graph: Any, root: str, upstream: bool) -> None:
    """The graph from its root on; what was shown before is not shown again below."""
    from rich.text import Text
    from rich.tree import Tree

    nodes = {node.name: node for node in graph.nodes}
    following: dict[str, list[tuple[str, str]]] = {}
    for edge in graph.edges:
        near, far = (edge.target, edge.source) if upstream else (edge.source, edge.target)
        following.setdefault(near, []).append((edge.kind, far))
    seen: set[str] = set()

    def label(name: str, kind: str) -> Text:
        digest = show.short(nodes[name].digest) if name in nodes and nodes[name].digest else ""
        again = "  …" if name in seen and following.get(name) else ""
        return Text(
            " ".join(
                part for part in (kind, show.clean(name.partition("/")[2].partition("/")[2] or name), digest) if part
            )
            + again
        )

    def grow(branch: Any, name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for kind, far in sorted(following.get(name, [])):
            grow(branch.add(label(far, kind)), far)

    whole = Tree(label(root, ""))
    grow(whole, root)
    show.console().print(whole)
    if graph.truncated:
        print("cut: there is more (--depth)")
