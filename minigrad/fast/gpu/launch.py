"""Compile and start the CUDA kernels of this folder."""

import functools
from pathlib import Path

import numpy as np

from minigrad import backend
from minigrad.backend import GPU, device_of


@functools.cache
def kernel(name):
    """Return the CUDA function `name` of <name>.cu; CuPy compiles it when it is first called."""
    source = Path(__file__).with_name(f"{name}.cu")
    return backend.cupy.RawKernel(source.read_text(encoding="utf-8"), name)


def launch(name, n_threads, *arguments):
    """Run <name>.cu with n_threads threads.

    An argument is a NumPy scalar or a contiguous array on the GPU.  CUDA checks no types: the
    caller must pass those that the kernel declares, in its order.
    """
    for x in arguments:
        if not (isinstance(x, np.generic) or device_of(x) == GPU and x.flags.c_contiguous):
            raise TypeError(
                f"{name}: an argument must be a NumPy scalar or a contiguous array on the GPU, "
                f"not {type(x).__name__}"
            )
    if n_threads:
        n_blocks = -(-n_threads // 256)  # of 256 threads each, rounded up
        kernel(name)((n_blocks,), (256,), arguments)
