"""Streams, memory pools, pinned memory and CUDA graphs of the fake.

* What is put on a stream runs at once.  A stream that captures records it instead: the function,
  the memory and the numbers, which it will have in every replay.  A replay runs the record on that
  same memory.
* A pool hands out memory that was freed on the same stream.  Freed memory is filled with NaN, at
  once and at that place of every replay.  So is memory that a graph reads and somebody else has
  freed.  An array of a graph must come from a pool of the graph's own.
* Work on two streams has an order only where a stream waits for an event of the other (or Python
  waits).  Using memory that another stream may still be using is an error.
* Pinned memory is copied some time after set() returns.  To write into it before an event says that
  it was copied is an error.
* What CuPy or CUDA refuses while capturing raises CuPy's own error, and the text of CUDA's.

It cannot show what else a driver refuses, whether memory lies where a kernel wants it, nor what
happens when two programs use the GPU.
"""

import collections
import contextlib
import itertools
import threading
from typing import Any, NamedTuple

import numpy as np


class CUDARuntimeError(RuntimeError):
    """Raised where the driver reports a failure."""


ILLEGAL = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
INVALID = (
    "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture"
)


class _Thread(threading.local):
    stream: Any = None  # the current one; None is the null stream
    allocator: Any = None  # None: memory of NumPy


_thread = _Thread()
_capturing: list["Stream"] = []
_order_matters = False  # since a stream was made: with the null stream alone everything is in order


class Node(NamedTuple):
    """Something that a graph does."""

    name: str  # "free" is no kernel: memory that may be used again
    run: Any
    memories: list["Memory"]
    n_bytes: int


class Stream:
    """A queue of work.  `clock` says up to which of their tasks it comes after other streams."""

    null: "Stream"
    _numbers = itertools.count(1)

    def __init__(self, null=False, non_blocking=False):
        global _order_matters
        _order_matters = _order_matters or not null
        self.ptr = 0 if null else next(self._numbers) << 12
        self._non_blocking, self._nodes, self._valid = non_blocking, None, True
        self._clock = collections.Counter({self.ptr: 1})

    def __enter__(self):
        self._before, _thread.stream = _thread.stream, self
        return self

    def __exit__(self, *error):
        _thread.stream = self._before

    def record(self, event=None):
        event = Event() if event is None else event
        event._clock, event._stream = self._clock.copy(), self.ptr
        return event

    def wait_event(self, event):
        self._clock |= event._clock  # the later of both

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._nodes, self._valid = [], True
        _capturing.append(self)

    def end_capture(self):
        nodes, self._nodes = self._nodes, None
        _capturing.remove(self)
        if not self._valid:
            raise CUDARuntimeError(INVALID)
        return Graph._of(nodes)

    def _use(self, name, memories):
        """Let work on this stream come after all that its memory was used for."""
        self._clock[self.ptr] += 1
        for memory in memories:
            ptr, number = memory.last
            assert not _order_matters or self._clock[ptr] >= number, (
                f"{name} uses memory that another stream may still be using: wait for its event"
            )
            memory.last = self.ptr, self._clock[self.ptr]


Stream.null = Stream(null=True)


def get_current_stream():
    return _thread.stream or Stream.null


def in_use():
    """Return whether there is more than the null stream and NumPy's memory."""
    return _order_matters or _thread.allocator is not None


def is_capturing():
    return get_current_stream()._nodes is not None


def refuse(error):
    """Raise an error while the current stream captures."""
    if is_capturing():
        raise error


def wait(ledger):
    """Wait for all work of the GPU: an error while a stream captures, which ends the capture."""
    if _capturing:
        _capturing[-1]._valid = False
        raise CUDARuntimeError(ILLEGAL)
    ledger.synchronizations += 1
    for copy in [*_in_flight]:
        copy.finish()


def submit(name, run, memories, n_bytes=0):
    """Do something on the current stream, or record it."""
    stream = get_current_stream()
    if stream._nodes is not None:
        for memory in memories:
            memory.recorded = True
        stream._nodes.append(Node(name, run, memories, n_bytes))
        return
    assert not _capturing, f"{name} is on another stream than the one that captures: it is lost"
    stream._use(name, memories)
    run()


class Event:
    """A moment of a stream."""

    def __init__(self, block=False, disable_timing=False):
        self._clock, self._stream = collections.Counter(), None

    def record(self, stream=None):
        (stream or get_current_stream()).record(self)

    def synchronize(self):
        if self._stream is not None:
            for copy in [*_in_flight]:
                if self._clock[copy.stream] >= copy.number:
                    copy.finish()


class Graph:
    """What a stream has recorded."""

    @classmethod
    def _of(cls, nodes):
        self = cls.__new__(cls)
        self._nodes = nodes
        return self

    def __init__(self):
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream "
            "capture"
        )

    def launch(self, stream=None):
        from fake_cupy import ledger

        stream = stream or get_current_stream()
        assert stream._nodes is None, "a graph in a graph is not faked"
        ledger.replays += 1
        stream._use("a graph", {m for node in self._nodes for m in node.memories})
        for node in self._nodes:
            node.run()

    def _kernels(self):
        """Return {name: how often it is launched}."""
        return collections.Counter(node.name for node in self._nodes if node.name != "free")


# ---- memory --------------------------------------------------------------------------------------

poisoning = True  # False: for a model so large that its memory should never be touched


class Memory:
    """Memory of an array: where it is, which task used it last, and the pool that it returns to."""

    __slots__ = ("__weakref__", "array", "last", "pool", "recorded", "stream")

    def __init__(self, array, pool=None, stream=0):
        self.array, self.pool, self.stream, self.recorded = array, pool, stream, False
        self.last = stream, 0  # (a stream, the number of its task)

    def free(self):
        """Take back the memory of an array that nobody has any more."""
        if self.pool is None and not self.recorded:
            return
        array = self.array
        poison(array)
        if self.pool is not None:
            if is_capturing():
                submit("free", lambda: poison(array), [])
            self.pool._free[self.stream, array.nbytes].append(self)


def poison(array):
    """Fill memory with what shows when it is read: NaN, and integers that are no index."""
    if poisoning:
        array.ravel("K").view(np.uint8).fill(255)


class MemoryPool:
    """Memory that is used again, by sizes rounded up to 512 bytes as in CuPy."""

    def __init__(self):
        self._free = collections.defaultdict(list)
        self._n_chunks = 0  # how often the driver was asked for memory

    def malloc(self, size):
        size = max(1, -(-size // 512)) * 512
        stream = get_current_stream().ptr
        if self._free[stream, size]:
            return self._free[stream, size].pop()
        self._n_chunks += 1
        memory = Memory(np.empty(size, np.uint8), self, stream)
        poison(memory.array)
        return memory


@contextlib.contextmanager
def using_allocator(allocator=None):
    before, _thread.allocator = _thread.allocator, allocator
    try:
        yield
    finally:
        _thread.allocator = before


def allocate(n_bytes):
    """Return Memory of the current pool; None outside of a pool."""
    if _thread.allocator is None:
        assert not is_capturing(), "an array of a graph is in memory that others get as well"
        return None
    return _thread.allocator(n_bytes)


class DefaultPool:
    """The pool that arrays come from otherwise: here NumPy's memory, which needs no pool."""

    def free_all_blocks(self, stream=None):
        pass


_default_pool = DefaultPool()


def get_default_memory_pool():
    return _default_pool


# ---- pinned memory -------------------------------------------------------------------------------


class PinnedMemory(bytearray):
    """Memory of the host from which the GPU copies while Python goes on."""


def alloc_pinned_memory(mem_size):
    return PinnedMemory(mem_size)


_in_flight: list["Copy"] = []


class Copy(NamedTuple):
    """A copy from pinned memory that may not have been made yet."""

    source: np.ndarray
    seen: bytes
    stream: int
    number: int

    def finish(self):
        self.check()
        _in_flight.remove(self)

    def check(self):
        same = self.source.tobytes() == self.seen
        assert same, "pinned memory was overwritten before the GPU had copied it"

    def __eq__(self, other):
        return self is other

    __hash__ = None  # type: ignore[assignment]


def upload(target, source):
    """Copy a NumPy array into one of the GPU on the current stream."""
    for copy in _in_flight:
        copy.check()
    np.copyto(target, source)
    base = source.base
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    if isinstance(base, PinnedMemory):
        stream = get_current_stream()
        _in_flight.append(Copy(source, source.tobytes(), stream.ptr, stream._clock[stream.ptr]))
