"""A listening socket inside another network namespace.

A socket belongs to the namespace in which it was made, wherever its descriptor is used later. A thread enters the
container's namespace (setns(2): root in the initial user namespace may), makes the socket and ends; no other thread of
the agent is ever in there.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path

from animus_agent.errors import SandboxUnavailable
from animus_agent.files import check, libc

CLONE_NEWNET = 0x40000000
BACKLOG = 128


def of_container(pid: int, group: str) -> int:
    """A new descriptor of the network namespace of a process that lies in a cgroup of this name.

    Raises SandboxUnavailable, also for a process that has the machine's own network.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError) as error:
        raise SandboxUnavailable(f"the container has no process: {error}", "EGRESS_UNAVAILABLE") from error
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        # The pid may be another's by now: only a process in this container's group, alive after we looked, counts.
        own = group in Path(f"/proc/{pid}/cgroup").read_text() and not _ended(pidfd)
        if own and not os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
            return namespace
        os.close(namespace)
    except OSError as error:
        raise SandboxUnavailable(f"the container's network: {error}", "EGRESS_UNAVAILABLE") from error
    finally:
        os.close(pidfd)
    raise SandboxUnavailable("the container has no network namespace of its own", "EGRESS_UNAVAILABLE")


def listen(namespace: int, port: int) -> socket.socket:
    """`namespace`: a descriptor of /proc/<pid>/ns/net. Listens on its 127.0.0.1. Raises OSError."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            check(libc.setns(namespace, CLONE_NEWNET), "setns")
            made.append(_listen(port))
        except OSError as error:
            made.append(error)

    # A thread of its own, that is never used again: it cannot forget to come back.
    thread = threading.Thread(target=enter, name="egress-namespace")
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    return result


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Connections of an agent that died may still linger on the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _ended(pidfd: int) -> bool:
    # select() knows descriptors below 1024 only.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
