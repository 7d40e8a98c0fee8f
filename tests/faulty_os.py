"""Stand-ins for the module `os` in gpt_numpy/folder.py: one records, another one fails.

A recording is a list of events, from which PowerCut makes what a disk may hold after the power went
at some moment:

    content   of a file, as it was at its last fsync().  Of what was written later each sector may
              be there or not (and then be zeros), and the file may have any length in between
    names     of a folder, as they were at its last fsync().  Of what happened to them later any
              part may be there, in spite of what came before it
"""

import contextlib
import itertools
import os
import random
from dataclasses import dataclass, field

SECTORS = (512, 4096)
WRITING = os.O_WRONLY | os.O_RDWR


class Os:
    """The module os, some functions of which a subclass replaces."""

    def __getattr__(self, name):
        return getattr(os, name)

    def fdopen(self, descriptor, mode):
        """A file that is written by way of this object."""
        return os.fdopen(descriptor, mode) if "r" in mode else File(self, descriptor)


@dataclass
class File:
    """An unbuffered file."""

    os: Os
    descriptor: int

    def write(self, content):
        rest = memoryview(content)
        while rest:
            rest = rest[self.os.write(self.descriptor, rest) :]
        return len(memoryview(content))

    def flush(self):
        pass

    def seek(self, *_):
        raise AssertionError("nothing in a run is written twice")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.os.close(self.descriptor)


# ---- errors --------------------------------------------------------------------------------------

CALLS = "open write fsync close replace rename unlink mkdir ftruncate fchmod stat fstat".split()


class Failing(Os):
    """Raise OSError(number) at the n-th call of all CALLS; or, if it lasts, from then on.

    A close that fails closes nevertheless, and a write that fails has written a part.
    """

    def __init__(self, n=0, number=0, lasts=False):
        self.n, self.number, self.lasts, self.n_calls = n, number, lasts, 0
        for name in CALLS:
            setattr(self, name, self.failing(name))

    def failing(self, name):
        function = getattr(os, name)

        def call(*arguments, **options):
            self.n_calls += 1
            if self.n_calls == self.n or self.lasts and 0 < self.n < self.n_calls:
                if name == "close":
                    os.close(*arguments)
                if name == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self.number, os.strerror(self.number))
            return function(*arguments, **options)

        return call


# ---- a recording ---------------------------------------------------------------------------------


class Recorder(Os):
    """Note what happens below the folder `root`, in `events`."""

    def __init__(self, root):
        self.events, self.files, self.inodes = [], {}, {}
        self.numbers = itertools.count()
        self.root = self.number_of(os.stat(root))

    def number_of(self, about, is_new=False):
        """A number for a file or a folder; the system gives those of removed files to others."""
        if is_new or about.st_ino not in self.inodes:
            self.inodes[about.st_ino] = next(self.numbers)
        return self.inodes[about.st_ino]

    def folder_of(self, path, dir_fd):
        """(number of a folder, name in it)"""
        if dir_fd is not None:
            return self.number_of(os.fstat(dir_fd)), os.fspath(path)
        parent, name = os.path.split(os.fspath(path))
        return self.number_of(os.stat(parent or ".")), name

    def note(self, kind, *facts):
        self.events.append((kind, *facts))

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        there = False
        with contextlib.suppress(FileNotFoundError):
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            there = True
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        about = os.fstat(descriptor)
        number = self.number_of(about, is_new=not there)
        if not there:
            self.note("name", *self.folder_of(path, dir_fd), number)
        self.files[descriptor] = [number, 0 if not flags & os.O_APPEND else about.st_size]
        return descriptor

    def write(self, descriptor, content):
        n = os.write(descriptor, content)
        number, at = self.files[descriptor]
        self.note("write", number, at, bytes(memoryview(content)[:n]))
        self.files[descriptor][1] += n
        return n

    def ftruncate(self, descriptor, length):
        os.ftruncate(descriptor, length)
        self.note("truncate", self.files[descriptor][0], length)

    def fsync(self, descriptor):
        os.fsync(descriptor)
        self.note("sync", self.files[descriptor][0])

    def replace(self, name, new, *, src_dir_fd=None, dst_dir_fd=None):
        number = self.number_of(os.stat(name, dir_fd=src_dir_fd, follow_symlinks=False))
        old, new_place = self.folder_of(name, src_dir_fd), self.folder_of(new, dst_dir_fd)
        os.replace(name, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.note("rename", *old, *new_place, number)

    rename = replace

    def unlink(self, name, *, dir_fd=None):
        place = self.folder_of(name, dir_fd)
        os.unlink(name, dir_fd=dir_fd)
        self.note("unname", *place)

    def mkdir(self, path, mode=0o777):
        place = self.folder_of(path, None)
        os.mkdir(path, mode)
        self.note("folder", *place, self.number_of(os.stat(path), is_new=True))


@dataclass
class Content:
    """Of a file: what is on the disk for certain, and what was written since."""

    synced: bytes = b""
    now: bytes = b""


@dataclass
class Names:
    """Of a folder: names -> numbers for certain, and what happened to them since."""

    synced: dict = field(default_factory=dict)
    since: list = field(default_factory=list)


class PowerCut:
    """What a disk may hold if the power goes before event number `n` of a recording.

    files       {number: content} and
    folders     {number: {name: number}} of what was there before it began
    """

    def __init__(self, recorder, n, files=None, folders=None):
        self.files = {k: Content(v, v) for k, v in (files or {}).items()}
        self.folders = {k: Names(dict(v)) for k, v in (folders or {}).items()}
        self.root = recorder.root
        for event in recorder.events[:n]:
            getattr(self, event[0])(*event[1:])

    def names(self, number):
        return self.folders.setdefault(number, Names())

    def name(self, folder, name, number):
        self.files.setdefault(number, Content())
        self.names(folder).since.append({name: number})

    def folder(self, folder, name, number):
        self.names(number)
        self.names(folder).since.append({name: number})

    def unname(self, folder, name):
        self.names(folder).since.append({name: None})

    def rename(self, folder, name, new_folder, new, number):
        assert folder == new_folder
        self.names(folder).since.append({name: None, new: number})

    def write(self, number, at, content):
        file = self.files[number]
        file.now = file.now[:at].ljust(at, b"\0") + content + file.now[at + len(content) :]

    def truncate(self, number, length):
        file = self.files[number]
        file.now = file.now[:length].ljust(length, b"\0")

    def sync(self, number):
        if number in self.files:
            self.files[number].synced = self.files[number].now
        else:
            names = self.names(number)
            for change in names.since:
                names.synced |= change
            names.since.clear()

    def mark(self, *_):
        """A note of the test's own."""

    def disk(self, draw: random.Random, number=None):
        """One of the disks that are possible: {name: content, or a dict for a folder}."""
        names = self.names(self.root if number is None else number)
        kept = draw.choice([0, 0.5, 0.5, 0.9, 1])
        there = dict(names.synced)
        for change in names.since:
            if draw.random() < kept:
                there |= change
        return {
            name: self.disk(draw, n) if n in self.folders else self.content(self.files[n], draw)
            for name, n in there.items()
            if n is not None
        }

    def content(self, file, draw):
        """What may be in a file."""
        way = draw.choice(["lost", "kept", "zeroed", "torn", "torn"])
        if file.now == file.synced or way == "kept":
            return file.now
        if way == "lost":
            return file.synced
        sector, mixed = draw.choice(SECTORS), b""
        old = file.synced.ljust(len(file.now), b"\0")
        for at in range(0, len(file.now), sector):
            is_written = way == "torn" and draw.random() < 0.5
            mixed += (file.now if is_written else old)[at : at + sector]
        mixed = mixed[: len(file.now)]
        shortest = min(len(file.synced), len(file.now))
        return mixed[
            : draw.choice([len(mixed), shortest, max(shortest, draw.randint(0, len(mixed)))])
        ]


def write_disk(disk, folder):
    """Write what PowerCut.disk() returned to a folder."""
    folder.mkdir()
    for name, content in disk.items():
        if isinstance(content, dict):
            write_disk(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def read_disk(recorder, folder):
    """(files, folders) for PowerCut, of what is in a folder before a recording begins."""
    number = recorder.number_of(folder.stat())
    files, folders = {}, {number: {}}
    for path in folder.iterdir():
        folders[number][path.name] = inner = recorder.number_of(path.stat())
        if path.is_dir():
            more, further = read_disk(recorder, path)
            files |= more
            folders |= further
        else:
            files[inner] = path.read_bytes()
    return files, folders
