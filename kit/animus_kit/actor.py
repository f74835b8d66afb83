"""Who did something, as the log may keep it."""

from __future__ import annotations


class Actor(str):
    """The opaque id, which stands in the envelope for ever; `subject` is the name in clear, which goes into the
    payload and can be erased with it. Processes have no subject: `service/catalog`, `agent/<id>`."""

    __slots__ = ("subject",)
    subject: str

    def __new__(cls, opaque: str, subject: str = "") -> Actor:
        made = super().__new__(cls, opaque)
        made.subject = subject
        return made
