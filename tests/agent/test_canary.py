"""Canaries that fail: what a node cannot do it does not offer, and a contract that needs it is refused, never weakened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from animus_agent.attempt import steps
from animus_agent.egress.rules import Ceiling
from animus_agent.errors import SandboxUnavailable
from animus_agent.sandbox import canary, cgroup
from animus_agent.sandbox.driver import Handle, SandboxSpec
from animus_agent.sandbox.runc import RuncDriver
from animus_agent.testing import MemoryReporter, World
from animus_kit.documents.action import DEFAULT_ISOLATION, Isolation
from animus_kit.documents.sandbox import Feature, SandboxReport
from animus_kit.testing.fixtures import requires_runc

CEILING = Ceiling.parse(["*:443"])
NO_ASLR = Isolation(
    aslr=False,
    hostname=DEFAULT_ISOLATION.hostname,
    uid=DEFAULT_ISOLATION.uid,
    gid=DEFAULT_ISOLATION.gid,
    seccomp=DEFAULT_ISOLATION.seccomp,
)


class WeakDriver(RuncDriver):
    """A node that lost a protection: `weaken` changes the configuration that the product wrote."""

    weaken: Callable[[dict[str, Any]], None]

    def prepare(self, spec: SandboxSpec) -> Handle:
        handle = super().prepare(spec)
        path = spec.directory / "bundle" / "config.json"
        config = json.loads(path.read_text())
        self.weaken(config)
        path.write_text(json.dumps(config))
        return handle


def found(world: World, node_dir: Path, weaken: Callable[[dict[str, Any]], None]) -> dict[str, Feature]:
    driver = WeakDriver(node_dir / "runc", cgroup.detect(f"/animus-test/{node_dir.name}"))
    driver.weaken = weaken
    features = canary.examine(driver, world.quota, node_dir / "canary", CEILING)
    return {feature.name: feature for feature in features}


def without(features: dict[str, Feature]) -> set[str]:
    return {name for name, feature in features.items() if not feature.enforced}


def _no_seccomp(config: dict[str, Any]) -> None:
    del config["linux"]["seccomp"]


def _no_memory_limit(config: dict[str, Any]) -> None:
    del config["linux"]["resources"]["memory"]


def _no_process_limit(config: dict[str, Any]) -> None:
    del config["linux"]["resources"]["pids"]


def _privileges(config: dict[str, Any]) -> None:
    config["process"]["noNewPrivileges"] = False


def _capabilities(config: dict[str, Any]) -> None:
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        config["process"]["capabilities"][name] = ["CAP_NET_RAW"]


def _host_network(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
    # sysfs shows a network namespace's devices to whoever owns it; the canary then has none to look at.
    config["mounts"] = [one for one in config["mounts"] if one["destination"] != "/sys"]


def _another_environment(config: dict[str, Any]) -> None:
    config["process"]["env"].append("EXTRA=1")


def _writable_root(config: dict[str, Any]) -> None:
    config["root"]["readonly"] = False
    config["process"]["user"] = {"uid": 0, "gid": 0}
    config["linux"]["uidMappings"][0]["hostID"] = config["linux"]["gidMappings"][0]["hostID"] = 0


@requires_runc
@pytest.mark.parametrize(
    ("weaken", "missing", "usable"),
    [
        (_no_seccomp, {"seccomp", "vsock-blocked", "io-uring-blocked", "ptrace-blocked", "keyctl-blocked", "unshare-blocked"}, False),
        (_no_memory_limit, {"memory-limit"}, False),
        (_no_process_limit, {"pids-limit"}, True),
        (_privileges, {"no-new-privileges"}, False),
        (_capabilities, {"no-capabilities", "raw-socket-blocked"}, False),
        (_host_network, {"network-none"}, False),
        (_another_environment, {"exact-environment"}, True),
        (_writable_root, {"user-namespace", "read-only-root"}, False),
    ],
)  # fmt: skip
def test_a_protection_that_is_missing_is_noticed(
    runc_world: World, node_dir: Path, weaken: Callable, missing: set[str], usable: bool
) -> None:
    features = found(runc_world, node_dir, weaken)
    assert missing <= without(features), features
    assert (canary.unusable(tuple(features.values())) == []) is usable
    assert all(feature.detail for feature in features.values() if not feature.enforced)


@requires_runc
def test_options_that_a_node_cannot_give_cost_nothing_but_themselves(
    runc_world: World, node_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = runc_world.driver
    assert isinstance(driver, RuncDriver)
    monkeypatch.setattr(driver, "_setarch", "")

    def no_network(handle: Handle) -> int:
        raise SandboxUnavailable("no namespaces here", "EGRESS_UNAVAILABLE")

    monkeypatch.setattr(driver, "network", no_network)
    features = canary.examine(driver, runc_world.quota, node_dir / "canary", CEILING)
    told = {feature.name: feature for feature in features}
    assert without(told) - {"cpu-limit"} == {"no-aslr", "network-allow-list"} and canary.unusable(features) == []
    assert "setarch" in told["no-aslr"].detail and "no namespaces" in told["network-allow-list"].detail
    # Without a ceiling nobody looks, and the node says why it does not offer it.
    (one,) = [
        f for f in canary.examine(driver, runc_world.quota, node_dir / "canary") if f.name == "network-allow-list"
    ]
    assert not one.enforced and "ANIMUS_AGENT_EGRESS_ALLOW" in one.detail


def test_a_node_without_the_option_refuses_the_contract(fake_world: World) -> None:
    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(fake_world.order("fake", isolation=NO_ASLR), reporter))
    failure = reporter.results[0].failure
    assert failure is not None and failure.reason == "ASLR_OFF_UNAVAILABLE"
    needs = {"required_capabilities": ("no-such-protection",)}
    reporter = MemoryReporter()
    steps.execute(fake_world.attempt(fake_world.order("fake", contract=needs), reporter))
    failure = reporter.results[0].failure
    assert failure is not None and failure.reason == "CAPABILITY_MISSING" and "no-such-protection" in failure.message


@requires_runc
def test_addresses_are_fixed_where_the_contract_asks_for_it(runc_world: World) -> None:
    runc_world.features = ("network-none", "no-aslr")

    def stack(**changes: Any) -> tuple[str, list[bytes]]:
        reporter = MemoryReporter()
        script = "cat /proc/self/personality; for i in 1 2 3; do cat /proc/self/maps | /bin/busybox grep stack; done"
        attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", script, **changes), reporter)
        steps.execute(attempt)
        steps.clean_up(attempt)
        assert reporter.results[0].failure is None, reporter.text
        assert SandboxReport.from_bytes(reporter.results[0].sandbox_report).features
        first, *rest = reporter.text.splitlines()
        return first.decode(), rest

    personality, stacks = stack(isolation=NO_ASLR)
    assert personality == "00040000" and len(stacks) == 3 and len(set(stacks)) == 1
    personality, stacks = stack()
    assert personality == "00000000" and len(set(stacks)) == 3


@requires_runc
def test_host_name_and_time_zone_are_the_same_everywhere(runc_world: World) -> None:
    reporter = MemoryReporter()
    script = "cat /proc/sys/kernel/hostname; /bin/busybox date +%Z%z; echo $TZ $LANG $SOURCE_DATE_EPOCH"
    attempt = runc_world.attempt(runc_world.order("/bin/sh", "-c", script), reporter)
    steps.execute(attempt)
    steps.clean_up(attempt)
    assert reporter.text == b"animus\nUTC+0000\nUTC C.UTF-8 946684800\n"
