"""What the descriptors and the permission tables promise each other.

assert_table_covers(PERMISSIONS, ["animus.policy.v1.AccessService", …])
assert_no_streams(services of sync listeners)
assert_acyclic({"policy": PERMISSIONS, …})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from animus_kit.server.authz import GATEWAY, Rows

CLIENT_LOOPS = frozenset({"animus.audit.v1.EventIngestService", "animus.audit.v1.EventTailService"})
"""Called by sequencers and tails, which are loops outside of handlers: nobody's thread waits for them in a call."""


@cache
def services() -> Mapping[str, descriptor_pb2.ServiceDescriptorProto]:
    """Every proto service of ours, by full name, out of the committed descriptor set."""
    found = descriptor_pb2.FileDescriptorSet.FromString((files("animus") / "descriptors.binpb").read_bytes())
    return {
        f"{file.package}.{service.name}": service
        for file in found.file
        if file.package.startswith("animus.")
        for service in file.service
    }


def methods(service: str) -> dict[str, descriptor_pb2.MethodDescriptorProto]:
    """Methods of a proto service by the name that permission tables use."""
    return {f"/{service}/{method.name}": method for method in services()[service].method}


def is_public(method: descriptor_pb2.MethodDescriptorProto) -> bool:
    """Whether the gateway routes it."""
    return method.options.HasExtension(annotations_pb2.http)


def assert_table_covers(rows: Rows, proto_services: Iterable[str]) -> None:
    """The table has a row for each method and none besides; the gateway may call what has an HTTP rule, and nothing
    else, and what it may call asks for a permission or says why not by asking in the handler."""
    known: dict[str, descriptor_pb2.MethodDescriptorProto] = {}
    for service in proto_services:
        known |= methods(service)
    missing, unknown = sorted(known.keys() - rows.keys()), sorted(rows.keys() - known.keys())
    assert not missing, f"methods without a row: {missing}"
    assert not unknown, f"rows without a method: {unknown}"
    for name, method in known.items():
        peers = rows[name].peers
        assert peers, f"nobody may call {name}"
        if is_public(method):
            assert peers == GATEWAY, f"{name} has an HTTP rule and is for the gateway alone, not {sorted(peers)}"
        else:
            assert not peers & GATEWAY, f"{name} has no HTTP rule, so the gateway does not route it"
            assert rows[name].permission is None, f"{name} is not for people: its permission could never be checked"


def assert_no_streams(proto_services: Iterable[str]) -> None:
    """For the services of sync listeners: a stream would hold one of their threads for as long as it lives."""
    streams = [
        name
        for service in proto_services
        for name, method in methods(service).items()
        if method.client_streaming or method.server_streaming
    ]
    assert not streams, f"these stream and belong on an aio listener: {streams}"


def call_graph(tables: Mapping[str, Rows]) -> dict[str, set[str]]:
    """Which service calls which in its handlers, as the peers of the callees' tables say. tables: service → rows."""
    graph: dict[str, set[str]] = {service: set() for service in tables}
    for callee, rows in tables.items():
        for name, row in rows.items():
            if name.split("/")[1] in CLIENT_LOOPS:
                continue
            for peer in row.peers:
                kind, _, caller = peer.partition("/")
                if kind == "service" and caller != callee:
                    graph.setdefault(caller, set()).add(callee)
    return graph


def assert_acyclic(tables: Mapping[str, Rows]) -> None:
    """Services that wait for one another in a circle wait for ever once their pools are full."""
    graph = call_graph(tables)
    done: set[str] = set()

    def visit(service: str, path: tuple[str, ...]) -> None:
        assert service not in path, "a circle of calls: " + " → ".join((*path[path.index(service) :], service))
        if service not in done:
            for callee in sorted(graph.get(service, ())):
                visit(callee, (*path, service))
            done.add(service)

    for service in sorted(graph):
        visit(service, ())
