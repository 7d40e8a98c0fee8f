"""Files that are whole or not there, and a folder in which one process writes at a time."""

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield another name to write under; if that succeeds, the file takes the place of `path`.

    A reader sees the old file or the new one, also after the process or the machine went down at
    any moment: the new one is on the disk before it gets the name, and renaming is one act.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        if sys.platform != "win32":  # which cannot open a folder
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path | str, *parts: bytes | memoryview) -> None:
    """Make the file `path` of these bytes, one after another, or leave the old one as it is."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """The content of a file; OSError says in words why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; ValueError or OSError names file and fault."""
    try:
        content = json.loads(read(path).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what it should be: it holds no JSON object")
    return content


def message(error: Exception) -> str:
    """What an error says; a KeyError says no more than the key."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def fingerprint(text: str) -> str:
    """Two texts with the same fingerprint (SHA-256) are the same, as far as anybody knows."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Lock:
    """A file that is ours until close(), or until this process ends, in whatever way it does.

    BlockingIOError if it is another process'.  What fork() makes of this process does not hold it.
    """

    descriptor: int | None = None

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if sys.platform == "win32":
                msvcrt.locking(self.descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                self.close()
                raise BlockingIOError(f"another process has locked {path}") from error
            # else this file system knows no locks, and we have to do without

    def close(self) -> None:
        """Let others have it.  The file stays: to remove it would open a way around the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    __del__ = close
