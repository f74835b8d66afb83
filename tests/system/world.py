"""A running stack, and what the stories do with it over plain HTTP, as any tool would."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from animus_cli.stack import issuer
from animus_cli.stack.layout import Layout
from animus_kit.documents import manifest
from examples.images import busybox

TERMINAL = ("STATE_SUCCEEDED", "STATE_FAILED", "STATE_CANCELED")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The one ErrorInfo's reason."""
        found = [detail["reason"] for detail in self.json.get("details", []) if "ErrorInfo" in detail["@type"]]
        assert len(found) <= 1, f"more than one ErrorInfo: {self.body!r}"
        return found[0] if found else ""


@dataclass
class Client:
    """One person, speaking HTTP/1.1 to the gateway."""

    layout: Layout
    subject: str = issuer.OPERATOR
    groups: Sequence[str] = (issuer.ADMINISTRATORS,)
    token: str | None = field(default=None)

    def bearer(self) -> str:
        return self.token or issuer.mint(self.layout, self.subject, self.groups, datetime.now(UTC))

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """body: bytes as they are, anything else as JSON."""
        with self._request(method, path, body, query, headers, anonymous) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def ok(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """As send, for what must succeed; answers the JSON."""
        answer = self.send(method, path, body, query=query)
        assert answer.status == 200, f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')}"
        return answer.json

    @contextlib.contextmanager
    def lines(self, path: str, **query: Any) -> Iterator[Iterator[Any]]:
        """The objects of a newline-delimited stream, as they come."""
        with self._request("GET", path, None, query, None, False) as answer:
            assert answer.status == 200, answer.read()
            yield (json.loads(line) for line in answer if line.strip())

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, body: Any, query: Any, headers: Any, anonymous: bool
    ) -> Iterator[http.client.HTTPResponse]:
        context = ssl.create_default_context(cafile=str(self.layout.services_ca))
        host, _, port = self.layout.address("gateway").partition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        sent = {"Content-Type": "application/json", **(headers or {})}
        if not anonymous:
            sent.setdefault("Authorization", f"Bearer {self.bearer()}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if query:
            path += "?" + urlencode({key: value for key, value in query.items() if value is not None}, doseq=True)
        try:
            connection.request(method, path, body=data, headers=sent)
            yield connection.getresponse()
        finally:
            connection.close()


@dataclass
class Project:
    """A project of its own for one story."""

    client: Client
    id: str

    @property
    def name(self) -> str:
        return f"projects/{self.id}"

    @classmethod
    def create(cls, client: Client, id: str) -> Project:
        client.ok("POST", "/catalog/v1/projects", {"displayName": id}, projectId=id)
        return cls(client, id)

    def upload(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        answer = self.client.send(
            "POST",
            f"/catalog/v1/{self.name}/blobs:upload",
            content,
            query={"digest": digest, "sizeBytes": len(content)},
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer.status == 200, answer.body
        assert answer.json["digest"] == digest
        return digest

    def push_dataset(self, id: str, files: dict[str, bytes]) -> str:
        """Answers the version's name."""
        self.client.ok("POST", f"/catalog/v1/{self.name}/datasets", {}, datasetId=id)
        return self.push_version(id, files)["name"]

    def push_version(self, id: str, files: dict[str, bytes]) -> Any:
        entries = []
        for path, content in files.items():
            digest = self.upload(content)
            entries.append(manifest.Entry(path, "file", len(content), digest.removeprefix("sha256:")))
        digest = self.upload(manifest.dumps(sorted(entries, key=manifest.sort_key), "dataset"))
        body = {"manifestDigest": digest}
        return self.client.ok("POST", f"/catalog/v1/{self.name}/datasets/{id}/versions", body)

    def import_busybox(self, folder: Path) -> str:
        """Answers the image's digest."""
        digest = busybox.build(folder)
        for blob in sorted((folder / "blobs" / "sha256").iterdir()):
            self.upload(blob.read_bytes())
        self.client.ok("POST", f"/catalog/v1/{self.name}/environments", {}, environmentId="busybox")
        self.client.ok(
            "POST",
            f"/catalog/v1/{self.name}/environments/busybox/locks",
            {"imageDigest": digest, "packages": [{"kind": "binary", "name": "busybox", "version": "1"}]},
        )
        return digest

    def apply(self, id: str, document: Any) -> str:
        """Answers the pipeline version's name."""
        self.client.ok("POST", f"/orchestrator/v1/{self.name}/pipelines", {}, pipelineId=id)
        body = {
            "document": base64.b64encode(json.dumps(document).encode()).decode(),
            "mediaType": "application/json",
        }
        return self.client.ok("POST", f"/orchestrator/v1/{self.name}/pipelines/{id}/versions", body)["name"]

    def submit(self, version: str, datasets: dict[str, str], **more: Any) -> Any:
        bindings = {"datasets": [{"datasetRef": ref, "datasetVersion": name} for ref, name in datasets.items()]}
        body = {"pipelineVersion": version, "bindings": bindings, **more}
        return self.client.ok("POST", f"/orchestrator/v1/{self.name}/runs", body)

    def wait(self, run: str, seconds: float = 90) -> Any:
        """The run when it is terminal."""
        found = wait_for(lambda: self._terminal(run), seconds, f"{run} to end")
        return found

    def _terminal(self, run: str) -> Any:
        answer = self.client.send("GET", f"/orchestrator/v1/{run}")
        if answer.status != 200:
            return None
        return answer.json if answer.json["state"] in TERMINAL else None

    def steps(self, run: str) -> dict[str, Any]:
        found = self.client.ok("GET", f"/orchestrator/v1/{run}/steps")["steps"]
        return {step["name"].rpartition("/")[2]: step for step in found}


def step(
    name: str,
    image: str,
    script: str,
    *,
    datasets: dict[str, str] | None = None,
    artifacts: dict[str, tuple[str, str]] | None = None,
    outputs: Sequence[str] = (),
    attempts: int = 3,
    **more: Any,
) -> dict[str, Any]:
    """A shell step. datasets: input name → datasetRef; artifacts: input name → (step, output)."""
    return {
        "name": name,
        "image": f"registry.local/busybox@{image}",
        "command": ["/usr/bin/sh", "-euc"],
        "args": [script],
        "inputs": {
            "datasets": [{"name": key, "datasetRef": ref} for key, ref in (datasets or {}).items()],
            "artifacts": [
                {"name": key, "fromStep": source, "artifact": output}
                for key, (source, output) in (artifacts or {}).items()
            ],
        },
        "outputs": {"artifacts": [{"name": output, "type": "file", "mediaType": "text/plain"} for output in outputs]},
        "env": [],
        "resources": {"cpu": "0.5", "memory": "64Mi", "gpu": 0},
        "retryPolicy": {
            "maxAttempts": attempts,
            "backoff": {"type": "fixed", "initialSeconds": 1, "maxSeconds": 1, "multiplier": 1},
        },
        **more,
    }


def pipeline(*steps: dict[str, Any], dependencies: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    return {
        "apiVersion": "animus/v1alpha1",
        "kind": "Pipeline",
        "specVersion": "1",
        "spec": {"steps": list(steps), "dependencies": [{"from": a, "to": b} for a, b in dependencies]},
    }


def wait_for(probe: Any, seconds: float, what: str) -> Any:
    """Polls until probe answers something true. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def encoded(text: str) -> str:
    return quote(text, safe="")
