"""Tells the service manager how it goes (sd_notify(3)); without one it tells nobody."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Sends a state such as `READY=1`. A service manager that does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto(state.encode(), address)
    except OSError:
        pass
