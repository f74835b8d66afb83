from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ManifestEntry(_message.Message):
    __slots__ = ("path", "kind", "size_bytes", "digest", "target")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[ManifestEntry.Kind]
        KIND_FILE: _ClassVar[ManifestEntry.Kind]
        KIND_EXECUTABLE: _ClassVar[ManifestEntry.Kind]
        KIND_SYMLINK: _ClassVar[ManifestEntry.Kind]
    KIND_UNSPECIFIED: ManifestEntry.Kind
    KIND_FILE: ManifestEntry.Kind
    KIND_EXECUTABLE: ManifestEntry.Kind
    KIND_SYMLINK: ManifestEntry.Kind
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: ManifestEntry.Kind
    size_bytes: int
    digest: str
    target: str
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[ManifestEntry.Kind, str]] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...
