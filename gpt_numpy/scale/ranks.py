"""More than one machine: the same sum once more, between the processes that `mpirun` starts.

    mpirun -n 4 python examples/train_shakespeare.py

MPI (the Message Passing Interface) is the engine of clusters: it starts the program n times and
numbers the copies, its ranks.  Every rank holds the whole model and reads its rows of the step's
batch; one Allreduce adds up the gradient vectors of all and hands the sum to each.  So all of them
make the same update and, on processors that round in the same way, stay equal: no weight is sent.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gpt_numpy.scale.workers import Range, split_range
from minigrad import Tensor
from minigrad.backend import CPU, device_of

T = TypeVar("T")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # how many ranks MPICH or Open MPI have started


class Ranks:
    """Rank number `rank` of `world_size`.  Ranks() is alone, and sends nothing; see of_mpirun().

    Use as `with Ranks.of_mpirun() as ranks:`; an error that one rank does not get over then ends
    them all, and Ctrl-C is the business of the first.
    """

    def __init__(self):
        self.comm: Any = None
        self.in_place: Any = None
        self.rank, self.world_size = 0, 1
        self.rank_on_this_machine, self.on_this_machine = 0, 1  # the number there, and how many
        self.on_this_gpu = 1  # how many ranks compute on one GPU, at most: see gpus.py
        self.sum_on_gpus: Any = None  # replaces an array on the GPU by its sum over all ranks
        self.gpu_note = ""  # which ranks have which GPUs, and how they sum
        self.shared_error: BaseException | None = None  # one that every rank has

    @classmethod
    def of_mpirun(cls) -> "Ranks":
        """This process among those that mpirun started; alone, if it did not.

        ModuleNotFoundError where it did, and mpi4py cannot be imported.
        """
        ranks = cls()
        if "PMIX_RANK" in os.environ or any(os.environ.get(size, "1") != "1" for size in SIZES):
            try:
                from mpi4py import MPI
            except (ImportError, RuntimeError) as error:
                raise ModuleNotFoundError(
                    'mpirun started this, but mpi4py is missing: pip install "gpt-numpy[mpi]" '
                    f"({error})"
                ) from error
            ranks.comm, ranks.in_place = MPI.COMM_WORLD, MPI.IN_PLACE
            ranks.rank, ranks.world_size = ranks.comm.rank, ranks.comm.size
            here = ranks.comm.Split_type(MPI.COMM_TYPE_SHARED)
            ranks.rank_on_this_machine, ranks.on_this_machine = here.rank, here.size
        return ranks

    def sequences(self, n: int) -> Range:
        """Return (first, stop): this rank's part of a step's n sequences; ValueError if none."""
        if n < self.world_size:
            raise ValueError(
                f"a step of {n} sequences cannot be shared by {self.world_size} ranks: "
                "raise --batch-size or start fewer"
            )
        return split_range((0, n), self.rank, self.world_size)

    def all_reduce(self, gradient: Any, loss: Tensor) -> Tensor:
        """Replace the vector `gradient` (N,) by its sum over all ranks; return that of `loss`."""
        if self.comm is None or self.world_size == 1:
            return loss
        if device_of(gradient) == CPU:
            self.comm.Allreduce(self.in_place, gradient)
            return Tensor(self.comm.allreduce(loss.data))
        if self.sum_on_gpus is None:
            raise RuntimeError("ranks: call open_gpus(ranks) before the model moves to a GPU")
        total = loss.data.copy()
        self.sum_on_gpus(gradient)
        self.sum_on_gpus(total)
        return Tensor(total)

    def first(self, text: str) -> str:
        """The first that is not empty of the texts of all ranks, each of which calls this."""
        texts = [text] if self.comm is None else self.comm.allgather(text)
        return next(filter(None, texts), "")

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make()` returns on rank 0, on every rank; or the error with which it ends there."""
        result: T | BaseException | None = None
        if self.rank == 0:
            try:
                result = make()
            except (ValueError, OSError, SystemExit) as error:
                result = error
        if self.comm is not None:
            sent = self.comm.bcast(result)
            result = result if self.rank == 0 else sent
        if isinstance(result, BaseException):
            self.shared_error = result
            raise result
        return cast(T, result)

    def end_all(self, status: int) -> None:
        """End every rank at once, where one will not go on and the others would wait for it."""
        if self.world_size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(0.5)  # for mpirun to pass on what was said: Abort does not wait for it
            self.comm.Abort(status)

    def __enter__(self):
        if self.rank > 0:  # the first may finish the step before it ends them all
            names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
            signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
            self.handlers = {n: signal.signal(n, signal.SIG_IGN) for n in signals}
        return self

    def __exit__(self, kind, error, trace):
        if self.rank > 0:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
        if self.world_size > 1 and error is not None and error is not self.shared_error:
            traceback.print_exception(error)
            print(
                f"rank {self.rank} of {self.world_size} failed, and all end with it",
                file=sys.stderr,
            )
            self.end_all(1)
