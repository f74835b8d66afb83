"""Registries near this node that may hold the images of contracts: bytes by digest, and nothing else.

What may run stands in the contract: an image that the project has locked, under the grant. A registry decides nothing
about it; it spares the catalog the traffic. Steps never see a registry or its credentials. One that is away, slow or
damaged is passed over for a while, and the catalog, which has every locked image, is asked last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from animus_agent.errors import BlobError
from animus_agent.images.manifest import BlobSource
from animus_kit.log import get_logger
from animus_kit.registry.errors import NotInRegistry, RegistryError
from animus_kit.registry.settings import Endpoint

if TYPE_CHECKING:
    from animus_kit.registry.client import Patience, RegistryClient

log = get_logger(__name__)

SHUNNED_SECONDS = 60.0


class Mirrors:
    """Safe for many threads."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...] = (),
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._patience = patience
        self._monotonic = monotonic
        self._shunned: dict[str, float] = {}
        self._lock = threading.Lock()

    def sources(self, give_up: Callable[[], None]) -> Iterator[Mirror]:
        """Each repository of each registry that is not shunned now, in the order of the settings."""
        if not self._endpoints:
            return
        # Two megabytes of HTTP that most nodes never speak.
        from animus_kit.registry.client import Patience, RegistryClient

        for endpoint in self._endpoints:
            for repository in endpoint.repositories:
                with self._lock:
                    if self._shunned.get(endpoint.name, 0.0) > self._monotonic():
                        break
                yield Mirror(
                    self, endpoint, repository, RegistryClient(endpoint, self._patience or Patience(), give_up)
                )

    def shun(self, endpoint: Endpoint, error: Exception) -> None:
        """Asks this registry for nothing for a while."""
        log.warning("registry passed over", registry=endpoint.name, error_text=str(error)[:1000])
        with self._lock:
            self._shunned[endpoint.name] = self._monotonic() + SHUNNED_SECONDS


class Mirror(BlobSource):
    """One repository as a source of blobs."""

    def __init__(self, mirrors: Mirrors, endpoint: Endpoint, repository: str, client: RegistryClient) -> None:
        self._mirrors = mirrors
        self._endpoint = endpoint
        self._repository = repository
        self._client = client

    def open(self, digest: str, container_digest: str) -> Iterator[bytes]:
        """Raises BlobError."""
        read = self._client.manifest if digest == container_digest else self._client.blob
        try:
            yield from read(self._repository, digest)
        except NotInRegistry as error:
            raise BlobError(str(error), error.reason) from error
        except (RegistryError, ValueError) as error:
            self._mirrors.shun(self._endpoint, error)
            raise BlobError(str(error), getattr(error, "reason", "REGISTRY_ERROR")) from error

    def damaged(self, error: Exception) -> None:
        """It gave other bytes than those that were asked for."""
        self._mirrors.shun(self._endpoint, error)
