"""The training step as a CUDA graph: the kernels of a step are recorded once, and then replayed.

On a GPU a step is some hundred kernels, each a few microseconds to a millisecond long.  For every
one of them Python finds the op, checks shapes, allocates memory and asks the driver to launch it,
and the next step does all of that again with the same result.  A CUDA graph is a list of launches.
While a stream captures, what is launched on it is written to the list instead of being executed;
`graph.launch()` then starts the whole list by one call.  So the step's Python code runs once, and
the GPU never waits for it.

    train.py          learning rate, batches → model → loss → backward → clip → AdamW → zero_grad
    first steps       the same, launch by launch: kernels are compiled, and tools may watch
    then once         a step in a memory pool of its own, and the same code again, captured
    every later step  upload the step's numbers, graph.launch()

The list has the address of every array, and the value of every number.  Four things follow.

1. What changes from step to step must be in an array on the GPU, whose address stays the same:
   where the windows of text begin, seed and step (from which kernels draw dropout masks), the
   learning rate and AdamW's corrections, and whether a loss that is not finite has stopped the run.
   The numbers are one array and one upload, see `Numbers`.  The text itself is on the GPU.
2. The arrays of a step must still be where they were, and must be nobody else's.  So they come from
   a pool that only the graph uses, and which lives as long as the graph.
3. What Python counts is not in the list: the steps of AdamW, and the versions of parameters.
   `FusedAdamW.plan_step` counts them in every step, replayed or not.
4. The next replay overwrites loss and norm, so what train() yields are copies.

Under a profiler or detect_anomaly(), which watch every op, a step is computed launch by launch.
Where the model, the optimizer's vectors or the precision have changed, a step is recorded again.
Evaluation and sampling are not recorded.

Source      NVIDIA, "CUDA C++ Programming Guide", section "CUDA Graphs"
"""

import contextlib
import functools
import math
import threading
import warnings
from typing import Any

import numpy as np

from gpt_numpy.config import TrainConfig
from gpt_numpy.data import check_length, window_starts
from gpt_numpy.model import GPT
from gpt_numpy.scale.gradients import accumulate_gradients
from gpt_numpy.scale.workers import zero_unused_gradients
from minigrad import Tensor, backend
from minigrad.backend import GPU
from minigrad.fast.adamw import FusedAdamW, ParamRange
from minigrad.fast.gpu.masks import fixed_key
from minigrad.fast.gpu.optim import adamw_update, hyperparameters
from minigrad.fast.gpu.windows import windows
from minigrad.internals.cublas import why_not
from minigrad.internals.hooks import this_thread
from minigrad.optim import clip_grad_norm

FIRST = 3  # steps that are computed launch by launch before one is recorded
LONGEST_TEXT = 2**28  # tokens of 4 bytes: 1 GiB of the GPU's memory


def why_no_graph(config: TrainConfig, device: str, n_ids: int, world_size: int = 1) -> str:
    """Return why steps are not recorded, in words; nothing if they are."""
    if device != GPU:
        return "the device is cpu"
    if not config.graph:
        return "--no-graph"
    if this_thread.plain:
        return "MINIGRAD_PLAIN=1"
    if world_size > 1:
        return "several ranks share a step"
    if n_ids > LONGEST_TEXT:
        return f"a text of {n_ids:,} tokens does not stay on the GPU"
    return f"cuBLAS cannot be called: {why_not()}" if why_not() else ""


class Numbers:
    """All that changes from step to step, in one array on the GPU, which the graph reads.

    key     seed and step, uint64 (2,)
    starts  where the windows of the step begin in the text, int64 (S,)
    hyper   (P, 7), the numbers of AdamW for P ranges of parameters: see fast/gpu/adamw.cu

    They are views of the array.  Python writes the numbers into memory from which the GPU copies
    while Python goes on.  There are two such places, used in turn, because the GPU may not have
    begun with the step before.
    """

    def __init__(self, n_starts: int, plan: list[ParamRange], dtype: np.dtype):
        cupy = backend.cupy
        self.n_starts, self.hyper_shape, self.dtype = n_starts, np.shape(numbers_of(plan)), dtype
        length = 2 + n_starts + -(-math.prod(self.hyper_shape) * dtype.itemsize // 8)
        self.there = cupy.empty(length, np.uint64)
        self.key, self.starts, self.hyper = self.parts(self.there)
        self.here = [pinned(length), pinned(length)]
        self.copied = [cupy.cuda.Event(disable_timing=True) for _ in self.here]

    def parts(self, array):
        """Return (key, starts, hyper), views of the array, here or there."""
        key, starts, rest = array[:2], array[2 : 2 + self.n_starts], array[2 + self.n_starts :]
        hyper = rest.view(self.dtype)[: math.prod(self.hyper_shape)]
        return key, starts.view(np.int64), hyper.reshape(self.hyper_shape)

    def upload(self, key, starts, hyper):
        """Send the numbers of a step, without waiting for the GPU to receive them."""
        self.here.reverse()
        self.copied.reverse()
        self.copied[0].synchronize()  # what was sent from here, two steps ago, has been received
        for part, numbers in zip(self.parts(self.here[0]), (key, starts, hyper), strict=True):
            part[...] = numbers
        self.there.set(self.here[0])
        self.copied[0].record()


def pinned(length: int) -> np.ndarray:
    """Return an array (length,) of uint64 in memory that the GPU can copy from by itself."""
    memory = backend.cupy.cuda.alloc_pinned_memory(8 * length)
    return np.frombuffer(memory, np.uint64, length)


def numbers_of(plan: list[ParamRange]) -> list[list[float]]:
    """Return what AdamW's kernel reads for each range of a plan."""
    return [hyperparameters(entries) for entries in plan]


@functools.cache
def stream_of(thread: int, device: int):
    """Return a stream for the graphs of a thread on a GPU; the default stream cannot capture.

    There is one, because cuBLAS keeps a workspace for every stream that it has seen.
    """
    return backend.cupy.cuda.Stream(non_blocking=True)


class StepGraph:
    """Computes training steps by replaying one.  Use as `with StepGraph(...) as graph:`"""

    graph: Any = None  # once a step is recorded: the graph, its memory and its results
    pool: Any = None
    results: Any = None
    numbers: Any = None  # a Numbers
    fixed: Any = None

    def __init__(self, model: GPT, ids: np.ndarray, config: TrainConfig, optimizer: FusedAdamW):
        check_length(ids, config.block_size)
        cupy = backend.cupy
        self.model, self.config, self.optimizer = model, config, optimizer
        self.text = cupy.asarray(np.asarray(ids, np.int32))
        self.stream = stream_of(threading.get_ident(), cupy.cuda.runtime.getDevice())
        self.event = cupy.cuda.Event(disable_timing=True)
        self.one = cupy.ones((), optimizer.flat.data.dtype)
        self.n_first = 0
        self.refused = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.forget()

    def forget(self):
        """Drop the graph and its memory, once the GPU has finished with it."""
        if self.graph is not None:
            self.event.synchronize()
        self.graph = self.results = self.pool = None

    def step(self, step: int) -> tuple[Tensor, Tensor] | None:
        """Do step number `step`; return its loss and the norm of its gradient, on the GPU.

        Returns None, and has done nothing, if the step has to be computed launch by launch.
        """
        ordinary = this_thread.recording and this_thread.hook is None and not this_thread.plain
        if self.refused or not ordinary:
            return None
        if self.n_first < FIRST:
            self.n_first += 1
            return None
        config, optimizer = self.config, self.optimizer
        plan = optimizer.plan_step([p for p in optimizer.parameters if p.requires_grad])
        starts = window_starts(
            len(self.text), config.sequences_per_step, config.block_size, config.seed, step
        )
        fixed = self.what_is_fixed(plan)
        if self.graph is None or fixed != self.fixed:
            self.forget()
            self.fixed = fixed
            self.numbers = Numbers(len(starts), plan, self.optimizer.flat.data.dtype)
        with self.own_stream():
            self.numbers.upload((config.seed, step), starts, numbers_of(plan))
            if self.graph is None:
                return self.record(plan)
            self.graph.launch()
        return copies(self.results)

    @contextlib.contextmanager
    def own_stream(self):
        """Make the graph's stream the current one.

        What is put on it comes after all that was put on the other, and before all that will be.
        """
        other = backend.cupy.cuda.get_current_stream()
        self.stream.wait_event(other.record(self.event))
        try:
            with self.stream:
                yield
        finally:
            other.wait_event(self.stream.record(self.event))

    def record(self, plan):
        """Compute a step in the graph's pool, then record the same in the same memory.

        Returns (loss, norm) of the step.  If CUDA refuses to record it, later steps are computed
        launch by launch, and a RuntimeWarning says why.
        """
        cuda = backend.cupy.cuda
        backend.cupy.get_default_memory_pool().free_all_blocks()  # which the first steps have used
        self.pool = cuda.MemoryPool()
        with cuda.using_allocator(self.pool.malloc):
            computed = self.compute(plan)
        result = copies(computed)
        del computed  # its memory is used again
        with cuda.using_allocator(self.pool.malloc):
            try:
                self.stream.begin_capture()
                try:
                    self.results = self.compute(plan)
                finally:
                    self.graph = self.stream.end_capture()
            except RuntimeError as error:
                self.graph = self.pool = None
                self.refused = True
                why = f"graph: off, because a step cannot be recorded: {error}"
                warnings.warn(why, RuntimeWarning, stacklevel=2)
        return result

    def compute(self, plan):
        """Compute the step whose numbers were uploaded; return the arrays of loss and norm."""
        config, optimizer, numbers = self.config, self.optimizer, self.numbers
        B = config.batch_size
        batches: Any = (
            tuple(map(Tensor, windows(self.text, numbers.starts[i : i + B], config.block_size)))
            for i in range(0, config.sequences_per_step, B)
        )
        with fixed_key(numbers.key):
            loss = accumulate_gradients(self.model, batches, config.tokens_per_step, one=self.one)
        zero_unused_gradients(optimizer.parameters)
        norm = clip_grad_norm(self.model.parameters(), config.grad_clip)
        optimizer.stop_unless_finite(numbers.key[1:], loss, norm)
        adamw_update(optimizer.vectors(), plan, optimizer.skips(), numbers.hyper)
        optimizer.zero_grad()
        return loss.data, norm.data

    def what_is_fixed(self, plan):
        """Return all that is in the list of launches, and that a program could change meanwhile."""
        arrays = [*self.optimizer.vectors(), *self.optimizer.flags()]
        modules = [vars(module) for _, module in self.model.named_modules()]
        attributes = [[x if is_plain(x) else id(x) for x in each.values()] for each in modules]
        ranges = [(entries.start, entries.stop) for entries in plan]
        return ranges, [id(x) for x in arrays], attributes, this_thread.precision


def is_plain(x: Any) -> bool:
    """Return whether x is a number, a text or a boolean, which has no identity of its own."""
    return isinstance(x, bool | int | float | str)


def copies(arrays) -> tuple[Tensor, Tensor]:
    """Return a copy of two arrays, as Tensors."""
    loss, norm = arrays
    return Tensor(loss.copy()), Tensor(norm.copy())
