"""Blobs over a link that breaks: reads and writes go on where they stopped."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from animus_agent.attempt.failure import Abandoned
from animus_agent.blobs import TRIES, GrantedBlobs
from animus_agent.errors import BlobCorrupt, BlobError
from animus_agent.identity import Identity
from animus_agent.testing import World
from animus_kit.channel import dial
from animus_kit.clock import SystemClock
from animus_kit.digest import sha256
from animus_kit.testing.clock import FakeClock
from tests.agent.control import DOMAIN, ControlPlane, until

DATA = bytes(range(256)) * 8192


@pytest.fixture
def channel(control: ControlPlane, tmp_path: Path) -> Iterator[grpc.Channel]:
    identity = Identity(tmp_path / "identity", SystemClock(), control.folder / "root.pub")
    identity.enroll(control.enrollment_endpoint, control.token)
    channel = dial(control.blob_endpoint, "catalog", identity.tls(), DOMAIN)
    yield channel
    channel.close()


@pytest.fixture
def blobs(channel: grpc.Channel, fake_world: World) -> GrantedBlobs:
    return GrantedBlobs(lambda: channel, fake_world.order("fake")[2], wait=lambda seconds: None)


def test_a_broken_read_goes_on_at_its_offset(control: ControlPlane, blobs: GrantedBlobs) -> None:
    digest = control.world.blobs.put(DATA)
    control.blobs.cut = 1 << 20
    assert b"".join(blobs.open(digest, digest)) == DATA
    assert control.blobs.offsets == [0, 1 << 20]


def test_a_broken_write_asks_how_much_was_kept(control: ControlPlane, blobs: GrantedBlobs) -> None:
    control.blobs.cut = 1 << 20
    blobs.write(sha256(DATA), len(DATA), lambda size, offset: DATA[offset : offset + size])
    assert control.world.blobs.written[sha256(DATA)] == DATA
    assert control.blobs.offsets[-1] >= 1 << 20


def test_a_write_that_moves_on_is_tried_again_however_often_it_breaks(
    control: ControlPlane, blobs: GrantedBlobs
) -> None:
    control.blobs.cut_each = True
    data = DATA * 6
    blobs.write(sha256(data), len(data), lambda size, offset: data[offset : offset + size])
    assert control.world.blobs.written[sha256(data)] == data
    assert len(control.blobs.offsets) == 12 > TRIES


def test_an_outage_costs_no_try_of_what_comes_after_it(control: ControlPlane, blobs: GrantedBlobs) -> None:
    blobs.write(sha256(b"x"), 1, lambda size, offset: b"x")
    passing = [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED] * TRIES
    control.blobs.refuse = [grpc.StatusCode.UNAVAILABLE] * 2 * TRIES + passing[: TRIES - 1]
    blobs.seal(sha256(b"x"))
    assert control.world.blobs.sealed == [sha256(b"x")]
    control.blobs.refuse = passing
    with pytest.raises(BlobError):
        blobs.seal(sha256(b"x"))
    assert len(control.blobs.refuse) == TRIES


def read(blobs: GrantedBlobs, control: ControlPlane) -> None:
    digest = control.world.blobs.put(DATA)
    assert b"".join(blobs.open(digest, digest)) == DATA


def write(blobs: GrantedBlobs, control: ControlPlane) -> None:
    """In one message, after which only the answer is waited for."""
    data = DATA[: 1 << 20]
    blobs.write(sha256(data), len(data), lambda size, offset: data[offset : offset + size])
    assert control.world.blobs.written[sha256(data)] == data


@pytest.mark.parametrize("move", [read, write])
def test_a_stream_that_stands_still_is_begun_anew(
    control: ControlPlane, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch, move: Callable[..., None]
) -> None:
    monkeypatch.setattr("animus_agent.blobs.LOOK_SECONDS", 0.05)
    # Every look at the clock is ten seconds later.
    seconds = itertools.count(0.0, 10.0)
    grant = control.world.order("fake")[2]
    blobs = GrantedBlobs(lambda: channel, grant, wait=lambda seconds: None, monotonic=lambda: next(seconds))
    control.blobs.stall = 1 << 20
    move(blobs, control)
    assert control.blobs.stalls == [True]


@pytest.mark.parametrize("move", [read, write])
def test_a_cancel_reaches_a_stream_that_stands_still(
    control: ControlPlane, channel: grpc.Channel, move: Callable[..., None]
) -> None:
    canceled = threading.Event()

    def give_up() -> None:
        if canceled.is_set():
            raise Abandoned

    blobs = GrantedBlobs(lambda: channel, control.world.order("fake")[2], give_up)
    control.blobs.stall, control.blobs.stalled = 1 << 20, canceled.set
    with pytest.raises(Abandoned):
        move(blobs, control)
    until(lambda: control.blobs.stalls == [True], "that its stream is ended")


def test_the_watchdog_goes_when_nothing_is_read(
    control: ControlPlane, blobs: GrantedBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("animus_agent.blobs.LOOK_SECONDS", 0.05)
    for _ in range(2):
        read(blobs, control)
        until(lambda: not blobs._watchdog._running, "that it is gone")


def test_an_empty_blob(control: ControlPlane, blobs: GrantedBlobs) -> None:
    blobs.write(sha256(b""), 0, lambda size, offset: b"")
    assert control.world.blobs.written[sha256(b"")] == b""


def test_what_is_refused_is_not_tried_again(control: ControlPlane, blobs: GrantedBlobs) -> None:
    with pytest.raises(BlobError):
        list(blobs.open(sha256(b"absent"), sha256(b"absent")))
    assert len(control.blobs.offsets) == 1
    with pytest.raises(BlobError) as refused:
        blobs.write(sha256(b"other"), 4, lambda size, offset: b"data"[offset : offset + size])
    assert isinstance(refused.value, (BlobError, BlobCorrupt))


def test_no_certificate_no_bytes(control: ControlPlane) -> None:
    credentials = grpc.ssl_channel_credentials(control.services.certificate_pem)
    options = [("grpc.ssl_target_name_override", f"catalog.{DOMAIN}")]
    channel = grpc.secure_channel(control.blob_endpoint, credentials, options)
    nobody = GrantedBlobs(lambda: channel, b"x", wait=lambda seconds: None, away_seconds=0)
    with pytest.raises(BlobError) as refused:
        list(nobody.open(sha256(b""), sha256(b"")))
    assert refused.value.reason == "UNAVAILABLE"
    channel.close()


def test_while_nobody_answers_it_goes_on_trying(blobs: GrantedBlobs, tmp_path: Path) -> None:
    """As long as it may; then, or when it is told to give up, it says so."""
    channel = grpc.insecure_channel(f"unix:{tmp_path}/nobody")
    clock = FakeClock()
    tried: list[float] = []

    def wait(seconds: float) -> None:
        tried.append(seconds)
        clock.advance(60.0)

    away = GrantedBlobs(lambda: channel, b"x", wait=wait, away_seconds=3600.0, monotonic=clock.monotonic)
    with pytest.raises(BlobError) as refused:
        away.write(sha256(DATA), len(DATA), lambda size, offset: DATA[offset : offset + size])
    assert refused.value.reason == "UNAVAILABLE"
    assert len(tried) == 60
    channel.close()
