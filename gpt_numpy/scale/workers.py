"""A step divided among processes: each computes the gradient of some of its sequences.

Gradient accumulation reads one part of a batch after another and adds up the gradients.  Here each
process reads its own part at the same time, into its own gradient vector, and these are added up in
a fixed order: the same sum.  All vectors (weights, gradients, Adam's moments; see
minigrad/fast/flat.py) are in memory that every process sees.  So adding up and updating are shared
as well: each process takes an equal part of the vectors.

    gradients    its sequences  →  its gradient vector
    all_reduce   its part of all gradient vectors  →  the same part of the first
    update       AdamW on its part

Threads would help less: Python's global interpreter lock lets only one of them at a time run the
code between NumPy's calls (benchmarks/workers.py).

A worker ends with its parent, whatever ends the parent.  A parent that exits kills its workers
first (multiprocessing would send them SIGTERM, which they ignore, and wait).  A parent that is
killed cannot do that, so each worker has a thread that waits for the parent's end.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from threading import Thread, main_thread
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from minigrad import Tensor, nn
from minigrad.fast.adamw import FusedAdamW, ParamRange, adamw_update
from minigrad.fast.arrays import chunks
from minigrad.internals.malloc import tune_malloc

Range = tuple[int, int]  # (start, stop)
GradFn = Callable[[nn.Module, int, int, int], Tensor]  # (model, step, first sequence, stop)
DEAD = (
    "a worker process died: is there enough memory? (On macOS and Windows, and everywhere from "
    'Python 3.14 on, a script needs the line `if __name__ == "__main__":`.)'
)


class WorkerDied(RuntimeError):
    """A worker process has exited."""


def split_range(whole: Range, i: int, n: int) -> Range:
    """Return the i-th of n nearly equal parts of whole = (start, stop)."""
    start, length = whole[0], whole[1] - whole[0]
    return start + length * i // n, start + length * (i + 1) // n


def zero_unused_gradients(parameters):
    """Set the gradients of parameters that a loss did not use to 0, in the optimizer's vector."""
    for p in parameters:
        if p.grad is None and p.requires_grad:
            p.grad_buffer[...] = 0
            p.grad = p.grad_buffer


class Worker:
    """The tasks of process number `i` of `n`: one method for each, for its own part."""

    def __init__(self, i, n, model, flat, vectors, grad_fn, sequences):
        self.i, self.n, self.model, self.grad_fn = i, n, model, grad_fn
        self.flat = flat
        self.sequences = split_range(sequences, i, n)
        self.weights, self.exp_avg, self.exp_avg_sq, *self.all_gradients = vectors
        self.part = slice(*split_range((0, len(self.weights)), i, n))
        flat.bind(self.weights, self.all_gradients[i])

    def gradients(self, step):
        """Compute the gradient of this process' sequences in its vector; return their loss."""
        for p in self.flat.parameters:
            p.grad = None
        loss = self.grad_fn(self.model, step, *self.sequences)
        zero_unused_gradients(self.flat.parameters)
        return loss.detach()

    def all_reduce(self):
        """Add all gradient vectors to the first, in their order."""
        total, *others = [gradient[self.part] for gradient in self.all_gradients]
        for chunk in chunks(total):
            for other in others:
                total[chunk] += other[chunk]

    def update(self, plan, skip):
        """Update this process' part of the weights, as AdamW plans it."""
        vectors = self.weights, self.all_gradients[0], self.exp_avg, self.exp_avg_sq
        adamw_update(vectors, plan, skip, self.i, self.n)


class Workers:
    """`n` processes; each calls grad_fn(model, step, first, stop) for its part of the sequences.

    sequences   (first, stop) of the step; n is reduced to their number
    n_teams     how many such sets of processes share the cores of this machine

    This process is the first of them.  Use as `with Workers(...) as workers:`; until its end change
    the weights in place only, because the others see the same memory (which is the CPU's: a model
    on a GPU has this process alone).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: FusedAdamW,
        grad_fn: GradFn,
        sequences: Range,
        n: int,
        n_teams: int = 1,
    ):
        n = max(1, min(n, sequences[1] - sequences[0]))
        if multiprocessing.current_process().daemon:  # as in a Pool: it may have no children
            n = 1
        self.blas = ThreadpoolController()
        available = [library["num_threads"] for library in self.blas.info()]
        self.blas_threads = max([1, *available]) // (n * n_teams) or 1  # for each one's products
        flat = optimizer.flat
        flat.sync()
        weights, gradient, *moments = optimizer.vectors()
        self.others: list[tuple[Any, Any]] = []  # (pipe, process)
        self.stop = Finalize(self, kill, args=[self.others], exitpriority=100)
        if n == 1:  # nothing to share, and a GPU's vectors stay where they are
            vectors = [weights, *moments, gradient]
            self.first = Worker(0, 1, model, flat, vectors, grad_fn, sequences)
            return
        shared = [to_shared_memory(v) for v in [weights, *moments, *[gradient] * n]]
        del weights, gradient, moments  # forked processes would keep their memory
        vectors = [vector(memory) for memory in shared]
        optimizer.exp_avg, optimizer.exp_avg_sq = vectors[1:3]
        flat.unbind()  # a process that is started afresh receives the model without its arrays
        try:
            for i in range(1, n):
                task = (i, n, model, flat, shared, grad_fn, sequences)
                self.others.append(start(task, self.blas_threads))
        except BaseException:
            self.stop()
            raise
        finally:  # after an error too, because this gives the unbound parameters their arrays back
            self.first = Worker(0, n, model, flat, vectors, grad_fn, sequences)

    def gradients(self, step: int) -> Tensor:
        """Compute the step's gradients in the model; return the sum of what grad_fn returned."""
        losses = self._run("gradients", step)
        if self.others:
            self._run("all_reduce")
        return sum(losses[1:], start=losses[0])

    def update(self, plan: list[ParamRange], skip: Any = False) -> None:
        """Update the weights in all processes, as FusedAdamW.plan_step() and skips() say."""
        self._run("update", plan, skip)

    def _run(self, task, *arguments):
        """Have every process do the task for its part; return their results, in order."""
        try:
            for pipe, _ in self.others:
                pipe.send((task, arguments))
            with self.blas.limit(limits=self.blas_threads):
                results = [getattr(self.first, task)(*arguments)]
            for pipe, _ in self.others:
                results.append(pipe.recv())
                if isinstance(results[-1], Exception):
                    raise results[-1]
        except BaseException as error:
            self.stop()  # the others may still compute, and their answers would come too late
            if not main_thread().is_alive():  # the program ends; this is a daemon thread of it
                raise SystemExit from error
            if isinstance(error, EOFError | ConnectionError):
                raise WorkerDied(DEAD) from None
            raise
        return results

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def kill(processes):
    """End the other processes, whatever they are doing: they have nothing to clean up."""
    for pipe, process in processes:
        process.kill()
        process.join()
        pipe.close()


def to_shared_memory(array):
    """Copy an array (N,) to memory that processes share; return (memory, dtype), for vector()."""
    check_room(array.nbytes)
    memory = multiprocessing.RawArray("b", array.nbytes), array.dtype
    vector(memory)[...] = array
    return memory


def check_room(n_bytes):
    """Raise MemoryError if the file system that multiprocessing uses has less than n_bytes free.

    The file that it creates is sparse.  If space runs out later, the system kills the process
    without a message.
    """
    room = {}
    for folder in (lambda: "/dev/shm", tempfile.gettempdir):
        with contextlib.suppress(OSError):  # it is not there
            room[folder()] = shutil.disk_usage(folder()).free
    if n_bytes > max(room.values(), default=0):
        free = " and ".join(f"{folder} has {n:,} bytes left" for folder, n in room.items())
        raise MemoryError(f"the processes need {n_bytes:,} more bytes of shared memory, but {free}")


def vector(shared):
    """Return the array (N,) in the shared memory."""
    return np.frombuffer(*shared)


def start(task, blas_threads):
    """Start a process for a Worker; return the pipe to it and the process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=worker_main, args=(theirs, task, blas_threads), daemon=True
    )
    process.start()
    theirs.close()
    return ours, process


def worker_main(pipe, task, blas_threads):
    """Run a worker process: one task for every message, until the parent is gone."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):  # the parent's business
        if hasattr(signal, name):  # Windows does not have the last two
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Thread(target=exit_with_parent, daemon=True).start()
    tune_malloc()
    i, n, model, flat, shared, grad_fn, sequences = task
    worker = Worker(i, n, model, flat, [vector(memory) for memory in shared], grad_fn, sequences)
    with ThreadpoolController().limit(limits=blas_threads), np.errstate(all="ignore"):
        while True:
            try:
                name, arguments = pipe.recv()
                try:
                    result = getattr(worker, name)(*arguments)
                except Exception as error:
                    pipe.send(failure(error))
                    return
                pipe.send(result)
            except (EOFError, OSError):  # the parent has closed the pipe, or is gone
                return


def failure(error):
    """Return what the parent raises when a worker process has failed."""
    if isinstance(error, MemoryError):
        return MemoryError(traceback.format_exception_only(error)[-1].strip())
    if isinstance(error, OSError):  # the text's ids in a file cannot be read
        return OSError(str(error))
    return RuntimeError(f"a worker process failed:\n{traceback.format_exc()}")


def exit_with_parent():
    """End this process at once when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"
    wait([parent.sentinel])
    os._exit(1)
