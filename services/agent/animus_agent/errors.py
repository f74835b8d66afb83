"""What can go wrong on a node, as nouns with a stable reason.

AgentError
├── SandboxUnavailable     the node cannot give what was asked; never weakened instead
├── StartFailed            the runtime refused the container
│   └── CommandNotRunnable its command cannot be executed: the user's error
├── NodeDiskFull           a cache has no room left, with everything evicted that nobody uses
├── ImageRefused           an image that is not what its digest says, or is hostile
├── BlobError              content could not be fetched or stored
│   └── BlobCorrupt        it came, and is not what its digest says
├── ContractRefused        not for this agent, not signed, not within what this node may do
├── GpuUnavailable         a device that cannot be given: its specification, its node or its health forbid it
├── SpoolUnavailable       what is to be told cannot be kept now: a full disk, or too much that was not delivered
├── OutputRefused          what the step left behind breaks a rule: the user's error
└── IdentityError          enrolment or renewal
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of all; `reason` is stable and upper-case, the message is for people."""

    reason = "AGENT_ERROR"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class SandboxUnavailable(AgentError):
    reason = "SANDBOX_UNAVAILABLE"


class StartFailed(AgentError):
    reason = "CONTAINER_START_FAILED"


class CommandNotRunnable(StartFailed):
    reason = "COMMAND_NOT_RUNNABLE"


class NodeDiskFull(AgentError):
    reason = "NODE_DISK_FULL"


class ImageRefused(AgentError):
    reason = "IMAGE_REFUSED"


class BlobError(AgentError):
    reason = "BLOB_UNAVAILABLE"


class BlobCorrupt(BlobError):
    reason = "BLOB_CORRUPT"


class ContractRefused(AgentError):
    reason = "CONTRACT_REFUSED"


class GpuUnavailable(AgentError):
    reason = "GPU_UNAVAILABLE"


class SpoolUnavailable(AgentError):
    reason = "SPOOL_UNAVAILABLE"


class OutputRefused(AgentError):
    reason = "OUTPUT_REFUSED"


class IdentityError(AgentError):
    reason = "IDENTITY_ERROR"
