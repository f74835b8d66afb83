"""What Envoy answers by itself, in the shape in which services answer: google.rpc.Status with exactly one ErrorInfo."""

from __future__ import annotations

from typing import Any

DOMAIN = "gateway.animus"

# HTTP status → (canonical code, its number, reason, message; None keeps Envoy's own text).
ANSWERS: dict[int, tuple[int, str, str | None]] = {
    400: (3, "REQUEST_MALFORMED", None),
    401: (16, "TOKEN_INVALID", None),
    404: (5, "ROUTE_NOT_FOUND", "no such method or path"),
    405: (12, "METHOD_NOT_ALLOWED", None),
    408: (4, "REQUEST_TIMEOUT", None),
    413: (8, "BODY_TOO_LARGE", "the request body is larger than the gateway takes"),
    415: (3, "MEDIA_TYPE_UNSUPPORTED", None),
    429: (8, "RATE_LIMITED", "too many requests of this subject; try again in a second"),
    431: (8, "HEADERS_TOO_LARGE", "the request headers are larger than the gateway takes"),
    500: (13, "GATEWAY_ERROR", None),
    502: (14, "UPSTREAM_PROTOCOL", None),
    503: (14, "UPSTREAM_UNAVAILABLE", None),
    504: (4, "UPSTREAM_TIMEOUT", None),
}


def local_reply_config() -> dict[str, Any]:
    return {
        "mappers": [
            # A gRPC client gets the text in grpc-message; it would find JSON in there otherwise. A transcoded request
            # has application/grpc by now too, and is told apart by the header that the transcoder leaves.
            {
                "filter": {
                    "and_filter": {
                        "filters": [
                            _header("content-type", {"string_match": {"prefix": "application/grpc"}}),
                            _header("x-envoy-original-path", {"present_match": False}),
                        ]
                    }
                },
                "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
            },
            {"filter": _status(200), "body_format_override": {"json_format": {"status": "SERVING"}}},
            # Only jwt_authn refuses with 403, for the audience: we do not know who asks, so it is 401 like the others.
            {"filter": _status(403), "status_code": 401, "body_format_override": _body(401)},
            *({"filter": _status(status), "body_format_override": _body(status)} for status in ANSWERS),
        ],
        "body_format": _format(2, "GATEWAY_ERROR", None),
    }


def _body(status: int) -> dict[str, Any]:
    return _format(*ANSWERS[status])


def _format(code: int, reason: str, message: str | None) -> dict[str, Any]:
    return {
        "json_format": {
            "code": code,
            "message": message or "%LOCAL_REPLY_BODY%",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": DOMAIN},
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "%REQ(X-REQUEST-ID)%"},
            ],
        }
    }


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    return {"header_filter": {"header": {"name": name, **match}}}


def _status(code: int) -> dict[str, Any]:
    value = {"default_value": code, "runtime_key": "none"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
