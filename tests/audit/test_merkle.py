"""The tree against RFC 6962: the vectors of the Certificate Transparency project, and its recursive definition."""

import hashlib
import random

import pytest

from animus_audit.domain.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash

LEAVES = [bytes.fromhex(h) for h in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def definition(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, over leaf hashes."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    return node_hash(definition(hashes[:split]), definition(hashes[split:]))


def test_the_known_roots():
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        frontier.append(leaf_hash(leaf))
        assert frontier.root().hex() == root


def test_every_size_up_to_300_equals_the_definition():
    frontier, hashes = Frontier(), []
    for i in range(300):
        assert frontier.root() == definition(hashes)
        # Stored and read back between any two leaves, as the head row does.
        frontier = Frontier.from_bytes(frontier.size, frontier.to_bytes())
        hashes.append(leaf_hash(str(i).encode()))
        frontier.append(hashes[-1])


def test_batches_of_any_sizes_lead_to_the_same_root():
    rng = random.Random(7)
    hashes = [leaf_hash(rng.randbytes(8)) for _ in range(1000)]
    stored = (0, b"")
    at = 0
    while at < len(hashes):
        frontier = Frontier.from_bytes(*stored)
        step = rng.randint(1, 90)
        for h in hashes[at : at + step]:
            frontier.append(h)
        at += step
        stored = (frontier.size, frontier.to_bytes())
    assert Frontier.from_bytes(*stored).root() == definition(hashes)


@pytest.mark.parametrize(("size", "data"), [(1, b""), (0, bytes(32)), (3, bytes(32)), (1, bytes(31)), (-1, b"")])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size, data):
    with pytest.raises(ValueError):
        Frontier.from_bytes(size, data)
