"""HTTP filters, in the order in which a request passes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animus_gateway.methods import Service
from animus_gateway.settings import Settings

_TYPE = "type.googleapis.com/envoy.extensions.filters.http."
ECDS_NAME = "animus-jwt"
# People's tokens live 15 minutes; the rest is for the issuer's clock. The services hold the same bounds.
MAX_TOKEN_SECONDS = 16 * 60
CLOCK_SKEW_SECONDS = 30
_AROUND_BYTES = 65536


def http_filters(services: Sequence[Service], clusters: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    return [
        {"name": "envoy.filters.http.cors", "typed_config": {"@type": _TYPE + "cors.v3.Cors"}},
        _health("/healthz", ()),
        _health("/readyz", clusters),
        {"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": _TYPE + "grpc_web.v3.GrpcWeb"}},
        {
            # By file, so that the issuer's keys change without a restart; jwt_authn's own file source does not reload.
            "name": ECDS_NAME,
            "config_discovery": {
                "config_source": {
                    "resource_api_version": "V3",
                    "path_config_source": {
                        "path": str(ecds_path(settings)),
                        "watched_directory": {"path": str(ecds_path(settings).parent)},
                    },
                },
                "type_urls": [_TYPE + "jwt_authn.v3.JwtAuthentication"],
            },
        },
        {
            "name": "envoy.filters.http.local_ratelimit",
            "typed_config": {"@type": _TYPE + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": "off"},
        },
        {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": _transcoder(services, settings)},
        {
            # After the transcoder, whose own limit bounds its buffer and not the body.
            "name": "envoy.filters.http.buffer",
            "typed_config": {
                "@type": _TYPE + "buffer.v3.Buffer",
                # It sees the message, not the JSON: what stands around the largest document comes on top.
                "max_request_bytes": settings.limits.body_bytes + _AROUND_BYTES,
            },
        },
        {"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPE + "router.v3.Router"}},
    ]


def ecds_path(settings: Settings) -> Path:
    return settings.folder / "live" / "jwt.yaml"


def jwt_resource(settings: Settings, jwks: bytes) -> dict[str, Any]:
    """The token check as a discoverable resource, keys inline. Raises ValueError for a file that is no JWKS."""
    keys = json.loads(jwks)
    if (
        not isinstance(keys, dict)
        or not isinstance(keys.get("keys"), list)
        or not all(isinstance(key, dict) for key in keys["keys"])
    ):
        raise ValueError("not a JWKS")
    # Only asymmetric public keys, whatever the file holds.
    usable = [key for key in keys["keys"] if key.get("kty") in ("EC", "RSA") and "d" not in key]
    provider = {
        "issuer": settings.tokens.issuer,
        "audiences": [settings.tokens.audience],
        # The first service checks it again; there it ends.
        "forward": True,
        "require_expiration": True,
        "max_lifetime": f"{MAX_TOKEN_SECONDS}s",
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        # Otherwise ?access_token= is accepted, and lands in logs.
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "payload_in_metadata": "jwt",
        "jwt_cache_config": {"jwt_cache_size": 1000},
        "local_jwks": {"inline_string": json.dumps({"keys": usable}, separators=(",", ":"))},
    }
    return {
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": ECDS_NAME,
        "typed_config": {
            "@type": _TYPE + "jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "bypass_cors_preflight": True,
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        },
    }


def _health(path: str, clusters: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "@type": _TYPE + "health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": path}}],
    }
    if clusters:
        config["cluster_min_healthy_percentages"] = {name: {"value": 1} for name in clusters}
    return {"name": "envoy.filters.http.health_check", "typed_config": config}


def _transcoder(services: Sequence[Service], settings: Settings) -> dict[str, Any]:
    return {
        "@type": _TYPE + "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(settings.folder / "descriptors.binpb"),
        "services": [service.name for service in services],
        # google.rpc.Status out of the trailer becomes the body. Needs error_details.proto in the descriptor set.
        "convert_grpc_status": True,
        "query_param_unescape_plus": True,
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            # With body "*" a name in the body would replace the one in the path.
            "reject_binding_body_field_collisions": True,
        },
        "print_options": {"stream_newline_delimited": True},
        "max_response_body_size": 16 * 1048576,
    }
