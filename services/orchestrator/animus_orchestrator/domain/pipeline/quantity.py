"""Quantities with units: cpu, memory, durations."""

import re
from decimal import Decimal

MAX_CPU_MILLIS = 4_096_000
MIN_MEMORY_BYTES = 1 << 20
MAX_MEMORY_BYTES = 1 << 50
MAX_DURATION_SECONDS = 30 * 86_400

CPU_PATTERN = r"-?(?:[0-9]{1,9}m|[0-9]{1,6}(?:\.[0-9]{1,3})?)"
MEMORY_PATTERN = r"-?[0-9]{1,15}(?:\.[0-9]{1,3})?(?:Ki|Mi|Gi|Ti|k|M|G|T)?"
DURATION_PATTERN = r"(?=[0-9])(?:[0-9]{1,6}h)?(?:[0-9]{1,6}m)?(?:[0-9]{1,8}s)?"

_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def cpu_millis(text: str) -> int:
    """`500m`, `2` or `0.5` cores as thousandths. Raises ValueError when it is not between 1m and 4096."""
    millis = int(text[:-1]) if text.endswith("m") else int(Decimal(text) * 1000)
    if not 1 <= millis <= MAX_CPU_MILLIS:
        raise ValueError("cpu must lie between 1m and 4096")
    return millis


def memory_bytes(text: str) -> int:
    """`2Gi`, `512Mi` or `1.5G` as bytes. Raises ValueError when it is no whole number between 1Mi and 1024Ti."""
    number = re.match(r"-?[0-9.]+", text)[0]
    size = Decimal(number) * _UNITS[text[len(number) :]]
    if size != int(size):
        raise ValueError("memory must be a whole number of bytes")
    if not MIN_MEMORY_BYTES <= size <= MAX_MEMORY_BYTES:
        raise ValueError("memory must lie between 1Mi and 1024Ti")
    return int(size)


def seconds(text: str) -> int:
    """`24h`, `90m` or `1h30m10s` as seconds. Raises ValueError when it is not between 1 s and 30 days."""
    hours, minutes, rest = (int(part or 0) for part in _DURATION.fullmatch(text).groups())
    total = hours * 3600 + minutes * 60 + rest
    if not 1 <= total <= MAX_DURATION_SECONDS:
        raise ValueError("a duration must lie between 1s and 720h")
    return total
