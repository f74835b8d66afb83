"""The name under which the catalog projects an output: derived, so that nobody has to be asked."""

from __future__ import annotations

import hashlib

_READABLE = 52


def artifact_name(project: str, run: str, step: str, output: str) -> str:
    """`projects/{project}/artifacts/{run}-{step}-{output}-{hash}`, ids as in the resource names.

    Ids may hold hyphens themselves (run `a-b`, step `c` reads like run `a`, step `b-c`) and may be long; the hash, over
    what no id can hold as separator, keeps names apart, and the whole within the 63 characters of an id.
    """
    distinct = hashlib.sha256(f"{run}/{step}/{output}".encode()).hexdigest()[:10]
    readable = f"{run}-{step}-{output}"[:_READABLE].rstrip("-")
    return f"projects/{project}/artifacts/{readable}-{distinct}"
