from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Graph(_message.Message):
    __slots__ = ("nodes", "edges", "applied_index", "truncated")
    NODES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    applied_index: int
    truncated: bool
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ..., applied_index: _Optional[int] = ..., truncated: _Optional[bool] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "kind", "depth", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    depth: int
    digest: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., depth: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class Edge(_message.Message):
    __slots__ = ("source", "target", "kind", "log_index", "declared")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    kind: str
    log_index: int
    declared: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., kind: _Optional[str] = ..., log_index: _Optional[int] = ..., declared: _Optional[bool] = ...) -> None: ...

class SearchUpstreamRequest(_message.Message):
    __slots__ = ("name", "max_depth", "max_nodes", "as_of_index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_depth: int
    max_nodes: int
    as_of_index: int
    def __init__(self, name: _Optional[str] = ..., max_depth: _Optional[int] = ..., max_nodes: _Optional[int] = ..., as_of_index: _Optional[int] = ...) -> None: ...

class SearchDownstreamRequest(_message.Message):
    __slots__ = ("name", "max_depth", "max_nodes", "as_of_index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    AS_OF_INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_depth: int
    max_nodes: int
    as_of_index: int
    def __init__(self, name: _Optional[str] = ..., max_depth: _Optional[int] = ..., max_nodes: _Optional[int] = ..., as_of_index: _Optional[int] = ...) -> None: ...
