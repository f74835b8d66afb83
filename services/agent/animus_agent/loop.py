"""The agent's life: adopt, examine, connect, hold; renew and fence on the side; go when told.

SIGTERM leaves containers running: the next process adopts them. With `agent_drain_on_term` the agent takes no more work
and goes when the last attempt has ended and was acknowledged.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import grpc
import grpc.aio

from animus.agent.v1 import dispatch_pb2, dispatch_pb2_grpc
from animus_agent import leftovers, node, systemd
from animus_agent.attempt.ports import Ports, Signer
from animus_agent.blobs import GrantedBlobs
from animus_agent.diagnostics import Diagnostics
from animus_agent.errors import IdentityError, SandboxUnavailable
from animus_agent.files import boot_id, return_memory
from animus_agent.held import Holdings
from animus_agent.identity import Identity
from animus_agent.reporter import SpoolReporter
from animus_agent.sandbox import canary
from animus_agent.session import Ended, Opening, Session
from animus_agent.settings import Settings
from animus_agent.spool import Spool
from animus_kit import pki, retry
from animus_kit.channel import dial
from animus_kit.clock import Clock
from animus_kit.documents.sandbox import Feature
from animus_kit.ids import Ids
from animus_kit.log import get_logger
from animus_kit.status import from_rpc_error

log = get_logger(__name__)

FENCE_SECONDS = 0.5
LOOK_SECONDS = 0.5
# After the last attempt; a chain of steps leaves shorter pauses.
IDLE_SECONDS = 5.0
RENEW_CHECK_SECONDS = 60.0
# Whoever was superseded is probably a second instance of this very node; fighting over the session helps nobody.
SUPERSEDED_SECONDS = 30.0
GOODBYE_SECONDS = 2.0
LEAVE_SECONDS = 30.0
# Refusals that trying again does not heal: a person must act, or another instance must end.
_UNWANTED = frozenset({"SESSION_SUPERSEDED", "CERTIFICATE_SUPERSEDED", "AGENT_UNKNOWN"})
# The output size most contracts ask for (animus_kit.documents.contract.DEFAULT_LIMITS): spares are made of it at start.
PRIMED_SIZES = (10 << 30,)


class ShiftedClock:
    """A clock that is off, for tests of skew: the wall only."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._offset = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self._clock.now() + self._offset

    def monotonic(self) -> float:
        return self._clock.monotonic()


class Agent:
    """One node's agent. `run` returns when it was told to stop. `connect`: how channels to dispatch are opened."""

    def __init__(self, settings: Settings, clock: Clock, ids: Ids, connect: Callable[..., Any] = dial) -> None:
        self._settings = settings
        self._connect = connect
        self._clock: Clock = clock
        if settings.test_clock_offset is not None:
            self._clock = ShiftedClock(clock, settings.test_clock_offset)
        self._ids = ids
        self._identity = Identity(settings.agent_state_dir / "identity", self._clock, settings.agent_root_key)
        self._about = self._identity.about()
        self._parts = node.assemble(settings)
        self._spool = Spool(settings.agent_state_dir / "spool.db", ids, max_log_bytes=settings.agent_spool_log_bytes)
        self._spool.on_row = lambda is_result: self._poke(state=False, at_once=is_result)
        self._diagnostics = Diagnostics(self._clock)
        self._features: tuple[Feature, ...] = ()
        self._session: Session | None = None
        self._blob_channel: grpc.Channel | None = None
        self._stopping = asyncio.Event()
        self._over = threading.Event()
        self._signer = Signer(self._about.agent, node.VERSION, self._identity.attestation_key())
        self._holdings = Holdings(
            self._parts,
            self._spool,
            self._clock,
            self._ports,
            lambda: self._poke(state=True),
            max_attempts=settings.agent_max_attempts,
            lease_margin=settings.agent_lease_margin,
            fenced_limit=settings.agent_fenced_limit,
        )

    async def run(self) -> None:
        """Raises SandboxUnavailable when the canaries leave nothing to offer, IdentityError when the node is revoked."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self._diagnostics.install()
        fence = threading.Thread(target=self._fence, name="fence", daemon=True)
        fence.start()
        try:
            await asyncio.to_thread(self._begin)
            await self._live()
        finally:
            self._over.set()
            self._diagnostics.uninstall()

    async def _live(self) -> None:
        side = [asyncio.create_task(task()) for task in (self._idle, self._renew, self._watch_gpus)]
        try:
            await self._connect_for_ever()
        finally:
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)
            await asyncio.to_thread(self._close)

    def stop(self) -> None:
        """Ends `run`: at once and with containers going on, or after a drain."""
        if self._settings.agent_drain_on_term and not self._holdings.draining:
            log.info("draining", attempts=self._holdings.active())
            self._holdings.draining = True
            self._poke(state=True)
            return
        systemd.notify("STOPPING=1")
        self._stopping.set()
        if self._session is not None:
            self._session.end("STOPPING")

    def _begin(self) -> None:
        # First of all: what ran on without a lease stands still.
        self._holdings.recover()
        leftovers.sweep(self._settings.agent_run_dir)
        for size in PRIMED_SIZES:
            self._parts.quota.prime(size)
        self._features = node.examine(self._parts)
        missing = canary.unusable(self._features)
        if missing:
            raise SandboxUnavailable("this node cannot isolate a step: " + "; ".join(missing), "CANARY_FAILED")
        log.info("node examined", features=[f.name for f in self._features if f.enforced],
                 failed=[f.name for f in self._features if not f.enforced],
                 gpus=len(self._parts.node.gpus.devices), gpu_reason=self._parts.node.gpus.reason)  # fmt: skip
        self._holdings.resume()
        return_memory()
        systemd.notify("READY=1")

    def _close(self) -> None:
        self._parts.quota.close()
        self._parts.gpus.close()
        if self._blob_channel is not None:
            self._blob_channel.close()

    async def _connect_for_ever(self) -> None:
        opening = Opening(self._ids.uuid(), boot_id(), node.describe(self._parts.node, self._features))
        delays = retry.backoff(0.2, 10.0)
        while not self._stopping.is_set():
            session = Session(opening, self._holdings, self._spool, self._identity, self._clock, self._diagnostics)
            self._session = session
            try:
                ended = await self._one_session(session)
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc_error(error)
                log.warning("session broke", code=refusal.code, reason=refusal.reason, details=refusal.message)
                if refusal.reason == "AGENT_REVOKED":
                    await self._leave(refusal.message)
                ended = Ended(refusal.reason if refusal.reason in _UNWANTED else "BROKEN", next(delays))
            except (OSError, IdentityError) as error:
                log.error("no session", error_text=str(error))
                ended = Ended("BROKEN", next(delays))
            if session.welcomed:
                delays = retry.backoff(0.2, 10.0)
            if ended.reason in _UNWANTED:
                ended = Ended(ended.reason, max(ended.after, SUPERSEDED_SECONDS))
            if self._holdings.draining and not self._holdings.states():
                self._stopping.set()
            log.info("session ended", reason=ended.reason, after_seconds=round(ended.after, 3))
            await self._pause(ended.after * random.uniform(1.0, 1.3))

    async def _leave(self, message: str) -> None:
        """This node is revoked: what it runs is killed, and it does not come back. Raises IdentityError."""
        log.error("revoked; ending what runs here", attempts=self._holdings.active())
        self._holdings.abandon()
        if not await asyncio.to_thread(self._holdings.join, LEAVE_SECONDS):
            await asyncio.to_thread(self._holdings.end_rest)
        raise IdentityError(message, "AGENT_REVOKED")

    async def _one_session(self, session: Session) -> Ended:
        target = self._settings.dispatch_endpoint or self._about.dispatch_endpoint
        channel = self._connect(target, "orchestrator", self._identity.tls(), self._about.trust_domain, aio=True)
        try:
            return await session.run(channel)
        finally:
            await channel.close(GOODBYE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), max(seconds, 0.0))
        except TimeoutError:
            pass

    def _fence(self) -> None:
        """A thread of its own: a disk that hangs stops the loop and whoever writes to the spool, and no lease waits."""
        while True:
            try:
                self._holdings.fence()
            except Exception:
                # Once more with the next turn: without this the node would run on for ever without a lease.
                log.exception("the fence could not look")
            if self._over.wait(FENCE_SECONDS):
                return

    async def _idle(self) -> None:
        """Gives back memory, and goes after a drain, when nothing runs."""
        idle_since: float | None = None
        while True:
            if self._holdings.active():
                idle_since = math.inf
            elif idle_since == math.inf:
                idle_since = self._clock.monotonic()
            elif idle_since is not None and self._clock.monotonic() >= idle_since + IDLE_SECONDS:
                idle_since = None
                await asyncio.to_thread(return_memory)
            if self._holdings.draining and not self._holdings.states():
                self._stopping.set()
                if self._session is not None:
                    self._session.end("DRAINED")
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch_gpus(self) -> None:
        """A device that fails leaves the room at once; one that comes back is announced with the next session."""
        while True:
            await asyncio.sleep(self._settings.agent_gpu_interval)
            before = self._parts.gpus.offered()
            try:
                changed = await asyncio.to_thread(self._parts.gpus.refresh)
            except Exception:
                log.exception("the GPUs could not be looked at")
                continue
            if changed:
                after = self._parts.gpus.offered()
                log.warning(
                    "GPUs changed", before=len(before.devices), after=len(after.devices), left_out=after.left_out
                )
                self._poke(state=True)

    async def _renew(self) -> None:
        """From a third of the certificate's life on, with jitter, until it has worked."""
        while True:
            try:
                if self._identity.renewal_due() and self._session is not None and self._session.welcomed:
                    await self._renew_once()
            except (grpc.aio.AioRpcError, IdentityError, pki.PkiError, OSError) as error:
                log.error("certificate not renewed", error_text=str(error))
            await asyncio.sleep(RENEW_CHECK_SECONDS * random.uniform(0.5, 1.5))

    async def _renew_once(self) -> None:
        key_pem, csr = self._identity.new_csr()
        target = self._settings.dispatch_endpoint or self._about.dispatch_endpoint
        channel = self._connect(target, "orchestrator", self._identity.tls(), self._about.trust_domain, aio=True)
        try:
            stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
            request = dispatch_pb2.RenewCertificateRequest(tls_csr=csr)
            response = await stub.RenewCertificate(request, timeout=GOODBYE_SECONDS * 10)
        finally:
            await channel.close()
        await asyncio.to_thread(self._identity.install, key_pem, response.tls_certificate)
        if response.trust_bundle:
            await asyncio.to_thread(self._identity.take_bundle, response.trust_bundle)
        log.info("certificate renewed", expires=str(self._identity.lifetime()[1]))
        old, self._blob_channel = self._blob_channel, None
        if old is not None:
            # Streams on it go on to their end; nothing new begins there.
            asyncio.get_running_loop().call_later(3600, old.close)
        if self._session is not None:
            self._session.end("CERTIFICATE_RENEWED")

    def _ports(self, reporter: SpoolReporter, grant: bytes, give_up: Callable[[], None]) -> Ports:
        blobs = GrantedBlobs(self._blobs, grant, give_up)
        return Ports(
            driver=self._parts.driver,
            images=self._parts.images,
            trees=self._parts.trees,
            quota=self._parts.quota,
            source=blobs,
            sink=blobs,
            reporter=reporter,
            signer=self._signer,
            contract_keys=self._identity.contract_keys,
            clock=self._clock,
            host=self._parts.host,
            features=self._features,
            egress=self._parts.egress,
            gpus=self._parts.gpus,
            uid_block=self._parts.uid_block,
        )

    def _blobs(self) -> grpc.Channel:
        """One channel for all attempts, with the certificate of now."""
        channel = self._blob_channel
        if channel is None:
            target = self._settings.blob_endpoint or self._about.blob_endpoint
            channel = dial(target, "catalog", self._identity.tls(), self._about.trust_domain)
            self._blob_channel = channel
        return channel

    def _poke(self, *, state: bool, at_once: bool = False) -> None:
        session = self._session
        if session is not None:
            session.poke(state=state, at_once=at_once)
