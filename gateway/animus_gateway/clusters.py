"""Upstreams: HTTP/2 and mTLS as the identity /gateway, each accepting exactly one SPIFFE id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animus_gateway.settings import Settings, SettingsError, address

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Below the certificates' lifetime less their renewal lead, so that no connection outlives what it was opened with.
CONNECTION_SECONDS = 3600


def sds_path(settings: Settings, name: str) -> Path:
    return settings.folder / "live" / f"{name}.yaml"


def sds_reference(settings: Settings, name: str) -> dict[str, Any]:
    path = sds_path(settings, name)
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
        },
    }


def certificate_resource(name: str, certificate: bytes, key: bytes) -> dict[str, Any]:
    """Chain and key inline in one file, so that one rename swaps both."""
    return {
        "@type": _TLS + "Secret",
        "name": name,
        "tls_certificate": {
            "certificate_chain": {"inline_string": certificate.decode()},
            "private_key": {"inline_string": key.decode()},
        },
    }


def clusters(names: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    """One for each name. Raises SettingsError when the settings lack one."""
    missing = [name for name in names if not settings.upstreams.get(name)]
    if missing:
        raise SettingsError("upstreams: must name " + ", ".join(missing))
    return [_cluster(name, settings) for name in names]


def _cluster(name: str, settings: Settings) -> dict[str, Any]:
    service = name.removesuffix("-stream")
    tls = {
        "@type": _TLS + "UpstreamTlsContext",
        "sni": f"{service}.{settings.trust_domain}",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            # Envoy as a client goes no further than 1.2 unless told.
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificate_sds_secret_configs": [sds_reference(settings, "client")],
            "validation_context": {
                "trusted_ca": {"filename": str(settings.tls.services_ca)},
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": f"spiffe://{settings.trust_domain}/service/{service}"}}
                ],
            },
        },
    }
    endpoints = [
        {"endpoint": {"address": socket_address(*address(item, f"upstreams.{name}"))}}
        for item in settings.upstreams[name]
    ]
    return {
        "name": name,
        "type": "STRICT_DNS" if any(_is_name(item) for item in settings.upstreams[name]) else "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "ignore_health_on_host_removal": True,
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "2s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        # A caller could provoke INTERNAL and have replicas ejected, so only failures of transport count.
        "outlier_detection": {"enforcing_consecutive_5xx": 0, "consecutive_gateway_failure": 10},
        "circuit_breakers": {"thresholds": [{"max_requests": 20000, "max_connections": 1024, "max_retries": 32}]},
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "common_http_protocol_options": {
                    "max_connection_duration": f"{CONNECTION_SECONDS}s",
                    "idle_timeout": "600s",
                },
                # Small windows bound what a slow reader keeps in memory; the connection's is 64 of them, or slow
                # readers would delay the others.
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # Callers share this connection. Where gRPC refuses a header's value, it refuses every later
                        # use of that table entry, so that one caller's bad grpc-timeout would fail everybody's calls.
                        "hpack_table_size": 0,
                        "initial_stream_window_size": 262144,
                        "initial_connection_window_size": 16777216,
                    }
                },
            }
        },
    }


def socket_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_name(item: str) -> bool:
    host, _ = address(item)
    return not (":" in host or host.replace(".", "").isdigit())
