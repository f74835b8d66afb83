"""A client's channel follows its certificate: rotations, half-written ones too, and calls that began before."""

from __future__ import annotations

import dataclasses
import threading

import grpc
import pytest
from cryptography import x509

from animus.policy.v1 import role_binding_pb2 as pb
from animus.policy.v1 import role_binding_pb2_grpc
from animus_kit import pki as kit_pki
from animus_kit.redial import LOOK_SECONDS, FollowingChannel
from animus_kit.server.authz import internal
from animus_kit.tls import TlsFiles, channel_credentials
from tests.kit.test_channel import NAME, process

REQUEST = pb.GetRoleBindingRequest(name=NAME)


class Serials(role_binding_pb2_grpc.RoleBindingServiceServicer):
    """Answers the serial number of the caller's certificate."""

    def __init__(self):
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Semaphore(0)

    def GetRoleBinding(self, request, context):
        certificate = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        self.arrived.release()
        self.hold.wait(20)
        return pb.RoleBinding(name=str(certificate.serial_number))


@dataclasses.dataclass
class Caller:
    """lineage, as whom the channel calls, with files of its own and a clock that stands still."""

    files: TlsFiles
    server: Serials
    at: float = 0.0
    channel: FollowingChannel | None = None

    def later(self) -> None:
        self.at += LOOK_SECONDS

    def issue(self, pki) -> tuple[str, kit_pki.Leaf]:
        """A new certificate, not yet in the files, and its serial number."""
        names = (f"lineage.{pki.trust_domain}",)
        before = x509.load_pem_x509_certificate(self.files.cert.read_bytes()).not_valid_before_utc
        leaf = kit_pki.issue_service(pki.services, "service/lineage", names, pki.trust_domain, before)
        return str(x509.load_pem_x509_certificate(leaf.certificate_pem).serial_number), leaf


@pytest.fixture
def caller(pki, running, tmp_path):
    server = Serials()
    policy = running(process(pki, "policy", server, internal("lineage").peers, 4))
    made = pki.files("service/lineage")
    files = TlsFiles(*(tmp_path / path.name for path in (made.cert, made.key, made.ca)))
    for path, copy in zip((made.cert, made.key, made.ca), (files.cert, files.key, files.ca), strict=True):
        copy.write_bytes(path.read_bytes())
    one = Caller(files, server)
    name = ("grpc.ssl_target_name_override", f"policy.{pki.trust_domain}")
    target = f"127.0.0.1:{policy.port('sync')}"

    def connect():
        options = [name, ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(target, channel_credentials(files), options=options)

    with FollowingChannel(files, connect, lambda: one.at) as one.channel:
        yield one
    server.hold.set()


def test_a_call_after_a_rotation_shows_the_new_certificate(caller, pki):
    stub = role_binding_pb2_grpc.RoleBindingServiceStub(caller.channel)
    first = stub.GetRoleBinding(REQUEST, timeout=10).name
    serial, leaf = caller.issue(pki)
    kit_pki.write_public(caller.files.cert, leaf.certificate_pem)
    caller.later()
    # Its key is still the old one's: a rotation under way.
    assert stub.GetRoleBinding(REQUEST, timeout=10).name == first
    kit_pki.write_private(caller.files.key, leaf.key_pem)
    assert stub.GetRoleBinding(REQUEST, timeout=10).name == first
    caller.later()
    assert stub.GetRoleBinding(REQUEST, timeout=10).name == serial != first
    assert stub.GetRoleBinding.with_call(REQUEST, timeout=10)[0].name == serial
    assert stub.GetRoleBinding.future(REQUEST, timeout=10).result().name == serial


def test_a_call_that_began_before_a_rotation_ends_well(caller, pki):
    stub = role_binding_pb2_grpc.RoleBindingServiceStub(caller.channel)
    caller.server.hold.clear()
    waiting = stub.GetRoleBinding.future(REQUEST, timeout=20)
    assert caller.server.arrived.acquire(timeout=10)
    serial, leaf = caller.issue(pki)
    kit_pki.write_private(caller.files.key, leaf.key_pem)
    kit_pki.write_public(caller.files.cert, leaf.certificate_pem)
    caller.later()
    after = stub.GetRoleBinding.future(REQUEST, timeout=20)
    assert caller.server.arrived.acquire(timeout=10)
    caller.server.hold.set()
    assert (after.result().name, waiting.result().name != serial) == (serial, True)
