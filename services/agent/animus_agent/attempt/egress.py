"""The attempt's way out, if its contract gives it one: open before the step's first instruction, closed after its last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from animus_agent.attempt.attempt import Attempt
from animus_agent.egress.gateway import Gateway
from animus_agent.errors import AgentError, SandboxUnavailable
from animus_kit.documents.sandbox import Egress
from animus_kit.log import get_logger

log = get_logger(__name__)


@contextmanager
def closing(attempt: Attempt) -> Iterator[None]:
    """Ends the gateway with the container, whatever happened; its record is whole after that."""
    try:
        yield
    finally:
        if attempt.egress is not None:
            attempt.egress.close()


def opener(attempt: Attempt) -> Callable[[], None] | None:
    """What a driver is to call before the step runs; None for a step without a network."""
    return (lambda: open_for(attempt)) if _wanted(attempt) else None


def open_for(attempt: Attempt) -> None:
    """Raises SandboxUnavailable: a step that was promised a way out does not run without it."""
    if not _wanted(attempt) or attempt.handle is None:
        return
    gateway = _gateway(attempt)
    namespace = attempt.ports.driver.network(attempt.handle)
    try:
        gateway.open(namespace)
    except OSError as error:
        raise SandboxUnavailable(f"the egress proxy cannot listen: {error}", "EGRESS_UNAVAILABLE") from error
    finally:
        os.close(namespace)


def reopen(attempt: Attempt) -> None:
    """For a container that an agent adopts while it runs: its connections were cut. Where the proxy cannot come back
    (the step ended, or sat down on the port), the step is left without one: it has reached nothing by that."""
    try:
        open_for(attempt)
    except AgentError as error:
        log.warning("egress not opened again", attempt=attempt.name, reason=error.reason, error_text=str(error))


def record_of(attempt: Attempt) -> Egress | None:
    """What was decided, also by a process before this one; None for a step without a network."""
    return _gateway(attempt).document() if _wanted(attempt) else None


def _wanted(attempt: Attempt) -> bool:
    return attempt.order.action.network.mode == "allow-list"


def _gateway(attempt: Attempt) -> Gateway:
    if attempt.egress is None:
        ports, allow = attempt.ports, attempt.order.action.network.allow
        attempt.egress = Gateway(allow, ports.egress, attempt.directory.path / "egress.json", ports.clock)
    return attempt.egress
