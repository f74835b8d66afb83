"""One attempt in progress: what its steps share, and how the outside reaches in."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field

from animus_agent.attempt.directory import AttemptDirectory
from animus_agent.attempt.failure import STALE, Abandoned, AttemptFailed, Failure
from animus_agent.attempt.ports import Ports
from animus_agent.egress.gateway import Gateway
from animus_agent.images.cache import RootFs
from animus_agent.sandbox.driver import Collected, Handle
from animus_agent.sandbox.quota import Volume
from animus_agent.trees import Tree
from animus_kit.documents.contract import Contract, Grant
from animus_kit.documents.manifest import Entry
from animus_kit.documents.result import OutputDigest
from animus_kit.log import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HashedOutput:
    """An output as hashed: its entries, its manifest's bytes."""

    digest: OutputDigest
    entries: tuple[Entry, ...]
    manifest: bytes


@dataclass(slots=True)
class Attempt:
    """`kill` may be called from any thread at any time; everything else belongs to the thread that runs the steps."""

    name: str
    directory: AttemptDirectory
    contract_envelope: bytes
    grant_envelope: bytes
    ports: Ports
    held: ExitStack = field(default_factory=ExitStack)
    wake: threading.Event = field(default_factory=threading.Event)
    # Its lease could not be renewed: see fence.py.
    fenced: threading.Event = field(default_factory=threading.Event)
    freezing: threading.Lock = field(default_factory=threading.Lock)
    """Held while its container is stopped or let go on, so that neither is done on what was true before the other."""
    stands_since: float | None = None
    """Since when its container stands still, on the monotonic clock."""
    abandoned: bool = False
    unwritten: Failure | None = None
    """A kill intent that the disk did not take."""
    rebooted: bool = False
    """The machine was restarted since it was accepted."""
    started: bool = False
    """A process before this one started its container: it goes on with what that one had verified."""

    # Filled by the steps, in their order.
    contract: Contract | None = None
    grant: Grant | None = None
    trees: dict[str, Tree] = field(default_factory=dict)
    rootfs: RootFs | None = None
    volume_name: str = ""
    volume: Volume | None = None
    handle: Handle | None = None
    egress: Gateway | None = None
    collected: Collected | None = None
    runs: bool = False
    """Its container was started: until it is `dead`, something of it may run."""
    dead: bool = False
    """No process of its container is left, and `collected` is final."""
    metrics: dict[str, float] = field(default_factory=dict)
    outputs: list[HashedOutput] = field(default_factory=list)
    small: dict[str, bytes] = field(default_factory=dict)
    """Files and manifests of the outputs that were read to be uploaded, by digest."""
    sandbox_report: bytes = b""
    provenance: bytes = b""
    failure: Failure | None = None
    _killing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def order(self) -> Contract:
        """The contract, after the first step."""
        assert self.contract is not None
        return self.contract

    def kill(self, failure: Failure) -> None:
        """Asks for the end: the intent is durable when this returns, and where the disk does not take it, it holds for the
        life of this process. A stale attempt reports nothing."""
        if failure is STALE:
            # Another node may have it by now: this waits for no disk.
            self.abandoned = True
            self.wake.set()
        # The session, the fence and the attempt's own thread may all ask; the first intent is the one that holds.
        with self._killing:
            try:
                self.directory.intend_kill(self.unwritten or failure)
            except (OSError, ValueError) as error:
                if self.unwritten is None:
                    log.error("a kill intent is not written", attempt=self.name, error_text=str(error))
                    self.unwritten = failure
        self.wake.set()

    def kill_intent(self) -> Failure | None:
        """That we chose to end it, and why."""
        return self.unwritten or self.directory.kill_intent()

    def check_abandoned(self) -> None:
        """Raises Abandoned when the attempt is not ours any more."""
        if self.abandoned:
            raise Abandoned

    def check(self) -> None:
        """Raises AttemptFailed or Abandoned when the attempt is to end; for long work outside the container."""
        self.check_abandoned()
        if self.wake.is_set() and (intent := self.kill_intent()) is not None:
            raise AttemptFailed(intent.failure_class, intent.reason, intent.message)
