"""Ids that can be foretold."""

from __future__ import annotations

import itertools
import uuid


class FakeIds:
    """uuid() counts; token() is the hash of a count."""

    def __init__(self) -> None:
        self._uuids = itertools.count(1)
        self._tokens = itertools.count(1)

    def uuid(self) -> str:
        return str(uuid.UUID(int=next(self._uuids), version=4))

    def token(self, nbytes: int) -> str:
        return f"{next(self._tokens):0{2 * nbytes}x}"
