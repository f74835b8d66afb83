"""animus quota"""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from animus_cli import exits, show
from animus_cli.base import Project, Stop, Subject, answer, client, command, full, group

app = group("Quotas: what a project may hold at a time, and its weight beside others.")

NONE = "none"
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{unit}i": 1 << (10 * power) for power, unit in enumerate("kmgt", 1)
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def _limit(help: str) -> Any:
    return typer.Option(help=f"{help} 'none' takes the limit away, 0 allows nothing.", show_default=False)


@command(app, "show")
def show_(project: Project = "", as_: Subject = "") -> None:
    """What a project may hold, and what it holds now."""
    from animus.orchestrator.v1 import quota_pb2

    with client(as_) as it:
        found = it.call(it.quotas_api.GetQuota, quota_pb2.GetQuotaRequest(name=f"{full(project)}/quota"))
    answer(found, lambda: _print(found))


@command(app, "set")
def set_(
    project: Project = "",
    cpu: Annotated[str, _limit("Cores of all that runs, for example 16 or 0.5.")] = "",
    memory: Annotated[str, _limit("Memory of all that runs, for example 64Gi.")] = "",
    gpus: Annotated[str, _limit("GPUs of all that runs.")] = "",
    runs: Annotated[str, _limit("Runs that are active at a time; others wait.")] = "",
    stored: Annotated[str, _limit("Bytes that the project stores, for example 2Ti.")] = "",
    weight: Annotated[
        int, typer.Option(min=0, max=1000, help="1 to 1000; as it is if absent.", show_default=False)
    ] = 0,
    as_: Subject = "",
) -> None:
    """Change limits and weight of a project. What is not named stays."""
    from google.protobuf import field_mask_pb2

    from animus.orchestrator.v1 import quota_pb2

    given = {
        "cpu_millis": (cpu, _cores),
        "memory_bytes": (memory, size),
        "gpus": (gpus, _whole),
        "active_runs": (runs, _whole),
        "stored_bytes": (stored, size),
    }
    paths = [f"limits.{name}" for name, (text, _) in given.items() if text] + (["weight"] if weight else [])
    if not paths:
        raise Stop(exits.USAGE, "nothing to change: name a limit or --weight", "USAGE")
    limits = quota_pb2.Quota.Limits(
        **{name: read(text) for name, (text, read) in given.items() if text and text != NONE}
    )
    request = quota_pb2.UpdateQuotaRequest(
        quota=quota_pb2.Quota(name=f"{full(project)}/quota", limits=limits, weight=weight),
        update_mask=field_mask_pb2.FieldMask(paths=paths),
    )
    with client(as_) as it:
        found = it.call(it.quotas_api.UpdateQuota, request)
    answer(found, lambda: _print(found))


def size(text: str) -> int:
    """Bytes of "64Gi", "1.5G" or "4096". Raises Stop."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Stop(exits.USAGE, f"{text!r} is no size: write 64Gi, 1.5G or a number of bytes", "USAGE")
    return int(float(match[1]) * _SIZES[(match[2] or "").lower()])


def _cores(text: str) -> int:
    try:
        return int(text[:-1]) if text.endswith("m") else round(float(text) * 1000)
    except ValueError:
        raise Stop(exits.USAGE, f"{text!r} is no number of cores: write 16, 0.5 or 500m", "USAGE") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise Stop(exits.USAGE, f"{text!r} is no whole number", "USAGE")
    return int(text)


def _print(quota: Any) -> None:
    limits, used = quota.limits, quota.usage
    show.pairs(
        [
            ("quota", quota.name),
            ("weight", quota.weight),
            ("attempts", used.attempts),
            ("waiting runs", used.waiting_runs),
        ]
    )
    print()
    rows = []
    for name, field, text in (
        ("cpu", "cpu_millis", lambda n: f"{n / 1000:g}"),
        ("memory", "memory_bytes", show.size),
        ("gpus", "gpus", str),
        ("active runs", "active_runs", str),
        ("stored", "stored_bytes", show.size),
    ):
        known = field != "stored_bytes" or used.HasField(field)
        rows.append(
            (
                name,
                text(getattr(used, field)) if known else "?",
                text(getattr(limits, field)) if limits.HasField(field) else NONE,
            )
        )
    show.table(["what", ">in use", ">limit"], rows)
