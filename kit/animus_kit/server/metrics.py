"""What every process tells Prometheus. Served on loopback, on a thread of its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

RPC_SECONDS = Histogram(
    "animus_rpc_seconds",
    "Time from arrival to answer",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
RPCS_IN_FLIGHT = Gauge("animus_rpcs_in_flight", "Calls being served", ["method"])
UNAUTHENTICATED = Counter("animus_unauthenticated_total", "Calls refused for want of a valid identity", ["reason"])
DENIED = Counter("animus_denied_total", "Calls refused for want of a permission", ["permission"])
OUTBOX_UNDELIVERED = Gauge("animus_outbox_undelivered", "Numbered events that audit has not acknowledged", ["source"])
TAIL_INDEX = Gauge("animus_tail_index", "Index of the log up to which a consumer has applied it", ["tail"])
TAIL_FAILURES = Counter("animus_tail_failures_total", "Batches of the log that a consumer could not apply", ["tail"])

TAIL_SKIPPED = Counter("animus_tail_skipped_total", "Events that a consumer could not read and passed over", ["tail"])


def outbox_undelivered(source: str, count: int) -> None:
    """Told by the sequencer after each step."""
    OUTBOX_UNDELIVERED.labels(source).set(count)


def tail_index(name: str, index: int) -> None:
    """Told by a tail after each batch."""
    TAIL_INDEX.labels(name).set(index)


def tail_skipped(name: str) -> None:
    """Told by a tail's consumer of an event that cannot be read, ever."""
    TAIL_SKIPPED.labels(name).inc()


def tail_failed(name: str) -> None:
    """Told by a tail that will try a batch again."""
    TAIL_FAILURES.labels(name).inc()


def serve(listen: str) -> None:
    """Starts the endpoint at host:port. Raises ValueError unless the host is a loopback address."""
    host, _, port = listen.rpartition(":")
    if host not in ("127.0.0.1", "[::1]", "localhost"):
        raise ValueError(f"metrics are plaintext and stay on loopback: {listen}")
    start_http_server(int(port), addr=host.strip("[]"))
