"""NCCL without GPUs: MPI sums the arrays of the fake, among the ranks that mpirun has started.

It checks what NCCL demands: one id for all ranks, a GPU for each of them, and buffers of the size
that is told.
"""

import os
import platform

import numpy as np

import fake_cupy

available = True
NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 7, 8
DTYPES = {NCCL_FLOAT32: np.dtype("float32"), NCCL_FLOAT64: np.dtype("float64")}


class NcclError(RuntimeError):
    """Raised where NCCL reports a failure."""


def get_unique_id():
    return os.urandom(128)


class NcclCommunicator:
    def __init__(self, ndev, commId, rank):
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        assert (rank, ndev) == (self._comm.rank, self._comm.size)
        assert len({*self._comm.allgather(commId)}) == 1, "NCCL would wait for ever"
        device = fake_cupy.cuda.Device(fake_cupy.cuda.runtime.getDevice())
        gpu = platform.node(), device.pci_bus_id
        if len({*self._comm.allgather(gpu)}) < ndev:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        assert op == NCCL_SUM and stream == fake_cupy.cuda.get_current_stream().ptr
        size = count * DTYPES[datatype].itemsize
        source, target = (
            fake_cupy._memory_at(address, size).view(DTYPES[datatype])
            for address in (sendbuf, recvbuf)
        )
        total = np.empty_like(source)
        self._comm.Allreduce(source, total)
        target[...] = total
