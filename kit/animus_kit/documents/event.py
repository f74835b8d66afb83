"""Events: an envelope, which is the leaf of the log, and a payload, which may be erased.

The envelope holds neither free text nor a personal name; the actor in it is opaque. It binds the payload by
`payloadDigest` = SHA-256(salt ‖ payload) with 32 random bytes of salt, so that a short payload ("alice approved")
cannot be guessed from the log after payload and salt are erased.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from . import canonical
from .errors import DocumentError
from .kinds import DIGEST, PROJECT, TIME, UUID, int64, text
from .shape import Document, field

SALT_BYTES = 32
PAYLOAD_TYPE = canonical.type_of("event-payload")
MAX_PAYLOAD_BYTES = 1 << 20
FLOATS_BELOW = frozenset({"metrics", "parameters"})
"""Top-level fields of a payload that may hold floats."""
_RESERVED = frozenset({"type", "eventType", "actor"})
_EVENT_TYPE = text(128, r"[a-z]+(?:-[a-z]+)*(?:\.[a-z]+(?:-[a-z]+)*)+")

_RESOURCE = text(512, r"[A-Za-z0-9._~/:-]+")
_ACTOR = text(128, r"a-[0-9a-f]{32}|[a-z]+(?:/[a-z0-9-]+)?")
_REQUEST_ID = text(64, "[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope(Document):
    """The leaf of the log. Every value is a string, so that audit can check it at the log's speed."""

    NOUN: ClassVar[str] = "event"

    id: str = field(text(128, "[A-Za-z0-9._-]+"))
    source: str = field(text(64, "[a-z][a-z0-9-]*"))
    generation: str = field(UUID)
    seq: int = field(int64(minimum=1))
    event_type: str = field(_EVENT_TYPE)
    time: datetime = field(TIME)
    project: str | None = field(PROJECT, optional=True)
    resource: str = field(_RESOURCE)
    actor: str = field(_ACTOR)
    """`a-<32 hex>` for a person (see `opaque_actor`), `service/<name>` or `agent/<id>` for a process."""
    request_id: str | None = field(_REQUEST_ID, optional=True)
    payload_digest: str = field(DIGEST)


def opaque_actor(subject: str, key: bytes) -> str:
    """The name under which a person stands in envelopes: stable, and without the key not to be told from another."""
    return "a-" + hmac.new(key, subject.encode(), hashlib.sha256).hexdigest()[:32]


def build_payload(event_type: str, body: Mapping[str, Any], actor: str | None = None) -> bytes:
    """The payload document: `body` with `type`, `eventType` and, where given, the actor's subject in clear.

    None values are left out, at every level. Raises DocumentError: PAYLOAD_FIELD when `body` uses one of these names,
    PAYLOAD_FLOAT when a float stands elsewhere than below `metrics` or `parameters`, PAYLOAD_TOO_LARGE.
    """
    taken = _RESERVED & body.keys()
    if taken:
        raise DocumentError("PAYLOAD_FIELD", "is set by build_payload", min(taken))
    document = {key: _plain(value, key, key in FLOATS_BELOW) for key, value in body.items() if value is not None}
    document |= {"type": PAYLOAD_TYPE, "eventType": event_type}
    if actor is not None:
        document["actor"] = actor
    data = canonical.dumps(document)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise DocumentError("PAYLOAD_TOO_LARGE", f"{len(data)} bytes, more than {MAX_PAYLOAD_BYTES}")
    return data


def payload_digest(salt: bytes, payload: bytes) -> str:
    """`sha256:<hex>` of salt ‖ payload. Raises ValueError when the salt has another length than 32."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return "sha256:" + hashlib.sha256(salt + payload).hexdigest()


def build_envelope(
    *,
    id: str,
    source: str,
    generation: str,
    seq: int,
    event_type: str,
    time: datetime,
    resource: str,
    actor: str,
    salt: bytes,
    payload: bytes,
    project: str | None = None,
    request_id: str | None = None,
) -> bytes:
    """The envelope's bytes over a payload. Raises DocumentError."""
    return Envelope(
        id=id,
        source=source,
        generation=generation,
        seq=seq,
        event_type=event_type,
        time=time,
        project=project or None,
        resource=resource,
        actor=actor,
        request_id=request_id or None,
        payload_digest=payload_digest(salt, payload),
    ).to_bytes()


def check_names(*, event_type: str, project: str | None, resource: str, actor: str, request_id: str | None) -> None:
    """Whether an envelope can be built over these: for who writes an event now and numbers it later.

    Raises DocumentError.
    """
    for attribute, kind, value in (
        ("eventType", _EVENT_TYPE, event_type),
        ("project", PROJECT, project or None),
        ("resource", _RESOURCE, resource),
        ("actor", _ACTOR, actor),
        ("requestId", _REQUEST_ID, request_id or None),
    ):
        try:
            if value is not None:
                kind.check(value)
        except DocumentError as error:
            raise error.under(attribute) from None


def read_payload(data: bytes) -> dict[str, Any]:
    """Parses a payload document. Raises DocumentError."""
    return canonical.loads(data, PAYLOAD_TYPE)


def _plain(value: Any, path: str, floats: bool) -> Any:
    if type(value) is float and not floats:
        raise DocumentError("PAYLOAD_FLOAT", "a float is allowed below metrics and parameters only", path)
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{path}.{key}", floats) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", floats) for index, item in enumerate(value)]
    return value
