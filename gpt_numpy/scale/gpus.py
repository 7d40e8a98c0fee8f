"""Several GPUs: one for each rank that mpirun starts, and the sum of their gradients.

    mpirun -n 4 python examples/train_shakespeare.py --device gpu

A rank is one process, and computes on one GPU of its machine.  The step is that of ranks.py.  Only
the gradient vectors are elsewhere, in the memory of the GPUs.  There are three ways to sum them:

    nccl   NVIDIA's library sends them from GPU to GPU, and Python does not wait
    mpi    MPI reads and writes the memory of the GPUs, if it was built for that ("CUDA-aware")
    host   each vector is copied to the CPU, summed there by MPI, and copied back

nccl is used where every rank has a GPU of its own and the library is installed, and host otherwise.
The environment variable GPT_NUMPY_SUM asks for one of the three.

None of this has run on real GPUs yet: tests/test_gpus.py runs it on a CuPy made of NumPy.
"""

import os
import platform
from collections import Counter
from functools import partial

from minigrad import backend
from minigrad.backend import synchronize, to_numpy
from minigrad.internals.gpu import GPUUnavailable, import_nccl, use_gpu

INSTALL = "pip install nvidia-nccl-cu12 (for CUDA 13: nvidia-nccl-cu13)"


def open_gpus(ranks):
    """Give every rank a GPU, and `ranks` a way to sum arrays that are on GPUs.

    All ranks call it, before anything else asks for a GPU.  Ranks beyond the number of GPUs share
    them.  A process alone needs no call.  If one rank has no GPU, or cannot sum in the way that is
    asked for, all of them raise GPUUnavailable or ValueError.
    """
    if ranks.world_size == 1:
        return
    node, address, failure = platform.node(), "", ""
    try:
        address = use_gpu(ranks.rank_on_this_machine)
    except GPUUnavailable as error:
        failure = f"rank {ranks.rank} on {node}: {error}"
    if failure := ranks.first(failure):
        raise GPUUnavailable(failure)
    # Numbers of GPUs would not do: a cluster may show each rank its own GPU alone, as number 0.
    n_ranks = Counter(ranks.comm.allgather((node, address)))  # GPU -> how many ranks use it
    ranks.on_this_gpu = max(n_ranks.values())
    whose = f"{ranks.world_size} ranks share {len(n_ranks)} GPU" + "s" * (len(n_ranks) > 1)
    shared = len(n_ranks) < ranks.world_size
    no_nccl = ranks.first("" if import_nccl() else f"NCCL is not installed: {INSTALL}")
    default = "host" if shared or no_nccl else "nccl"
    way = ranks.broadcast(lambda: os.environ.get("GPT_NUMPY_SUM") or default)
    if way not in WAYS:
        raise ValueError(f"GPT_NUMPY_SUM must be one of {', '.join(WAYS)}; it is {way}")
    if way == "nccl" and (shared or no_nccl):
        raise ValueError(no_nccl or f"NCCL needs a GPU for each rank, and {whose}")
    if not shared:
        whose = f"a GPU for each of {ranks.world_size} ranks"
    prepare, words = WAYS[way]
    ranks.sum_on_gpus = prepare(ranks)
    ranks.gpu_note = f"{whose}; gradients are summed {words}"


def with_nccl(ranks):
    """Return a function that replaces a contiguous array by its sum over all ranks, with NCCL."""
    nccl = import_nccl()
    same_id = ranks.broadcast(nccl.get_unique_id)  # which tells those of one run from others
    communicator = nccl.NcclCommunicator(ranks.world_size, same_id, ranks.rank)
    types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

    def sum_with_nccl(array):
        where, stream = array.data.ptr, backend.cupy.cuda.get_current_stream().ptr
        kind = types[array.dtype.name]
        communicator.allReduce(where, where, array.size, kind, nccl.NCCL_SUM, stream)

    return sum_with_nccl


def sum_with_mpi(ranks, array):
    """Replace a contiguous array by its sum over all ranks, by an MPI that reaches the GPU."""
    synchronize(array)  # MPI does not know what the GPU still computes
    ranks.comm.Allreduce(ranks.in_place, array)


def sum_on_host(ranks, array):
    """Replace an array by its sum over all ranks, by way of the CPU's memory."""
    host = to_numpy(array)
    ranks.comm.Allreduce(ranks.in_place, host)
    array.set(host)


WAYS = {  # what GPT_NUMPY_SUM may be -> (ranks -> a function that sums an array, in words)
    "nccl": (with_nccl, "by NCCL"),
    "mpi": (
        lambda ranks: partial(sum_with_mpi, ranks),
        "by MPI, which reads the memory of the GPUs",
    ),
    "host": (lambda ranks: partial(sum_on_host, ranks), "on the CPU"),
}
