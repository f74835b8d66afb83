"""Layers that an enemy would make, each with the reason it is refused for."""

import io
import tarfile
from collections.abc import Callable

from animus_agent.testing import layer


def member(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def extended(headers: dict[str, str], data: bytes = b"") -> bytes:
    """A layer of one file `x` with PAX headers of our own."""
    info = member("x", tarfile.REGTYPE)
    info.size, info.pax_headers = len(data), headers
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def raw(kind: bytes, data: bytes, name: str = "x") -> bytes:
    """One tar member of any type, header and data, without the end of an archive."""
    info = member(name, kind)
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(**headers: str) -> bytes:
    """An extended header's records (POSIX pax Interchange Format)."""
    out = b""
    for key, value in headers.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        out += str(length).encode() + record
    return out


END = bytes(1024)


REFUSED: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "upwards": (lambda: [layer({"../x": b""})], "IMAGE_PATH_INVALID"),
    "upwards inside": (lambda: [layer({"a/../../x": b""})], "IMAGE_PATH_INVALID"),
    "absolute": (lambda: [layer({"/x": b""})], "IMAGE_PATH_INVALID"),
    "character device": (lambda: [layer({"x": member("x", tarfile.CHRTYPE)})], "IMAGE_ENTRY_TYPE"),
    "block device": (lambda: [layer({"x": member("x", tarfile.BLKTYPE)})], "IMAGE_ENTRY_TYPE"),
    "fifo": (lambda: [layer({"x": member("x", tarfile.FIFOTYPE)})], "IMAGE_ENTRY_TYPE"),
    "hard link to a symlink": (
        lambda: [layer({"s": "/etc/passwd", "h": member("h", tarfile.LNKTYPE, "s")})],
        "IMAGE_LINK_INVALID",
    ),
    "hard link out": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "../etc/passwd")})], "IMAGE_PATH_INVALID"),
    "hard link absolute": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "/etc/passwd")})], "IMAGE_PATH_INVALID"),
    "hard link to nothing": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "no")})], "IMAGE_LINK_INVALID"),
    "hard link to a folder": (
        lambda: [layer({"d": None, "h": member("h", tarfile.LNKTYPE, "d")})],
        "IMAGE_LINK_INVALID",
    ),
    "twice in a layer": (lambda: [layer({"x": b"1", "./x": b"2"})], "IMAGE_DUPLICATE_PATH"),
    "file as folder": (lambda: [layer({"x": b"1", "x/y": b"2"})], "IMAGE_PATH_INVALID"),
    "whiteout of the parent": (lambda: [layer({"d/.wh...": b""})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout of nothing": (lambda: [layer({".wh.": b""})], "IMAGE_WHITEOUT_INVALID"),
    "mount point as link": (lambda: [layer({"animus": "/etc"})], "IMAGE_RESERVED_PATH"),
    "too many entries": (lambda: [layer({f"f{i}": b"" for i in range(300)})], "IMAGE_TOO_MANY_ENTRIES"),
    "too large": (lambda: [layer({"x": bytes(5 << 20)}), layer({"y": bytes(5 << 20)})], "IMAGE_TOO_LARGE"),
    "too deep": (lambda: [layer({"/".join("d" * 1 for _ in range(150)): b""})], "IMAGE_PATH_INVALID"),
    "sparse": (lambda: [layer({"x": member("x", tarfile.GNUTYPE_SPARSE)})], "IMAGE_ENTRY_TYPE"),
    # A kilobyte that unpacks to 32 MiB of zeros, four times what the image may be.
    "sparse by header": (
        lambda: [extended({"GNU.sparse.map": "0,1", "GNU.sparse.realsize": str(32 << 20)}, b"1")],
        "IMAGE_ENTRY_TYPE",
    ),
    "infinite time": (lambda: [extended({"mtime": "inf"})], "IMAGE_LAYER_INVALID"),
    "NUL in a name": (lambda: [extended({"path": "a\0b"})], "IMAGE_LAYER_INVALID"),
    "bytes after the end": (lambda: [layer({"a": b""}) + b"x" * 2048], "IMAGE_LAYER_INVALID"),
    "a broken header in between": (
        lambda: [layer({"a": b""})[:1024] + b"broken" * 512 + layer({"b": b""})],
        "IMAGE_LAYER_INVALID",
    ),
    "no tar": (lambda: [b"this is no tar archive" * 100], "IMAGE_LAYER_INVALID"),
    "whiteout of itself": (lambda: [layer({"d/.wh..": b""})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout of a whiteout": (lambda: [layer({".wh..wh.x": b""})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout that is a folder": (lambda: [layer({".wh.x": None})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout that is a link": (lambda: [layer({".wh.x": "/etc"})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout with content": (lambda: [layer({".wh.x": b"1"})], "IMAGE_WHITEOUT_INVALID"),
    "path through a whiteout": (lambda: [layer({".wh.x/y": b""})], "IMAGE_WHITEOUT_INVALID"),
    "opaque whiteout as a folder": (lambda: [layer({"d/.wh..wh..opq": None})], "IMAGE_WHITEOUT_INVALID"),
    "whiteout by device": (lambda: [layer({"x": b""}), layer({"x": member("x", tarfile.CHRTYPE)})], "IMAGE_ENTRY_TYPE"),
    "socket or other type": (lambda: [layer({"x": member("x", b"Q")})], "IMAGE_ENTRY_TYPE"),
    "volume label": (lambda: [layer({"x": member("x", b"V")})], "IMAGE_ENTRY_TYPE"),
    "multi-volume part": (lambda: [layer({"x": member("x", b"M")})], "IMAGE_ENTRY_TYPE"),
    "root as a link": (lambda: [layer({".": "/etc"})], "IMAGE_PATH_INVALID"),
    "hard link to the root": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, ".")})], "IMAGE_LINK_INVALID"),
    "hard link through a link": (
        lambda: [layer({"s": "/etc", "h": member("h", tarfile.LNKTYPE, "s/passwd")})],
        "IMAGE_LINK_INVALID",
    ),
    "hard link to a device": (
        lambda: [layer({"d": "/dev/null", "h": member("h", tarfile.LNKTYPE, "d")})],
        "IMAGE_LINK_INVALID",
    ),
    "hard link to itself": (lambda: [layer({"h": member("h", tarfile.LNKTYPE, "h")})], "IMAGE_LINK_INVALID"),
    "symlink to nothing": (lambda: [layer({"s": ""})], "IMAGE_LINK_INVALID"),
    "symlink, then a file through it": (lambda: [layer({"s": "/etc", "s/passwd": b"x"})], "IMAGE_PATH_INVALID"),
    "links in a circle": (lambda: [layer({"a": "b", "b": "a", "a/x": b""})], "IMAGE_PATH_INVALID"),
    "link into /proc": (lambda: [layer({"p": "/proc/self/root", "p/x": b""})], "IMAGE_PATH_INVALID"),
    "link, then a folder in its place": (lambda: [layer({"s": "/etc", "s/": None})], "IMAGE_DUPLICATE_PATH"),
    "file, then a folder in its place": (lambda: [layer({"x": b"1", "./x": None})], "IMAGE_DUPLICATE_PATH"),
    "folder that was filled, then a file": (lambda: [layer({"d/x": b"1", "d": b"2"})], "IMAGE_DUPLICATE_PATH"),
    "twice by way of a link": (
        lambda: [layer({"d": None, "s": "d", "d/x": b"1", "s/x": b"2"})],
        "IMAGE_DUPLICATE_PATH",
    ),
    "too deep by way of links": (
        lambda: [
            layer({"/".join("d" * 100): None, "l": "/".join("d" * 100)}),
            layer({"l/" + "/".join("e" * 100) + "/x": b""}),
        ],
        "IMAGE_PATH_INVALID",
    ),
    "a name of a mebibyte": (lambda: [layer({"n" * (1 << 20): b""})], "IMAGE_LAYER_INVALID"),
    "a name of 300 bytes": (lambda: [layer({"n" * 300: b""})], "IMAGE_PATH_INVALID"),
    "a path of 5000 bytes": (lambda: [layer({"n/" * 2500 + "x": b""})], "IMAGE_PATH_INVALID"),
    "path by header": (lambda: [extended({"path": "../../x"})], "IMAGE_PATH_INVALID"),
    "absolute path by header": (lambda: [extended({"path": "/x"})], "IMAGE_PATH_INVALID"),
    "path by a header for all": (
        lambda: [raw(tarfile.XGLTYPE, pax(path="../x")) + raw(tarfile.REGTYPE, b"") + END],
        "IMAGE_PATH_INVALID",
    ),
    "link by header": (
        lambda: [raw(tarfile.XHDTYPE, pax(linkpath="/etc/passwd")) + raw(tarfile.LNKTYPE, b"") + END],
        "IMAGE_PATH_INVALID",
    ),
    "negative size by header": (
        lambda: [raw(tarfile.XHDTYPE, pax(size="-1")) + raw(tarfile.REGTYPE, b"x" * 512) + END],
        "IMAGE_LAYER_INVALID",
    ),
    "size beyond the archive by header": (
        lambda: [raw(tarfile.XHDTYPE, pax(size="99999999")) + raw(tarfile.REGTYPE, b"x") + END],
        "IMAGE_LAYER_INVALID",
    ),
    "size without end by header": (
        lambda: [raw(tarfile.XHDTYPE, pax(size="9" * 4000)) + raw(tarfile.REGTYPE, b"x") + END],
        "IMAGE_LAYER_INVALID",
    ),
    "size by a sparse header": (
        lambda: [raw(tarfile.XHDTYPE, pax(GNU__sparse__realsize="4096")) + raw(tarfile.REGTYPE, b"x") + END],
        "IMAGE_ENTRY_TYPE",
    ),
    "name by a sparse header": (
        lambda: [raw(tarfile.XHDTYPE, pax(GNU__sparse__name="y")) + raw(tarfile.REGTYPE, b"x") + END],
        "IMAGE_ENTRY_TYPE",
    ),
    "sparse 1.0": (
        lambda: [
            extended({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}, b"1\n0\n1\nx")
        ],
        "IMAGE_ENTRY_TYPE",
    ),
    "headers one inside the other": (
        lambda: [raw(tarfile.XHDTYPE, pax(comment="c")) * 2000 + raw(tarfile.REGTYPE, b"") + END],
        "IMAGE_LAYER_INVALID",
    ),
    "headers for all without end": (
        lambda: [
            b"".join(
                raw(tarfile.XGLTYPE, pax(**{f"k{i}": "v" * 100_000})) + raw(tarfile.REGTYPE, b"", f"f{i}")
                for i in range(40)
            )
            + END
        ],
        "IMAGE_LAYER_INVALID",
    ),
    "a broken extended header": (
        lambda: [raw(tarfile.XHDTYPE, b"999999 path=x\n") + raw(tarfile.REGTYPE, b"") + END],
        "IMAGE_LAYER_INVALID",
    ),
    "cut off in a file": (lambda: [layer({"x": b"1" * 4096})[:2048]], "IMAGE_LAYER_INVALID"),
}
