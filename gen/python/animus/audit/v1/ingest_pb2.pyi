from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendEventsRequest(_message.Message):
    __slots__ = ("generation", "events")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    generation: str
    events: _containers.RepeatedCompositeFieldContainer[SourceEvent]
    def __init__(self, generation: _Optional[str] = ..., events: _Optional[_Iterable[_Union[SourceEvent, _Mapping]]] = ...) -> None: ...

class SourceEvent(_message.Message):
    __slots__ = ("seq", "envelope", "payload", "salt")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    envelope: bytes
    payload: bytes
    salt: bytes
    def __init__(self, seq: _Optional[int] = ..., envelope: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., salt: _Optional[bytes] = ...) -> None: ...

class AppendEventsResponse(_message.Message):
    __slots__ = ("last_seq", "log_size")
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_FIELD_NUMBER: _ClassVar[int]
    last_seq: int
    log_size: int
    def __init__(self, last_seq: _Optional[int] = ..., log_size: _Optional[int] = ...) -> None: ...

class TailEventsRequest(_message.Message):
    __slots__ = ("from_index", "types")
    FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    from_index: int
    types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, from_index: _Optional[int] = ..., types: _Optional[_Iterable[str]] = ...) -> None: ...

class TailEventsResponse(_message.Message):
    __slots__ = ("events", "next_index")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[LogEvent]
    next_index: int
    def __init__(self, events: _Optional[_Iterable[_Union[LogEvent, _Mapping]]] = ..., next_index: _Optional[int] = ...) -> None: ...

class LogEvent(_message.Message):
    __slots__ = ("index", "envelope", "payload", "salt")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    index: int
    envelope: bytes
    payload: bytes
    salt: bytes
    def __init__(self, index: _Optional[int] = ..., envelope: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., salt: _Optional[bytes] = ...) -> None: ...
