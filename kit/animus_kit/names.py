"""Resource names (AIP-122): `projects/{project}/runs/{run}`, ids being lower-case DNS labels.

The same pattern stands in the protos; this module is for what is parsed on the way.
"""

from __future__ import annotations

import functools
import re

from animus_kit.errors import FieldViolation, InvalidArgument

ID_PATTERN = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
"""One id: RFC 1123's label in lower case, at most 63 characters. No dots, no colons: verbs start with one."""

PROJECT_PATTERN = rf"projects/{ID_PATTERN}"

_ID = re.compile(ID_PATTERN)
_PLACE = re.compile(r"\{([a-z_]+)\}")


class InvalidName(InvalidArgument):
    """A resource name that does not have the form it should have."""

    reason = "INVALID_NAME"

    def __init__(self, name: str, pattern: str, field: str = "name"):
        super().__init__(
            f"not a name of the form {pattern}",
            violations=[FieldViolation(field, self.reason, f"must have the form {pattern}")],
            metadata={"pattern": pattern},
        )
        self.name = name


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for part in pattern.split("/"):
        place = _PLACE.fullmatch(part)
        parts.append(f"(?P<{place[1]}>{ID_PATTERN})" if place else re.escape(part))
    return re.compile("/".join(parts))


def parse(pattern: str, name: str) -> dict[str, str]:
    """`parse("projects/{project}/runs/{run}", "projects/a/runs/b")` is `{"project": "a", "run": "b"}`.

    Raises InvalidName where the whole name does not match.
    """
    match = _compiled(pattern).fullmatch(name)
    if match is None:
        raise InvalidName(name, pattern)
    return match.groupdict()


def format(pattern: str, **ids: str) -> str:
    """The reverse of `parse`. Raises InvalidName for an id that is not one."""
    for key in _PLACE.findall(pattern):
        if not is_id(ids[key]):
            raise InvalidName(ids[key], pattern, key)
    return _PLACE.sub(lambda m: ids[m[1]], pattern)


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def project_of(name: str) -> str:
    """`projects/{project}` out of any name below a project, or of the project itself. Raises InvalidName."""
    parts = name.split("/", 2)
    if len(parts) < 2 or parts[0] != "projects" or not is_id(parts[1]):
        raise InvalidName(name, "projects/{project}/…")
    return f"projects/{parts[1]}"


def id_of(name: str) -> str:
    """The last part of a name."""
    return name.rsplit("/", 1)[-1]
