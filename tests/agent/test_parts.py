"""The agent's smaller parts, each alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from animus_agent import had, inventory
from animus_agent.attempt import metrics
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import BlobCorrupt, ContractRefused, OutputRefused, SandboxUnavailable, SpoolUnavailable
from animus_agent.gpu.nvml import NvmlInventory
from animus_agent.sandbox import canary, cgroup, logs, oci, quota, seccomp
from animus_agent.sandbox.driver import Device, Limits, SandboxSpec
from animus_agent.spool import Spool
from animus_agent.testing import EPOCH, MemoryBlobs, World
from animus_agent.trees import TreeCache
from animus_kit.documents import manifest
from animus_kit.documents.action import SECCOMP_PROFILE
from animus_kit.testing.fixtures import requires_runc
from animus_kit.testing.ids import FakeIds

# Spool.


def spool(path: Path, boot: str = "b1", **options) -> Spool:
    return Spool(path / "spool.db", FakeIds(), boot=lambda: boot, **options)


def test_an_attempt_is_accepted_once_for_ever(tmp_path: Path) -> None:
    one = spool(tmp_path)
    assert one.accept("a", b"first") and not one.accept("a", b"again")
    one.forget("a")
    assert not one.accept("a", b"again")
    one.close()
    assert not spool(tmp_path).accept("a", b"again")


def test_rows_come_in_order_until_acknowledged_and_numbers_never_come_back(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.accept("a", b"1")
    one.state("a", b"2", durable=True)
    assert one.result_of("a") is None
    assert one.result("a", b"3") and not one.result("a", b"4")
    assert one.result_of("a") == b"3"
    assert [(row.seq, row.body) for row in one.after(0)] == [(1, b"1"), (2, b"2"), (3, b"3")]
    one.acknowledge(2)
    assert [row.seq for row in one.after(0)] == [3]
    one.acknowledge(3)
    assert one.result_of("a") is None
    one.close()
    two = spool(tmp_path)
    assert two.spool_id == one.spool_id
    two.accept("b", b"5")
    assert [row.seq for row in two.after(0)] == [4]
    assert two.open_attempts() == {"a": True, "b": False}


def test_another_boot_is_another_spool_id(tmp_path: Path) -> None:
    """Rows that were not yet durable may be gone, and their numbers are given out again."""
    one = spool(tmp_path)
    one.accept("a", b"1")
    one.close()
    two = Spool(tmp_path / "spool.db", _Ids(), boot=lambda: "b2")
    assert two.spool_id == "another" != one.spool_id
    assert [row.body for row in two.after(0)] == [b"1"]


class _Ids(FakeIds):
    def uuid(self) -> str:
        return "another"


def test_a_full_spool_takes_no_more_log_until_some_was_delivered(tmp_path: Path) -> None:
    """The log stays where it is read from, so that nothing is lost and all of it keeps its order."""
    one = spool(tmp_path, max_log_bytes=10)
    one.accept("a", b"state")
    one.log("a", [b"12345678"], 10, 8)
    with pytest.raises(SpoolUnavailable):
        one.log("a", [b"later"], 20, 13)
    one.state("a", b"kept", durable=True)
    assert [row.body for row in one.after(0)] == [b"state", b"12345678", b"kept"]
    assert one.cursors("a").log_text == 8
    one.acknowledge(2)
    one.log("a", [b"later"], 20, 13)
    assert one.after(3)[0].body == b"later"


def test_a_full_disk_keeps_nothing_half(tmp_path: Path) -> None:
    one = spool(tmp_path)
    one.accept("a", b"state")
    pages = one._db.execute("pragma page_count").fetchone()[0]
    one._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(SpoolUnavailable):
        one.result("a", b"x" * 100_000)
    assert one.open_attempts() == {"a": False}
    one._db.execute("pragma max_page_count = 1000000")
    assert one.result("a", b"x" * 100_000)


def test_a_spool_knows_what_it_gave_out(tmp_path: Path) -> None:
    one = Spool(tmp_path / "spool.db", FakeIds(), boot=lambda: "b1")
    assert one.issued(0) and not one.issued(1)
    one.accept("a", b"1")
    one.acknowledge(1)
    assert one.issued(1) and not one.issued(2)
    before = one.spool_id
    one.rename()
    assert one.spool_id != before


def test_the_newest_forgotten_attempts_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one boot, which may last for years."""
    monkeypatch.setattr("animus_agent.spool.REMEMBERED", 3)
    monkeypatch.setattr("animus_agent.spool.PRUNE_EVERY", 4)
    one = spool(tmp_path)
    one.accept("held", b"")
    # Names tell no order.
    for name in "hgfedcba":
        one.accept(name, b"")
        one.forget(name)
    assert [name for name in "abcdefgh" if one.knows(name)] == ["a", "b", "c"]
    assert one.open_attempts() == {"held": False}


def test_to_forget_costs_the_same_however_many_were_forgotten(tmp_path: Path) -> None:
    one, steps = spool(tmp_path), 0

    def step() -> None:
        nonlocal steps
        steps += 1

    def cost(name: str) -> int:
        nonlocal steps
        one.accept(name, b"")
        steps = 0
        one._db.set_progress_handler(step, 1)
        one.forget(name)
        one._db.set_progress_handler(None, 1)
        return steps

    few = cost("first")
    rows = [(f"old-{number}", number) for number in range(2, 2000)]
    one._db.executemany("insert into attempts (name, boot_id, forgotten) values (?, 'b0', ?)", rows)
    assert cost("later") < 2 * few


def test_attempts_had_are_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(had, "REMEMBERED", 3)
    one = had.Had(tmp_path / "had")
    for id in "abcdefgh":
        one.add(id)
    again = had.Had(tmp_path / "had")
    assert "h" in again and "f" in again and "a" not in again
    assert len((tmp_path / "had").read_text().split()) <= 6


# Logs.


def test_logs_are_read_by_offset_as_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"t stdout F one\nt stderr P par")
    (chunk,) = logs.read(path, logs.Cursor())
    assert (chunk.data, chunk.offset, chunk.stderr) == (b"one\n", 0, False)
    path.write_bytes(path.read_bytes() + b"tial\nt stderr F \rrest\nt stdout F x\n")
    two, three = logs.read(path, chunk.after)
    assert (two.data, two.offset, two.stderr) == (b"partial\rrest\n", 4, True)
    assert (three.data, three.offset) == (b"x\n", 17)
    assert logs.read(path, three.after) == []
    path.write_bytes(path.read_bytes() + b"torn")
    assert logs.read(path, three.after) == []
    assert logs.read(path, three.after, final=True)[0].data == b"torn"


# Trees.


def test_trees_are_read_only_dated_and_verified(tmp_path: Path) -> None:
    blobs, cache = MemoryBlobs(), TreeCache(tmp_path / "trees")
    code = blobs.put_tree({"run.sh": b"#!/bin/sh\n", "d/data": b"x", "d/link": "data"}, manifest.CODE)
    tree = cache.get(code, EPOCH, manifest.CODE, blobs)
    assert (tree.path / "run.sh").stat().st_mode & 0o777 == 0o555
    assert (tree.path / "d/data").stat().st_mode & 0o777 == 0o444
    for path in (tree.path, tree.path / "d", tree.path / "d/data", tree.path / "run.sh"):
        assert path.stat().st_mtime == EPOCH
    assert (tree.path / "d/link").readlink() == Path("data")
    assert cache.verify(tree)
    (tree.path / "d/data").chmod(0o600)
    (tree.path / "d/data").write_bytes(b"y")
    assert not cache.verify(tree)
    reads = len(blobs.reads)
    assert cache.get(code, EPOCH, manifest.CODE, blobs).fresh and len(blobs.reads) > reads


def test_an_interrupted_fetch_goes_on(tmp_path: Path) -> None:
    blobs, cache = MemoryBlobs(), TreeCache(tmp_path / "trees")
    tree = blobs.put_tree({"a": b"alpha", "b": b"beta"})
    beta = next(digest for digest, data in blobs.blobs.items() if data == b"beta")
    blobs.blobs[beta] = b"evil"
    with pytest.raises(BlobCorrupt):
        cache.get(tree, EPOCH, manifest.DATASET, blobs)
    blobs.blobs[beta] = b"beta"
    blobs.reads.clear()
    assert (cache.get(tree, EPOCH, manifest.DATASET, blobs).path / "b").read_bytes() == b"beta"
    assert blobs.reads == [beta]


def test_a_manifest_that_breaks_its_profile_is_refused(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    code = blobs.put_tree({"a": b"x", "l": "a"}, manifest.CODE)
    with pytest.raises(ContractRefused):
        TreeCache(tmp_path / "trees").get(code, EPOCH, manifest.DATASET, blobs)


def test_a_tree_is_never_evicted_between_being_found_and_being_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes hold of one either finds it gone and fetches it, or keeps it."""
    blobs, cache = MemoryBlobs(), TreeCache(tmp_path / "trees", max_bytes=0)
    digest = blobs.put_tree({"a": b"x"})
    cache.get(digest, EPOCH, manifest.DATASET, blobs)
    rename, held = os.rename, []

    def watched(source: Path, target: Path) -> None:
        held.append(cache._lock.locked())
        rename(source, target)

    monkeypatch.setattr("animus_agent.trees.os.rename", watched)
    cache.evict()
    assert held == [True] and not list((tmp_path / "trees").iterdir())


def test_unused_trees_are_evicted(tmp_path: Path) -> None:
    blobs, cache = MemoryBlobs(), TreeCache(tmp_path / "trees", max_bytes=100_000)
    one, two = (blobs.put_tree({"f": bytes([n]) * 80_000}) for n in (1, 2))
    with cache.holding(one, EPOCH):
        held = cache.get(one, EPOCH, manifest.DATASET, blobs)
        cache.get(two, EPOCH, manifest.DATASET, blobs)
        assert held.path.exists()
    cache.evict()
    assert not held.path.exists()


# Metrics.


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"a": "x"}', '{"a": true}', '{"a": 1e999}', '{"a b": 1}', '{"a": null}', '{"a": {"b": 1}}',
     "{" + ",".join(f'"m{i}": 1' for i in range(1001)) + "}", "[" * 100_000],
)  # fmt: skip
def test_metrics_that_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(OutputRefused):
        metrics.read_metrics(tmp_path)


def test_points_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert metrics.read_points(tmp_path, 0, 0) == ([], 0)
    path.write_text('{"name":"a","step":1,"value":2}\n{"name":"a","st')
    points, offset = metrics.read_points(tmp_path, 0, 0)
    assert [point.value for point in points] == [2.0] and offset == 32
    path.write_text(path.read_text() + 'ep":2,"value":3}')
    assert metrics.read_points(tmp_path, offset, 1) == ([], offset)
    assert metrics.read_points(tmp_path, offset, 1, final=True)[0][0].step == 2


# Sandbox.


def test_the_configuration_gives_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    spec = SandboxSpec(
        id="an-1",
        directory=tmp_path,
        rootfs=tmp_path,
        args=("/x",),
        env=("A=1",),
        cwd="/",
        limits=Limits(1 << 20, 500),
        uid_base=5,
        devices=(Device("/dev/nvidia0", "/dev/nvidia0", 195, 0),),
    )
    config = oci.config(spec, cgroup.Cgroups(tmp_path, 2, "/p"), seccomp.load())
    process, linux = config["process"], config["linux"]
    assert process["env"] == ["A=1"] and process["noNewPrivileges"] and config["root"]["readonly"]
    assert all(process["capabilities"][name] == [] for name in oci.CAPABILITY_SETS)
    assert {n["type"] for n in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "network", "user", "cgroup"}
    assert linux["resources"]["memory"] == {"limit": 1 << 20, "swap": 1 << 20}
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert linux["resources"]["devices"][1]["major"] == 195
    assert linux["resources"]["unified"] == {"memory.oom.group": "1"}
    for mount in config["mounts"]:
        assert "nosuid" in mount["options"], mount


def test_the_system_call_list_is_the_one_that_actions_name() -> None:
    found = seccomp.load()
    assert found.name == SECCOMP_PROFILE
    # A list under a name never changes: raise the version and the name when this fails.
    assert found.digest == "sha256:d599ecd0bf1ddd9635702a4f2bd9151c9b794884fda4a381fa39da4d5a4e6b81"
    allowed = {n for rule in found.profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for n in rule["names"]}
    assert not allowed & {"mount", "unshare", "setns", "ptrace", "keyctl", "bpf", "io_uring_setup", "personality"}
    sockets = [tuple(a["value"] for a in r["args"]) for r in found.profile["syscalls"] if r["names"] == ["socket"]]
    # UNIX; TCP and UDP; NETLINK for routes.
    assert sockets == [(1,), (2, 0), (2, 6), (2, 17), (10, 0), (10, 6), (10, 17), (16, 0)]
    assert found.profile["architectures"] == ["SCMP_ARCH_X86_64"]


def test_cgroup_v2_is_delegated_below_our_own_group(tmp_path: Path) -> None:
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    own = root / "system.slice" / "agent.service"
    own.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/system.slice/agent.service\n")
    for folder in (root, root / "system.slice", own):
        (folder / "cgroup.controllers").write_text("cpu memory pids")
        (folder / "cgroup.subtree_control").write_text("cpu memory pids" if folder != own else "")
        (folder / "cgroup.procs").write_text("")
    (own / "cgroup.procs").write_text("42\n")
    found = cgroup.detect(name="n", root=root, proc=proc)
    assert (found.version, found.parent) == (2, "/system.slice/agent.service/animus-n")
    assert (own / "agent" / "cgroup.procs").read_text() == "42"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    group = own / "animus-n" / "an-1"
    group.mkdir()
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (group / "cpu.stat").write_text("usage_usec 5\nnr_throttled 1\n")
    usage = found.usage("an-1")
    assert (usage.oom_kills, usage.cpu_nanoseconds, usage.throttled_periods) == (2, 5000, 1)
    assert found.orphans() == {"an-1"}
    (own / "cgroup.controllers").write_text("cpu pids")
    with pytest.raises(SandboxUnavailable) as refused:
        cgroup.detect(name="n", root=root, proc=proc)
    assert "memory" in str(refused.value)


@requires_runc
def test_volumes_are_bounded_fresh_and_pooled(node_dir: Path) -> None:
    volumes = quota.choose(node_dir / "volumes", allow_tmpfs=True)
    pool = quota.QuotaPool(volumes, spare=1)
    pool.start(set())
    name, volume = pool.take(16 << 20)
    with pytest.raises(OSError):
        (volume.path / "x").write_bytes(bytes(32 << 20))
    pool.give_back(name)
    other, again = pool.take(16 << 20)
    assert other != name and not (again.path / "x").exists()
    pool.close()
    assert quota.mounted(again.path)
    held = quota.QuotaPool(volumes)
    held.start({other})
    assert quota.mounted(again.path)
    assert held.take(16 << 20)[0] != other
    held.close()
    third = quota.QuotaPool(volumes)
    third.start(set())
    third.close()
    assert not quota.mounted(again.path)


@requires_runc
def test_the_canaries_hold_here(runc_world: World) -> None:
    ceiling = Ceiling.parse(["*:443"])
    features = canary.examine(runc_world.driver, runc_world.quota, runc_world.root / "canary", ceiling)
    assert canary.unusable(features) == []
    # Where many wait for few cores nobody uses up a share, and there is nothing to throttle.
    busy = {"cpu-limit"} if os.getloadavg()[0] > (os.cpu_count() or 1) else set()
    assert [feature for feature in features if not feature.enforced and feature.name not in busy] == []


# Inventory and command line.


def test_a_node_without_a_driver_has_no_gpus_and_says_why() -> None:
    found = NvmlInventory("libnothing-of-the-kind.so").read()
    assert found.devices == () and "not installed" in found.reason
    node = inventory.read(found, cpu_millis=500)
    assert node.cpu_millis == 500 and node.memory_bytes > 0
    assert inventory.fingerprint(node, {"runc": "1"}).host_class.startswith("sha256:")


def test_wrong_use_is_told(tmp_path: Path) -> None:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "animus_agent", *arguments]
        more = {"PATH": "/usr/bin:/bin", "ANIMUS_AGENT_STATE_DIR": str(tmp_path), **environment}
        return subprocess.run(command, env=more, capture_output=True, text=True)

    assert call().returncode == 2
    done = call("run", ANIMUS_AGENT_DRIVR="x")
    assert done.returncode == 2 and "ANIMUS_AGENT_DRIVR" in done.stderr
    done = call("run")
    assert done.returncode == 1 and done.stderr.startswith("NOT_ENROLLED")
    done = call("enroll", "127.0.0.1:1", "--token", "nonsense")
    assert done.returncode == 1 and done.stderr.startswith("TOKEN_MALFORMED")
