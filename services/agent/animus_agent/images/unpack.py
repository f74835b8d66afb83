"""Applies one layer to a folder, as if the layer had been written by an enemy (OCI image-spec 1.1, "Layers").

Every path is opened relative to the root by openat2(2) with RESOLVE_IN_ROOT, so that the kernel itself keeps a link
inside. Refused: absolute paths, `..`, devices, FIFOs, sockets, hard links to anything but a regular file, sparse files, the
same path twice, names and depths beyond bounds. Modes lose setuid, setgid and sticky and gain read for all, extended
attributes (and with them file capabilities and ACLs) are not set: the root belongs to the host's root and is only read.

Whiteouts hide what lower layers hold, never what their own layer adds, whichever comes first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import tarfile
from typing import IO

from animus_agent.errors import ImageRefused
from animus_agent.files import libc
from animus_agent.images.stream import Bounds, LayerReader

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 1, 2, 16
_MAX_HEADER_BYTES = 1 << 20
# Headers in front of one entry: a long name, a long link, its own extended header and the archive's.
_MAX_CHAINED = 8
_EXTENDED = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Failures of this node, which say nothing about the image.
_OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS})


class _Tar(tarfile.TarFile):
    """Bounds the extended headers, which tarfile reads into memory whole and one inside the other."""

    chained = 0
    chained_bytes = 0
    shared_bytes = 0


class _TarInfo(tarfile.TarInfo):
    def _proc_member(self, archive: _Tar) -> tarfile.TarInfo:
        if self.type not in _EXTENDED:
            if self.type == tarfile.GNUTYPE_SPARSE:
                raise _sparse()
            archive.chained = archive.chained_bytes = 0
            return super()._proc_member(archive)  # type: ignore[misc]
        if self.size < 0:
            raise ImageRefused("a tar header of a negative size", "IMAGE_LAYER_INVALID")
        archive.chained += 1
        archive.chained_bytes += self.size
        if self.type == tarfile.XGLTYPE:
            # They speak for every entry that follows, and are kept until the end.
            archive.shared_bytes += self.size
        if max(archive.chained_bytes, archive.shared_bytes) > _MAX_HEADER_BYTES or archive.chained > _MAX_CHAINED:
            raise ImageRefused("a tar header is too large", "IMAGE_LAYER_INVALID")
        return super()._proc_member(archive)  # type: ignore[misc]


def _sparse() -> ImageRefused:
    """A few bytes of a sparse file become as many zeros as it likes, which no bound on the stream sees."""
    return ImageRefused("sparse entries are not part of OCI layers", "IMAGE_ENTRY_TYPE")


class Unpacker:
    """Unpacks the layers of one image, lowest first, into the empty folder behind `root_fd`."""

    def __init__(self, root_fd: int, bounds: Bounds) -> None:
        self._root = root_fd
        self._bounds = bounds
        self._entries = 0
        self._times: dict[str, int] = {}
        self._root_path = os.readlink(f"/proc/self/fd/{root_fd}")

    def apply(self, reader: LayerReader) -> None:
        """Raises ImageRefused. The caller compares digests afterwards and throws all away on a mismatch."""
        # (inode of the folder, name) of what this layer adds.
        own: set[tuple[int, str]] = set()
        archive: IO[bytes] = reader  # type: ignore[assignment]
        try:
            with _Tar.open(fileobj=archive, mode="r|", tarinfo=_TarInfo, bufsize=1 << 20) as tar:
                for member in tar:
                    self._entries += 1
                    if self._entries > self._bounds.entries:
                        raise ImageRefused(f"more than {self._bounds.entries} entries", "IMAGE_TOO_MANY_ENTRIES")
                    self._entry(tar, member, own)
                    # tarfile remembers every member; an image has many.
                    tar.members.clear()
                _refuse_rest(tar)
        except tarfile.TarError as error:
            # An empty layer is a tar archive of nothing but its end mark, which tarfile reads without complaint.
            raise ImageRefused(f"a layer is no tar archive: {error}", "IMAGE_LAYER_INVALID") from error
        except (ValueError, OverflowError, RecursionError) as error:
            # Extended headers may say anything: a NUL in a name, a size below zero, an infinite time.
            raise ImageRefused(f"a layer holds a value that cannot be: {error}", "IMAGE_LAYER_INVALID") from error
        except OSError as error:
            if error.errno in _OURS:
                raise
            raise ImageRefused(f"a layer cannot be unpacked: {error}", "IMAGE_LAYER_INVALID") from error

    def finish(self) -> None:
        """Sets the folders' times, which their entries changed."""
        for path, mtime in self._times.items():
            try:
                fd = _open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.utime(fd, (mtime, mtime))
            finally:
                os.close(fd)

    def _entry(self, tar: tarfile.TarFile, member: tarfile.TarInfo, own: set[tuple[int, str]]) -> None:
        if member.size < 0:
            raise ImageRefused(f"{member.name!r} has a negative size", "IMAGE_LAYER_INVALID")
        if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
            # Also in the PAX forms, whose type is that of a regular file.
            raise _sparse()
        parts = self._parts(member.name)
        if not parts:
            if not member.isdir():
                raise ImageRefused("the root is not a folder", "IMAGE_PATH_INVALID")
            return
        folder, name = self._folder(parts[:-1], own), parts[-1]
        try:
            self._check_depth(folder)
            inode = os.fstat(folder).st_ino
            if name.startswith(WHITEOUT):
                if not member.isreg() or member.size:
                    raise ImageRefused(f"{member.name!r} is no empty file", "IMAGE_WHITEOUT_INVALID")
                if name == OPAQUE:
                    _prune(folder, own)
                else:
                    self._whiteout(folder, inode, name.removeprefix(WHITEOUT), own)
                return
            if (inode, name) in own and not (member.isdir() and _is_folder(folder, name)):
                # Which of the two counts would depend on who reads the layer.
                raise ImageRefused(f"{member.name!r} stands twice in a layer", "IMAGE_DUPLICATE_PATH")
            own.add((inode, name))
            self._write(tar, member, folder, name)
        finally:
            os.close(folder)

    def _check_depth(self, folder: int) -> None:
        """Where an entry really goes: through links, each of which may be short, paths can grow without end."""
        real = os.readlink(f"/proc/self/fd/{folder}")[len(self._root_path) :]
        if real.count("/") >= self._bounds.depth or len(os.fsencode(real)) > self._bounds.path_bytes:
            raise ImageRefused("a path leads too deep", "IMAGE_PATH_INVALID")

    def _parts(self, path: str) -> list[str]:
        if path.startswith("/"):
            raise ImageRefused(f"absolute path {path!r}", "IMAGE_PATH_INVALID")
        if len(os.fsencode(path)) > self._bounds.path_bytes:
            raise ImageRefused("a path is too long", "IMAGE_PATH_INVALID")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageRefused(f"{path!r} leads upwards", "IMAGE_PATH_INVALID")
        if any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise ImageRefused(f"{path!r} lies in a whiteout", "IMAGE_WHITEOUT_INVALID")
        if len(parts) > self._bounds.depth or any(len(os.fsencode(part)) > 255 for part in parts):
            raise ImageRefused("a path is too deep or a name too long", "IMAGE_PATH_INVALID")
        return parts

    def _folder(self, parts: list[str], own: set[tuple[int, str]]) -> int:
        """Opens the folder at `parts` inside the root, making what is missing."""
        try:
            return _open_in_root(self._root, "/".join(parts), _DIRECTORY)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ImageRefused(f"{'/'.join(parts)!r} is no folder: {error}", "IMAGE_PATH_INVALID") from error
        parent = self._folder(parts[:-1], own)
        try:
            try:
                os.mkdir(parts[-1], 0o755, dir_fd=parent)
            except FileExistsError as error:
                # A link to nowhere in place of a folder.
                raise ImageRefused(f"{'/'.join(parts)!r} is no folder", "IMAGE_PATH_INVALID") from error
            own.add((os.fstat(parent).st_ino, parts[-1]))
            self._times.setdefault("/".join(parts), 0)
            return os.open(parts[-1], _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            os.close(parent)

    def _whiteout(self, folder: int, inode: int, name: str, own: set[tuple[int, str]]) -> None:
        if name in ("", ".", "..") or name.startswith(WHITEOUT):
            raise ImageRefused(f"whiteout of {name!r}", "IMAGE_WHITEOUT_INVALID")
        mode = _mode(folder, name)
        if mode is None:
            return
        if stat.S_ISDIR(mode):
            child = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                kept = _prune(child, own)
            finally:
                os.close(child)
            if not kept and (inode, name) not in own:
                os.rmdir(name, dir_fd=folder)
        elif (inode, name) not in own:
            os.unlink(name, dir_fd=folder)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
        there = _mode(folder, name)
        mtime = min(max(int(member.mtime), 0), (1 << 33) - 1)
        if member.isdir():
            if there is None or not stat.S_ISDIR(there):
                if there is not None:
                    os.unlink(name, dir_fd=folder)
                os.mkdir(name, 0o755, dir_fd=folder)
            self._times["/".join(self._parts(member.name))] = mtime
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            raise ImageRefused(f"{member.name!r} is a device, FIFO or unknown entry", "IMAGE_ENTRY_TYPE")
        # A hard link may name the very path that it replaces only through another layer; resolve it first.
        source = self._link_source(member) if member.islnk() else None
        try:
            if there is not None:
                _remove(folder, name, there)
            if source is not None:
                os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=folder, follow_symlinks=True)
            elif member.issym():
                if not member.linkname or len(os.fsencode(member.linkname)) > self._bounds.path_bytes:
                    raise ImageRefused(f"{member.name!r} links to nothing", "IMAGE_LINK_INVALID")
                os.symlink(member.linkname, name, dir_fd=folder)
                os.utime(name, (mtime, mtime), dir_fd=folder, follow_symlinks=False)
            else:
                _write_file(tar, member, folder, name, mtime)
        finally:
            if source is not None:
                os.close(source)

    def _link_source(self, member: tarfile.TarInfo) -> int:
        parts = self._parts(member.linkname)
        if not parts:
            raise ImageRefused(f"{member.name!r} links to the root", "IMAGE_LINK_INVALID")
        try:
            parent = _open_in_root(self._root, "/".join(parts[:-1]), _DIRECTORY)
            try:
                fd = os.open(parts[-1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise ImageRefused(f"{member.name!r} links to what is not there", "IMAGE_LINK_INVALID") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageRefused(f"{member.name!r} is a hard link to no regular file", "IMAGE_LINK_INVALID")
        return fd


def _refuse_rest(tar: tarfile.TarFile) -> None:
    """tarfile takes a broken header for the end; what other tools would find behind it must not be in our digest."""
    while rest := tar.fileobj.read(1 << 20):  # type: ignore[union-attr]
        if rest.strip(b"\0"):
            raise ImageRefused("bytes after the end of the archive", "IMAGE_LAYER_INVALID")


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str, mtime: int) -> None:
    content = tar.extractfile(member)
    assert content is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        left = member.size
        while left:
            data = content.read(min(left, 1 << 20))
            if not data:
                raise ImageRefused(f"{member.name!r} is cut off", "IMAGE_LAYER_INVALID")
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        os.fchmod(fd, 0o755 if member.mode & 0o111 else 0o644)
        os.utime(fd, (mtime, mtime))
    finally:
        os.close(fd)


def _open_in_root(root: int, path: str, flags: int) -> int:
    # struct open_how: flags, mode, resolve.
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV)
    fd = libc.syscall(_SYS_OPENAT2, root, os.fsencode(path or "."), how, len(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def _mode(folder: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _is_folder(folder: int, name: str) -> bool:
    mode = _mode(folder, name)
    return mode is not None and stat.S_ISDIR(mode)


def _remove(folder: int, name: str, mode: int) -> None:
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=folder)
        return
    child = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        _prune(child, set())
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=folder)


def _prune(folder: int, own: set[tuple[int, str]]) -> bool:
    """Removes everything under `folder` that is not in `own`; whether something stayed."""
    inode = os.fstat(folder).st_ino
    stayed = False
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        names = os.listdir(readable)
    finally:
        os.close(readable)
    for name in names:
        mode = _mode(folder, name)
        if mode is None:
            continue
        kept = (inode, name) in own
        if stat.S_ISDIR(mode):
            child = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                kept = _prune(child, own) or kept
            finally:
                os.close(child)
            if not kept:
                os.rmdir(name, dir_fd=folder)
        elif not kept:
            os.unlink(name, dir_fd=folder)
        stayed = stayed or kept
    return stayed
