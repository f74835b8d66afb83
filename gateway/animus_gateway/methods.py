"""What the gateway routes, read from the descriptor set: the services whose methods have an HTTP rule.

A service either has HTTP rules on all its methods or on none: an internal method beside public ones would be reachable
by plain gRPC, since routes go by service.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2


class HalfPublicService(Exception):
    """Some methods of a service have HTTP rules and some have none."""


@dataclass(frozen=True)
class Method:
    service: str
    name: str
    verb: str
    path: str
    streams: bool

    @property
    def full(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def safe(self) -> bool:
        """May be tried again by the gateway: it changes nothing and its answer is one message."""
        return self.verb == "get" and not self.streams


@dataclass(frozen=True)
class Service:
    name: str
    methods: tuple[Method, ...]

    @property
    def owner(self) -> str:
        """`catalog` of `animus.catalog.v1.ProjectService`."""
        return self.name.split(".")[1]

    @property
    def cluster(self) -> str:
        """A service with a streaming method lives, whole, on its process's streaming listener."""
        return f"{self.owner}-stream" if any(m.streams for m in self.methods) else self.owner

    @property
    def prefixes(self) -> set[str]:
        """`/catalog/v1/`"""
        return {"/" + "/".join(m.path.split("/")[1:3]) + "/" for m in self.methods}


def descriptor_path() -> Path:
    """The descriptor set of animus-api, which Envoy reads as it is."""
    return Path(str(files("animus") / "descriptors.binpb"))


def public_services(data: bytes | None = None) -> list[Service]:
    """In order of their names. Raises HalfPublicService."""
    found = descriptor_pb2.FileDescriptorSet()
    found.ParseFromString(descriptor_path().read_bytes() if data is None else data)
    services = []
    for file in found.file:
        for service in file.service:
            name = f"{file.package}.{service.name}"
            methods = [_method(name, m) for m in service.method if m.options.HasExtension(annotations_pb2.http)]
            if methods and len(methods) != len(service.method):
                raise HalfPublicService(f"{name}: every method needs an HTTP rule, or none")
            if methods:
                services.append(Service(name, tuple(methods)))
    return sorted(services, key=lambda s: s.name)


def _method(service: str, method: descriptor_pb2.MethodDescriptorProto) -> Method:
    rule: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern") or ""
    streams = method.client_streaming or method.server_streaming
    return Method(service, method.name, verb, getattr(rule, verb), streams)
