"""`${params.<name>}` in arguments and environment variables of `animus/v1`.

Nothing else is read: `${HOME}` is left to the shell. `$${params.x}` stands for the text `${params.x}`.
"""

import re
from collections.abc import Iterator, Mapping

from animus_kit.documents import values

_REFERENCE = re.compile(r"\$?\$\{params\.([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)


class BadReference(ValueError):
    """A reference that is not closed or names no possible parameter."""


def references(text: str) -> Iterator[str]:
    """Names of the parameters that a text refers to. Raises BadReference."""
    for match in _REFERENCE.finditer(text):
        if match[0].startswith("$$"):
            continue
        if not match[0].endswith("}") or not _NAME.fullmatch(match[1]):
            raise BadReference(
                f"{match[0][:80]!r} is no reference: write ${{params.name}}, or $${{ for the text itself"
            )
        yield match[1]


def render(text: str, parameters: Mapping[str, values.Scalar]) -> str:
    """The text with its references replaced. Raises KeyError for a parameter without a value."""

    def replace(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return values.render(parameters[match[1]])

    return _REFERENCE.sub(replace, text)
