"""Audit and policy as real processes with mTLS. A module that uses them says PACKAGES = AUDIT_AND_POLICY."""

import pytest

from animus.audit.v1 import event_pb2_grpc, event_stream_pb2_grpc, ingest_pb2_grpc
from tests.running import audit, bind, people, policy

__all__ = ["audit", "bind", "people", "policy"]


@pytest.fixture(scope="module")
def process(audit):
    return audit


@pytest.fixture(scope="module")
def ingest_as(process, pki):
    """ingest_as("catalog"): a stub of that service's."""
    channels = {}

    def stub(service: str) -> ingest_pb2_grpc.EventIngestServiceStub:
        if service not in channels:
            channels[service] = pki.dial(process, "sync", f"service/{service}")
        return ingest_pb2_grpc.EventIngestServiceStub(channels[service])

    yield stub
    for channel in channels.values():
        channel.close()


@pytest.fixture(scope="module")
def events(process, pki):
    with pki.dial(process, "sync", "gateway") as channel:
        yield event_pb2_grpc.EventServiceStub(channel)


@pytest.fixture(scope="module")
def watch(process, pki):
    with pki.dial(process, "aio", "gateway") as channel:
        yield event_stream_pb2_grpc.EventStreamServiceStub(channel)


@pytest.fixture(scope="module")
def tail(process, pki):
    with pki.dial(process, "aio", "service/lineage") as channel:
        yield ingest_pb2_grpc.EventTailServiceStub(channel)
