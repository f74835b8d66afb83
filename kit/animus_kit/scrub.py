"""Takes out of log lines what looks like a secret, before they leave the place where they were written.

The first rule stays that secrets are never logged; this is for the line that somebody forgets. It knows names and forms,
not meanings: what has neither is not found.
"""

from __future__ import annotations

import re

SCRUBBED = "[scrubbed]"

_NAME = re.compile(
    r"(^|_)(token|secret|passw(or)?d|passphrase|authorization|credential|cookie|(private|api|access)?_?key)s?($|_)"
)
_FORMS = re.compile(
    r"animus1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?"  # join tokens
    r"|-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)"  # PEM, also cut off
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?"  # JWTs
    r"|(?i:\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,})"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user and password of a URL
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(ghp|gho|ghs|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}",
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_IDS = frozenset({"key_id", "token_id"})


def text(value: str, max_bytes: int = 1024) -> str:
    """One line without control characters and without what has the form of a secret, cut to so many bytes of UTF-8."""
    found = _CONTROL.sub(" ", _FORMS.sub(SCRUBBED, value))
    encoded = found.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode("utf-8", "ignore") + "…"


def field(name: str, value: str, max_bytes: int = 1024) -> str:
    """The value of a field, by its name and its form."""
    if value and name not in _IDS and _NAME.search(name.lower()):
        return SCRUBBED
    return text(value, max_bytes)
