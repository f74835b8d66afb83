from animus.orchestrator.v1 import run_pb2 as _run_pb2
from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("run", "steps", "final")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    run: _run_pb2.Run
    steps: _containers.RepeatedCompositeFieldContainer[_run_pb2.Step]
    final: bool
    def __init__(self, run: _Optional[_Union[_run_pb2.Run, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[_run_pb2.Step, _Mapping]]] = ..., final: _Optional[bool] = ...) -> None: ...

class ReadLogsRequest(_message.Message):
    __slots__ = ("name", "offset_bytes", "follow")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset_bytes: int
    follow: bool
    def __init__(self, name: _Optional[str] = ..., offset_bytes: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class ReadLogsResponse(_message.Message):
    __slots__ = ("offset_bytes", "data", "stream", "truncated", "final")
    class Stream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STREAM_UNSPECIFIED: _ClassVar[ReadLogsResponse.Stream]
        STREAM_STDOUT: _ClassVar[ReadLogsResponse.Stream]
        STREAM_STDERR: _ClassVar[ReadLogsResponse.Stream]
    STREAM_UNSPECIFIED: ReadLogsResponse.Stream
    STREAM_STDOUT: ReadLogsResponse.Stream
    STREAM_STDERR: ReadLogsResponse.Stream
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    stream: ReadLogsResponse.Stream
    truncated: bool
    final: bool
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., stream: _Optional[_Union[ReadLogsResponse.Stream, str]] = ..., truncated: _Optional[bool] = ..., final: _Optional[bool] = ...) -> None: ...
