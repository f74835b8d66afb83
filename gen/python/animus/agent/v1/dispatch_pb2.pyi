import datetime

from animus.orchestrator.v1 import agent_pb2 as _agent_pb2
from animus.orchestrator.v1 import node_pb2 as _node_pb2
from animus.orchestrator.v1 import run_pb2 as _run_pb2
from animus.type.v1 import metric_pb2 as _metric_pb2
from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "status", "events", "diagnostics")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    status: Status
    events: Events
    diagnostics: Diagnostics
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., events: _Optional[_Union[Events, _Mapping]] = ..., diagnostics: _Optional[_Union[Diagnostics, _Mapping]] = ...) -> None: ...

class ControlMessage(_message.Message):
    __slots__ = ("welcome", "directive", "events_ack", "reconnect")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_ACK_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    directive: Directive
    events_ack: EventsAck
    reconnect: Reconnect
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., directive: _Optional[_Union[Directive, _Mapping]] = ..., events_ack: _Optional[_Union[EventsAck, _Mapping]] = ..., reconnect: _Optional[_Union[Reconnect, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("instance_id", "boot_id", "spool_id", "node", "status")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    SPOOL_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    boot_id: str
    spool_id: str
    node: _node_pb2.NodeInfo
    status: Status
    def __init__(self, instance_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., spool_id: _Optional[str] = ..., node: _Optional[_Union[_node_pb2.NodeInfo, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("sequence", "held", "room", "client_time", "draining")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TIME_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    held: _containers.RepeatedCompositeFieldContainer[HeldAttempt]
    room: Room
    client_time: _timestamp_pb2.Timestamp
    draining: bool
    def __init__(self, sequence: _Optional[int] = ..., held: _Optional[_Iterable[_Union[HeldAttempt, _Mapping]]] = ..., room: _Optional[_Union[Room, _Mapping]] = ..., client_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., draining: _Optional[bool] = ...) -> None: ...

class HeldAttempt(_message.Message):
    __slots__ = ("attempt", "state")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    state: _run_pb2.Attempt.State
    def __init__(self, attempt: _Optional[str] = ..., state: _Optional[_Union[_run_pb2.Attempt.State, str]] = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ("attempts", "cpu_millis", "memory_bytes", "gpu_uuids")
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPU_UUIDS_FIELD_NUMBER: _ClassVar[int]
    attempts: int
    cpu_millis: int
    memory_bytes: int
    gpu_uuids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, attempts: _Optional[int] = ..., cpu_millis: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., gpu_uuids: _Optional[_Iterable[str]] = ...) -> None: ...

class Diagnostics(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("client_time", "level", "logger", "message", "fields", "dropped_before")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CLIENT_TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    client_time: _timestamp_pb2.Timestamp
    level: _agent_pb2.AgentLogLine.Level
    logger: str
    message: str
    fields: _containers.ScalarMap[str, str]
    dropped_before: int
    def __init__(self, client_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., level: _Optional[_Union[_agent_pb2.AgentLogLine.Level, str]] = ..., logger: _Optional[str] = ..., message: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ..., dropped_before: _Optional[int] = ...) -> None: ...

class Events(_message.Message):
    __slots__ = ("spool_id", "events", "after_seq")
    SPOOL_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    spool_id: str
    events: _containers.RepeatedCompositeFieldContainer[SpoolEvent]
    after_seq: int
    def __init__(self, spool_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[SpoolEvent, _Mapping]]] = ..., after_seq: _Optional[int] = ...) -> None: ...

class SpoolEvent(_message.Message):
    __slots__ = ("seq", "attempt", "client_time", "state_changed", "log_chunk", "metric_points", "result")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    LOG_CHUNK_FIELD_NUMBER: _ClassVar[int]
    METRIC_POINTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    attempt: str
    client_time: _timestamp_pb2.Timestamp
    state_changed: StateChanged
    log_chunk: LogChunk
    metric_points: MetricPoints
    result: AttemptResult
    def __init__(self, seq: _Optional[int] = ..., attempt: _Optional[str] = ..., client_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state_changed: _Optional[_Union[StateChanged, _Mapping]] = ..., log_chunk: _Optional[_Union[LogChunk, _Mapping]] = ..., metric_points: _Optional[_Union[MetricPoints, _Mapping]] = ..., result: _Optional[_Union[AttemptResult, _Mapping]] = ...) -> None: ...

class StateChanged(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _run_pb2.Attempt.State
    def __init__(self, state: _Optional[_Union[_run_pb2.Attempt.State, str]] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("offset_bytes", "data", "truncated", "stderr")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    data: bytes
    truncated: bool
    stderr: bool
    def __init__(self, offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., truncated: _Optional[bool] = ..., stderr: _Optional[bool] = ...) -> None: ...

class MetricPoints(_message.Message):
    __slots__ = ("first_index", "points")
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    first_index: int
    points: _containers.RepeatedCompositeFieldContainer[_metric_pb2.MetricPoint]
    def __init__(self, first_index: _Optional[int] = ..., points: _Optional[_Iterable[_Union[_metric_pb2.MetricPoint, _Mapping]]] = ...) -> None: ...

class AttemptResult(_message.Message):
    __slots__ = ("state", "failure_class", "reason", "message", "exit_code", "outputs", "metrics", "sandbox_report", "provenance", "log_size_bytes")
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_REPORT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: _run_pb2.Attempt.State
    failure_class: _run_pb2.Attempt.FailureClass
    reason: str
    message: str
    exit_code: int
    outputs: _containers.RepeatedCompositeFieldContainer[OutputResult]
    metrics: _containers.RepeatedCompositeFieldContainer[_metric_pb2.Metric]
    sandbox_report: bytes
    provenance: bytes
    log_size_bytes: int
    def __init__(self, state: _Optional[_Union[_run_pb2.Attempt.State, str]] = ..., failure_class: _Optional[_Union[_run_pb2.Attempt.FailureClass, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., exit_code: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[OutputResult, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_metric_pb2.Metric, _Mapping]]] = ..., sandbox_report: _Optional[bytes] = ..., provenance: _Optional[bytes] = ..., log_size_bytes: _Optional[int] = ...) -> None: ...

class OutputResult(_message.Message):
    __slots__ = ("name", "manifest_digest", "file_count", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest_digest: str
    file_count: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "server_time", "status_interval", "trust_bundle", "acknowledged_seq")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    STATUS_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_SEQ_FIELD_NUMBER: _ClassVar[int]
    session: int
    server_time: _timestamp_pb2.Timestamp
    status_interval: _duration_pb2.Duration
    trust_bundle: bytes
    acknowledged_seq: int
    def __init__(self, session: _Optional[int] = ..., server_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., trust_bundle: _Optional[bytes] = ..., acknowledged_seq: _Optional[int] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("status_sequence", "attempts", "assignments", "unschedulable_reason")
    STATUS_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    UNSCHEDULABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    status_sequence: int
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptDirective]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    unschedulable_reason: str
    def __init__(self, status_sequence: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[AttemptDirective, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., unschedulable_reason: _Optional[str] = ...) -> None: ...

class AttemptDirective(_message.Message):
    __slots__ = ("attempt", "intent", "lease_duration")
    class Intent(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INTENT_UNSPECIFIED: _ClassVar[AttemptDirective.Intent]
        INTENT_KEEP: _ClassVar[AttemptDirective.Intent]
        INTENT_CANCEL: _ClassVar[AttemptDirective.Intent]
        INTENT_STALE: _ClassVar[AttemptDirective.Intent]
        INTENT_FORGET: _ClassVar[AttemptDirective.Intent]
        INTENT_PREEMPT: _ClassVar[AttemptDirective.Intent]
    INTENT_UNSPECIFIED: AttemptDirective.Intent
    INTENT_KEEP: AttemptDirective.Intent
    INTENT_CANCEL: AttemptDirective.Intent
    INTENT_STALE: AttemptDirective.Intent
    INTENT_FORGET: AttemptDirective.Intent
    INTENT_PREEMPT: AttemptDirective.Intent
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    intent: AttemptDirective.Intent
    lease_duration: _duration_pb2.Duration
    def __init__(self, attempt: _Optional[str] = ..., intent: _Optional[_Union[AttemptDirective.Intent, str]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("attempt", "contract", "grant", "lease_duration")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    contract: bytes
    grant: bytes
    lease_duration: _duration_pb2.Duration
    def __init__(self, attempt: _Optional[str] = ..., contract: _Optional[bytes] = ..., grant: _Optional[bytes] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class EventsAck(_message.Message):
    __slots__ = ("spool_id", "seq", "stale_attempts", "resend")
    SPOOL_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STALE_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RESEND_FIELD_NUMBER: _ClassVar[int]
    spool_id: str
    seq: int
    stale_attempts: _containers.RepeatedScalarFieldContainer[str]
    resend: bool
    def __init__(self, spool_id: _Optional[str] = ..., seq: _Optional[int] = ..., stale_attempts: _Optional[_Iterable[str]] = ..., resend: _Optional[bool] = ...) -> None: ...

class Reconnect(_message.Message):
    __slots__ = ("after", "reason")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    after: _duration_pb2.Duration
    reason: str
    def __init__(self, after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class RenewCertificateRequest(_message.Message):
    __slots__ = ("tls_csr",)
    TLS_CSR_FIELD_NUMBER: _ClassVar[int]
    tls_csr: bytes
    def __init__(self, tls_csr: _Optional[bytes] = ...) -> None: ...

class RenewCertificateResponse(_message.Message):
    __slots__ = ("tls_certificate", "trust_bundle")
    TLS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    tls_certificate: bytes
    trust_bundle: bytes
    def __init__(self, tls_certificate: _Optional[bytes] = ..., trust_bundle: _Optional[bytes] = ...) -> None: ...
