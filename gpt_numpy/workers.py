"""Gradient accumulation in space: the rows of a step shared out over processes.

Accumulation in time reads one part of a batch after another and adds up the gradients.  Here each
process reads a part of its own at the same time; the weights lie in memory that all of them see,
every process has gradients of its own, and these are added up in a fixed order: the same sum.
(Threads do it too, but wait for each other between NumPy's calls: measured a quarter slower.)
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import wait

import numpy as np
from threadpoolctl import ThreadpoolController

from minigrad import Tensor, nn
from minigrad.device import keep_freed_memory

Work = Callable[[nn.Module, int, int, int], Tensor]  # (model, step, first row, row to stop before)
DEAD = (
    "a worker process died: is there enough memory? (Where processes are started afresh, as on "
    'macOS and Windows, a script needs the line `if __name__ == "__main__":`.)'
)


class Workers:
    """`n` processes that run work(model, step, first, stop), each for its share of `n_rows` rows.

    This process is the first of them.  Use as `with Workers(...) as workers:`; until its end change
    the weights in place only, for the others look at the same memory.
    """

    def __init__(self, model: nn.Module, work: Work, n_rows: int, n: int):
        self.model, self.work = model, work
        self.blas = ThreadpoolController()
        available = [library["num_threads"] for library in self.blas.info()]
        self.blas_threads = max(1, max(available, default=1) // n)  # for each one's products
        self.first, *others = pairwise(n_rows * i // n for i in range(n + 1))
        weights = shared_memory(model)
        for p, view in zip(model.parameters(), views(weights, model), strict=True):
            view[...] = p.data
            p.data, p.grad = view, None
        self.others = [self._start(weights, share) for share in others if share[0] < share[1]]

    def _start(self, weights, share):
        ours, theirs = multiprocessing.Pipe()
        gradients = shared_memory(self.model)
        arguments = (theirs, self.model, weights, gradients, self.work, share, self.blas_threads)
        process = multiprocessing.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return ours, process, views(gradients, self.model)

    def gradients(self, step: int) -> Tensor:
        """Leave the step's gradients in the model and return the sum of what `work` returned."""
        try:
            for pipe, _, _ in self.others:
                pipe.send(step)
            with self.blas.limit(limits=self.blas_threads):
                total = self.work(self.model, step, *self.first)
            results = [pipe.recv() for pipe, _, _ in self.others]
        except (EOFError, ConnectionError):
            raise RuntimeError(DEAD) from None
        for result, (_, _, gradients) in zip(results, self.others, strict=True):
            if isinstance(result, str):
                raise RuntimeError(f"a worker process failed:\n{result}")
            total = total + result
            for p, gradient in zip(self.model.parameters(), gradients, strict=True):
                p.grad = gradient.copy() if p.grad is None else np.add(p.grad, gradient, p.grad)
        return total

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pipe, process, _ in self.others:
            process.terminate()
            process.join()
            pipe.close()


def shared_memory(model):
    """Room for an array like every parameter of the model, which child processes share."""
    return multiprocessing.RawArray("b", sum(p.data.nbytes for p in model.parameters()))


def views(memory, model):
    """The arrays like the model's parameters, one after another in the shared memory."""
    arrays, offset = [], 0
    for p in model.parameters():
        flat = np.frombuffer(memory, p.dtype, p.data.size, offset)
        arrays.append(flat.reshape(p.shape))
        offset += flat.nbytes
    return arrays


def serve(pipe, model, weights, gradients, work, share, blas_threads):
    """What a worker process does: a step for every number that comes, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and this its way to end the process
    keep_freed_memory()
    parameters, gradients = model.parameters(), views(gradients, model)
    for p, view in zip(parameters, views(weights, model), strict=True):
        p.data = view
    parent = multiprocessing.parent_process()
    assert parent is not None, "serve runs in a child process"
    with ThreadpoolController().limit(limits=blas_threads):
        while pipe in wait([pipe, parent.sentinel]):
            try:
                step = pipe.recv()
            except EOFError:
                return
            try:
                loss = work(model, step, *share).detach()
            except Exception:
                pipe.send(traceback.format_exc())
                return
            for p, gradient in zip(parameters, gradients, strict=True):
                gradient[...] = 0 if p.grad is None else p.grad
                p.grad = None
            pipe.send(loss)
