"""The token adapter accepts what the issuer signed, and every known forgery is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwt

from animus_kit.server.token import TokenInvalid, TokenKeysUnavailable, TokenVerifier

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ISSUER, AUDIENCE = "https://issuer.test", "animus"


class StillClock:
    def __init__(self) -> None:
        self.time, self.ticks = NOW, 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.ticks


class Keys:
    def __init__(self, *entries: dict) -> None:
        self.entries, self.reads = list(entries), 0

    def read(self) -> bytes:
        self.reads += 1
        return json.dumps({"keys": self.entries}).encode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
_point = EC_KEY.public_key().public_numbers()
EC_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "ec1",
    "alg": "ES256",
    "use": "sig",
    "x": b64(_point.x.to_bytes(32, "big")),
    "y": b64(_point.y.to_bytes(32, "big")),
}
_modulus = RSA_KEY.public_key().public_numbers()
RSA_JWK = {"kty": "RSA", "kid": "rsa1", "alg": "RS256", "n": number(_modulus.n), "e": number(_modulus.e)}


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def claims(**changes: object) -> dict:
    issued = int(NOW.timestamp())
    base = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "groups": ["a", "b"], "iat": issued, "exp": issued + 600}
    merged = {**base, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def sign(body: dict, key: object = EC_KEY, algorithm: str = "ES256", **header: object) -> str:
    headers = {"kid": "ec1", "typ": "at+jwt", **header}
    return jwt.encode(body, pem(key), algorithm=algorithm, headers=headers)  # type: ignore[arg-type]


def forge(header: dict, body: dict, signature: bytes | None = None, secret: bytes | None = None) -> str:
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    if secret is not None:
        signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{b64(signature or b'')}"


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(ISSUER, AUDIENCE, Keys(EC_JWK, RSA_JWK), StillClock())


def test_a_valid_token_names_its_subject(verifier: TokenVerifier) -> None:
    result = verifier.verify(sign(claims()))
    assert (result.subject, result.groups) == ("alice", ("a", "b"))
    assert result.expires - result.issued_at == timedelta(minutes=10)


def test_rsa_tokens_are_valid_too(verifier: TokenVerifier) -> None:
    assert verifier.verify(sign(claims(), RSA_KEY, "RS256", kid="rsa1")).subject == "alice"


def test_an_audience_may_be_one_of_several(verifier: TokenVerifier) -> None:
    assert verifier.verify(sign(claims(aud=["other", AUDIENCE]))).subject == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.test"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"exp": None},
        {"exp": int(NOW.timestamp()) - 60},
        {"exp": "soon"},
        {"exp": True},
        {"iat": None},
        {"iat": int(NOW.timestamp()) + 300},
        {"nbf": int(NOW.timestamp()) + 300},
        {"exp": int(NOW.timestamp()) + 24 * 3600},
        {"sub": None},
        {"sub": ""},
        {"groups": "admins"},
        {"groups": [1]},
    ],
    ids=str,
)
def test_claims_that_do_not_hold_are_refused(verifier: TokenVerifier, changes: dict) -> None:
    with pytest.raises(TokenInvalid):
        verifier.verify(sign(claims(**changes)))


def test_the_algorithm_none_is_refused(verifier: TokenVerifier) -> None:
    for algorithm in ("none", "None", ""):
        with pytest.raises(TokenInvalid):
            verifier.verify(forge({"alg": algorithm, "kid": "ec1", "typ": "at+jwt"}, claims()))


@pytest.mark.parametrize("key_id", ["ec1", "rsa1"])
@pytest.mark.parametrize("encoding", ["PEM", "DER"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_an_hmac_over_the_public_key_is_refused(
    verifier: TokenVerifier, key_id: str, encoding: str, algorithm: str
) -> None:
    public = (EC_KEY if key_id == "ec1" else RSA_KEY).public_key()
    secret = public.public_bytes(
        getattr(serialization.Encoding, encoding), serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(TokenInvalid):
        verifier.verify(forge({"alg": algorithm, "kid": key_id, "typ": "at+jwt"}, claims(), secret=secret))


def test_an_algorithm_of_another_key_type_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(TokenInvalid, match="does not fit"):
        verifier.verify(sign(claims(), RSA_KEY, "RS256", kid="ec1"))


def test_a_key_of_another_issuer_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(TokenInvalid):
        verifier.verify(sign(claims(), ec.generate_private_key(ec.SECP256R1())))


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": "id+jwt"}, {"kid": "unknown"}, {"kid": ""}])
def test_headers_that_do_not_fit_are_refused(verifier: TokenVerifier, header: dict) -> None:
    with pytest.raises(TokenInvalid):
        verifier.verify(sign(claims(), **header))


def test_a_key_in_the_header_is_ignored(verifier: TokenVerifier) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(TokenInvalid):
        verifier.verify(sign(claims(), own, jwk=EC_JWK))


@pytest.mark.parametrize("token", ["", ".", "a.b", "a.b.c", "\x00.\x00.\x00", "é.é.é", "x" * 20000])
def test_what_is_not_a_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenInvalid):
        verifier.verify(token)


def test_symmetric_and_private_keys_of_a_key_set_are_left_out() -> None:
    secret = {"kty": "oct", "kid": "ec1", "alg": "HS256", "k": b64(b"secret")}
    verifier = TokenVerifier(ISSUER, AUDIENCE, Keys(secret), StillClock())
    with pytest.raises(TokenInvalid):
        verifier.verify(forge({"alg": "HS256", "kid": "ec1", "typ": "at+jwt"}, claims(), secret=b"secret"))


def test_one_broken_key_of_a_key_set_takes_no_other_with_it() -> None:
    unusual = {**EC_JWK, "kid": "odd", "crv": "secp256k1"}
    verifier = TokenVerifier(ISSUER, AUDIENCE, Keys(unusual, {"kty": "RSA", "kid": "empty"}, EC_JWK), StillClock())
    assert verifier.verify(sign(claims())).subject == "alice"


def test_an_unknown_key_id_reads_the_keys_again_once_a_minute() -> None:
    clock, keys = StillClock(), Keys()
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, clock)
    token = sign(claims())
    for _ in range(3):
        with pytest.raises(TokenInvalid):
            verifier.verify(token)
    assert keys.reads == 1
    keys.entries.append(EC_JWK)
    clock.ticks += 61
    assert verifier.verify(token).subject == "alice"
    assert keys.reads == 2


def test_unreadable_keys_say_nothing_about_a_token() -> None:
    clock, keys = StillClock(), Keys(EC_JWK)
    good = keys.read
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, clock)
    for broken in (b"[", b"[]", b'{"keys": 1}', OSError("away")):

        def read(answer: bytes | OSError = broken) -> bytes:
            if isinstance(answer, OSError):
                raise answer
            return answer

        keys.read = read  # type: ignore[method-assign]
        clock.ticks += 2
        for _ in range(2):  # the second comes before it is read again
            with pytest.raises(TokenKeysUnavailable):
                verifier.verify(sign(claims()))
    keys.read = good  # type: ignore[method-assign]
    clock.ticks += 2
    assert verifier.verify(sign(claims())).subject == "alice"


def test_a_known_key_needs_no_issuer() -> None:
    clock, keys = StillClock(), Keys(EC_JWK)
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, clock)
    verifier.verify(sign(claims()))
    keys.entries = []
    clock.ticks += 1000
    assert verifier.verify(sign(claims())).subject == "alice"
