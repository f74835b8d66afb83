"""A layer's bytes on their way to the tar reader: hashed before and after decompression, and bounded.

The tar reader stops at the end-of-archive mark; `finish` reads on to the end before anything is compared, so that no
byte of a blob escapes its digest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from animus_agent.errors import ImageRefused
from animus_agent.images.manifest import Layer
from animus_kit.digest import Sha256Stream


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an image may be at most, all layers together; `ratio` is bytes out for each compressed byte."""

    total_bytes: int = 64 << 30
    entries: int = 1_000_000
    ratio: int = 200
    path_bytes: int = 4096
    depth: int = 128


class LayerReader:
    """File-like, for `tarfile.open(mode="r|")`. `budget` is what is left of the image's bytes."""

    def __init__(self, chunks: Iterator[bytes], layer: Layer, bounds: Bounds, budget: int) -> None:
        self._chunks = chunks
        self._layer = layer
        self._bounds = bounds
        self._budget = budget
        self._compressed = Sha256Stream()
        self._plain = Sha256Stream()
        self._buffer = bytearray()
        self._done = False
        self._inflate = zlib.decompressobj(wbits=31) if layer.compression == "gzip" else None

    @property
    def plain_bytes(self) -> int:
        return self._plain.size

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and not self._done:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def finish(self) -> None:
        """Reads to the end and compares. Raises ImageRefused."""
        while not self._done:
            self._buffer.clear()
            self._fill()
        if self._compressed.digest() != self._layer.digest:
            raise ImageRefused(f"layer digest: the bytes are not {self._layer.digest}", "IMAGE_DIGEST_MISMATCH")
        if self._compressed.size != self._layer.size:
            raise ImageRefused("a layer has another size than the manifest says", "IMAGE_SIZE_MISMATCH")
        if self._plain.digest() != self._layer.diff_id:
            raise ImageRefused(f"layer diff_id: the content is not {self._layer.diff_id}", "IMAGE_DIFF_ID_MISMATCH")

    def blame(self) -> None:
        """After a refusal: raises ImageRefused IMAGE_DIGEST_MISMATCH if these are not the image's bytes at all, so that
        damage on the way is never told to whoever built the image."""
        for chunk in self._chunks:
            self._compressed.update(chunk)
            if self._compressed.size > self._layer.size:
                break
        if self._compressed.digest() != self._layer.digest:
            raise ImageRefused(f"layer digest: the bytes are not {self._layer.digest}", "IMAGE_DIGEST_MISMATCH")

    def _fill(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._done = True
            if self._inflate is not None and not self._inflate.eof:
                raise ImageRefused("a layer's gzip stream is cut off", "IMAGE_LAYER_INVALID")
            return
        self._compressed.update(chunk)
        if self._compressed.size > self._layer.size:
            raise ImageRefused("a layer is larger than the manifest says", "IMAGE_SIZE_MISMATCH")
        if self._inflate is None:
            self._take(chunk)
            return
        try:
            self._expand(chunk)
        except zlib.error as error:
            raise ImageRefused(f"a layer's gzip stream is broken: {error}", "IMAGE_LAYER_INVALID") from error

    def _expand(self, chunk: bytes) -> None:
        assert self._inflate is not None
        while chunk:
            if self._inflate.eof:
                # RFC 1952 §2.2: a gzip file is a series of members.
                self._inflate = zlib.decompressobj(wbits=31)
            # In bounded pieces: one small chunk of a bomb expands a thousandfold.
            self._take(self._inflate.decompress(chunk, 1 << 20))
            chunk = self._inflate.unconsumed_tail or self._inflate.unused_data

    def _take(self, data: bytes) -> None:
        self._plain.update(data)
        if self._plain.size > self._budget:
            raise ImageRefused(f"the image is larger than {self._bounds.total_bytes} bytes", "IMAGE_TOO_LARGE")
        if self._plain.size > (1 << 20) + self._compressed.size * self._bounds.ratio:
            raise ImageRefused("a layer expands beyond all measure", "IMAGE_COMPRESSION_BOMB")
        self._buffer += data
