"""An attempt's folder: all that a restarted agent needs to go on.

attempt.json   name, contract, grant, boot id: there before anything is created
sandbox.json   the driver's handle, the volume, which folders its inputs are
run.json       when the container was started, on the monotonic clock and on the wall
paused.json    since when it stands still without a lease, and for how long it has
kill.json      that we chose to end it, and why: durable before the first signal
bundle/ log exits/ …   the driver's
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animus_agent.attempt.failure import Failure, FailureClass
from animus_agent.files import boot_id, remove_tree, write_atomic
from animus_agent.gpu import layer

VERSION = 1


def identifier(attempt: str) -> str:
    """The id of an attempt's container and folder: of its name, so that one attempt can never have two."""
    return "an-" + hashlib.sha256(attempt.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class AttemptDirectory:
    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def create(self, attempt: str, contract: bytes, grant: bytes, *, durable: bool = True) -> None:
        """Raises FileExistsError when this node has had the attempt before: it never runs twice.

        The agent's loop keeps that durably in its spool, where it costs a tenth, and passes `durable=False`.
        """
        self.path.mkdir(mode=0o711)
        document = {
            "version": VERSION,
            "attempt": attempt,
            "contract": base64.b64encode(contract).decode(),
            "grant": base64.b64encode(grant).decode(),
            "boot_id": boot_id(),
        }
        write_atomic(self.path / "attempt.json", json.dumps(document).encode(), durable=durable)

    def load(self) -> tuple[str, bytes, bytes, str]:
        """(attempt, contract, grant, boot id). Raises ValueError for a folder that is not whole."""
        document = self.read("attempt")
        if not document or document.get("version") != VERSION:
            raise ValueError(f"{self.path.name} is no attempt of this version")
        contract, grant = (base64.b64decode(document[key]) for key in ("contract", "grant"))
        return document["attempt"], contract, grant, document["boot_id"]

    def read(self, name: str) -> dict[str, Any]:
        """A mark; {} when it was not made. Raises ValueError for one that is not whole."""
        try:
            return json.loads((self.path / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            # Most are not flushed. A power cut leaves some empty, and has ended all that they speak of.
            if name != "attempt" and self.load()[3] != boot_id():
                return {}
            raise

    def mark(self, name: str, durable: bool = False, **fields: Any) -> None:
        write_atomic(self.path / f"{name}.json", json.dumps(fields).encode(), durable=durable)

    def intend_kill(self, failure: Failure) -> Failure:
        """Durable before the first signal. The first intent stays; returns the one that holds."""
        if (known := self.kill_intent()) is not None:
            return known
        fields = {"class": failure.failure_class.value, "reason": failure.reason, "message": failure.message}
        self.mark("kill", durable=True, **fields)
        return failure

    def kill_intent(self) -> Failure | None:
        fields = self.read("kill")
        return Failure(FailureClass(fields["class"]), fields["reason"], fields["message"]) if fields else None

    def remove(self) -> None:
        layer.remove(self.path)
        remove_tree(self.path)
