"""Settings, each from ANIMUS_<NAME> in the environment. README.md says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from animus_kit.server.common import AskingSettings
from animus_kit.settings import Duration
from animus_kit.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class Settings(AskingSettings):
    """stream_listen, agent_blob_listen: host:port of the listeners for people's and for agents' blobs.

    blob_store: /folder, file:///folder or s3://bucket/prefix. staging_dir: where blobs wait until they are complete,
    for a bucket; a folder has its own, on its own file system. agents_ca: the CA of the agents' certificates. trust_bundle, root_key: the
    signed bundle, and the public key in PEM that signed it. audit_stream_target: where the log is read.
    """

    stream_listen: str
    agent_blob_listen: str
    agents_ca: Path
    blob_store: str
    staging_dir: Path | None = None
    trust_bundle: Path
    root_key: Path
    audit_target: str
    audit_stream_target: str
    workers: int = 16
    blob_workers: int = 8
    verifier_workers: int = 2
    verifier_snapshots: int = 4
    upload_keep: Duration = Duration(24 * 3600)

    def __post_init__(self) -> None:
        if self.blob_store.startswith("s3://") and self.staging_dir is None:
            raise ValueError("ANIMUS_STAGING_DIR: must be set when blobs lie in a bucket")

    @property
    def agents_tls(self) -> TlsFiles:
        """The same certificate, for a listener that accepts agents and nobody else."""
        return TlsFiles(self.tls_cert, self.tls_key, self.agents_ca)
