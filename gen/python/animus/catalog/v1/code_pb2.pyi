import datetime

from animus.type.v1 import list_order_pb2 as _list_order_pb2
from animus.type.v1 import manifest_pb2 as _manifest_pb2
from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.api import resource_pb2 as _resource_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CodeSnapshot(_message.Message):
    __slots__ = ("name", "object_format", "commit_id", "tree_id", "manifest_digest", "file_count", "size_bytes", "repository_url", "description", "labels", "creator", "create_time")
    class ObjectFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OBJECT_FORMAT_UNSPECIFIED: _ClassVar[CodeSnapshot.ObjectFormat]
        OBJECT_FORMAT_SHA1: _ClassVar[CodeSnapshot.ObjectFormat]
        OBJECT_FORMAT_SHA256: _ClassVar[CodeSnapshot.ObjectFormat]
    OBJECT_FORMAT_UNSPECIFIED: CodeSnapshot.ObjectFormat
    OBJECT_FORMAT_SHA1: CodeSnapshot.ObjectFormat
    OBJECT_FORMAT_SHA256: CodeSnapshot.ObjectFormat
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FORMAT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    TREE_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_URL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    object_format: CodeSnapshot.ObjectFormat
    commit_id: str
    tree_id: str
    manifest_digest: str
    file_count: int
    size_bytes: int
    repository_url: str
    description: str
    labels: _containers.ScalarMap[str, str]
    creator: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., object_format: _Optional[_Union[CodeSnapshot.ObjectFormat, str]] = ..., commit_id: _Optional[str] = ..., tree_id: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., repository_url: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., creator: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetCodeSnapshotRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListCodeSnapshotsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "order_by", "min_create_time", "max_create_time", "labels", "commit_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    MIN_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    order_by: _list_order_pb2.ListOrder
    min_create_time: _timestamp_pb2.Timestamp
    max_create_time: _timestamp_pb2.Timestamp
    labels: _containers.RepeatedScalarFieldContainer[str]
    commit_id: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., order_by: _Optional[_Union[_list_order_pb2.ListOrder, str]] = ..., min_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., commit_id: _Optional[str] = ...) -> None: ...

class ListCodeSnapshotsResponse(_message.Message):
    __slots__ = ("code_snapshots", "next_page_token")
    CODE_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    code_snapshots: _containers.RepeatedCompositeFieldContainer[CodeSnapshot]
    next_page_token: str
    def __init__(self, code_snapshots: _Optional[_Iterable[_Union[CodeSnapshot, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateCodeSnapshotRequest(_message.Message):
    __slots__ = ("parent", "code_snapshot", "commit_object", "request_id")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CODE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_OBJECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    code_snapshot: CodeSnapshot
    commit_object: bytes
    request_id: str
    def __init__(self, parent: _Optional[str] = ..., code_snapshot: _Optional[_Union[CodeSnapshot, _Mapping]] = ..., commit_object: _Optional[bytes] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListCodeSnapshotEntriesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCodeSnapshotEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_manifest_pb2.ManifestEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[_manifest_pb2.ManifestEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
