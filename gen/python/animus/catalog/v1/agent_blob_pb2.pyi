from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadBlobRequest(_message.Message):
    __slots__ = ("grant", "container_digest", "digest", "offset_bytes")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    container_digest: str
    digest: str
    offset_bytes: int
    def __init__(self, grant: _Optional[bytes] = ..., container_digest: _Optional[str] = ..., digest: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class ReadBlobResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class WriteBlobRequest(_message.Message):
    __slots__ = ("grant", "digest", "size_bytes", "offset_bytes", "data")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    digest: str
    size_bytes: int
    offset_bytes: int
    data: bytes
    def __init__(self, grant: _Optional[bytes] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteBlobResponse(_message.Message):
    __slots__ = ("size_bytes",)
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    def __init__(self, size_bytes: _Optional[int] = ...) -> None: ...

class WriteSmallBlobsRequest(_message.Message):
    __slots__ = ("grant", "blobs", "manifest_digests")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    blobs: _containers.RepeatedCompositeFieldContainer[SmallBlob]
    manifest_digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, grant: _Optional[bytes] = ..., blobs: _Optional[_Iterable[_Union[SmallBlob, _Mapping]]] = ..., manifest_digests: _Optional[_Iterable[str]] = ...) -> None: ...

class SmallBlob(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteSmallBlobsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatBlobRequest(_message.Message):
    __slots__ = ("grant", "digest")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    digest: str
    def __init__(self, grant: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class StatBlobResponse(_message.Message):
    __slots__ = ("complete", "offset_bytes")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    offset_bytes: int
    def __init__(self, complete: _Optional[bool] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class SealManifestRequest(_message.Message):
    __slots__ = ("grant", "digest")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    digest: str
    def __init__(self, grant: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class SealManifestResponse(_message.Message):
    __slots__ = ("file_count", "size_bytes")
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    file_count: int
    size_bytes: int
    def __init__(self, file_count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...
