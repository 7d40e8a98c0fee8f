"""More than one machine: the same sum once more, between the processes that `mpirun` starts.

    mpirun -n 4 python examples/train_shakespeare.py

MPI (the Message Passing Interface) is the engine of clusters: it starts the program n times and
numbers the copies, its ranks.  Every rank holds the whole model and reads its rows of the step's
batch; one Allreduce adds up the gradient vectors of all and hands the sum to each.  So all of them
move their weights alike, and stay equal without ever sending a weight.
"""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from gpt_numpy.workers import share
from minigrad import Tensor

T = TypeVar("T")
STARTED_BY_MPI = ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")  # set by mpirun and srun


class Ranks:
    """Rank number `rank` of `size`; without mpirun, rank 0 of 1, and nothing is ever sent.

    Use as `with Ranks() as ranks:`; an error that one rank does not get over then ends them all.
    ModuleNotFoundError where mpirun started this and mpi4py is not installed.
    """

    def __init__(self):
        self.comm: Any = None
        self.rank, self.size, self.on_this_machine = 0, 1, 1
        if any(name in os.environ for name in STARTED_BY_MPI):
            try:
                from mpi4py import MPI
            except ImportError as error:
                raise ModuleNotFoundError(
                    'mpirun started this, but mpi4py is missing: pip install "gpt-numpy[mpi]"'
                ) from error
            self.comm, self.in_place = MPI.COMM_WORLD, MPI.IN_PLACE
            self.rank, self.size = self.comm.rank, self.comm.size
            self.on_this_machine = self.comm.Split_type(MPI.COMM_TYPE_SHARED).size

    def rows(self, n_rows: int) -> tuple[int, int]:
        """(first, stop): this rank's rows of a step's whole batch; ValueError if there are none."""
        if n_rows < self.size:
            raise ValueError(
                f"a step of {n_rows} rows cannot be shared out over {self.size} ranks: "
                "raise --batch-size or start fewer"
            )
        mine = share((0, n_rows), self.rank, self.size)
        return mine.start, mine.stop

    def add_up(self, gradient: np.ndarray, loss: Tensor) -> Tensor:
        """Replace the vector `gradient` (N,) by its sum over all ranks; return that of `loss`."""
        if self.comm is None:
            return loss
        self.comm.Allreduce(self.in_place, gradient)
        return Tensor(self.comm.allreduce(loss.data))

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make()` returns on rank 0, on every rank; or the error with which it ends there."""
        result: T | BaseException | None = None
        if self.rank == 0:
            try:
                result = make()
            except (ValueError, OSError, SystemExit) as error:
                result = error
        if self.comm is not None:
            result = self.comm.bcast(result)
        if isinstance(result, BaseException):
            raise result
        return cast(T, result)

    def end_all(self, status: int) -> None:
        """End every rank at once, where one will not go on and the others would wait for it."""
        if self.size > 1:
            self.comm.Abort(status)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.size > 1 and isinstance(error, Exception):
            traceback.print_exception(error)
            print(f"rank {self.rank} of {self.size} failed, and all end with it", file=sys.stderr)
            sys.stderr.flush()
            self.end_all(1)
