"""From one event of the log to the facts it states: nodes and edges, without any I/O.

The same event always states the same facts, so that the view can be dropped and rebuilt from the log.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# Resource names to kinds of node. A reference is told by its name alone, so that an edge can be stated before the event
# that creates its end has been read.
_ID = r"[A-Za-z0-9][-A-Za-z0-9]{0,255}"
_KINDS = tuple(
    (re.compile(f"(projects/{_ID})/" + "/".join(f"{part}/{_ID}" for part in path.split("/"))).fullmatch, kind)
    for path, kind in (
        ("datasets/versions", "dataset-version"),
        ("codeSnapshots", "code-snapshot"),
        ("environments/locks", "environment-lock"),
        ("runs/steps/attempts", "attempt"),
        ("artifacts", "artifact"),
        ("models/versions", "model-version"),
    )
)

USED_INPUT = "used-input"
USED_CODE = "used-code"
USED_ENVIRONMENT = "used-environment"
GENERATED = "generated"
REGISTERED_AS = "registered-as"
DERIVED_FROM = "derived-from"


class FactsInvalid(Exception):
    """A payload does not have the form of its event type. The event stays in the log; the view states nothing of it."""


@dataclass(frozen=True, slots=True)
class Node:
    """digest: of the content, where the event tells it."""

    name: str
    kind: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """From what was used or made from (source) to what used it or was made (target)."""

    source: str
    target: str
    kind: str


@dataclass(slots=True)
class Facts:
    """Everything one event states. Every edge's ends are among the nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def node(self, project: str, name: Any, digest: Any = None) -> str:
        """Adds a node of the project. Raises FactsInvalid for a name of another project or of no known kind."""
        if digest is not None and not isinstance(digest, str):
            raise FactsInvalid("a digest is not a string")
        kind = kind_of(project, name)
        known = self.nodes.get(name)
        if known is None or (known.digest is None and digest):
            self.nodes[name] = Node(name, kind, digest or None)
        return name

    def edge(self, source: str, target: str, kind: str) -> None:
        edge = Edge(source, target, kind)
        if edge not in self.edges:
            self.edges.append(edge)


def kind_of(project: str, name: Any) -> str:
    """The kind of node that a resource name names. Raises FactsInvalid."""
    if isinstance(name, str):
        for match, kind in _KINDS:
            if found := match(name):
                if found[1] != project:
                    raise FactsInvalid("a reference crosses the project's boundary")
                return kind
    raise FactsInvalid("a name is of no kind that the graph knows")


def facts_of(event_type: str, project: str | None, resource: str, payload: Mapping[str, Any]) -> Facts:
    """What the event states; empty for types that state nothing. Raises FactsInvalid."""
    facts = Facts()
    reader = READERS.get(event_type)
    if reader is not None:
        if project is None:
            raise FactsInvalid("the event belongs to no project")
        reader(facts, project, resource, payload)
    return facts


def _attempt_committed(facts: Facts, project: str, resource: str, payload: Mapping[str, Any]) -> None:
    attempt = facts.node(project, resource, payload.get("actionDigest"))
    for item in _list(payload, "inputs"):
        facts.edge(facts.node(project, item.get("resource"), item.get("manifestDigest")), attempt, USED_INPUT)
    code = payload.get("code")
    if code is not None:
        facts.edge(_reference(facts, project, code), attempt, USED_CODE)
    lock = payload.get("environmentLock")
    if lock is not None:
        facts.edge(_reference(facts, project, lock), attempt, USED_ENVIRONMENT)
    for item in _list(payload, "outputs"):
        facts.edge(attempt, facts.node(project, item.get("artifact"), item.get("manifestDigest")), GENERATED)


def _dataset_version(facts: Facts, project: str, resource: str, payload: Mapping[str, Any]) -> None:
    version = facts.node(project, resource, payload.get("manifestDigest"))
    for parent in payload.get("parents") or ():
        facts.edge(facts.node(project, parent), version, DERIVED_FROM)


def _model_version(facts: Facts, project: str, resource: str, payload: Mapping[str, Any]) -> None:
    version = facts.node(project, resource, payload.get("manifestDigest"))
    facts.edge(facts.node(project, payload.get("artifact"), payload.get("manifestDigest")), version, REGISTERED_AS)


def _content(facts: Facts, project: str, resource: str, payload: Mapping[str, Any]) -> None:
    facts.node(project, resource, payload.get("manifestDigest"))


def _environment_lock(facts: Facts, project: str, resource: str, payload: Mapping[str, Any]) -> None:
    facts.node(project, resource, payload.get("lockDigest") or payload.get("imageDigest"))


def _reference(facts: Facts, project: str, value: Any) -> str:
    """A resource's name, or an object {resource, manifestDigest}."""
    if isinstance(value, Mapping):
        return facts.node(project, value.get("resource"), value.get("manifestDigest"))
    return facts.node(project, value)


def _list(payload: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    items = payload.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise FactsInvalid(f"{key} is not a list of objects")
    return iter(items)


Reader = Callable[[Facts, str, str, Mapping[str, Any]], None]
READERS: dict[str, Reader] = {
    "orchestrator.attempt.committed": _attempt_committed,
    "catalog.dataset-version.created": _dataset_version,
    "catalog.model-version.created": _model_version,
    "catalog.code-snapshot.created": _content,
    "catalog.environment-lock.created": _environment_lock,
}
EVENT_TYPES = tuple(sorted(READERS))
