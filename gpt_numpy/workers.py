"""Gradient accumulation in space: the rows of a step shared out over threads.

Accumulation in time reads one part of a batch after another and adds up the gradients.  Here two
threads read a part each at the same time, every one with gradients of its own, which are then added
in a fixed order: the same sum.  Threads suffice, for NumPy lets go of Python's lock while it works.
"""

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from minigrad import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Workers:
    """`n` threads, each with a replica of the model: the same weights, other gradients."""

    def __init__(self, model: nn.Module, n: int):
        self.replicas = [model, *(replica(model) for _ in range(n - 1))]
        self.pool = ThreadPoolExecutor(n)
        self.blas = ThreadpoolController()
        self.blas_threads = max(1, (os.cpu_count() or 1) // n)  # for each worker's matrix products

    def share_out(self, work: Callable[[nn.Module, int, int], Tensor], n_rows: int) -> Tensor:
        """Run work(replica, first, last) on every worker, for its share of n_rows rows.

        Returns the sum of what they return; the sum of their gradients is left in the model.  An
        error in one of them is raised here.
        """
        n = len(self.replicas)
        cuts = [n_rows * i // n for i in range(n + 1)]
        shares = [s for s in zip(self.replicas, cuts, cuts[1:], strict=False) if s[1] < s[2]]
        with self.blas.limit(limits=self.blas_threads):
            results = list(self.pool.map(lambda share: work(*share), shares))
        for p, *others in zip(*(r.parameters() for r in self.replicas), strict=True):
            for other in others:
                if other.grad is not None:
                    p.grad += other.grad
                    other.grad = None
        return sum(results[1:], results[0])


def replica(module: M) -> M:
    """A module that computes with the very weights of `module`, and has gradients of its own."""
    parameters = {id(p): Tensor(p.data, requires_grad=True) for p in module.parameters()}
    return copy.deepcopy(module, parameters)  # which takes what it finds there for copied already
