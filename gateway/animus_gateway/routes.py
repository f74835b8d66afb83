"""Routes: one set serves JSON, gRPC and gRPC-Web, since the transcoder rewrites a REST path and routes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from animus_gateway.methods import Method, Service
from animus_gateway.settings import Settings

BUFFER = "envoy.filters.http.buffer"
RATE_LIMIT = "envoy.filters.http.local_ratelimit"
JWT = "envoy.filters.http.jwt_authn"

# Nothing but gRPC may reach a service by its gRPC path: grpcio answers other bytes with a framing error.
_GRPC_ONLY = [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]
# A value that gRPC cannot read ends as INTERNAL; it is the caller's mistake.
_READABLE = {"grpc-timeout": "[0-9]{1,8}[HMSmun]", "grpc-encoding": "identity|deflate|gzip"}
# A request that was certainly not sent may be sent again, whatever it does.
_UNSENT = {"retry_on": "connect-failure,refused-stream", "num_retries": 2}
_SAFE = {
    "retry_on": "connect-failure,refused-stream,unavailable,reset",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 3,
}


def virtual_host(services: Sequence[Service], settings: Settings) -> dict[str, Any]:
    """Everything behind the one listener. The order of routes is their precedence."""
    routes: list[dict[str, Any]] = [_unreadable(name, pattern) for name, pattern in _READABLE.items()]
    for service in services:
        special = [m for m in service.methods if m.streams or m.safe]
        routes += [_method(m, service.cluster, settings) for m in special]
        routes.append(_service(service, settings))
    prefixes = {p: s.owner for s in services for p in sorted(s.prefixes)}
    # A REST request is routed here first, for the filters before the transcoder. It must be a route to a cluster: the
    # CORS filter is skipped on direct responses. What maps to no method the transcoder refuses.
    routes += [_rest(prefix, prefixes[prefix], settings) for prefix in sorted(prefixes)]
    routes.append(
        {"name": "none", "match": {"prefix": "/"}, "direct_response": {"status": 404, "body": {"inline_string": ""}}}
    )
    return {
        "name": "public",
        "domains": ["*"],
        "routes": routes,
        "response_headers_to_add": [
            _add("strict-transport-security", "max-age=31536000"),
            _add("x-content-type-options", "nosniff"),
            _add("cache-control", "no-store"),
        ],
        "typed_per_filter_config": {**_cors(settings), RATE_LIMIT: _rate_limit(settings)},
    }


def table(routes: Sequence[dict[str, Any]]) -> str:
    """One line for each route, for people who review a change: name | match | cluster | timeout | retries | body."""
    lines = []
    for route in routes:
        match = route["match"]
        kind, value = next((k, v) for k, v in match.items() if k != "headers")
        guard = " grpc" if match.get("headers") is _GRPC_ONLY else ""
        if "direct_response" in route:
            rest = f"-> {route['direct_response']['status']}"
        else:
            action = route["route"]
            body = "unbounded" if BUFFER in route.get("typed_per_filter_config", {}) else "bounded"
            retries = "safe" if "unavailable" in action["retry_policy"]["retry_on"] else "unsent"
            rest = f"{action['cluster']} | {action['timeout']} | {retries} | {body}"
        lines.append(f"{route['name']} | {kind} {value}{guard} | {rest}")
    return "\n".join(lines) + "\n"


def _method(method: Method, cluster: str, settings: Settings) -> dict[str, Any]:
    route: dict[str, Any] = {
        "name": f"{method.service}/{method.name}",
        "match": {"path": method.full, "headers": _GRPC_ONLY},
        "route": _action(cluster, settings, retry=_SAFE if method.safe else _UNSENT, stream=method.streams),
    }
    if method.streams:
        disabled = {"@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute"}
        route["typed_per_filter_config"] = {BUFFER: {**disabled, "disabled": True}}
    return route


def _service(service: Service, settings: Settings) -> dict[str, Any]:
    return {
        "name": service.name,
        "match": {"prefix": f"/{service.name}/", "headers": _GRPC_ONLY},
        "route": _action(service.cluster, settings),
    }


def _unreadable(name: str, pattern: str) -> dict[str, Any]:
    good = {"safe_regex": {"regex": pattern}}
    return {
        "name": f"bad {name}",
        "match": {
            "prefix": "/",
            "headers": [
                {"name": name, "present_match": True},
                {"name": name, "string_match": good, "invert_match": True},
            ],
        },
        "direct_response": {"status": 400, "body": {"inline_string": f"{name} cannot be read"}},
    }


def _rest(prefix: str, cluster: str, settings: Settings) -> dict[str, Any]:
    return {"name": f"rest {prefix}", "match": {"prefix": prefix}, "route": _action(cluster, settings)}


def _action(cluster: str, settings: Settings, retry: dict[str, Any] = _UNSENT, stream: bool = False) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": cluster,
        "timeout": "0s" if stream else f"{settings.limits.unary_seconds}s",
        "retry_policy": retry,
    }
    if stream:
        action["idle_timeout"] = f"{settings.limits.stream_idle_seconds}s"
    return action


def _add(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "ADD_IF_ABSENT"}


def _cors(settings: Settings) -> dict[str, Any]:
    if not settings.cors_origins:
        return {}
    exposed = "grpc-status,grpc-message,grpc-status-details-bin,x-request-id,animus-digest"
    return {
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": origin} for origin in settings.cors_origins],
            "allow_methods": "GET,POST,PATCH,DELETE",
            "allow_headers": "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout",
            "expose_headers": exposed,
            "max_age": "600",
        }
    }


def _rate_limit(settings: Settings) -> dict[str, Any]:
    """On the virtual host, since buckets belong to one configuration object: JSON and gRPC share them. A bucket for each
    subject, and one large one over all."""
    rate = settings.limits.per_subject
    bucket = {"max_tokens": 2 * rate, "tokens_per_fill": rate, "fill_interval": "1s"}
    whole = {"max_tokens": 100 * rate, "tokens_per_fill": 50 * rate, "fill_interval": "1s"}
    on = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    subject = {
        "metadata": {
            "descriptor_key": "sub",
            "source": "DYNAMIC",
            "metadata_key": {"key": JWT, "path": [{"key": "jwt"}, {"key": "sub"}]},
        }
    }
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "subject",
        "token_bucket": whole,
        "filter_enabled": on,
        "filter_enforced": on,
        "rate_limited_as_resource_exhausted": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "max_dynamic_descriptors": 10000,
        "descriptors": [{"entries": [{"key": "sub"}], "token_bucket": bucket}],
        "rate_limits": [{"actions": [subject]}],
    }
