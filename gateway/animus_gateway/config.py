"""The whole of Envoy's configuration, as plain data."""

from __future__ import annotations

from typing import Any

import yaml

from animus_gateway import routes as routing
from animus_gateway.clusters import clusters, sds_reference, socket_address
from animus_gateway.filters import http_filters
from animus_gateway.methods import Service, public_services
from animus_gateway.replies import local_reply_config
from animus_gateway.settings import Settings, address

_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def cluster_names(services: list[Service]) -> list[str]:
    """Of every upstream listener that is needed, the REST prefixes' first routes included."""
    return sorted({s.cluster for s in services} | {s.owner for s in services})


def bootstrap(settings: Settings, services: list[Service] | None = None) -> dict[str, Any]:
    """Raises SettingsError."""
    services = public_services() if services is None else services
    names = cluster_names(services)
    return {
        "admin": {
            # Whoever can talk to it can stop Envoy and read its keys: a Unix socket in a private folder.
            "address": {"pipe": {"path": str(settings.folder / "admin.sock"), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "node": {"id": "gateway", "cluster": "animus"},
        "static_resources": {
            "listeners": [_listener(settings, services, names)],
            "clusters": clusters(names, settings),
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": settings.limits.connections,
                    },
                }
            ]
        },
    }


def dump(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Plain, sort_keys=False, width=160)


class _Plain(yaml.SafeDumper):
    """Without anchors, which people do not read well."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _listener(settings: Settings, services: list[Service], names: list[str]) -> dict[str, Any]:
    tls = {
        "@type": _TLS,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [sds_reference(settings, "public")],
        },
    }
    return {
        "name": "public",
        "address": socket_address(*address(settings.listen)),
        # Else a second gateway on the same port gets every other connection, and nobody is told.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": 1048576,
        "filter_chains": [
            {
                "transport_socket_connect_timeout": "10s",
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _manager(settings, services, names),
                    }
                ],
            }
        ],
    }


def _manager(settings: Settings, services: list[Service], names: list[str]) -> dict[str, Any]:
    return {
        "@type": _HCM,
        "stat_prefix": "public",
        "codec_type": "AUTO",
        "server_name": "animus",
        "use_remote_address": True,
        # The caller's request id is not taken: it would reach logs as any text.
        "preserve_external_request_id": False,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_timeout": "0s",
        "request_headers_timeout": "10s",
        "stream_idle_timeout": f"{settings.limits.stream_idle_seconds}s",
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            "idle_timeout": "900s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 128,
            "initial_stream_window_size": 1048576,
            "initial_connection_window_size": 16777216,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "early_header_mutation_extensions": [_strip()],
        "local_reply_config": local_reply_config(),
        "access_log": [_access_log()],
        "http_filters": http_filters(services, names, settings),
        "route_config": {"name": "public", "virtual_hosts": [routing.virtual_host(services, settings)]},
    }


def _strip() -> dict[str, Any]:
    """What only we may say, removed before anything reads it."""
    mutations: list[dict[str, Any]] = [
        {"remove_on_match": {"key_matcher": {"prefix": "animus-"}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-animus-"}}},
        {"remove": "x-envoy-original-path"},
        {"remove": "x-envoy-original-method"},
        {"remove": "x-forwarded-client-cert"},
        {"remove": "x-forwarded-for"},
        # What gRPC reads and no caller has to say: a value that it cannot read is INTERNAL.
        {"remove_on_match": {"key_matcher": {"suffix": "-bin"}}},
        {"remove_on_match": {"key_matcher": {"prefix": "grpc-internal-"}}},
        {"remove": "grpc-previous-rpc-attempts"},
        {"remove": "grpc-retry-pushback-ms"},
        {"remove": "grpc-status"},
        {"remove": "grpc-message"},
    ]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }


def _access_log() -> dict[str, Any]:
    fields = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "traceparent": "%REQ(TRACEPARENT)%",
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        # Without its query, which holds user data.
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "rpc": "%PATH(NQ:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "route": "%ROUTE_NAME%",
        "subject": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:jwt:sub)%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": fields},
        },
    }
