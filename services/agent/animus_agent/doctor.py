"""`animus-agent doctor`: whether this node could work, and what it would offer."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from animus_agent import node, uids
from animus_agent.errors import SandboxUnavailable
from animus_agent.identity import Identity
from animus_agent.sandbox import canary
from animus_agent.settings import Settings
from animus_kit.clock import SystemClock


def examine(settings: Settings, output: str) -> int:
    """Prints the findings. 0: it can take work, or could once it has joined; 3: it cannot isolate a step."""
    identity = Identity(settings.agent_state_dir / "identity", SystemClock(), settings.agent_root_key)
    report: dict = {"enrolled": identity.enrolled, "problems": []}
    if identity.enrolled:
        about, (_, end) = identity.about(), identity.lifetime()
        report |= {"agent": about.agent, "dispatch": about.dispatch_endpoint, "certificate_until": end.isoformat()}
        report["root_key_checked"] = settings.agent_root_key is not None
    # Beside a running agent: in folders of its own.
    with tempfile.TemporaryDirectory(prefix="animus-doctor-") as name:
        Path(name).chmod(0o711)
        apart = replace(
            settings,
            agent_state_dir=Path(name, "state"),
            agent_run_dir=Path(name, "run"),
            agent_cgroup_parent=f"{settings.agent_cgroup_parent}-doctor" if settings.agent_cgroup_parent else "",
        )
        try:
            parts = node.assemble(apart)
            parts.quota.start(set())
            try:
                features = node.examine(parts)
            finally:
                parts.quota.close()
                parts.driver.close()
                parts.gpus.close()
                uids.release(apart.agent_state_dir)
            report |= {
                "platform": parts.node.platform,
                "cpu_millis": parts.node.cpu_millis,
                "memory_bytes": parts.node.memory_bytes,
                "gpus": [gpu.uuid for gpu in parts.node.gpus.devices],
                "gpu_reason": parts.node.gpus.reason,
                "gpus_left_out": parts.node.gpus.left_out,
                "output_volumes": parts.quota.kind,
                "features": {f.name: {"held": f.enforced, "detail": f.detail} for f in features},
            }
            report["problems"] = canary.unusable(features)
        except SandboxUnavailable as error:
            report["problems"] = [f"{error.reason}: {error}"]
    print(json.dumps(report, indent=2) if output == "json" else _text(report))
    return 3 if report["problems"] else 0


def _text(report: dict) -> str:
    lines = [f"{key}: {value}" for key, value in report.items() if key not in ("features", "problems")]
    for name, found in report.get("features", {}).items():
        off = name == "network-allow-list" and found["detail"] == canary.EGRESS_OFF
        lines.append(f"{'ok  ' if found['held'] else 'off ' if off else 'FAIL'} {name}: {found['detail']}")
    lines += [f"problem: {problem}" for problem in report["problems"]]
    if not report["enrolled"]:
        lines.append(
            "not joined yet: `animus agent join NODE` makes a token; then `animus-agent enroll HOST:PORT` here"
        )
    return "\n".join(lines)
