"""Write files atomically, to a folder that only one process writes to at a time.

A Folder is held open, and its files are named relative to it.  So files still go to the right
folder if it is renamed meanwhile and another one takes its name.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gpt_numpy import files
from gpt_numpy.files import SAFELY, check_regular

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

HAS_DIR_FD = os.open in os.supports_dir_fd  # Windows opens no folders: there paths are used
NO_LINK = SAFELY | getattr(os, "O_NOFOLLOW", 0)
TEMPORARY = "{}.{}.tmp"  # the name of a file, and a random number


class Folder:
    """A folder that stays the same one when it is renamed.  Use as a context, or close() it.

    create      make the folder, and those above it, if they are not there

    Errors      OSError, from every method
    """

    def __init__(self, path: Path | str, create: bool = False):
        self.path = Path(path)
        self.descriptor: int | None = None
        if create:
            make(self.path)
        if HAS_DIR_FD:
            flags = os.O_RDONLY | SAFELY | os.O_DIRECTORY
            self.descriptor = os.open(self.path, flags)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the folder."""
        if self.descriptor is not None:
            descriptor, self.descriptor = self.descriptor, None
            with contextlib.suppress(OSError):  # nothing was written by way of it
                os.close(descriptor)

    __del__ = close

    def at(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Return what the functions of os find a file of this folder by: a name, and options."""
        if self.descriptor is None:
            return self.path / name, {}
        return name, {"dir_fd": self.descriptor}

    def is_at(self, path: Path) -> bool:
        """Return whether a path leads to this folder still."""
        if self.descriptor is None:
            return True
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.descriptor))
        except OSError:
            return False

    def where(self) -> Path:
        """Return a path to this folder: the one that it was opened by, if that still leads here."""
        if not self.is_at(self.path):
            with contextlib.suppress(OSError):
                now = Path(os.readlink(f"/proc/self/fd/{self.descriptor}"))  # on Linux alone
                if self.is_at(now):
                    return now
        return self.path

    def move(self, path: Path, new: Path) -> None:
        """Rename the folder, which is at `path`."""
        if not self.is_at(path):
            raise OSError(f"{path} was renamed just now")
        os.rename(path, new)
        sync_parent(new)

    def stat(self, name: str) -> os.stat_result | None:
        """Return what os.lstat() tells of a file, or None if there is none."""
        place, options = self.at(name)
        try:
            return os.stat(place, follow_symlinks=False, **options)
        except FileNotFoundError:
            return None

    def may_write(self, name: str) -> bool:
        """Return whether a file may get this name: nothing is there, or a regular file."""
        about = self.stat(name)
        return about is None or stat.S_ISREG(about.st_mode)

    def names(self) -> list[str]:
        """Return the names of all that is in the folder."""
        return os.listdir(self.path if self.descriptor is None else self.descriptor)

    def read(self, name: str, most: int = files.MOST, length: int | None = None) -> bytes:
        """Return the content of a regular file: see files.read()."""
        place, options = self.at(name)
        return files.read(place, most, length=length, **options)

    # ---- writing -----------------------------------------------------------------------------

    def open(self, name: str, flags: int) -> int:
        """Open a regular file to write to it, and no other by way of a link; its descriptor."""
        place, options = self.at(name)
        descriptor = os.open(place, flags | NO_LINK, 0o666, **options)
        try:
            check_regular(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def append(self, name: str, content: bytes) -> None:
        """Write at the end of a file, which is made if there is none."""
        with closing(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)) as descriptor:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def truncate(self, name: str, length: int) -> None:
        """Cut a file off after so many bytes."""
        with closing(self.open(name, os.O_WRONLY)) as descriptor:
            os.ftruncate(descriptor, length)

    def write(self, name: str, *parts: Any, keep: str | None = None) -> None:
        """Make a file of these bytes, one after another, or leave the old one as it is.

        keep        a name that the old one gets
        """
        with self.replacing(name, keep) as file:
            for part in parts:
                file.write(part)

    @contextlib.contextmanager
    def replacing(self, name: str, keep: str | None = None) -> Iterator[BinaryIO]:
        """Yield a file to write to; if that succeeds, it takes the place of the one called `name`.

        A reader sees the old file or the new one, also after the process or the machine went down
        at any moment: the new one is on the disk before it gets the name, and renaming is one act.
        With `keep`, the old file gets that name, so there is a moment when it has only that name.
        """
        temporary = TEMPORARY.format(name, secrets.token_hex(8))
        descriptor = self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                self.keep_rights(name, descriptor)
                os.fsync(descriptor)
            if keep is not None and self.stat(name) is not None:
                self.rename(name, keep)
            self.rename(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise
        self.sync()

    def keep_rights(self, name: str, descriptor: int) -> None:
        """Give a new file the owner and the mode of the one that it will replace."""
        before = self.stat(name)
        if before is None or not stat.S_ISREG(before.st_mode) or not hasattr(os, "fchmod"):
            return
        with contextlib.suppress(OSError):  # some file systems know neither
            now = os.fstat(descriptor)
            if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))

    def rename(self, name: str, new: str) -> None:
        """Rename a file; if there is one with the new name, it is replaced."""
        (place, options), (target, _) = self.at(name), self.at(new)
        folders = {f"{side}_dir_fd": fd for side in ("src", "dst") for fd in options.values()}
        os.replace(place, target, **folders)

    def remove(self, name: str) -> None:
        """Remove a file."""
        place, options = self.at(name)
        os.unlink(place, **options)

    def remove_temporary(self, names: list[str]) -> None:
        """Remove what a process that was killed had begun to write instead of these files."""
        begun = TEMPORARY.format(f"({'|'.join(map(re.escape, names))})", "[0-9a-f]{16}")
        for name in self.names():
            if re.fullmatch(begun, name) and self.may_write(name):
                self.remove(name)

    def sync(self) -> None:
        """Wait until the names of all files in the folder are on the disk."""
        if self.descriptor is not None:
            sync_names(self.descriptor)

    def sync_file(self, name: str) -> None:
        """Wait until the content of a file is on the disk."""
        with closing(self.open(name, os.O_RDWR)) as descriptor:
            os.fsync(descriptor)


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """`with closing(descriptor):` close it at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


NOT_HERE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # no fsync of folders


def sync_names(descriptor: int) -> None:
    """Call fsync() on a folder, if the file system has that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise


def sync_parent(path: Path) -> None:
    """Wait until the name of a folder is on the disk."""
    if HAS_DIR_FD:
        with contextlib.suppress(PermissionError), Folder(path.parent) as parent:
            parent.sync()


def make(path: Path) -> None:
    """Make a folder, and those above it, so that they are there after a power cut too."""
    if path.is_dir():
        return
    make(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    sync_parent(path)


@contextlib.contextmanager
def opened(folder: Folder | Path | str, create: bool = False) -> Iterator[Folder]:
    """Yield a Folder, or the Folder at a path."""
    if isinstance(folder, Folder):
        yield folder
    else:
        with Folder(folder, create) as held:
            yield held


def write_whole(path: Path | str, *parts: Any) -> None:
    """Make the file `path` of these bytes, one after another, or leave the old one as it is."""
    with replacing(path) as file:
        for part in parts:
            file.write(part)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """See Folder.replacing(); here the file is named by its path."""
    path = Path(path)
    with Folder(path.parent) as folder, folder.replacing(path.name) as file:
        yield file


# ---- locks ---------------------------------------------------------------------------------------

LOCK = ".lock"
_held: set[tuple[int, int]] = set()  # the files of all locks of this process
_open: weakref.WeakSet["Lock"] = weakref.WeakSet()
_guard = threading.Lock()


class Lock:
    """The right to write to a folder, until close() or the end of this process.

    It is held in two ways: by flock(), which other processes see and which no close() of another
    descriptor drops (as it would drop a lock of lockf()); and in a set, for this process, also
    where the file system has no locks.  `works` is whether it has locks.  A forked child does not
    hold the lock.

    Errors      BlockingIOError if it is held already
    """

    descriptor: Any = None
    file: Any = None
    works = True

    def __init__(self, folder: Folder):
        self.descriptor = folder.open(LOCK, os.O_RDWR | os.O_CREAT)
        about = os.fstat(self.descriptor)
        file = about.st_dev, about.st_ino
        with _guard:
            if file in _held:
                raise BlockingIOError("this process is writing to it")
            _held.add(file)
        self.file = file
        _open.add(self)
        try:
            if sys.platform == "win32":
                msvcrt.locking(self.descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.works = False
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                self.close()
                raise BlockingIOError("another process is writing to it") from error

    def close(self) -> None:
        """Release the lock.  The file stays, because removing it would open a way around it."""
        if self.descriptor is not None:
            self._close()
            _held.discard(self.file)

    def _close(self):
        descriptor, self.descriptor = self.descriptor, None
        with contextlib.suppress(OSError):  # nothing was written by way of it
            os.close(descriptor)

    __del__ = close


def _forget_locks():
    """Close the locks in a child process: flock() belongs to the open file, which both have."""
    for lock in list(_open):
        if lock.descriptor is not None:
            lock._close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
