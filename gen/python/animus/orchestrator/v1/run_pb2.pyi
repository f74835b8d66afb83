import datetime

from animus.type.v1 import list_order_pb2 as _list_order_pb2
from animus.type.v1 import metric_pb2 as _metric_pb2
from animus.type.v1 import problem_pb2 as _problem_pb2
from animus.type.v1 import value_pb2 as _value_pb2
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

class Bindings(_message.Message):
    __slots__ = ("datasets", "code", "parameters", "labels", "experiment")
    class Dataset(_message.Message):
        __slots__ = ("dataset_ref", "dataset_version")
        DATASET_REF_FIELD_NUMBER: _ClassVar[int]
        DATASET_VERSION_FIELD_NUMBER: _ClassVar[int]
        dataset_ref: str
        dataset_version: str
        def __init__(self, dataset_ref: _Optional[str] = ..., dataset_version: _Optional[str] = ...) -> None: ...
    class Code(_message.Message):
        __slots__ = ("step", "code_snapshot")
        STEP_FIELD_NUMBER: _ClassVar[int]
        CODE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
        step: str
        code_snapshot: str
        def __init__(self, step: _Optional[str] = ..., code_snapshot: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Bindings.Dataset]
    code: _containers.RepeatedCompositeFieldContainer[Bindings.Code]
    parameters: _containers.RepeatedCompositeFieldContainer[_value_pb2.Parameter]
    labels: _containers.ScalarMap[str, str]
    experiment: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Bindings.Dataset, _Mapping]]] = ..., code: _Optional[_Iterable[_Union[Bindings.Code, _Mapping]]] = ..., parameters: _Optional[_Iterable[_Union[_value_pb2.Parameter, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., experiment: _Optional[str] = ...) -> None: ...

class Scheduling(_message.Message):
    __slots__ = ("pool", "node_labels", "priority")
    class NodeLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    POOL_FIELD_NUMBER: _ClassVar[int]
    NODE_LABELS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    pool: str
    node_labels: _containers.ScalarMap[str, str]
    priority: int
    def __init__(self, pool: _Optional[str] = ..., node_labels: _Optional[_Mapping[str, str]] = ..., priority: _Optional[int] = ...) -> None: ...

class WaitObstacle(_message.Message):
    __slots__ = ("reason", "agents", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    agents: int
    message: str
    def __init__(self, reason: _Optional[str] = ..., agents: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("name", "pipeline_version", "bindings", "state", "state_reason", "state_message", "plan_digest", "plan", "policy_snapshot_digest", "decision", "labels", "experiment", "creator", "create_time", "start_time", "end_time", "etag", "scheduling")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Run.State]
        STATE_QUEUED: _ClassVar[Run.State]
        STATE_RUNNING: _ClassVar[Run.State]
        STATE_CANCELING: _ClassVar[Run.State]
        STATE_SUCCEEDED: _ClassVar[Run.State]
        STATE_FAILED: _ClassVar[Run.State]
        STATE_CANCELED: _ClassVar[Run.State]
        STATE_WAITING: _ClassVar[Run.State]
    STATE_UNSPECIFIED: Run.State
    STATE_QUEUED: Run.State
    STATE_RUNNING: Run.State
    STATE_CANCELING: Run.State
    STATE_SUCCEEDED: Run.State
    STATE_FAILED: Run.State
    STATE_CANCELED: Run.State
    STATE_WAITING: Run.State
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    POLICY_SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    name: str
    pipeline_version: str
    bindings: Bindings
    state: Run.State
    state_reason: str
    state_message: str
    plan_digest: str
    plan: bytes
    policy_snapshot_digest: str
    decision: str
    labels: _containers.ScalarMap[str, str]
    experiment: str
    creator: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    etag: str
    scheduling: Scheduling
    def __init__(self, name: _Optional[str] = ..., pipeline_version: _Optional[str] = ..., bindings: _Optional[_Union[Bindings, _Mapping]] = ..., state: _Optional[_Union[Run.State, str]] = ..., state_reason: _Optional[str] = ..., state_message: _Optional[str] = ..., plan_digest: _Optional[str] = ..., plan: _Optional[bytes] = ..., policy_snapshot_digest: _Optional[str] = ..., decision: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., experiment: _Optional[str] = ..., creator: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., scheduling: _Optional[_Union[Scheduling, _Mapping]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "state", "state_reason", "state_message", "dependencies", "recipe_digest", "action_digest", "action", "current_attempt", "outputs", "metrics", "ready_time", "start_time", "end_time", "obstacles")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Step.State]
        STATE_PENDING: _ClassVar[Step.State]
        STATE_READY: _ClassVar[Step.State]
        STATE_LEASED: _ClassVar[Step.State]
        STATE_RUNNING: _ClassVar[Step.State]
        STATE_RETRYING: _ClassVar[Step.State]
        STATE_CANCELING: _ClassVar[Step.State]
        STATE_SUCCEEDED: _ClassVar[Step.State]
        STATE_FAILED: _ClassVar[Step.State]
        STATE_CANCELED: _ClassVar[Step.State]
        STATE_SKIPPED: _ClassVar[Step.State]
        STATE_CACHED: _ClassVar[Step.State]
        STATE_WAITING: _ClassVar[Step.State]
    STATE_UNSPECIFIED: Step.State
    STATE_PENDING: Step.State
    STATE_READY: Step.State
    STATE_LEASED: Step.State
    STATE_RUNNING: Step.State
    STATE_RETRYING: Step.State
    STATE_CANCELING: Step.State
    STATE_SUCCEEDED: Step.State
    STATE_FAILED: Step.State
    STATE_CANCELED: Step.State
    STATE_SKIPPED: Step.State
    STATE_CACHED: Step.State
    STATE_WAITING: Step.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACTION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    READY_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    OBSTACLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Step.State
    state_reason: str
    state_message: str
    dependencies: _containers.RepeatedScalarFieldContainer[str]
    recipe_digest: str
    action_digest: str
    action: bytes
    current_attempt: int
    outputs: _containers.RepeatedCompositeFieldContainer[StepOutput]
    metrics: _containers.RepeatedCompositeFieldContainer[_metric_pb2.Metric]
    ready_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    obstacles: _containers.RepeatedCompositeFieldContainer[WaitObstacle]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Step.State, str]] = ..., state_reason: _Optional[str] = ..., state_message: _Optional[str] = ..., dependencies: _Optional[_Iterable[str]] = ..., recipe_digest: _Optional[str] = ..., action_digest: _Optional[str] = ..., action: _Optional[bytes] = ..., current_attempt: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[StepOutput, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[_metric_pb2.Metric, _Mapping]]] = ..., ready_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., obstacles: _Optional[_Iterable[_Union[WaitObstacle, _Mapping]]] = ...) -> None: ...

class StepOutput(_message.Message):
    __slots__ = ("name", "manifest_digest", "artifact", "file_count", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    manifest_digest: str
    artifact: str
    file_count: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., artifact: _Optional[str] = ..., file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("name", "state", "agent", "failure_class", "state_reason", "state_message", "exit_code", "log_size_bytes", "log_truncated", "contract", "provenance", "sandbox_report", "lease_time", "start_time", "end_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Attempt.State]
        STATE_LEASED: _ClassVar[Attempt.State]
        STATE_PREPARING: _ClassVar[Attempt.State]
        STATE_RUNNING: _ClassVar[Attempt.State]
        STATE_FINISHING: _ClassVar[Attempt.State]
        STATE_CANCELING: _ClassVar[Attempt.State]
        STATE_SUCCEEDED: _ClassVar[Attempt.State]
        STATE_FAILED: _ClassVar[Attempt.State]
        STATE_CANCELED: _ClassVar[Attempt.State]
        STATE_LOST: _ClassVar[Attempt.State]
    STATE_UNSPECIFIED: Attempt.State
    STATE_LEASED: Attempt.State
    STATE_PREPARING: Attempt.State
    STATE_RUNNING: Attempt.State
    STATE_FINISHING: Attempt.State
    STATE_CANCELING: Attempt.State
    STATE_SUCCEEDED: Attempt.State
    STATE_FAILED: Attempt.State
    STATE_CANCELED: Attempt.State
    STATE_LOST: Attempt.State
    class FailureClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FAILURE_CLASS_UNSPECIFIED: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_USER_ERROR: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_OUT_OF_MEMORY: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_TIMEOUT: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_LOG_LIMIT: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_DISK_LIMIT: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_LOST_NODE: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_LOST_CONTAINER: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_INFRASTRUCTURE: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_PREEMPTED: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_POLICY: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_TAINTED: _ClassVar[Attempt.FailureClass]
        FAILURE_CLASS_CANCELED: _ClassVar[Attempt.FailureClass]
    FAILURE_CLASS_UNSPECIFIED: Attempt.FailureClass
    FAILURE_CLASS_USER_ERROR: Attempt.FailureClass
    FAILURE_CLASS_OUT_OF_MEMORY: Attempt.FailureClass
    FAILURE_CLASS_TIMEOUT: Attempt.FailureClass
    FAILURE_CLASS_LOG_LIMIT: Attempt.FailureClass
    FAILURE_CLASS_DISK_LIMIT: Attempt.FailureClass
    FAILURE_CLASS_LOST_NODE: Attempt.FailureClass
    FAILURE_CLASS_LOST_CONTAINER: Attempt.FailureClass
    FAILURE_CLASS_INFRASTRUCTURE: Attempt.FailureClass
    FAILURE_CLASS_PREEMPTED: Attempt.FailureClass
    FAILURE_CLASS_POLICY: Attempt.FailureClass
    FAILURE_CLASS_TAINTED: Attempt.FailureClass
    FAILURE_CLASS_CANCELED: Attempt.FailureClass
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_REPORT_FIELD_NUMBER: _ClassVar[int]
    LEASE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Attempt.State
    agent: str
    failure_class: Attempt.FailureClass
    state_reason: str
    state_message: str
    exit_code: int
    log_size_bytes: int
    log_truncated: bool
    contract: bytes
    provenance: bytes
    sandbox_report: bytes
    lease_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Attempt.State, str]] = ..., agent: _Optional[str] = ..., failure_class: _Optional[_Union[Attempt.FailureClass, str]] = ..., state_reason: _Optional[str] = ..., state_message: _Optional[str] = ..., exit_code: _Optional[int] = ..., log_size_bytes: _Optional[int] = ..., log_truncated: _Optional[bool] = ..., contract: _Optional[bytes] = ..., provenance: _Optional[bytes] = ..., sandbox_report: _Optional[bytes] = ..., lease_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PlanRunRequest(_message.Message):
    __slots__ = ("parent", "pipeline_version", "bindings", "scheduling")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    parent: str
    pipeline_version: str
    bindings: Bindings
    scheduling: Scheduling
    def __init__(self, parent: _Optional[str] = ..., pipeline_version: _Optional[str] = ..., bindings: _Optional[_Union[Bindings, _Mapping]] = ..., scheduling: _Optional[_Union[Scheduling, _Mapping]] = ...) -> None: ...

class PlanRunResponse(_message.Message):
    __slots__ = ("plan", "plan_digest", "problems", "steps", "allowed", "denial_message")
    class StepAssessment(_message.Message):
        __slots__ = ("step", "recipe_digest", "action_digest", "eligible_agents", "placement_message", "wait_reason", "obstacles")
        STEP_FIELD_NUMBER: _ClassVar[int]
        RECIPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
        ACTION_DIGEST_FIELD_NUMBER: _ClassVar[int]
        ELIGIBLE_AGENTS_FIELD_NUMBER: _ClassVar[int]
        PLACEMENT_MESSAGE_FIELD_NUMBER: _ClassVar[int]
        WAIT_REASON_FIELD_NUMBER: _ClassVar[int]
        OBSTACLES_FIELD_NUMBER: _ClassVar[int]
        step: str
        recipe_digest: str
        action_digest: str
        eligible_agents: int
        placement_message: str
        wait_reason: str
        obstacles: _containers.RepeatedCompositeFieldContainer[WaitObstacle]
        def __init__(self, step: _Optional[str] = ..., recipe_digest: _Optional[str] = ..., action_digest: _Optional[str] = ..., eligible_agents: _Optional[int] = ..., placement_message: _Optional[str] = ..., wait_reason: _Optional[str] = ..., obstacles: _Optional[_Iterable[_Union[WaitObstacle, _Mapping]]] = ...) -> None: ...
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    DENIAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    plan_digest: str
    problems: _containers.RepeatedCompositeFieldContainer[_problem_pb2.Problem]
    steps: _containers.RepeatedCompositeFieldContainer[PlanRunResponse.StepAssessment]
    allowed: bool
    denial_message: str
    def __init__(self, plan: _Optional[bytes] = ..., plan_digest: _Optional[str] = ..., problems: _Optional[_Iterable[_Union[_problem_pb2.Problem, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[PlanRunResponse.StepAssessment, _Mapping]]] = ..., allowed: _Optional[bool] = ..., denial_message: _Optional[str] = ...) -> None: ...

class CreateRunRequest(_message.Message):
    __slots__ = ("parent", "run_id", "pipeline_version", "bindings", "expected_plan_digest", "request_id", "scheduling")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    parent: str
    run_id: str
    pipeline_version: str
    bindings: Bindings
    expected_plan_digest: str
    request_id: str
    scheduling: Scheduling
    def __init__(self, parent: _Optional[str] = ..., run_id: _Optional[str] = ..., pipeline_version: _Optional[str] = ..., bindings: _Optional[_Union[Bindings, _Mapping]] = ..., expected_plan_digest: _Optional[str] = ..., request_id: _Optional[str] = ..., scheduling: _Optional[_Union[Scheduling, _Mapping]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "order_by", "min_create_time", "max_create_time", "labels", "states", "pipeline", "experiment", "creator")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    MIN_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    order_by: _list_order_pb2.ListOrder
    min_create_time: _timestamp_pb2.Timestamp
    max_create_time: _timestamp_pb2.Timestamp
    labels: _containers.RepeatedScalarFieldContainer[str]
    states: _containers.RepeatedScalarFieldContainer[Run.State]
    pipeline: str
    experiment: str
    creator: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., order_by: _Optional[_Union[_list_order_pb2.ListOrder, str]] = ..., min_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., states: _Optional[_Iterable[_Union[Run.State, str]]] = ..., pipeline: _Optional[str] = ..., experiment: _Optional[str] = ..., creator: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("name", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetStepRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListStepsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStepsResponse(_message.Message):
    __slots__ = ("steps", "next_page_token")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    next_page_token: str
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetAttemptRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAttemptsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAttemptsResponse(_message.Message):
    __slots__ = ("attempts", "next_page_token")
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    next_page_token: str
    def __init__(self, attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListMetricPointsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token", "metric")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    metric: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., metric: _Optional[str] = ...) -> None: ...

class ListMetricPointsResponse(_message.Message):
    __slots__ = ("metric_points", "next_page_token")
    METRIC_POINTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    metric_points: _containers.RepeatedCompositeFieldContainer[_metric_pb2.MetricPoint]
    next_page_token: str
    def __init__(self, metric_points: _Optional[_Iterable[_Union[_metric_pb2.MetricPoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
