from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStoredBytesRequest(_message.Message):
    __slots__ = ("project",)
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    project: str
    def __init__(self, project: _Optional[str] = ...) -> None: ...

class GetStoredBytesResponse(_message.Message):
    __slots__ = ("stored_bytes",)
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    stored_bytes: int
    def __init__(self, stored_bytes: _Optional[int] = ...) -> None: ...

class ResolveBindingsRequest(_message.Message):
    __slots__ = ("project", "dataset_versions", "code_snapshots", "image_digests", "experiment")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    DATASET_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CODE_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    project: str
    dataset_versions: _containers.RepeatedScalarFieldContainer[str]
    code_snapshots: _containers.RepeatedScalarFieldContainer[str]
    image_digests: _containers.RepeatedScalarFieldContainer[str]
    experiment: str
    def __init__(self, project: _Optional[str] = ..., dataset_versions: _Optional[_Iterable[str]] = ..., code_snapshots: _Optional[_Iterable[str]] = ..., image_digests: _Optional[_Iterable[str]] = ..., experiment: _Optional[str] = ...) -> None: ...

class ResolveBindingsResponse(_message.Message):
    __slots__ = ("dataset_versions", "code_snapshots", "images", "unresolved")
    class ResolvedManifest(_message.Message):
        __slots__ = ("name", "manifest_digest", "size_bytes")
        NAME_FIELD_NUMBER: _ClassVar[int]
        MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        name: str
        manifest_digest: str
        size_bytes: int
        def __init__(self, name: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...
    class ResolvedImage(_message.Message):
        __slots__ = ("image_digest", "environment_lock", "lock_digest", "platform")
        IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
        ENVIRONMENT_LOCK_FIELD_NUMBER: _ClassVar[int]
        LOCK_DIGEST_FIELD_NUMBER: _ClassVar[int]
        PLATFORM_FIELD_NUMBER: _ClassVar[int]
        image_digest: str
        environment_lock: str
        lock_digest: str
        platform: str
        def __init__(self, image_digest: _Optional[str] = ..., environment_lock: _Optional[str] = ..., lock_digest: _Optional[str] = ..., platform: _Optional[str] = ...) -> None: ...
    class Unresolved(_message.Message):
        __slots__ = ("reference", "reason", "message")
        REFERENCE_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        reference: str
        reason: str
        message: str
        def __init__(self, reference: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    DATASET_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CODE_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    UNRESOLVED_FIELD_NUMBER: _ClassVar[int]
    dataset_versions: _containers.RepeatedCompositeFieldContainer[ResolveBindingsResponse.ResolvedManifest]
    code_snapshots: _containers.RepeatedCompositeFieldContainer[ResolveBindingsResponse.ResolvedManifest]
    images: _containers.RepeatedCompositeFieldContainer[ResolveBindingsResponse.ResolvedImage]
    unresolved: _containers.RepeatedCompositeFieldContainer[ResolveBindingsResponse.Unresolved]
    def __init__(self, dataset_versions: _Optional[_Iterable[_Union[ResolveBindingsResponse.ResolvedManifest, _Mapping]]] = ..., code_snapshots: _Optional[_Iterable[_Union[ResolveBindingsResponse.ResolvedManifest, _Mapping]]] = ..., images: _Optional[_Iterable[_Union[ResolveBindingsResponse.ResolvedImage, _Mapping]]] = ..., unresolved: _Optional[_Iterable[_Union[ResolveBindingsResponse.Unresolved, _Mapping]]] = ...) -> None: ...
