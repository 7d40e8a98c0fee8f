"""Read files that may be damaged, hostile or not files at all, and quote what is in them.

A file that the project reads as its own must be a regular one: a FIFO would be waited for, and a
device may never end.  Its size is bounded, and it is never mapped into memory, where a disk that
fails ends the process without a word.  folder.py writes.
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
MOST_JSON = 2**24
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
    """OSError unless os.fstat() has found a regular file."""
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


def read(path: Path | str, most: int = MOST, dir_fd: int | None = None) -> bytes:
    """The content of a regular file; OSError says in words why it cannot be read."""
    try:
        with opened(path, dir_fd) as (file, size):
            if size > most:
                raise OSError(f"it has {size:,} bytes, more than the {most:,} that are read")
            return file.read(size)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> OSError:
    """The error that names the file which cannot be read."""
    return OSError(f"cannot read {path}: {error.strerror or error}")


def read_json(path: Path | str, most: int = MOST_JSON) -> dict[str, Any]:
    """The object in a file of JSON; ValueError or OSError names file and fault."""
    try:
        content = json.loads(read(path, most).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {printable(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what it should be: it holds no JSON object")
    return content


# ---- quoting -------------------------------------------------------------------------------------


def quoted(value: object, most: int = 60) -> str:
    """A value out of a file or an argument, as an error quotes it: in one line, not too long."""
    return printable(value if isinstance(value, bytes) else repr(value), most)


def printable(text: object, most: int = 300) -> str:
    r"""Text from outside, as a line shows it: \x1b for a character that a terminal would obey.

    A newline becomes \n.  Of a longer text its beginning and its end are shown.
    """
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[len(text) - most // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


LONG = 1000  # characters of a whole line


def message(error: object, most: int = LONG) -> str:
    """What an error says in one line; a KeyError says no more than the key."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None
        error = f"{error.filename}: {error.strerror}" if named else error.strerror
    return printable(f"{error} is missing" if isinstance(error, KeyError) else error, most)


def fingerprint(text: str) -> str:
    """Two texts with the same fingerprint (SHA-256) are the same, as far as anybody knows."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
