"""One small, whole example of each document: what the golden files hold and what other tests vary."""

from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from animus_kit.documents import (
    action,
    bindings,
    bundle,
    contract,
    decision,
    dsse,
    environment,
    event,
    plan,
    result,
    sandbox,
    shape,
)
from animus_kit.documents.values import Parameter


def digest(char: str) -> str:
    return "sha256:" + char * 64


def key(seed: int) -> Ed25519PrivateKey:
    """A fixed key: golden files hold signatures' key ids."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
LATER = datetime(2026, 4, 2, 3, 4, 5, 0, UTC)
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ATTEMPT = "projects/risk/runs/r1/steps/train/attempts/2"

ACTION = action.Action(
    image=digest("a"),
    platform="linux/amd64",
    command=("python3", "-m", "train"),
    args=("--lr", "0.1"),
    environment=action.process_environment([("SEED", "9007199254740993")], 2, action.DEFAULT_SOURCE_DATE_EPOCH),
    parameters=(
        Parameter(name="seed", value=9007199254740993),
        Parameter(name="lr", value=0.1),
        Parameter(name="title", value="Größe 😀"),
        Parameter(name="shuffle", value=False),
    ),
    inputs=(action.Input(name="data", manifest=digest("b")), action.Input(name="base", manifest=digest("c"))),
    code=digest("d"),
    outputs=(action.Output(name="model", type="model", media_type="application/octet-stream"),),
    threads=2,
    accelerator=action.Accelerator(kind="gpu", count=1, model="H200"),
    network=action.NO_NETWORK,
    secrets=(),
    isolation=action.DEFAULT_ISOLATION,
    source_date_epoch=action.DEFAULT_SOURCE_DATE_EPOCH,
)
RECIPE = action.Action.from_dict(
    ACTION.to_dict()
    | {
        "inputs": [
            {"name": "base", "recipe": digest("e"), "output": "model"},
            {"name": "data", "manifest": digest("b")},
        ]
    }
)
RESOURCES = contract.Resources(cpu_millis=1500, memory_bytes=2 << 30, gpu=1)
LOCK = contract.NamedDigest(resource="projects/risk/environments/py/locks/abc", digest=digest("f"))
CODE = contract.NamedDigest(resource="projects/risk/codeSnapshots/main", digest=digest("d"))
GRANT = contract.Grant(
    id="00000000-0000-4000-8000-000000000001",
    project="projects/risk",
    attempt=ATTEMPT,
    agent="agents/node-1",
    readable_manifests=(digest("d"), digest("c"), digest("b")),
    readable_images=(digest("a"),),
    write_bytes=10 << 30,
    write_blobs=100_000,
    issue_time=NOW,
    expire_time=LATER,
)
CONTRACT = contract.Contract(
    project="projects/risk",
    attempt=ATTEMPT,
    number=2,
    agent="agents/node-1",
    plan_digest=digest("1"),
    recipe_digest=RECIPE.digest,
    action_digest=ACTION.digest,
    action=ACTION,
    grant_digest=GRANT.digest,
    decision_digest=digest("2"),
    checkpoint=contract.Checkpoint(origin="animus.local/log", size=42, root=digest("3")),
    inputs=(
        contract.Material(
            name="data", kind="dataset", resource="projects/risk/datasets/loans/versions/v7", manifest=digest("b")
        ),
        contract.Material(
            name="base", kind="artifact", resource="projects/risk/artifacts/r1-base-model", manifest=digest("c")
        ),
    ),
    code=CODE,
    environment_lock=LOCK,
    resources=RESOURCES,
    limits=contract.DEFAULT_LIMITS,
    lease_seconds=30,
    timeout_seconds=86400,
    termination_grace_seconds=contract.TERMINATION_GRACE_SECONDS,
    required_capabilities=("seccomp", "memory-limit"),
    issue_time=NOW,
)
GPU_CONTRACT = replace(CONTRACT, gpu_uuids=("GPU-0b1c2d3e-0000-4000-8000-000000000001",))
PLAN = plan.Plan(
    steps=(
        plan.StepPlan(
            name="train",
            recipe=ACTION,
            recipe_digest=ACTION.digest,
            dependencies=(),
            dataset_sources=(
                plan.DatasetSource(
                    name="data",
                    dataset_ref="loans",
                    dataset_version="projects/risk/datasets/loans/versions/v7",
                    manifest=digest("b"),
                ),
                plan.DatasetSource(
                    name="base",
                    dataset_ref="base",
                    dataset_version="projects/risk/datasets/base/versions/v1",
                    manifest=digest("c"),
                ),
            ),
            artifact_sources=(),
            code=CODE,
            environment_lock=LOCK,
            resources=RESOURCES,
            retry=plan.Retry(
                max_attempts=3,
                backoff=plan.Backoff(type="exponential", initial_seconds=10, max_seconds=300, multiplier=1.5),
            ),
            timeout_seconds=86400,
            cache=plan.Cache(enabled=True, host="any"),
            compare=(plan.Compare(output="model", method="numeric", tolerance=1e-9),),
        ),
    ),
    gates=(plan.Gate(name="review", type="approval", before=("train",), approvals=2),),
    policy_snapshot_digest=digest("4"),
)
BINDINGS = bindings.Bindings(
    datasets=(
        bindings.DatasetBinding(dataset_ref="loans", dataset_version="projects/risk/datasets/loans/versions/v7"),
    ),
    code=(
        bindings.CodeBinding(code_snapshot="projects/risk/codeSnapshots/main"),
        bindings.CodeBinding(step="train", code_snapshot="projects/risk/codeSnapshots/fix"),
    ),
    parameters=(Parameter(name="lr", value=0.1), Parameter(name="seed", value=-(2**63))),
    labels={"team": "risk", "purpose": "Größe"},
    experiment="projects/risk/experiments/baseline",
)
HOST = sandbox.HostFingerprint(
    platform="linux/amd64",
    kernel="6.1.0",
    cpu_model="Example CPU",
    cpu_flags_sha256="5" * 64,
    gpus=(sandbox.Gpu(uuid="GPU-1", model="H200", driver_version="570.1"),),
    libraries={"runc": "1.1.5"},
)
REPORT = sandbox.SandboxReport(
    attempt=ATTEMPT,
    driver="runc",
    runtime="runc 1.1.5",
    configuration_sha256="6" * 64,
    seccomp_profile=action.SECCOMP_PROFILE,
    seccomp_sha256="7" * 64,
    features=(
        sandbox.Feature(name="seccomp", enforced=True, detail=""),
        sandbox.Feature(name="output-quota", enforced=False, detail="no loop devices"),
    ),
    resources=RESOURCES,
    limits=contract.DEFAULT_LIMITS,
    gpus=("GPU-1",),
    counters={"oom-kills": 0, "memory-peak-bytes": 2**60},
    host=HOST,
    host_class=HOST.host_class,
)
EGRESS_REPORT = replace(
    REPORT,
    egress=sandbox.Egress(
        allow=("data.example.org:443",),
        decisions=(
            sandbox.EgressDecision(
                destination="data.example.org:443",
                allowed=True,
                reason="ALLOWED",
                addresses=("192.0.2.7", "2001:db8::7"),
                connections=2,
                sent_bytes=517,
                received_bytes=2**53 + 1,
                first_time=NOW,
                last_time=LATER,
            ),
            sandbox.EgressDecision(
                destination="169.254.169.254:80",
                allowed=False,
                reason="NOT_IN_CONTRACT",
                addresses=(),
                connections=1,
                sent_bytes=0,
                received_bytes=0,
                first_time=NOW,
                last_time=NOW,
            ),
        ),
        unlisted=3,
    ),
)
OUTPUTS = (result.OutputDigest(name="model", manifest=digest("8"), files=3, bytes=2**53 + 1),)
PROVENANCE = result.Provenance(
    attempt=ATTEMPT,
    agent="agents/node-1",
    agent_version="0.1.0",
    contract_digest=CONTRACT.digest,
    plan_digest=CONTRACT.plan_digest,
    recipe_digest=CONTRACT.recipe_digest,
    action_digest=CONTRACT.action_digest,
    dependencies=result.dependencies_of(CONTRACT),
    outputs=OUTPUTS,
    metrics={"accuracy": 0.9861111111111112, "loss": 1e-7},
    exit_code=0,
    sandbox_report_digest=REPORT.digest,
    start_time=NOW,
    end_time=LATER,
)
PAYLOAD = event.build_payload(
    "orchestrator.run.created", {"run": "projects/risk/runs/r1", "note": None, "metrics": {"x": 0.5}}, "alice"
)
SALT = bytes(range(32))
ENVELOPE = event.Envelope(
    id="00000000-0000-4000-8000-000000000002",
    source="orchestrator",
    generation="00000000-0000-4000-8000-000000000003",
    seq=2**53 + 1,
    event_type="orchestrator.run.created",
    time=NOW,
    project="projects/risk",
    resource="projects/risk/runs/r1",
    actor=event.opaque_actor("alice", b"key"),
    request_id="00000000-0000-4000-8000-000000000004",
    payload_digest=event.payload_digest(SALT, PAYLOAD),
)
SNAPSHOT = decision.PolicySnapshot(
    project="projects/risk",
    policy_set_digest=digest("9"),
    policies=(decision.PolicyRef(id="editor", digest=digest("0")),),
    rules=(),
)
DECISION = decision.Decision(
    id="d-1",
    project="projects/risk",
    point="SUBMIT",
    effect="ALLOW",
    subject="alice",
    groups=("ml", "all"),
    resource="projects/risk/runs/r1",
    policy_snapshot_digest=SNAPSHOT.digest,
    facts_digest=digest("a"),
    policies=("editor",),
    message="",
    time=NOW,
)
ENVIRONMENT_LOCK = environment.EnvironmentLock(
    image=digest("a"),
    platform="linux/amd64",
    packages=(
        environment.Package(kind="python", name="numpy", version="2.1.0", sha256="b" * 64),
        environment.Package(kind="deb", name="libc6", version="2.36-9+deb12u7"),
    ),
)
BUNDLE = bundle.TrustBundle(
    trust_domain="animus.local",
    sequence=3,
    issue_time=NOW,
    keys=(
        bundle.TrustedKey.of(key(1).public_key(), "contract", NOW, LATER),
        bundle.TrustedKey.of(key(2).public_key(), "decision", NOW, LATER),
    ),
    services_ca=(PEM,),
    agents_ca=(PEM,),
    witnesses=(
        bundle.Witness(
            name="example.org/witness",
            key_id=dsse.key_id(key(3).public_key()),
            public_key=bundle.encode_key(key(3).public_key()),
        ),
    ),
)
ATTESTATION = bundle.AttestationCertificate(
    agent="agents/node-1",
    serial=1,
    key_id=dsse.key_id(key(4).public_key()),
    public_key=bundle.encode_key(key(4).public_key()),
    not_before=NOW,
    not_after=LATER,
)

DOCUMENTS: dict[str, shape.Document | result.Provenance] = {
    "action": ACTION,
    "attestation-certificate": ATTESTATION,
    "bindings": BINDINGS,
    "contract": CONTRACT,
    "contract-gpu": GPU_CONTRACT,
    "decision": DECISION,
    "environment-lock": ENVIRONMENT_LOCK,
    "event": ENVELOPE,
    "grant": GRANT,
    "host-fingerprint": HOST,
    "plan": PLAN,
    "policy-snapshot": SNAPSHOT,
    "provenance": PROVENANCE,
    "recipe": RECIPE,
    "sandbox-report": REPORT,
    "sandbox-report-egress": EGRESS_REPORT,
    "trust-bundle": BUNDLE,
}
