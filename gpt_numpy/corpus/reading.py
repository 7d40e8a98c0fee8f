r"""Read text from files, a piece at a time, so that a text of any size needs little memory.

Each file is decompressed if gzip made it, and decoded (UTF-8, or UTF-16 if it begins with a
byte-order mark), and its lines end in \n.  In a file .jsonl each line is a document: a JSON object
whose field `text` is read.  Documents and files are joined by a \n, unless they end with one.
"""

import codecs
import errno
import gzip
import io
import json
import os
import select
import shutil
import stat
import sys
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt_numpy.files import open_regular

BYTES = 2**20  # read at once
PIECE = 2**20  # characters of a piece, at least, but for the last
LONGEST = 2**24  # characters that stay together where there is no space among them
LONGEST_LINE = 2**26  # bytes of a line of a .jsonl file, which is read as a whole
STDIN = Path("-")
SECONDS = 5  # to wait for a program that writes to a pipe
GZIP = b"\x1f\x8b"  # how a compressed file begins, and no text
BOMS = {  # the longer ones first, because one begins like another
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# A character that no definition of whitespace contains, and the space or newline to cut before.
CUT = r"(?r)[^\s\x1c-\x1f][ \n]"


class Files:
    """The text in files: iterate to read it from the beginning, as often as you like.

    paths       files; folders, which stand for all *.txt inside; and - for standard input

    Errors      OSError for a file that cannot be read; ValueError for one without text
    """

    def __init__(self, paths: Iterable[Path | str]):
        self.given = [Path(path) for path in paths]
        self.paths = [path for given in self.given for path in inside(given)]
        self.copies: dict[Path, Any] = {}  # of what can be read only once

    @property
    def name(self) -> str:
        """Return what to call the text in figures and on the run's first line."""
        first, *others = self.given
        name = spoken(first) if first == STDIN else first.name or first.resolve().name
        if not others and self.paths == self.given:
            return name
        return f"{name} and {len(others)} more" if others else f"{name} ({len(self.paths)} files)"

    def stamps(self) -> list | None:
        """Return what tells that the files have not changed: path, size, time; None if unknown."""
        if not all(path != STDIN and path.is_file() for path in self.paths):
            return None
        stats = [(path, path.stat()) for path in self.paths]
        return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]

    def size(self) -> int | None:
        """Return about how many characters there are, if that is easy to know."""
        stamps = self.stamps()
        if stamps is None or any(path.suffix.lower() in (".gz", ".jsonl") for path in self.paths):
            return None
        return sum(size for _, size, _ in stamps)

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of the text.

        A piece ends before a space or newline that follows another character.  GPT-2's pattern cuts
        there too (see PATTERN in bpe.py), whatever follows, so the pieces have the same tokens as
        the whole.
        """
        return recut(join(text for path in self.paths for text in self.texts(path)))

    def texts(self, path: Path) -> Iterator[str | None]:
        """Yield the text of a file a part at a time, with None at the end of each document."""
        name = spoken(path)
        try:
            with self.open(path) as raw:
                file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw
                if path.name.lower().endswith((".jsonl", ".jsonl.gz")):
                    lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
                    for i, line in enumerate(lines, 1):
                        if len(line) > LONGEST_LINE:
                            raise ValueError(
                                f"line {i} of {name} has more than {LONGEST_LINE:,} bytes: "
                                "divide its text among several lines"
                            )
                        if line.strip():
                            yield from (text_of_line(line, f"line {i} of {name}"), None)
                else:
                    yield from decoded(file, name)
                    yield None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{name} is a damaged gzip file: {error}") from error
        except OSError as error:
            raise unreadable(path, error) from error

    def open(self, path: Path) -> io.BufferedReader:
        """Open a file to read bytes.  A pipe is copied first, to be read more than once."""
        if path != STDIN and (path.is_file() or not path.exists()):
            return io.BufferedReader(NonBlocking(open_regular(path)[0]))
        if path not in self.copies:
            self.copies[path] = copy_of_pipe(path)
            weakref.finalize(self, self.copies[path].close)
        self.copies[path].seek(0)
        return open(os.dup(self.copies[path].fileno()), "rb")

    def __getstate__(self):
        """For the other ranks, which do not read the text again."""
        return vars(self) | {"copies": {}}


class NonBlocking(io.FileIO):
    """A file that was opened with O_NONBLOCK: what would be waited for cannot be read.

    /proc/kmsg is one that says it is a regular file.
    """

    def readinto(self, buffer):
        n = super().readinto(buffer)
        if n is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return n


def spoken(path):
    """Return how a line calls a file."""
    return "standard input" if path == STDIN else str(path)


def unreadable(path, error):
    """Return the error that says why a file cannot be read."""
    why = error.strerror or error
    fault = f"cannot read {spoken(path)}: {why}; give the path of a text file"
    return type(error)(fault)


def inside(path):
    """Return the files that a path stands for: all *.txt in a folder, in the order of names."""
    try:
        if not path.is_dir():
            return [path]
        files = sorted(texts_below(path))
    except OSError as error:
        raise unreadable(error.filename or path, error) from error
    if not files:
        raise ValueError(f"the folder {path} has no file *.txt; give the path of a text file")
    return files


def texts_below(path):
    """Yield the files *.txt in a folder and below it, without hidden ones; OSError if one of the
    folders cannot be read.
    """

    def stop(error):
        raise error

    for folder, folders, names in os.walk(path, onerror=stop):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in names:
            file = Path(folder, name)
            if file.suffix.lower() == ".txt" and name[0] != "." and file.is_file():
                yield file


def copy_of_pipe(path):
    """Copy what comes out of a pipe into a temporary file, which is gone once it is closed."""
    if path == STDIN and sys.stdin is None:
        raise ValueError("standard input is closed; give the path of a text file")
    descriptor, first = (sys.stdin.fileno(), b"") if path == STDIN else open_pipe(path)
    copy = tempfile.TemporaryFile()
    with open(descriptor, "rb", closefd=path != STDIN) as pipe:
        copy.write(first)
        shutil.copyfileobj(pipe, copy)
    copy.flush()
    return copy


def open_pipe(path):
    """Open a pipe that has a name: (descriptor, its first bytes).  ValueError if nobody writes."""
    if not stat.S_ISFIFO(path.stat().st_mode):
        raise ValueError(f"{path} is neither a file nor a pipe; give the path of a text file")
    descriptor, end = os.open(path, os.O_RDONLY | os.O_NONBLOCK), time.monotonic() + SECONDS
    first = b""
    try:
        while not first and not select.select([descriptor], [], [], 0.02)[0]:
            if time.monotonic() > end:
                raise ValueError(f"{path} is a pipe that no program writes to")
            first = os.read(descriptor, 1)  # of which there is none until somebody opens the pipe
    except BlockingIOError:  # somebody has, and may write at any time
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.set_blocking(descriptor, True)
    return descriptor, first


def decoded(file: io.BufferedIOBase, name: str) -> Iterator[str]:
    r"""Yield the text of an open file, each line ending in \n, without a byte-order mark."""
    chunk, offset = file.read(BYTES), 0
    encoding = next((name for bom, name in BOMS.items() if chunk.startswith(bom)), "utf-8")
    inner = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(inner, translate=True)
    at_start = True
    while True:
        if encoding == "utf-8" and b"\0" in chunk:
            raise ValueError(binary(name, chunk, offset))
        pending = len(inner.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            where = offset - pending + error.start
            fault = f"{name} is not {encoding.upper()}: {error.reason} at byte {where}"
            raise ValueError(f"{fault}; save it as UTF-8") from error
        if "\0" in text:
            raise ValueError(f"{name} is binary: it has NUL; give a text file saved as UTF-8")
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        yield text
        if not chunk:
            return
        offset += len(chunk)
        chunk = file.read(BYTES)


def binary(name, chunk, offset):
    """Say that a file is no text, or that it is text in UTF-16 that does not begin by saying so."""
    sides = chunk[:1000:2], chunk[1:1000:2]
    empty = [side.count(0) / max(1, len(side)) for side in sides]
    if offset == 0 and min(empty) == 0 and max(empty) > 0.6:
        return f"{name} looks like UTF-16 without a byte-order mark; save it as UTF-8"
    where = offset + chunk.index(0)
    return f"{name} is binary: byte {where} is NUL; give a text file saved as UTF-8"


def text_of_line(line, where):
    """Return the text of a line of a .jsonl file."""
    try:
        text = json.loads(line.decode("utf-8-sig"))["text"]
        if not isinstance(text, str):
            raise TypeError("`text` is not a string")
        text.encode()  # which half a surrogate pair, "\\ud800", has not
    except KeyError as error:
        raise ValueError(f"{where} has no field `text`; give it one, or a file .txt") from error
    except (ValueError, TypeError, RecursionError) as error:
        fault = " ".join(str(error).split())
        raise ValueError(f"{where} is no JSON object with a field `text`: {fault}") from error
    return normalized(text)


def normalized(text: str) -> str:
    r"""Return a text as models learn it: each line ending in \n, without a byte-order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def join(texts: Iterable[str | None]) -> Iterator[str]:
    r"""Yield all texts; where a document ended (None) without a \n, put one before the next."""
    separator = end = ""
    for text in texts:
        if text is None:
            separator = "" if end in ("", "\n") else "\n"
        elif text:
            yield separator + text
            separator, end = "", text[-1]


def recut(texts: Iterable[str]) -> Iterator[str]:
    """Yield the same text in pieces of some PIECE characters, cut where CUT allows it."""
    import regex  # here, because it is slow to import; the (?r) in CUT finds the last place first

    parts, length, cut = [""], 0, 0  # cut: the last place for one, or 0
    for text in texts:
        for i in range(0, len(text), PIECE):
            newest = parts[-1][-1:] + text[i : i + PIECE]  # no other part is searched again
            if found := regex.search(CUT, newest):
                cut = length - len(parts[-1][-1:]) + found.end() - 1
            parts.append(text[i : i + PIECE])
            length += len(parts[-1])
            if length > LONGEST and not cut:
                cut = length
            if length >= PIECE and cut:
                whole = "".join(parts)
                yield whole[:cut]
                parts, length, cut = [whole[cut:]], length - cut, 0
    if length:
        yield "".join(parts)
