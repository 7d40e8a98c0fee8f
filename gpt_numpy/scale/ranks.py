"""More than one machine: sum gradients over the processes that `mpirun` starts.

    mpirun -n 4 python examples/train_shakespeare.py

MPI (the Message Passing Interface) is the standard on clusters.  mpirun starts the program n times
and numbers the copies, called ranks.  Each rank has the whole model and reads its share of the
step's sequences.  One Allreduce sums the gradient vectors, and every rank gets the sum.  So all
ranks make the same update, and on CPUs that round in the same way their weights stay equal without
being sent.
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
    """Rank number `rank` of `world_size`.  Ranks() is a single one, which sends nothing.

    Use as `with Ranks.of_mpirun() as ranks:`; then an error that a rank does not handle ends all
    ranks, and only rank 0 handles Ctrl-C.
    """

    def __init__(self):
        self.comm: Any = None
        self.in_place: Any = None
        self.rank, self.world_size = 0, 1
        self.rank_on_this_machine, self.on_this_machine = 0, 1  # the index there, and how many
        self.on_this_gpu = 1  # how many ranks compute on one GPU, at most: see gpus.py
        self.sum_on_gpus: Any = None  # replaces an array on the GPU by its sum over all ranks
        self.gpu_note = ""  # which ranks have which GPUs, and how they sum
        self.shared_error: BaseException | None = None  # one that every rank raises

    @classmethod
    def of_mpirun(cls) -> "Ranks":
        """Return the rank of this process, or a single rank if mpirun did not start it.

        Raises ModuleNotFoundError if mpirun did, but mpi4py cannot be imported.
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
                "raise --batch-size or start fewer ranks"
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
        """Return the first text of all ranks that is not empty; every rank must call this."""
        texts = [text] if self.comm is None else self.comm.allgather(text)
        return next(filter(None, texts), "")

    def broadcast(self, make: Callable[[], T]) -> T:
        """Return what `make()` returns on rank 0, or raise its error, on every rank."""
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
        """End all ranks at once, because one has stopped and the others would wait for it."""
        if self.world_size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(0.5)  # for mpirun to pass on the output: Abort does not wait for it
            self.comm.Abort(status)

    def __enter__(self):
        if self.rank > 0:  # rank 0 may finish the step before it ends all ranks
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
                f"rank {self.rank} of {self.world_size} failed; stopping all ranks",
                file=sys.stderr,
            )
            self.end_all(1)
