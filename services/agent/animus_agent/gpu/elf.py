"""The name that a shared library wants to be found by (DT_SONAME), read from its ELF file (64 bit, little endian)."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_STRTAB, _DT_SONAME = 0, 5, 14
_MAX_ENTRIES = 4096


def soname(path: Path) -> str:
    """ "" for what is no such library, or has no such name."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _soname(data)
    except (OSError, ValueError, struct.error):
        return ""


def _soname(data: mmap.mmap) -> str:
    # e_ident: magic, ELFCLASS64, ELFDATA2LSB (elf(5)).
    if data[:6] != b"\x7fELF\x02\x01":
        return ""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads, dynamic = [], None
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, table + index * size)
        if kind == _PT_LOAD:
            loads.append((address, address + length, offset))
        elif kind == _PT_DYNAMIC:
            dynamic = offset
    if dynamic is None:
        return ""
    found: dict[int, int] = {}
    for index in range(_MAX_ENTRIES):
        tag, value = struct.unpack_from("<QQ", data, dynamic + index * 16)
        if tag == _DT_NULL:
            break
        found.setdefault(tag, value)
    if _DT_SONAME not in found or _DT_STRTAB not in found:
        return ""
    # The string table is told by its address in memory: which segment is it in?
    strings = next(
        (found[_DT_STRTAB] - low + offset for low, high, offset in loads if low <= found[_DT_STRTAB] < high), None
    )
    if strings is None:
        return ""
    start = strings + found[_DT_SONAME]
    end = data.find(b"\0", start, start + 256)
    return data[start:end].decode("ascii", "replace") if end > start else ""
