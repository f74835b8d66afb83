"""Enrolment of nodes and renewal of their certificates."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, Engine

from animus.agent.v1 import dispatch_pb2, enrollment_pb2
from animus_kit.clock import Clock
from animus_kit.db.engine import transaction
from animus_kit.documents import dsse
from animus_kit.documents.bundle import AttestationCertificate, encode_key
from animus_kit.log import get_logger
from animus_orchestrator.dispatch import sessions
from animus_orchestrator.dispatch.authority import AgentAuthority, check_possession, key_digest, parse_token
from animus_orchestrator.domain import agent as agents
from animus_orchestrator.domain.errors import (
    AgentExists,
    AgentRevoked,
    AgentUnknown,
    TokenExpired,
    TokenInvalid,
    TokenRevoked,
    TokenUsed,
)
from animus_orchestrator.store import agents as store
from animus_orchestrator.store import certificates, join_tokens
from animus_orchestrator.store.facts import SERVICE, agent_actor, emit_agent
from animus_orchestrator.store.graph import notify
from animus_orchestrator.store.listen import SESSION

log = get_logger(__name__)
ATTESTATION_LIFETIME = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What an agent is told about the control plane, as agents reach it."""

    trust_domain: str
    services_ca: bytes
    dispatch: str
    blobs: str


class Enrolment:
    def __init__(
        self,
        engine: Engine,
        authority: AgentAuthority,
        attestation_key: Ed25519PrivateKey,
        trust_bundle: Path,
        endpoints: Endpoints,
        clock: Clock,
    ):
        self._engine = engine
        self._authority = authority
        self._key = attestation_key
        self._bundle = trust_bundle
        self._endpoints = endpoints
        self._clock = clock

    def trust_bundle(self) -> bytes:
        """The newest bundle: the file is replaced when the offline root has signed another."""
        return self._bundle.read_bytes()

    def enroll(self, request: enrollment_pb2.EnrollRequest) -> enrollment_pb2.EnrollResponse:
        """Trades a token for certificates. The same keys get the same answer again: the first may have been lost.

        Raises: TokenInvalid, TokenExpired, TokenRevoked, TokenUsed, CsrInvalid, ProofInvalid, AgentExists, AgentUnknown,
        AgentRevoked.
        """
        text = parse_token(request.token)
        check_possession(request.attestation_public_key, request.attestation_proof, request.tls_csr)
        asking = hashlib.sha256(key_digest(request.tls_csr).encode() + request.attestation_public_key).hexdigest()
        with transaction(self._engine) as conn:
            token = join_tokens.lock(conn, text.id)
            if token is None or not text.matches(token.secret_hash):
                raise TokenInvalid("no such join token")
            if token.used_by == asking and token.response:
                found = store.get(conn, token.agent)
                if found is not None and found.agent.revoked:
                    raise AgentRevoked(f"agents/{token.agent} is revoked")
                return enrollment_pb2.EnrollResponse.FromString(token.response)
            if token.used_by is None:
                if token.revoke_time is not None:
                    raise TokenRevoked("the join token was revoked")
                if self._clock.now() >= token.expire_time:
                    raise TokenExpired("the join token has expired")
                return self._let_in(conn, token, asking, request)
        # Somebody else holds a copy of a token that is spent: recorded apart, since the refusal rolls nothing back.
        with transaction(self._engine) as conn:
            emit_agent(conn, "orchestrator.join-token.misused", token.agent, {"token": token.id}, SERVICE)
        log.error("a join token was used again with another key", token=token.id, agent=token.agent)
        raise TokenUsed("the join token was used with another key")

    def _let_in(
        self, conn: Connection, token: join_tokens.JoinToken, asking: str, request: enrollment_pb2.EnrollRequest
    ) -> enrollment_pb2.EnrollResponse:
        now = self._clock.now()
        certificate = self._authority.sign(request.tls_csr, token.agent, now)
        attested, envelope = self._attest(token.agent, request.attestation_public_key, 1, now)
        values = {
            "pool": token.pool,
            "projects": list(token.projects),
            "labels": token.labels,
            "attestation_key": request.attestation_public_key,
            "attestation_certificate": envelope,
            "attestation_not_after": attested.not_after,
            "serial": certificate.serial,
            "certificate": certificate.pem,
            "certificate_expire_time": certificate.not_after,
        }
        ended: list[str] = []
        if token.replace_identity:
            ended = self._replace(conn, token.agent, values)
        elif not store.insert(conn, {"id": token.agent, "enroll_time": now, **values}):
            raise AgentExists(f"agents/{token.agent} has enrolled already")
        response = enrollment_pb2.EnrollResponse(
            agent=f"agents/{token.agent}",
            tls_certificate=certificate.pem,
            attestation_certificate=envelope,
            trust_bundle=self.trust_bundle(),
            services_ca=self._endpoints.services_ca,
            dispatch_endpoint=self._endpoints.dispatch,
            blob_endpoint=self._endpoints.blobs,
            trust_domain=self._endpoints.trust_domain,
        )
        join_tokens.use(conn, token.id, used_by=asking, response=response.SerializeToString(), now=now)
        emit_agent(
            conn,
            "orchestrator.agent.reenrolled" if token.replace_identity else "orchestrator.agent.enrolled",
            token.agent,
            {
                "pool": token.pool,
                "projects": [f"projects/{p}" for p in token.projects],
                "labels": token.labels,
                "token": token.id,
                "certificateSerial": certificate.serial,
                "attestationKeyId": attested.key_id,
                # What proves, by its place in the log, since when this key speaks for the agent.
                "attestationCertificate": base64.b64encode(envelope).decode(),
                # Certificates that were good before, and are not any more: the catalog refuses them too.
                **({"endedSerials": ended} if token.replace_identity else {}),
            },
            agent_actor(token.agent),
        )
        log.info("agent enrolled", agent=token.agent, pool=token.pool, again=token.replace_identity)
        return response

    def _replace(self, conn: Connection, agent_id: str, values: Mapping[str, Any]) -> list[str]:
        """Gives an agent new keys; answers the serials that end. Raises: AgentUnknown, AgentRevoked."""
        found = store.lock_out(conn, agent_id)
        if found is None:
            raise AgentUnknown(f"agents/{agent_id} does not exist")
        renewed = agents.renew_identity(found.agent)
        store.save_decision(conn, renewed)
        certificates.replace_identity(conn, agent_id, values)
        # Whoever is connected with the old keys is superseded, whichever dispatch process it is on.
        notify(conn, SESSION, [f"{agent_id}/{renewed.session}"])
        return [serial for serial in (found.serial, found.next_serial) if serial]

    def _attest(
        self, agent_id: str, public_key: bytes, serial: int, now: datetime
    ) -> tuple[AttestationCertificate, bytes]:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        attested = AttestationCertificate(
            agent=f"agents/{agent_id}",
            serial=serial,
            key_id=dsse.key_id(key),
            public_key=encode_key(key),
            not_before=now,
            not_after=now + ATTESTATION_LIFETIME,
        )
        return attested, dsse.sign(attested.to_bytes(), AttestationCertificate.NOUN, self._key)

    def _attest_again(self, conn: Connection, found: store.AgentRecord) -> None:
        """Certifies the same attestation key anew when a third of its time is left.

        Whoever verifies a statement finds the certificate in the log, so that the agent need not hold it.
        """
        now = self._clock.now()
        if found.attestation_not_after - now > ATTESTATION_LIFETIME / 3:
            return
        last = AttestationCertificate.from_bytes(
            dsse.open_unverified(found.attestation_certificate, AttestationCertificate.NOUN)[0]
        )
        attested, envelope = self._attest(found.agent.id, found.attestation_key, last.serial + 1, now)
        certificates.set_attestation(conn, found.agent.id, envelope, attested.not_after)
        emit_agent(
            conn,
            "orchestrator.agent.attestation-renewed",
            found.agent.id,
            {"attestationKeyId": attested.key_id, "attestationCertificate": base64.b64encode(envelope).decode()},
            agent_actor(found.agent.id),
        )

    def renew(
        self, agent_id: str, serial: str, request: dispatch_pb2.RenewCertificateRequest
    ) -> dispatch_pb2.RenewCertificateResponse:
        """Signs the next certificate. Current and next are both good until the next is first used.

        Raises: AgentUnknown, AgentRevoked, CertificateSuperseded, CsrInvalid.
        """
        digest = key_digest(request.tls_csr)
        with transaction(self._engine) as conn:
            found = sessions.admit(conn, agent_id, serial)
            self._attest_again(conn, found)
            pem = found.next_certificate
            # The same key again: the first answer may have been lost. (After a promotion there is no next.)
            if serial == found.next_serial or found.next_key_digest != digest or pem is None:
                certificate = self._authority.sign(request.tls_csr, agent_id, self._clock.now())
                pem = certificate.pem
                certificates.set_next(
                    conn,
                    agent_id,
                    serial=certificate.serial,
                    certificate=pem,
                    key_digest=digest,
                    expire_time=certificate.not_after,
                )
        return dispatch_pb2.RenewCertificateResponse(tls_certificate=pem, trust_bundle=self.trust_bundle())
