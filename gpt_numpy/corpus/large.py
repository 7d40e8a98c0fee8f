"""Texts that are too large for memory: read in pieces, and their ids kept in a file.

A text of up to SMALL characters is a string.  A larger one is a LargeText.  It is read twice: once
to know its length, its characters and its fingerprint, and once to encode it.  Both results are
kept in data_folder()/texts, and the next run with the same files reads neither.  The ids there have
the smallest integer type, and only those that a batch needs come into memory.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gpt_numpy.corpus.reading import Files, recut, spoken
from gpt_numpy.files import fingerprint, open_regular, read_json, unreadable
from gpt_numpy.folder import replacing, write_whole

if TYPE_CHECKING:
    from gpt_numpy.tokenizer import Tokenizer

SMALL = 2**24  # characters
FORMAT = 3  # of the files in the cache: a number of its own for each way of making them


class Facts(NamedTuple):
    """What a run needs to know of a large text without reading it."""

    fingerprint: str  # as fingerprint() computes it of a string
    length: int  # in characters
    alphabet: str  # the characters that occur, sorted


class LargeText:
    """A part of the text in files, as a stand-in for a string: len(), slices, and pieces."""

    def __init__(self, files: Files, facts: Facts, start: int = 0, stop: int | None = None):
        self.files, self.facts = files, facts
        self.start, self.stop = start, facts.length if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "LargeText":
        start, stop, _ = part.indices(len(self))
        return LargeText(self.files, self.facts, self.start + start, self.start + stop)

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces of this part; see Files."""
        return recut(self._cut(self.files, self.start, self.stop))

    def _cut(self, pieces, start, stop):
        """Yield what the whole text, which comes in pieces, has from start to stop."""
        at = 0
        for piece in pieces:
            text = piece[max(0, start - at) : max(0, stop - at)]
            at += len(piece)
            if text:
                yield text
            if at >= stop:
                return
        raise self._changed()

    def _checked(self):
        """Yield the pieces; ValueError after the last if the whole text has another fingerprint."""
        digest = hashlib.sha256()

        def hashed():
            for piece in self._cut(self.files, 0, self.facts.length):
                digest.update(piece.encode("utf-8", "surrogatepass"))
                yield piece

        whole = hashed()
        yield from recut(self._cut(whole, self.start, self.stop))
        for _ in whole:  # what comes after this part
            pass
        if digest.hexdigest() != self.facts.fingerprint:
            raise self._changed()

    def _changed(self):
        """Forget the facts, so that the next run reads them again; return the error to raise."""
        with contextlib.suppress(OSError):
            cache_path(self.files.stamps() or [], ".json").unlink()
        return ValueError(f"{self.files.name} was changed while it was read: start again")

    def encoded_by(self, tokenizer: "Tokenizer") -> np.ndarray:
        """Return the ids of this part, an IdFile.  They are computed once, and kept."""
        about = [self.facts.fingerprint, self.start, self.stop, tokenizer.fingerprint()]
        path = cache_path(about, ".npy")
        with contextlib.suppress(OSError, ValueError):
            ids = IdFile(path)
            ids.verify()
            return cast(np.ndarray, ids)
        with cache_errors(path):
            pieces = with_progress(self._checked(), "encoding the text", len(self), len)
            n = write_ids(path, (tokenizer.encode(piece) for piece in pieces), tokenizer.vocab_size)
        return cast(np.ndarray, IdFile(path, n))


# How a file of ids begins.  np.load() evaluates what it finds there, in Python's syntax.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([|<>]u[1248])', 'fortran_order': False, "
    rb"'shape': \((\d{1,18}),\), \} *\n",
    re.DOTALL,
)
CHECKSUM = 4  # bytes
_seeking = threading.Lock()


def seek_and_read(descriptor: int, size: int, at: int) -> bytes:
    """Do what os.pread() does where there is none: Windows shares no open files by fork()."""
    with _seeking:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, size)


read_at = getattr(os, "pread", seek_and_read)


class IdFile:
    """Ids (N,) in a .npy file, as a stand-in for an array: an index or a slice reads a copy.

    The file is held open.  It ends with the checksum of the ids, 4 bytes that np.load does not
    read.  pickle sends its name.

    Errors      OSError if the file cannot be read; ValueError if it does not hold ids
    """

    ndim = 1

    def __init__(self, path: Path, length: int | None = None):
        self.path = path
        try:
            self.descriptor, size = open_regular(path)
        except OSError as error:
            raise unreadable(path, error) from error
        weakref.finalize(self, os.close, self.descriptor)
        header = HEADER.match(self._read(0, min(size, 128)).tobytes())
        if not header:
            raise ValueError(f"{path} does not hold ids: remove it")
        self.dtype, self.size = np.dtype(header[1].decode()), int(header[2])
        self.shape = (self.size,)
        self.first, self.end = header.end(), header.end() + self.size * self.dtype.itemsize
        if self.end + CHECKSUM != size:
            raise ValueError(f"{path} does not hold {self.size:,} ids: remove it")
        if length not in (None, self.size):
            raise ValueError(f"{path} has the ids of another text: remove it")

    def __len__(self):
        return self.size

    @property
    def nbytes(self):
        """0: they are in a file."""
        return 0

    def __getitem__(self, index):
        places = range(self.size)[index]
        if isinstance(places, int):
            return self[places : places + 1][0]
        if places.step != 1:
            raise IndexError(f"{self.path}: ids in a file are read one after another, without step")
        size = self.dtype.itemsize
        return self._read(self.first + places.start * size, len(places) * size).view(self.dtype)

    def _read(self, at, size):
        """Return bytes of the file, an array (size,)."""
        found, n = np.empty(size, np.uint8), 0
        while n < size:
            try:
                part = read_at(self.descriptor, min(size - n, 2**24), at + n)
            except OSError as error:
                raise unreadable(self.path, error) from error
            if not part:
                raise OSError(f"cannot read {self.path}: it became shorter while it was read")
            found[n : n + len(part)] = np.frombuffer(part, np.uint8)
            n += len(part)
        return found

    def __array__(self, dtype=None, copy=None):
        return self[:] if dtype is None else self[:].astype(dtype)

    def min(self):
        return self._survey[0]

    def max(self):
        return self._survey[1]

    def verify(self):
        """Raise ValueError if the file was damaged since it was written."""
        checksum = self._read(self.end, CHECKSUM).tobytes()
        if checksum != self._survey[2].to_bytes(CHECKSUM, "big"):
            raise ValueError(f"{self.path} is damaged: remove it")

    @cached_property
    def _survey(self):
        """The smallest id, the largest, and the checksum: all of the file is read once."""
        lows, highs, checksum = [], [], 0
        for i in range(0, len(self), 2**22):
            part = self[i : i + 2**22]
            lows.append(part.min())
            highs.append(part.max())
            checksum = zlib.crc32(part.data, checksum)
        return min(lows), max(highs), checksum

    def __reduce__(self):
        return IdFile, (self.path, len(self))


Text = str | LargeText


def text_in(files: Files) -> Text:
    """Return the text in files, as a string if it is small; ValueError if it is empty."""
    stamps = files.stamps()
    path = stamps and cache_path(stamps, ".json")
    if path and path.exists():
        with contextlib.suppress(OSError, ValueError, TypeError):
            kept = read_json(path, 2**24)
            checksum, facts = kept.pop("checksum", None), Facts(**kept)
            types = [*map(type, facts)]
            if types == [str, int, str] and checksum == checksum_of(path, facts):
                return LargeText(files, facts)
    pieces: list[str] = []
    length = 0
    for piece in files:
        pieces.append(piece)
        length += len(piece)
        if length > SMALL:
            pieces.clear()
            break
    else:
        if not length:
            raise ValueError(f"{spoken(files.given[0])} is empty; give a file with text in it")
        return "".join(pieces)
    facts = read_facts(with_progress(files, "reading the text", files.size(), len))
    if path and files.stamps() == stamps:  # otherwise the next run reads it again
        with cache_errors(path):
            kept = facts._asdict() | {"checksum": checksum_of(path, facts)}
            write_whole(path, json.dumps(kept).encode())
    return LargeText(files, facts)


def checksum_of(path: Path, facts: Facts) -> str:
    """Return the checksum of facts that are kept in a file."""
    return fingerprint(json.dumps([path.name, *facts]))


def facts_of(text: Text) -> Facts:
    """Return the fingerprint, the length and the characters of a text."""
    return read_facts([text]) if isinstance(text, str) else text.facts


def head(text: Text, n: int) -> str:
    """Return the first n characters of a text."""
    return "".join(text[:n])


def read_facts(pieces: Iterable[str]) -> Facts:
    """Read a text to its end."""
    digest, length, seen = hashlib.sha256(), 0, np.zeros(sys.maxunicode + 1, bool)
    for piece in pieces:
        digest.update(piece.encode("utf-8", "surrogatepass"))
        length += len(piece)
        seen[np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), "<u4")] = True
    return Facts(digest.hexdigest(), length, "".join(map(chr, np.flatnonzero(seen))))


def ids_of(tokenizer: "Tokenizer", text: Text) -> np.ndarray:
    """Return the ids (N,) of a text, in the smallest integer type that holds the vocabulary."""
    if isinstance(text, LargeText):
        return text.encoded_by(tokenizer)
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    parts = [tokenizer.encode(piece).astype(dtype) for piece in recut([text])]
    return np.concatenate([np.empty(0, dtype), *parts])


def write_ids(path: Path, parts: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write a .npy file of all ids, or nothing if that fails; return how many there are."""
    dtype, n, checksum = np.min_scalar_type(vocab_size - 1), 0, 0
    with replacing(path) as file:
        write_header(file, dtype, 0)  # as long as the one with the right number
        for ids in parts:
            data = ids.astype(dtype).data
            checksum = zlib.crc32(data, checksum)
            file.write(data)
            n += len(ids)
        file.write(checksum.to_bytes(CHECKSUM, "big"))
        file.seek(0)
        write_header(file, dtype, n)
    return n


def write_header(file, dtype, n):
    """Write how a .npy file with n numbers begins."""
    about: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, about)


# ---- the cache -----------------------------------------------------------------------------------


def data_folder() -> Path:
    """Where downloads are kept: the folder that GPT_NUMPY_DATA names, or the user's cache."""
    if folder := os.environ.get("GPT_NUMPY_DATA"):
        return Path(folder).expanduser()
    import pooch  # here, because a program that trains on its own ids should not wait for it

    return Path(pooch.os_cache("gpt_numpy"))


def cache_path(about: list, suffix: str) -> Path:
    """Return the file in the cache for something that `about` describes."""
    return data_folder() / "texts" / (fingerprint(json.dumps([FORMAT, about]))[:32] + suffix)


@contextlib.contextmanager
def cache_errors(path):
    """Make the cache's folder; say what to do if a file cannot be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(32 * "[0-9a-f]" + ".*.tmp"):  # of a process that was killed
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
        yield
    except OSError as error:
        if error.strerror is None:  # it says all already: the text could not be read
            raise
        raise OSError(
            f"the ids of a large text are kept in {path.parent}, which cannot be written: "
            f"{error.strerror}; name another folder in the environment variable GPT_NUMPY_DATA"
        ) from error


def with_progress(items: Iterable[Any], what: str, total: int | None, size: Any) -> Iterator[Any]:
    """Yield the items, showing in a terminal how many there were, by size(item), of `total`."""
    from rich.console import Console  # here, because it is slow to import
    from rich.progress import Progress

    hidden = sys.stderr is None or not sys.stderr.isatty()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task, size(item))
