import datetime

from animus.type.v1 import list_order_pb2 as _list_order_pb2
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

class Decision(_message.Message):
    __slots__ = ("name", "point", "effect", "document", "decision_digest", "policy_snapshot_digest", "message", "create_time")
    class Point(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        POINT_UNSPECIFIED: _ClassVar[Decision.Point]
        POINT_SUBMIT: _ClassVar[Decision.Point]
    POINT_UNSPECIFIED: Decision.Point
    POINT_SUBMIT: Decision.Point
    class Effect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EFFECT_UNSPECIFIED: _ClassVar[Decision.Effect]
        EFFECT_ALLOW: _ClassVar[Decision.Effect]
        EFFECT_DENY: _ClassVar[Decision.Effect]
    EFFECT_UNSPECIFIED: Decision.Effect
    EFFECT_ALLOW: Decision.Effect
    EFFECT_DENY: Decision.Effect
    NAME_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    DECISION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    POLICY_SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    point: Decision.Point
    effect: Decision.Effect
    document: bytes
    decision_digest: str
    policy_snapshot_digest: str
    message: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., point: _Optional[_Union[Decision.Point, str]] = ..., effect: _Optional[_Union[Decision.Effect, str]] = ..., document: _Optional[bytes] = ..., decision_digest: _Optional[str] = ..., policy_snapshot_digest: _Optional[str] = ..., message: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PolicySnapshot(_message.Message):
    __slots__ = ("name", "document", "snapshot_digest", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    document: bytes
    snapshot_digest: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., document: _Optional[bytes] = ..., snapshot_digest: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetDecisionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDecisionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "order_by", "min_create_time", "max_create_time", "effect")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    MIN_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    order_by: _list_order_pb2.ListOrder
    min_create_time: _timestamp_pb2.Timestamp
    max_create_time: _timestamp_pb2.Timestamp
    effect: Decision.Effect
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., order_by: _Optional[_Union[_list_order_pb2.ListOrder, str]] = ..., min_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., effect: _Optional[_Union[Decision.Effect, str]] = ...) -> None: ...

class ListDecisionsResponse(_message.Message):
    __slots__ = ("decisions", "next_page_token")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    next_page_token: str
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPolicySnapshotRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetCurrentSnapshotRequest(_message.Message):
    __slots__ = ("project",)
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    project: str
    def __init__(self, project: _Optional[str] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("project", "point", "subject", "groups", "policy_snapshot_digest", "resource", "facts", "dry_run", "request_id")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    project: str
    point: Decision.Point
    subject: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    policy_snapshot_digest: str
    resource: str
    facts: bytes
    dry_run: bool
    request_id: str
    def __init__(self, project: _Optional[str] = ..., point: _Optional[_Union[Decision.Point, str]] = ..., subject: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., policy_snapshot_digest: _Optional[str] = ..., resource: _Optional[str] = ..., facts: _Optional[bytes] = ..., dry_run: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...
