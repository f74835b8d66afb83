"""Where a pull leads, how long it may take, and what a registry cannot make us do."""

import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from animus_kit.digest import sha256
from animus_kit.registry import settings
from animus_kit.registry.client import Patience, RegistryClient
from animus_kit.registry.errors import (
    NotInRegistry,
    RegistryDenied,
    RegistryError,
    RegistryMisbehaved,
    RegistryUnavailable,
)
from tests.kit.registries import Answer, Request, ScriptedRegistry, head, scripted, whole

DATA = bytes(range(256)) * 800
DIGEST = sha256(DATA)
SHORT = Patience(head_seconds=0.6, stall_seconds=0.4, window_seconds=0.3, bytes_per_second=100_000, tries=2)

Start = Callable[..., ScriptedRegistry]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(answer: Answer, **options: bool) -> ScriptedRegistry:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            return stack.enter_context(scripted(folder, answer, **options))

        yield begin


def secret(folder: Path, text: str = "s3cret") -> Path:
    path = folder / "secret"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def read(registry: ScriptedRegistry, patience: Patience = SHORT, **changes: object) -> bytes:
    client = RegistryClient(registry.endpoint(**changes), patience, wait=lambda seconds: None)
    return b"".join(client.blob("a/b", DIGEST))


def refusal(registry: ScriptedRegistry, patience: Patience = SHORT, **changes: object) -> RegistryError:
    with pytest.raises(RegistryError) as refused:
        read(registry, patience, **changes)
    return refused.value


def test_reads_by_digest(start: Start) -> None:
    registry = start(whole(DATA))
    assert read(registry) == DATA
    assert registry.requests[0].path == f"/v2/a/b/blobs/{DIGEST}"
    assert "authorization" not in registry.requests[0].headers
    client = RegistryClient(registry.endpoint(), SHORT)
    assert b"".join(client.manifest("a/b", DIGEST)) == DATA
    assert registry.requests[1].path == f"/v2/a/b/manifests/{DIGEST}"
    for repository, digest in (("a/../b", DIGEST), ("a/b", "latest"), ("a/b", "sha512:" + "0" * 128), ("A", DIGEST)):
        with pytest.raises(ValueError):
            next(client.blob(repository, digest))


@pytest.mark.parametrize("ranged", [True, False])
def test_goes_on_where_the_connection_broke(start: Start, ranged: bool) -> None:
    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        wanted = int(request.headers.get("range", "bytes=0-")[6:-1])
        begin = wanted if ranged else 0
        piece = DATA[begin : begin + 70_000 * len(registry.requests)]
        status = "206 Partial Content" if begin else "200 OK"
        size = len(DATA) - begin
        stream.sendall(head(status, Content_Length=size, Content_Range=f"bytes {begin}-{len(DATA) - 1}/*") + piece)

    registry = start(answer)
    assert read(registry) == DATA
    assert len(registry.requests) > 1


def test_another_range_than_was_asked_for_is_refused(start: Start) -> None:
    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        if "range" in request.headers:
            stream.sendall(head("206 Partial Content", Content_Length=5, Content_Range="bytes 0-4/5") + DATA[:5])
        else:
            stream.sendall(head("200 OK", Content_Length=len(DATA)) + DATA[:100])

    assert isinstance(refusal(start(answer)), RegistryMisbehaved)


def nothing(request: Request, stream: ssl.SSLSocket) -> None:
    stream.recv(1)


def dripping_head(request: Request, stream: ssl.SSLSocket) -> None:
    for byte in head("200 OK", **{f"X_{n}": "y" * 50 for n in range(50)}):
        stream.sendall(bytes([byte]))
        time.sleep(0.05)


def stalled(request: Request, stream: ssl.SSLSocket) -> None:
    stream.sendall(head("200 OK", Content_Length=len(DATA)) + DATA[:10])
    stream.recv(1)


def dripping(request: Request, stream: ssl.SSLSocket) -> None:
    stream.sendall(head("200 OK", Content_Length=len(DATA)))
    for byte in DATA:
        stream.sendall(bytes([byte]))
        time.sleep(0.01)


SLOW: dict[str, Answer] = {
    "says nothing": nothing,
    "drips its head": dripping_head,
    "stalls": stalled,
    "drips": dripping,
}


@pytest.mark.parametrize("how", SLOW)
def test_a_slow_registry_is_given_up(start: Start, how: str) -> None:
    begun = time.monotonic()
    assert isinstance(refusal(start(SLOW[how])), RegistryUnavailable)
    assert time.monotonic() - begun < 10


def test_a_byte_for_each_connection_is_no_progress(start: Start) -> None:
    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        stream.sendall(head("200 OK", Content_Length=len(DATA)) + DATA[: len(registry.requests)])

    registry = start(answer)
    assert isinstance(refusal(registry), RegistryUnavailable)
    assert len(registry.requests) == SHORT.tries


def test_waiting_counts_over_all_connections(start: Start) -> None:
    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        stream.sendall(head("200 OK", Content_Length=len(DATA)) + DATA[: len(registry.requests)])
        time.sleep(0.1)

    registry = start(answer)
    patience = Patience(window_seconds=0.3, bytes_per_second=100_000, tries=100)
    assert refusal(registry, patience).reason == "REGISTRY_TOO_SLOW"


def test_a_registry_that_never_shakes_hands_is_given_up(start: Start) -> None:
    begun = time.monotonic()
    assert isinstance(refusal(start(nothing, handshake=False)), RegistryUnavailable)
    assert time.monotonic() - begun < 10


def test_one_that_is_away_or_fails_is_tried_again(start: Start) -> None:
    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        ready = len(registry.requests) > 1
        (whole(DATA) if ready else whole(b"", "503 Service Unavailable"))(request, stream)

    registry = start(answer)
    assert read(registry) == DATA
    assert isinstance(refusal(start(whole(b"", "500 Oh"))), RegistryUnavailable)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert isinstance(refusal(registry, origin=("127.0.0.1", port)), RegistryUnavailable)


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (whole(b"", "404 Not Found"), NotInRegistry, "REGISTRY_NOT_FOUND"),
        (whole(b"", "403 Forbidden"), RegistryDenied, "REGISTRY_DENIED"),
        (whole(b"", "401 Unauthorized"), RegistryDenied, "REGISTRY_DENIED"),
        (whole(b"", "418 Teapot"), RegistryMisbehaved, "REGISTRY_MISBEHAVED"),
        (whole(DATA, Content_Encoding="gzip"), RegistryMisbehaved, "REGISTRY_MISBEHAVED"),
        (whole(DATA[:-1]), None, ""),
        (lambda r, s: s.sendall(head("200 OK", Transfer_Encoding="chunked") + b"0\r\n\r\n"), RegistryMisbehaved, ""),
        (lambda r, s: s.sendall(head("200 OK", Content_Length=len(DATA)) + DATA[:-1]), RegistryUnavailable, ""),
        (lambda r, s: s.sendall(b"SSH-2.0-x\r\n\r\n"), RegistryUnavailable, ""),
        (lambda r, s: s.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000), RegistryUnavailable, ""),
    ],
)
def test_answers_that_are_no_content(start: Start, answer: Answer, kind: type | None, reason: str) -> None:
    registry = start(answer)
    if kind is None:
        # Fewer bytes than the digest has, and said so: whoever reads hashes, and sees it.
        assert sha256(read(registry)) != DIGEST
        return
    error = refusal(registry)
    assert isinstance(error, kind) and error.reason == (reason or error.reason)


def test_another_certificate_is_refused_at_once(start: Start) -> None:
    other, registry = start(whole(DATA)), start(whole(DATA))
    error = refusal(registry, ca=other.ca_file)
    assert error.reason == "REGISTRY_TLS" and registry.requests == []


def test_a_redirect_elsewhere_is_not_followed(start: Start, tmp_path: Path) -> None:
    elsewhere = start(whole(DATA))
    targets = [
        f"{elsewhere.url}/x",
        f"http://127.0.0.1:{elsewhere.port}/x",
        "https://u:p@127.0.0.1/",
        "file:///etc/passwd",
        "",
    ]
    for target in (*targets, "https://169.254.169.254/latest", "//169.254.169.254/"):
        error = refusal(start(whole(b"", "307 Temporary Redirect", Location=target)))
        assert error.reason == "REGISTRY_REDIRECT", target
    assert elsewhere.requests == []

    # One on the list is followed, and never learns who we are.
    user = {"username": "u", "password_file": secret(tmp_path)}
    basic = "Basic " + base64.b64encode(b"u:s3cret").decode()

    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        if request.headers.get("authorization") != basic:
            return whole(b"", "401 Unauthorized", WWW_Authenticate='Basic realm="x"')(request, stream)
        whole(b"", "307 Temporary Redirect", Location=f"{elsewhere.url}/there?signed=1")(request, stream)

    registry = start(answer)
    both = tmp_path / "both.pem"
    both.write_bytes(registry.ca_file.read_bytes() + elsewhere.ca_file.read_bytes())
    listed = frozenset({("127.0.0.1", elsewhere.port)})
    assert read(registry, ca=both, redirect_origins=listed, **user) == DATA
    assert [r.path for r in elsewhere.requests] == ["/there?signed=1"]
    assert "authorization" not in elsewhere.requests[0].headers

    turning = start(lambda r, s: whole(b"", "302 Found", Location=r.path + "x")(r, s))
    assert isinstance(refusal(turning), RegistryMisbehaved) and len(turning.requests) == 4


def test_a_password_is_given_when_asked_for_and_once(start: Start, tmp_path: Path) -> None:
    basic = "Basic " + base64.b64encode(b"u:s3cret").decode()

    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        good = request.headers.get("authorization") == basic
        (whole(DATA) if good else whole(b"", "401 Unauthorized", WWW_Authenticate='Basic realm="x"'))(request, stream)

    registry = start(answer)
    assert read(registry, username="u", password_file=secret(tmp_path)) == DATA
    assert len(registry.requests) == 2
    registry.requests.clear()
    error = refusal(registry, username="u", password_file=secret(tmp_path, "wrong"))
    assert isinstance(error, RegistryDenied) and len(registry.requests) == 2
    assert "wrong" not in str(error)
    assert isinstance(refusal(registry), RegistryDenied)


def token_answer(realm: Callable[[], str], token: bytes = b'{"token": "t0ken"}') -> Answer:
    """A registry that wants bearer tokens and gives them itself at /token."""

    def answer(request: Request, stream: ssl.SSLSocket) -> None:
        if request.path.startswith("/token"):
            return whole(token)(request, stream)
        if request.headers.get("authorization") == "Bearer t0ken":
            return whole(DATA)(request, stream)
        challenge = f'Bearer realm="{realm()}",service="reg",scope="repository:other:push,pull"'
        whole(b"", "401 Unauthorized", WWW_Authenticate=challenge)(request, stream)

    return answer


def test_tokens_are_fetched_with_our_own_scope(start: Start, tmp_path: Path) -> None:
    registry = start(token_answer(lambda: f"{registry.url}/token"))
    assert read(registry, username="u", password_file=secret(tmp_path)) == DATA
    asked = registry.requests[1]
    assert asked.path == "/token?scope=repository%3Aa%2Fb%3Apull&service=reg"
    assert asked.headers["authorization"].startswith("Basic ")
    assert read(registry, token_file=secret(tmp_path, "t0ken")) == DATA
    assert isinstance(refusal(registry, token_file=secret(tmp_path, "old")), RegistryDenied)


def test_a_token_service_of_the_registrys_choice_gets_no_password(start: Start, tmp_path: Path) -> None:
    thief = start(whole(b'{"token": "t0ken"}'))
    user = {"username": "u", "password_file": secret(tmp_path)}
    registry = start(token_answer(lambda: f"{thief.url}/token"))
    assert refusal(registry, **user).reason == "REGISTRY_REDIRECT"
    assert refusal(start(token_answer(lambda: "http://127.0.0.1/token")), **user).reason == "REGISTRY_REDIRECT"
    assert thief.requests == []
    both = tmp_path / "both.pem"
    both.write_bytes(registry.ca_file.read_bytes() + thief.ca_file.read_bytes())
    assert read(registry, ca=both, token_origins=frozenset({("127.0.0.1", thief.port)}), **user) == DATA


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"token": 7}', b'{"token": "a\\nb"}', b'{"token": "\\u00e9"}', b"[" * 60_000]
)
def test_a_token_that_is_none(start: Start, body: bytes) -> None:
    registry = start(token_answer(lambda: f"{registry.url}/token", body))
    assert isinstance(refusal(registry), RegistryMisbehaved)


def test_giving_up_ends_a_pull(start: Start) -> None:
    class Stop(Exception):
        pass

    def give_up() -> None:
        raise Stop

    registry = start(whole(DATA))
    with pytest.raises(Stop):
        next(RegistryClient(registry.endpoint(), SHORT, give_up).blob("a/b", DIGEST))
    assert registry.requests == []


def test_references_name_a_digest() -> None:
    reference = settings.parse_reference(f"Registry.example:5000/ml/train@{DIGEST}")
    assert reference == settings.Reference(("registry.example", 5000), "ml/train", DIGEST)
    assert settings.parse_reference(f"r.example/a@{DIGEST}").origin == ("r.example", 443)
    for wrong in (
        "r.example/a:latest", "r.example/a", f"a@{DIGEST}", f"r.example/A@{DIGEST}", f"r.example/a@{DIGEST}0",
        f"https://r.example/a@{DIGEST}", f"u:p@r.example/a@{DIGEST}", f"r.example/../a@{DIGEST}", f"r.example:99999/a@{DIGEST}",
        f"r.example/a//b@{DIGEST}", f"-r/a@{DIGEST}", "r.example/a@sha256:short", f"r.example/{'a' * 300}@{DIGEST}",
    ):  # fmt: skip
        with pytest.raises(ValueError):
            settings.parse_reference(wrong)


def test_the_file_is_read_strictly(tmp_path: Path) -> None:
    path, password = tmp_path / "registries.toml", secret(tmp_path)

    def load(text: str) -> tuple[settings.Endpoint, ...]:
        path.write_text(text)
        return settings.load(path)

    (one,) = load(
        f'[[registry]]\nurl = "https://R.example:5000"\nrepositories = ["a/b"]\nusername = "u"\npassword_file = "{password}"\n'
        'token_url = "https://login.example/token"\nredirects = ["https://s3.example"]'
    )
    assert (one.name, one.repositories) == ("r.example:5000", ("a/b",))
    assert one.token_origins == {("login.example", 443)} and one.redirect_origins == {("s3.example", 443)}
    good = '[[registry]]\nurl = "https://r.example"\n'
    assert load(good)[0].origin == ("r.example", 443)
    wrong = {
        "must be https": '[[registry]]\nurl = "http://r.example"',
        "alone": '[[registry]]\nurl = "https://r.example/v2"',
        "no such key: insecure": good + "insecure = true",
        "no repository's name": good + 'repositories = ["A"]',
        "must be a list": good + 'repositories = "a"',
        "must be a text": good + "ca = 1",
        "either username": good + 'username = "u"',
        "either username and": good + f'token_file = "{password}"\nusername = "u"\npassword_file = "{password}"',
        "stands there twice": good + good,
        "nothing else": "x = 1",
        "No such file": good + 'token_file = "/nowhere"',
        "registries.toml": "[[",
    }
    for message, text in wrong.items():
        with pytest.raises(ValueError, match=message):
            load(text)
    password.chmod(0o644)
    with pytest.raises(ValueError, match="others may read it"):
        load(good + f'token_file = "{password}"')
    password.chmod(0o600)
    password.write_text("two\nlines")
    with pytest.raises(ValueError, match="one line"):
        load(good + f'token_file = "{password}"')
