"""The configuration as data, and as Envoy judges it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from animus_client.issuer import LocalIssuer
from animus_gateway import config, filters, methods, routes, run, settings
from animus_gateway.__main__ import main
from tests.gateway.conftest import TRUST_DOMAIN, UPSTREAMS, settings_file, write_pki

GOLDEN = Path(__file__).parent / "golden" / "routes.txt"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    write_pki(folder)
    upstreams = {name: ["127.0.0.1:7000"] for name in UPSTREAMS}
    return settings_file(folder, upstreams, LocalIssuer.generate("https://issuer.test", "animus"), 8443)


def test_envoy_accepts_it(written):
    assert main(["validate", str(written)]) == 0


def test_envoy_refuses_what_is_wrong(written):
    found = settings.load(written)
    path = run.write(found)
    text = path.read_text()
    for good, bad in (("cluster: catalog", "cluster: nowhere"), ("codec_type: AUTO", "codec_type: NONE")):
        path.write_text(text.replace(good, bad, 1))
        done = subprocess.run([run.envoy_path(), "--mode", "validate", "-c", path], capture_output=True)
        assert done.returncode != 0, bad
    path.write_text(text)


def test_routes_are_those_that_were_reviewed(written, capsys):
    """`python -m animus_gateway routes` prints the table; after a change on purpose, write it to the golden file."""
    assert main(["routes", str(written)]) == 0
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_only_public_services_are_routed():
    names = {s.name.rsplit(".", 1)[1] for s in methods.public_services()}
    internal = {
        "ResolutionService", "AgentBlobService", "AccessService", "DecisionPointService", "EventIngestService",
        "EventTailService", "DispatchService", "EnrollmentService",
    }  # fmt: skip
    assert "ProjectService" in names and not names & internal


def test_streams_live_on_their_own_clusters():
    where = {s.name.rsplit(".", 1)[1]: s.cluster for s in methods.public_services()}
    assert where["BlobService"] == "catalog-stream" and where["ProjectService"] == "catalog"
    assert where["RunStreamService"] == "orchestrator-stream" and where["EventStreamService"] == "audit-stream"


def test_upstreams_accept_one_identity_each(written):
    found = config.bootstrap(settings.load(written))
    for cluster in found["static_resources"]["clusters"]:
        tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
        service = cluster["name"].removesuffix("-stream")
        expected = {"exact": f"spiffe://{TRUST_DOMAIN}/service/{service}"}
        assert tls["match_typed_subject_alt_names"] == [{"san_type": "URI", "matcher": expected}]


def test_callers_share_no_header_table(written):
    """grpcio refuses every use of a table entry whose value it once refused, so the table would carry one caller's
    mistake to all others."""
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    for cluster in config.bootstrap(settings.load(written))["static_resources"]["clusters"]:
        if cluster["name"] in UPSTREAMS:
            options = cluster["typed_extension_protocol_options"][http]["explicit_http_config"]
            assert options["http2_protocol_options"]["hpack_table_size"] == 0


def test_no_secret_and_no_token_in_what_people_read(written):
    text = run.write(settings.load(written)).read_text()
    assert "PRIVATE KEY" not in text and '"kty"' not in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"listne": "x"}, "listne: no such setting"),
        ({"listen": "nowhere"}, "listen: must be host:port"),
        ({"upstreams": {}}, "upstreams: must name audit"),
        ({"tokens": {"issuer": "a", "audience": "b"}}, "tokens.jwks: must be set"),
        ({"limits": {"body_bytes": "many"}}, "limits.body_bytes: not usable"),
    ],
)
def test_settings_name_what_is_wrong(written, tmp_path, change, told, capsys):
    import yaml

    raw = yaml.safe_load(written.read_text())
    raw.update(change)
    for name in ("ca.crt", "gateway.crt", "gateway.key", "jwks.json"):
        (tmp_path / name).write_bytes((written.parent / name).read_bytes())
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert main(["generate", str(path)]) == 1
    assert told in capsys.readouterr().err


def test_half_public_services_are_refused():
    from google.protobuf import descriptor_pb2

    found = descriptor_pb2.FileDescriptorSet()
    found.ParseFromString(methods.descriptor_path().read_bytes())
    for file in found.file:
        for service in file.service:
            if service.name == "ProjectService":
                service.method[0].ClearField("options")
    with pytest.raises(methods.HalfPublicService):
        methods.public_services(found.SerializeToString())


def test_the_table_is_one_line_a_route(written):
    host = routes.virtual_host(methods.public_services(), settings.load(written))
    assert len(routes.table(host["routes"]).splitlines()) == len(host["routes"])


def test_import_is_light():
    """The process that watches files beside Envoy stays small."""
    code = "import sys, animus_gateway.run; print('grpc' in sys.modules, 'cryptography' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"keys": {}}', '{"keys": ["x"]}', '{"keys": [null]}', "{"])
def test_what_is_no_jwks_is_told_as_such(written, text):
    """Anything else than ValueError would end the gateway, and Envoy with it, in the middle of serving."""
    with pytest.raises(ValueError):  # noqa: PT011 (json's own, or ours)
        filters.jwt_resource(settings.load(written), text.encode())
