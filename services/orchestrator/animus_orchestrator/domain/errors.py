"""What this service refuses, and why.

AppError (animus_kit.errors)
├─ NotFound             PIPELINE_NOT_FOUND PIPELINE_VERSION_NOT_FOUND RUN_NOT_FOUND STEP_NOT_FOUND
│                       ATTEMPT_NOT_FOUND AGENT_NOT_FOUND JOIN_TOKEN_NOT_FOUND
├─ AlreadyExists        PIPELINE_EXISTS RUN_EXISTS AGENT_EXISTS TOKEN_USED
├─ InvalidArgument      PIPELINE_INVALID BINDINGS_INVALID CSR_INVALID PROOF_INVALID MASK_INVALID PROTOCOL_VIOLATION
├─ FailedPrecondition   RUN_NOT_PLANNABLE STALE_ATTEMPT AGENT_REVOKED IDENTITY_CLONED
├─ Aborted              PLAN_CHANGED ETAG_MISMATCH SESSION_SUPERSEDED
├─ Unauthenticated      TOKEN_INVALID TOKEN_EXPIRED TOKEN_REVOKED CERTIFICATE_SUPERSEDED AGENT_UNKNOWN
├─ PermissionDenied     RUN_DENIED
├─ ResourceExhausted    ENROLLMENT_RATE
└─ Unavailable          SERVER_DRAINING
"""

from __future__ import annotations

from animus_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)


class PipelineNotFound(NotFound):
    reason = "PIPELINE_NOT_FOUND"


class PipelineVersionNotFound(NotFound):
    reason = "PIPELINE_VERSION_NOT_FOUND"


class RunNotFound(NotFound):
    reason = "RUN_NOT_FOUND"


class StepNotFound(NotFound):
    reason = "STEP_NOT_FOUND"


class AttemptNotFound(NotFound):
    reason = "ATTEMPT_NOT_FOUND"


class AgentNotFound(NotFound):
    reason = "AGENT_NOT_FOUND"


class JoinTokenNotFound(NotFound):
    reason = "JOIN_TOKEN_NOT_FOUND"


class PoolNotFound(NotFound):
    reason = "POOL_NOT_FOUND"


class PoolExists(AlreadyExists):
    reason = "POOL_EXISTS"


class PipelineExists(AlreadyExists):
    reason = "PIPELINE_EXISTS"


class RunExists(AlreadyExists):
    reason = "RUN_EXISTS"


class AgentExists(AlreadyExists):
    reason = "AGENT_EXISTS"


class TokenUsed(AlreadyExists):
    """Another key has used this join token: somebody else holds a copy of it."""

    reason = "TOKEN_USED"


class PipelineInvalid(InvalidArgument):
    reason = "PIPELINE_INVALID"


class BindingsInvalid(InvalidArgument):
    reason = "BINDINGS_INVALID"


class CsrInvalid(InvalidArgument):
    reason = "CSR_INVALID"


class ProofInvalid(InvalidArgument):
    """The attestation key's proof of possession does not verify."""

    reason = "PROOF_INVALID"


class MaskInvalid(InvalidArgument):
    reason = "MASK_INVALID"


class ProtocolViolation(InvalidArgument):
    """An agent's message breaks the protocol; its session ends."""

    reason = "PROTOCOL_VIOLATION"


class RunNotPlannable(FailedPrecondition):
    reason = "RUN_NOT_PLANNABLE"


class QuotaExceeded(FailedPrecondition):
    """The project's quota could never allow it, however long it waited."""

    reason = "QUOTA_EXCEEDED"


class StaleAttempt(FailedPrecondition):
    """The attempt is no longer current: whatever it writes has no effect."""

    reason = "STALE_ATTEMPT"


class AgentRevoked(FailedPrecondition):
    reason = "AGENT_REVOKED"


class IdentityCloned(FailedPrecondition):
    """Two processes hold one agent's keys: it gets no work before it has new ones."""

    reason = "IDENTITY_CLONED"


class PlanChanged(Aborted):
    reason = "PLAN_CHANGED"


class EtagMismatch(Aborted):
    reason = "ETAG_MISMATCH"


class SessionSuperseded(Aborted):
    """A newer session of the same agent has taken over."""

    reason = "SESSION_SUPERSEDED"


class TokenInvalid(Unauthenticated):
    reason = "TOKEN_INVALID"


class TokenExpired(Unauthenticated):
    reason = "TOKEN_EXPIRED"


class TokenRevoked(Unauthenticated):
    reason = "TOKEN_REVOKED"


class CertificateSuperseded(Unauthenticated):
    """The certificate is valid but a later one of this agent is in use."""

    reason = "CERTIFICATE_SUPERSEDED"


class AgentUnknown(Unauthenticated):
    reason = "AGENT_UNKNOWN"


class RunDenied(PermissionDenied):
    reason = "RUN_DENIED"


class EnrollmentRate(ResourceExhausted):
    reason = "ENROLLMENT_RATE"


class ServerDraining(Unavailable):
    reason = "SERVER_DRAINING"
