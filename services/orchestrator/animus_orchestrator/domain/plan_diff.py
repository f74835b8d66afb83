"""What changed between two plans, for PLAN_CHANGED."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from animus_kit.documents.plan import Plan


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs between two plans. Absent on one side: "" there."""

    path: str
    before: str
    after: str


def plan_diff(before: Plan, after: Plan) -> tuple[Difference, ...]:
    """Where two plans differ, by path; steps are matched by name, so that an inserted one is one difference.

    Digests that only follow from another difference of the same step are left out.
    """
    return tuple(_differences("", _by_name(before), _by_name(after)))


def _by_name(value: Plan) -> dict[str, Any]:
    document = value.to_dict()
    document["steps"] = {step["name"]: step for step in document["steps"]}
    return document


def _differences(path: str, before: Any, after: Any) -> Iterable[Difference]:
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list) and _keyed(before) and _keyed(after):
        before, after = _keyed(before), _keyed(after)
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            one, other = before.get(key, ""), after.get(key, "")
            if key == "recipeDigest" or key == "recipe" and isinstance(one, str) and isinstance(other, str):
                continue  # only follows from another difference
            yield from _differences(f"{path}.{key}" if path else key, one, other)
        return
    yield Difference(path, _short(before), _short(after))


def _keyed(items: list[Any]) -> dict[str, Any] | None:
    """A list of named things by name."""
    if all(isinstance(item, dict) and "name" in item for item in items):
        return {item["name"]: item for item in items}
    return None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "present"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 256 else text[:255] + "…"
