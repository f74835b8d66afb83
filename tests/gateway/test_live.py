"""What a caller sees, through a real Envoy."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket

import grpc
import pytest

from animus.catalog.v1 import (
    blob_pb2,
    blob_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    resolution_pb2,
    resolution_pb2_grpc,
)
from animus_client.issuer import LocalIssuer
from tests.gateway.conftest import status_of

pytestmark = pytest.mark.xdist_group("gateway")

PROJECTS = "/catalog/v1/projects"


def test_json_grpc_and_grpc_web_reach_the_same_method(gateway):
    status, headers, body = gateway.call("GET", f"{PROJECTS}/a")
    assert (status, json.loads(body)["name"]) == (200, "projects/a")
    assert headers["x-request-id"] and headers["strict-transport-security"]

    with gateway.channel() as channel:
        stub = project_pb2_grpc.ProjectServiceStub(channel)
        metadata = [("authorization", f"Bearer {gateway.token()}")]
        assert stub.GetProject(project_pb2.GetProjectRequest(name="projects/b"), metadata=metadata).name == "projects/b"

    request = project_pb2.GetProjectRequest(name="projects/c").SerializeToString()
    frame = b"\0" + len(request).to_bytes(4, "big") + request
    status, headers, body = gateway.call(
        "POST", "/animus.catalog.v1.ProjectService/GetProject", frame, content_type="application/grpc-web+proto"
    )
    assert (
        status == 200 and b"projects/c" in body and b"grpc-status: 0" in body.lower().replace(b"status:0", b"status: 0")
    )


def test_errors_of_services_keep_their_details(gateway):
    status, _, body = gateway.call("GET", f"{PROJECTS}/absent")
    assert status == 404 and status_of(body) == (5, "PROJECT_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "reason"),
    [
        ("GET", "/nowhere", None, 404, 5, "ROUTE_NOT_FOUND"),
        ("GET", "/catalog/v1/nowhere", None, 404, 5, "ROUTE_NOT_FOUND"),
        ("DELETE", f"{PROJECTS}/a", None, 404, 5, "ROUTE_NOT_FOUND"),
        ("GET", f"{PROJECTS}?nope=1", None, 400, 3, "REQUEST_MALFORMED"),
        ("GET", f"{PROJECTS}?page_size=many", None, 400, 3, "REQUEST_MALFORMED"),
        ("POST", f"{PROJECTS}?project_id=a", b'{"display_name":', 400, 3, "REQUEST_MALFORMED"),
        ("POST", f"{PROJECTS}?project_id=a", b'{"display_name":7}', 400, 3, "REQUEST_MALFORMED"),
        ("POST", f"{PROJECTS}/a:archive", b'{"name":"projects/b"}', 400, 3, "REQUEST_MALFORMED"),
        ("POST", f"{PROJECTS}?project_id=a", b'{"description":"' + b"x" * 1200000 + b'"}', 413, 8, "BODY_TOO_LARGE"),
        ("POST", "/animus.catalog.v1.ProjectService/GetProject", b"{}", 404, 5, "ROUTE_NOT_FOUND"),
        ("GET", "/policy/v1/projects/a/roleBindings", None, 503, 14, "UPSTREAM_UNAVAILABLE"),
    ],
)
def test_one_error_shape(gateway, method, path, body, status, code, reason):
    found, headers, answer = gateway.call(method, path, body, content_type="application/json")
    assert (found, status_of(answer)) == (status, (code, reason)), answer
    assert headers["content-type"] == "application/json"


def test_bad_json_says_where(gateway):
    _, _, body = gateway.call("POST", f"{PROJECTS}?project_id=a", b'{"displayName":7}')
    assert "displayName" in json.loads(body)["message"] or "display_name" in json.loads(body)["message"]


def test_the_largest_document_passes(gateway):
    """1 MiB of bytes is 1.4 MiB of JSON."""
    body = b'{"etag":"' + b"x" * 1048576 + b'"}'
    assert gateway.call("POST", f"{PROJECTS}?project_id=a", body)[0] == 200


def test_unknown_json_fields_are_dropped(gateway):
    """Envoy has no way to refuse them; README.md says so. What must not be misspelt travels as a document, in bytes."""
    status, _, body = gateway.call("POST", f"{PROJECTS}?project_id=a", b'{"displayName":"x","nope":1}')
    assert (status, json.loads(body)["displayName"]) == (200, "x")


def _part(value: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _tampered(gateway, how: str) -> str | None:
    good = gateway.token()
    head, body, signature = good.split(".")
    if how == "none":
        return None
    if how == "alg none":
        return f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{body}."
    if how == "hmac":
        header = _part({"alg": "HS256", "typ": "at+jwt", "kid": json.loads(gateway.issuer.jwks())["keys"][0]["kid"]})
        key = gateway.issuer.jwks()
        mac = hmac.new(key, f"{header}.{body}".encode(), hashlib.sha256).digest()
        return f"{header}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    if how == "forged":
        return f"{head}.{_part({'iss': 'https://issuer.test', 'aud': 'animus', 'sub': 'eve', 'exp': 9999999999})}.{signature}"
    if how == "other key":
        return LocalIssuer.generate("https://issuer.test", "animus").token("ann", _now())
    return gateway.token(
        **{
            "expired": {"iat": 1000000, "exp": 1000900},
            "not yet": {"nbf": 4000000000},
            "too long": {"exp": int(_now().timestamp()) + 86400},
            "no expiry": {"exp": None},
            "audience": {"aud": "other"},
            "issuer": {"iss": "https://evil.test"},
        }[how]
    )


def _now():
    from datetime import UTC, datetime

    return datetime.now(UTC)


@pytest.mark.parametrize(
    "how",
    [
        "none",
        "alg none",
        "hmac",
        "forged",
        "other key",
        "expired",
        "not yet",
        "too long",
        "no expiry",
        "audience",
        "issuer",
    ],
)
def test_401_without_a_good_token(gateway, how):
    status, _, body = gateway.call("GET", f"{PROJECTS}/a", token=_tampered(gateway, how))
    assert status == 401 and status_of(body) == (16, "TOKEN_INVALID")


def test_a_token_in_the_query_is_not_one(gateway):
    status, _, _ = gateway.call("GET", f"{PROJECTS}/a?access_token={gateway.token()}", token=None)
    assert status == 401


def test_a_path_cannot_step_around_the_token(gateway):
    for path in ("/healthz/../catalog/v1/projects/a", "/healthz/%2e%2e/catalog/v1/projects/a"):
        assert gateway.call("GET", path, token=None)[0] == 401


def test_rate_limit_is_for_each_subject(gateway):
    metadata = [("authorization", f"Bearer {gateway.token(subject='busy')}")]
    request = project_pb2.GetProjectRequest(name="projects/a")
    with gateway.channel() as channel:
        stub = project_pb2_grpc.ProjectServiceStub(channel)
        calls = [stub.GetProject.future(request, metadata=metadata) for _ in range(300)]
        codes = {call.code() for call in calls}
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    # JSON draws from the same bucket.
    status, _, body = gateway.call("GET", f"{PROJECTS}/a", token=metadata[0][1].split()[1])
    assert status == 200 or status_of(body) == (8, "RATE_LIMITED")
    assert gateway.call("GET", f"{PROJECTS}/a")[0] == 200


def test_internal_headers_of_callers_do_not_arrive(gateway):
    gateway.projects.metadata.clear()
    gateway.call(
        "GET", f"{PROJECTS}/headers", animus_actor="root", x_animus_principal="root", x_request_id='"}{evil',
        x_envoy_original_path="/x", x_forwarded_client_cert="URI=spiffe://gateway.test/service/policy",
    )  # fmt: skip
    seen = gateway.projects.metadata[-1]
    assert "animus-actor" not in seen and "x-animus-principal" not in seen and "x-forwarded-client-cert" not in seen
    assert seen["x-request-id"] != '"}{evil' and seen["x-envoy-original-path"] == f"{PROJECTS}/headers"
    assert seen["authorization"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"grpc_timeout": "soon"}, 400),
        ({"grpc_encoding": "zzz"}, 400),
        ({"grpc_timeout": "9S", "grpc_encoding": "identity"}, 200),
        ({"grpc_tags_bin": "!"}, 200),
        ({"some_bin": "!"}, 200),
        ({"grpc_status": "many"}, 200),
        ({"grpc_retry_pushback_ms": "many"}, 200),
        ({"grpc_internal_encoding_request": "zzz"}, 200),
    ],
)
def test_headers_that_grpc_cannot_read(gateway, header, status):
    """Nobody else feels them: services share one connection among all callers."""
    found, _, body = gateway.call("GET", f"{PROJECTS}/a", **header)
    assert found == status, body
    assert status == 200 or status_of(body) == (3, "REQUEST_MALFORMED")
    with gateway.channel() as channel:
        stub = project_pb2_grpc.ProjectServiceStub(channel)
        metadata = [("authorization", f"Bearer {gateway.token()}")]
        assert stub.GetProject(project_pb2.GetProjectRequest(name="projects/a"), metadata=metadata, timeout=20).name


def test_downloads_and_uploads_stream(gateway):
    digest = "sha256:" + "0" * 64
    status, headers, body = gateway.call("GET", f"/catalog/v1/projects/a/blobs/{digest}:download")
    assert (status, len(body), headers["content-type"]) == (200, 40 * 65536, "application/octet-stream")
    path = f"/catalog/v1/projects/a/blobs:upload?digest={digest}&sizeBytes=3000000"
    status, _, body = gateway.call("POST", path, b"y" * 3000000, content_type="application/octet-stream")
    assert (status, json.loads(body)["sizeBytes"]) == (200, "3000000")
    with gateway.channel() as channel:
        stub = blob_pb2_grpc.BlobServiceStub(channel)
        metadata = [("authorization", f"Bearer {gateway.token()}")]
        pieces = list(
            stub.DownloadBlob(blob_pb2.DownloadBlobRequest(parent="projects/a", digest=digest), metadata=metadata)
        )
        assert sum(len(p.data) for p in pieces) == 40 * 65536


def test_internal_services_are_not_routed(gateway):
    with gateway.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        resolution_pb2_grpc.ResolutionServiceStub(channel).ResolveBindings(
            resolution_pb2.ResolveBindingsRequest(), metadata=[("authorization", f"Bearer {gateway.token()}")]
        )
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert gateway.call("POST", "/grpc.health.v1.Health/Check", b"", content_type="application/grpc")[0] in (200, 404)


def test_grpc_callers_get_plain_statuses(gateway):
    with gateway.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        project_pb2_grpc.ProjectServiceStub(channel).GetProject(project_pb2.GetProjectRequest(name="projects/a"))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "{" not in caught.value.details()


def test_cors_for_named_origins_only(gateway):
    ask = {"access_control_request_method": "GET"}
    status, headers, _ = gateway.call("OPTIONS", f"{PROJECTS}/a", token=None, origin="https://app.test", **ask)
    assert status == 200 and headers["access-control-allow-origin"] == "https://app.test"
    _, headers, _ = gateway.call("OPTIONS", f"{PROJECTS}/a", token=None, origin="https://evil.test", **ask)
    assert "access-control-allow-origin" not in headers


def test_health(gateway):
    assert gateway.call("GET", "/healthz", token=None)[0] == 200
    # policy's upstream shows catalog's identity, so it never becomes healthy.
    assert gateway.call("GET", "/readyz", token=None)[0] == 503


def test_new_issuer_keys_are_taken_without_a_restart(gateway):
    import time

    other = LocalIssuer.generate("https://issuer.test", "animus")
    both = json.loads(gateway.issuer.jwks())["keys"] + json.loads(other.jwks())["keys"]
    target = gateway.folder / "jwks.json"
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps({"keys": both}))
    temporary.rename(target)
    deadline = time.monotonic() + 10
    while gateway.call("GET", f"{PROJECTS}/a", token=other.token("ann", _now()))[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gateway.call("GET", f"{PROJECTS}/a")[0] == 200


def test_no_second_gateway_gets_a_part_of_the_connections(gateway):
    """SO_REUSEPORT would let it listen on the same port, and the kernel share the clients out among both."""
    with socket.socket() as second:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            second.bind(("127.0.0.1", gateway.port))
            second.listen()
