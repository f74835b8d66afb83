"""Documents: what an auditor or an agent must verify, as canonical JSON (docs/adr/0007).

One module for each document. Each is a frozen dataclass with `to_bytes()`, `from_bytes()`, `to_dict()`, `from_dict()` and
`digest` (see shape.py); the bytes are the RFC 8785 form (canonical.py) and what dsse.py signs.
"""

from .errors import DocumentError

__all__ = ["DocumentError"]
