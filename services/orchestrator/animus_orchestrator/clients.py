"""What this service asks of others: catalog resolves names, policy decides.

What they refuse is a RemoteError. One that does not answer is gRPC's own error, and the door says what the caller may
know of it: the text holds addresses of our network.
"""

from __future__ import annotations

from typing import Any

import grpc

from animus.catalog.v1 import resolution_pb2, resolution_pb2_grpc
from animus.policy.v1 import decision_pb2, decision_pb2_grpc
from animus_kit.log import get_logger
from animus_kit.status import from_rpc_error

TIMEOUT_SECONDS = 10.0
log = get_logger(__name__)


class Catalog:
    def __init__(self, channel: grpc.Channel):
        self._stub = resolution_pb2_grpc.ResolutionServiceStub(channel)

    def resolve(self, request: resolution_pb2.ResolveBindingsRequest) -> resolution_pb2.ResolveBindingsResponse:
        """Raises: RemoteError, RpcError."""
        return _call(self._stub.ResolveBindings, request)

    def stored_bytes(self, project: str) -> int | None:
        """What the project (its full name) stores; None when the catalog does not answer."""
        request = resolution_pb2.GetStoredBytesRequest(project=project)
        try:
            return self._stub.GetStoredBytes(request, timeout=TIMEOUT_SECONDS).stored_bytes
        except grpc.RpcError as error:
            reason = from_rpc_error(error).reason
            log.warning("the catalog does not say what a project stores", project=project, error=reason)
            return None


class Policy:
    def __init__(self, channel: grpc.Channel):
        self._stub = decision_pb2_grpc.DecisionPointServiceStub(channel)

    def snapshot(self, project: str) -> decision_pb2.PolicySnapshot:
        """The snapshot in force. Raises: RemoteError, RpcError."""
        return _call(self._stub.GetCurrentSnapshot, decision_pb2.GetCurrentSnapshotRequest(project=project))

    def decide(self, request: decision_pb2.DecideRequest) -> decision_pb2.Decision:
        """Raises: RemoteError, RpcError."""
        return _call(self._stub.Decide, request)


def _call(method: Any, request: Any) -> Any:
    try:
        return method(request, timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        answer = from_rpc_error(error)
        if not answer.domain:  # no answer of ours
            raise
        raise answer from None
