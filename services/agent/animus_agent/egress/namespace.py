"""A listening socket inside another network namespace.

A socket belongs to the namespace in which it was made, wherever its descriptor is used later. A thread enters the
container's namespace (setns(2): root in the initial user namespace may), makes the socket and ends; no other thread of
the agent is ever in there.
"""

from __future__ import annotations

import socket
import threading

from animus_agent.files import check, libc

CLONE_NEWNET = 0x40000000
BACKLOG = 128


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
