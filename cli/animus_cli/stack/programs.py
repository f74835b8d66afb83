"""Which processes a stack has, and each one's settings. Every name is told in that process's own README."""

from __future__ import annotations

import json
import ssl
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from animus_cli.stack import database, issuer
from animus_cli.stack.layout import AGENT, TRUST_DOMAIN, Layout
from animus_cli.stack.processes import Program
from animus_kit.db.embedded import Embedded

# In the order in which `status` shows them.
CONTROL_PLANE = ("policy", "audit", "catalog", "lineage", "orchestrator", "dispatch", "gateway")
ALL = (*CONTROL_PLANE, "agent")
POSTGRES = "postgres"
PROBE_SECONDS = 2.0


def control_plane(layout: Layout, cluster: Embedded) -> dict[str, Program]:
    """Every process but the agent, by name."""
    programs = {
        "policy": _service(
            layout,
            cluster,
            "policy",
            {
                "ANIMUS_AUDIT_TARGET": layout.address("audit"),
                "ANIMUS_POLICY_PLATFORM_ADMINS": f"group:{issuer.ADMINISTRATORS}",
            },
        ),
        "audit": _service(layout, cluster, "audit", {"ANIMUS_STREAM_LISTEN": layout.address("audit-stream")}),
        "catalog": _service(
            layout,
            cluster,
            "catalog",
            {
                "ANIMUS_STREAM_LISTEN": layout.address("catalog-stream"),
                "ANIMUS_AGENT_BLOB_LISTEN": layout.address("catalog-agent"),
                "ANIMUS_AGENTS_CA": str(layout.agents_ca),
                "ANIMUS_BLOB_STORE": f"file://{layout.folder('blobs')}",
                "ANIMUS_STAGING_DIR": str(layout.folder("staging")),
                "ANIMUS_TRUST_BUNDLE": str(layout.trust_bundle),
                "ANIMUS_ROOT_KEY": str(layout.pki / "root.pub"),
            },
        ),
        "lineage": _service(layout, cluster, "lineage", {}),
        "orchestrator": _service(
            layout,
            cluster,
            "orchestrator",
            {
                "ANIMUS_STREAM_LISTEN": layout.address("orchestrator-stream"),
                "ANIMUS_CATALOG_TARGET": layout.address("catalog"),
            },
        ),
        "dispatch": _dispatch(layout, cluster),
        "gateway": _gateway(layout),
    }
    chosen = layout.options
    return {name: _with(program, chosen.environment(name)) for name, program in programs.items()}


def agent(layout: Layout) -> Program:
    """The local node's agent: the one process that keeps root, which the sandbox needs."""
    environment = {
        "ANIMUS_AGENT_STATE_DIR": str(layout.agent),
        "ANIMUS_AGENT_RUN_DIR": str(layout.agent_run),
        "ANIMUS_AGENT_ROOT_KEY": str(layout.pki / "root.pub"),
    }
    environment |= layout.options.environment("agent")
    arguments = [sys.executable, "-m", "animus_agent", "run"]
    return Program("agent", arguments, environment, lambda: agent_online(layout), privileged=True)


def agent_online(layout: Layout) -> bool:
    """Whether the orchestrator sees the local agent."""
    try:
        found = call(layout, "GET", f"/orchestrator/v1/agents/{AGENT}")
    except OSError:
        return False
    return found.get("state") in ("STATE_ONLINE", "STATE_CORDONED", "STATE_DRAINING", "STATE_DRAINED")


def call(layout: Layout, method: str, path: str, body: object = None) -> dict[str, object]:
    """One HTTP call through the gateway, as the stack's operator. Raises OSError (HTTPError among them)."""
    token = issuer.mint(layout, issuer.OPERATOR, [issuer.ADMINISTRATORS], datetime.now(UTC))
    request = urllib.request.Request(
        layout.endpoint + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(layout.services_ca))
    with urllib.request.urlopen(request, timeout=PROBE_SECONDS * 5, context=context) as answer:
        return json.load(answer)


def _with(program: Program, more: Mapping[str, str]) -> Program:
    return replace(program, environment={**program.environment, **more})


def _service(layout: Layout, cluster: Embedded, name: str, more: Mapping[str, str]) -> Program:
    environment = {**_common(layout, cluster, name, name), **more}
    return Program(
        name,
        [sys.executable, "-m", f"animus_{name}", "serve"],
        environment,
        _answers(layout.ports[f"{name}-metrics"]),
        ports=tuple(port for port in layout.ports if port == name or port.startswith(f"{name}-")),
    )


def _dispatch(layout: Layout, cluster: Embedded) -> Program:
    environment = {
        **_common(layout, cluster, "orchestrator", "dispatch"),
        "ANIMUS_LISTEN": layout.address("dispatch"),
        "ANIMUS_ENROLLMENT_LISTEN": layout.address("enrollment"),
        "ANIMUS_AGENTS_CA": str(layout.agents_ca),
        "ANIMUS_AGENTS_CA_KEY": str(layout.pki / "agents-ca.key"),
        "ANIMUS_CONTRACT_KEY": str(layout.pki / "contract.key"),
        "ANIMUS_ATTESTATION_KEY": str(layout.pki / "attestation.key"),
        "ANIMUS_TRUST_BUNDLE": str(layout.trust_bundle),
        "ANIMUS_DISPATCH_ENDPOINT": layout.address("dispatch"),
        "ANIMUS_BLOB_ENDPOINT": layout.address("catalog-agent"),
    }
    return Program(
        "dispatch",
        [sys.executable, "-m", "animus_orchestrator", "dispatch"],
        environment,
        _answers(layout.ports["dispatch-metrics"]),
        ports=("dispatch", "enrollment", "dispatch-metrics"),
    )


def _gateway(layout: Layout) -> Program:
    settings = layout.folder("gateway") / "settings.yaml"
    return Program(
        "gateway",
        [sys.executable, "-m", "animus_gateway", "run", str(settings)],
        {},
        lambda: _gateway_ready(layout),
        ports=("gateway",),
    )


def write_gateway_settings(layout: Layout) -> None:
    """The gateway reads a file rather than its environment: it is written for every start."""
    certificate, key = layout.tls("public")
    client_certificate, client_key = layout.tls("gateway")
    upstreams = (
        "catalog", "catalog-stream", "orchestrator", "orchestrator-stream", "policy", "lineage", "audit", "audit-stream"
    )  # fmt: skip
    settings = {
        "listen": layout.address("gateway"),
        "trust_domain": TRUST_DOMAIN,
        "upstreams": {name: [layout.address(name)] for name in upstreams},
        "tls": {
            "certificate": str(certificate),
            "key": str(key),
            "client_certificate": str(client_certificate),
            "client_key": str(client_key),
            "services_ca": str(layout.services_ca),
        },
        "tokens": {"issuer": issuer.ISSUER, "audience": issuer.AUDIENCE, "jwks": str(layout.jwks)},
        "folder": str(layout.folder("gateway") / "run"),
    }
    (layout.folder("gateway") / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def _common(layout: Layout, cluster: Embedded, service: str, name: str) -> dict[str, str]:
    certificate, key = layout.tls(service)
    environment = {
        "ANIMUS_TRUST_DOMAIN": TRUST_DOMAIN,
        "ANIMUS_DSN": database.dsn(layout, cluster, service),
        "ANIMUS_TLS_CERT": str(certificate),
        "ANIMUS_TLS_KEY": str(key),
        "ANIMUS_TLS_CA": str(layout.services_ca),
        "ANIMUS_METRICS_LISTEN": layout.address(f"{name}-metrics"),
    }
    if name == "dispatch":
        return {**environment, "ANIMUS_AUDIT_TARGET": layout.address("audit")}
    environment = {
        **environment,
        "ANIMUS_LISTEN": layout.address(service),
        "ANIMUS_ACTOR_KEY": str(layout.actor_key),
        "ANIMUS_OIDC_ISSUER": issuer.ISSUER,
        "ANIMUS_OIDC_KEYS": str(layout.jwks),
        "ANIMUS_OIDC_AUDIENCE": issuer.AUDIENCE,
        "ANIMUS_POLICY_TARGET": layout.address("policy"),
        "ANIMUS_AUDIT_TARGET": layout.address("audit"),
        "ANIMUS_AUDIT_STREAM_TARGET": layout.address("audit-stream"),
    }
    # A service has no target for itself, and refuses names under its own prefix that it does not know.
    own = f"ANIMUS_{service.upper()}_"
    return {name: value for name, value in environment.items() if not name.startswith(own)}


def _answers(port: int) -> Callable[[], bool]:
    """Metrics are served last, so whoever answers there is ready."""

    def probe() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PROBE_SECONDS) as answer:
                return answer.status == 200
        except OSError:
            return False

    return probe


def _gateway_ready(layout: Layout) -> bool:
    """Envoy answers 200 there when every service behind it has a healthy replica."""
    context = ssl.create_default_context(cafile=str(layout.services_ca))
    try:
        with urllib.request.urlopen(f"{layout.endpoint}/readyz", timeout=PROBE_SECONDS, context=context) as answer:
            return answer.status == 200
    except OSError:
        return False


def token_file(layout: Layout) -> Path:
    return layout.agent / "join-token"
