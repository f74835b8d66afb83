from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("token", "tls_csr", "attestation_public_key", "attestation_proof")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TLS_CSR_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_PROOF_FIELD_NUMBER: _ClassVar[int]
    token: str
    tls_csr: bytes
    attestation_public_key: bytes
    attestation_proof: bytes
    def __init__(self, token: _Optional[str] = ..., tls_csr: _Optional[bytes] = ..., attestation_public_key: _Optional[bytes] = ..., attestation_proof: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("agent", "tls_certificate", "attestation_certificate", "trust_bundle", "services_ca", "dispatch_endpoint", "blob_endpoint", "trust_domain")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TLS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SERVICES_CA_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    BLOB_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    agent: str
    tls_certificate: bytes
    attestation_certificate: bytes
    trust_bundle: bytes
    services_ca: bytes
    dispatch_endpoint: str
    blob_endpoint: str
    trust_domain: str
    def __init__(self, agent: _Optional[str] = ..., tls_certificate: _Optional[bytes] = ..., attestation_certificate: _Optional[bytes] = ..., trust_bundle: _Optional[bytes] = ..., services_ca: _Optional[bytes] = ..., dispatch_endpoint: _Optional[str] = ..., blob_endpoint: _Optional[str] = ..., trust_domain: _Optional[str] = ...) -> None: ...
