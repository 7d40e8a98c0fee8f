"""Read files that may be damaged, hostile or not files at all, and quote what is in them.

A file that the project reads as its own must be a regular one: a FIFO would block, and a device may
never end.  Its size is limited.  It is never memory-mapped, because a disk error would then kill
the process without a message.  folder.py writes files.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MOST = 2**26  # bytes of a file that is read as a whole, unless its reader names another limit
MOST_JSON = 2**20  # JSON takes up to 30 times as much memory
FLAGS = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")  # not all systems have all of them
SAFELY = sum(getattr(os, name, 0) for name in FLAGS)  # do not wait for the other end of a FIFO
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(about: os.stat_result) -> None:
    """Raise OSError unless os.fstat() has found a regular file."""
    if not stat.S_ISREG(about.st_mode):
        kind = KINDS.get(stat.S_IFMT(about.st_mode), "something else")
        raise OSError(f"it is {kind}, not a regular file")


def open_regular(path: Path | str, dir_fd: int | None = None) -> tuple[int, int]:
    """Open a regular file to read it: (descriptor, size); OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | SAFELY, dir_fd=dir_fd)
    try:
        about = os.fstat(descriptor)
        check_regular(about)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, about.st_size


@contextlib.contextmanager
def opened(path: Path | str, dir_fd: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a regular file, open to read bytes, and its size; OSError for anything else."""
    descriptor, size = open_regular(path, dir_fd)
    with open(descriptor, "rb") as file:
        yield file, size


def read(
    path: Path | str, most: int = MOST, dir_fd: int | None = None, length: int | None = None
) -> bytes:
    """Return the content of a regular file; an OSError names the file and the reason.

    length      return only the first `length` bytes; the file itself may have more than `most`
    """
    try:
        with opened(path, dir_fd) as (file, size):
            if length is not None:
                size = min(size, length)
            if size > most:
                raise OSError(f"it has {size:,} bytes; at most {most:,} are read")
            return file.read(size)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> OSError:
    """Return the error that names the file and why it cannot be read."""
    return OSError(f"cannot read {path}: {error.strerror or error}")


def read_json(path: Path | str, most: int = MOST_JSON) -> dict[str, Any]:
    """Return the object in a JSON file; a ValueError or OSError names the file and the reason."""
    try:
        content = json.loads(read(path, most).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {printable(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object")
    return content


# ---- quoting -------------------------------------------------------------------------------------


def quoted(value: object, most: int = 60) -> str:
    """Return a value from outside as an error quotes it: in one line, not too long."""
    return printable(value if isinstance(value, bytes) else repr(value), most)


def printable(text: object, most: int = 300) -> str:
    r"""Return text from outside in one line: \x1b for a character that a terminal would obey.

    A newline becomes \n.  Of a longer text its beginning and its end are shown.
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[len(text) - most // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


LONG = 1000  # characters of a whole line


def message(error: object, most: int = LONG) -> str:
    """Return the message of an error in one line; a KeyError becomes "… is missing"."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None
        error = f"{error.filename}: {error.strerror}" if named else error.strerror
    return printable(f"{error} is missing" if isinstance(error, KeyError) else error, most)


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
