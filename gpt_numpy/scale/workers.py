"""Gradient accumulation in space: the rows of a step shared out over processes.

Accumulation in time reads one part of a batch after another and adds up the gradients.  Here each
process reads a part of its own at the same time, into gradients of its own, and these are added up
in a fixed order: the same sum.  All vectors (weights, gradients, Adam's moments; see
minigrad/fast/flat.py) are in memory that every process sees, so adding up gradients and updating
weights are shared out as well: each process takes an equal part of the vectors.

    gradients   its rows  →  its gradient vector
    add_up      its part of all gradient vectors  →  the same part of the first
    move        AdamW on its part

(Threads do it too, but Python's global interpreter lock lets only one at a time run what is between
NumPy's calls: benchmarks/workers.py.)
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from minigrad import Tensor, nn
from minigrad.fast.adamw import FusedAdamW, ParamRange, adamw_update
from minigrad.fast.arrays import chunks
from minigrad.internals.malloc import tune_malloc

Range = tuple[int, int]  # from the first up to but without the second
Work = Callable[[nn.Module, int, int, int], Tensor]  # (model, step, first row, row to stop before)
DEAD = (
    "a worker process died: is there enough memory? (Where Python starts processes afresh, on "
    "macOS, Windows and from 3.14 on everywhere, a script needs the line "
    '`if __name__ == "__main__":`.)'
)


class WorkerDied(RuntimeError):
    """A process that should have answered is gone."""


def share(whole: Range, i: int, n: int) -> Range:
    """The i-th of n nearly equal parts of whole = (start, stop)."""
    start, length = whole[0], whole[1] - whole[0]
    return start + length * i // n, start + length * (i + 1) // n


class Worker:
    """What process number `i` of `n` does: one method for each task, for its own part."""

    def __init__(self, i, n, model, flat, vectors, work, rows):
        self.i, self.n, self.model, self.work = i, n, model, work
        self.flat = flat
        self.rows = share(rows, i, n)
        self.weights, self.exp_avg, self.exp_avg_sq, *self.all_gradients = vectors
        self.part = slice(*share((0, len(self.weights)), i, n))
        flat.bind(self.weights, self.all_gradients[i])

    def gradients(self, step):
        """Compute the gradient of this process' rows in its vector; return what `work` returned."""
        for p in self.flat.parameters:
            p.grad = None
        loss = self.work(self.model, step, *self.rows)
        for p in self.flat.parameters:
            if p.grad is None and p.requires_grad:  # it had no part in the loss of these rows
                p.grad_buffer[...] = 0
                p.grad = p.grad_buffer
        return loss.detach()

    def add_up(self):
        """Add all gradient vectors to the first, in their order."""
        total, *others = [gradient[self.part] for gradient in self.all_gradients]
        for chunk in chunks(total):
            for other in others:
                total[chunk] += other[chunk]

    def move(self, plan, skip):
        """Update this process' part of the weights, as AdamW plans it."""
        vectors = self.weights, self.all_gradients[0], self.exp_avg, self.exp_avg_sq
        adamw_update(vectors, plan, skip, self.i, self.n)


class Workers:
    """`n` processes; work(model, step, first, stop) is done by each for its share of the rows.

    rows        (first, stop) of the step's whole batch;  n  is cut down to their number
    n_teams     how many such sets of processes share the cores of this machine

    This process is the first of them.  Use as `with Workers(...) as workers:`; until its end change
    the weights in place only, for the others look at the same memory (which is the CPU's: a model
    on a GPU has this process alone).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: FusedAdamW,
        work: Work,
        rows: Range,
        n: int,
        n_teams: int = 1,
    ):
        n = max(1, min(n, rows[1] - rows[0]))
        self.blas = ThreadpoolController()
        available = [library["num_threads"] for library in self.blas.info()]
        self.blas_threads = max([1, *available]) // (n * n_teams) or 1  # for each one's products
        flat = optimizer.flat
        flat.sync()
        weights, gradient, *moments = optimizer.vectors()
        self.others = []
        if n == 1:  # nothing to share, and a GPU's vectors stay where they are
            vectors = [weights, *moments, gradient]
            self.first = Worker(0, 1, model, flat, vectors, work, rows)
            return
        shared = [to_shared_memory(v) for v in [weights, *moments, *[gradient] * n]]
        del weights, gradient, moments  # forked processes would hold on to them
        vectors = [vector(memory) for memory in shared]
        optimizer.exp_avg, optimizer.exp_avg_sq = vectors[1:3]
        flat.unbind()  # a process that is started afresh is sent the model, not its numbers
        try:
            for i in range(1, n):
                task = (i, n, model, flat, shared, work, rows)
                self.others.append(start(task, self.blas_threads))
        except BaseException:
            self.stop()
            raise
        finally:  # after an error too: it gives the released parameters their numbers back
            self.first = Worker(0, n, model, flat, vectors, work, rows)

    def gradients(self, step: int) -> Tensor:
        """Leave the step's gradients in the model and return the sum of what `work` returned."""
        losses = self._run("gradients", step)
        if self.others:
            self._run("add_up")
        return sum(losses[1:], start=losses[0])

    def move(self, plan: list[ParamRange], skip: Any = False) -> None:
        """Update the weights in all processes, as FusedAdamW.plan_step() and skips() say."""
        self._run("move", plan, skip)

    def _run(self, task, *arguments):
        """Every process does the task, each its part; their results, in order."""
        try:
            for pipe, _ in self.others:
                pipe.send((task, arguments))
            with self.blas.limit(limits=self.blas_threads):
                results = [getattr(self.first, task)(*arguments)]
            for pipe, _ in self.others:
                results.append(pipe.recv())
                if isinstance(text := results[-1], str):  # the traceback of an error: see serve()
                    kind = MemoryError if "\nMemoryError" in text else RuntimeError
                    raise kind(f"a worker process failed:\n{text}")
        except BaseException as error:
            self.stop()  # the others may still be at work, and their answers would come too late
            if isinstance(error, EOFError | ConnectionError):
                raise WorkerDied(DEAD) from None
            raise
        return results

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End the other processes, whatever they are at: they have nothing to tidy up."""
        for pipe, process in self.others:
            process.kill()
            process.join()
            pipe.close()


def to_shared_memory(array):
    """A copy (N,) that child processes share, as (memory, dtype): vector() makes an array of it."""
    memory = multiprocessing.RawArray("b", array.nbytes), array.dtype
    vector(memory)[...] = array
    return memory


def vector(shared):
    """The array (N,) in the shared memory."""
    return np.frombuffer(*shared)


def start(task, blas_threads):
    """Start a process for a Worker; return the pipe to it and the process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs, task, blas_threads), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def serve(pipe, task, blas_threads):
    """What a worker process does: a task for every message that comes, until its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent's business: it may finish a step first
    tune_malloc()
    i, n, model, flat, shared, work, rows = task
    worker = Worker(i, n, model, flat, [vector(memory) for memory in shared], work, rows)
    parent = multiprocessing.parent_process()
    assert parent is not None, "serve runs in a child process"
    with ThreadpoolController().limit(limits=blas_threads), np.errstate(all="ignore"):
        while pipe in wait([pipe, parent.sentinel]):
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            try:
                result = getattr(worker, name)(*arguments)
            except BaseException:
                pipe.send(traceback.format_exc())
                return
            pipe.send(result)
