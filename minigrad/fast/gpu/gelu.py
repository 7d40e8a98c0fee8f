"""GELU in one kernel forward and one backward."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.gpu.launch import contiguous, launch, of_dtype

THREADS = 256  # of a block, each for 4 entries


@twin(ops.gelu, "gpu")
def gelu(x):
    """Differs    backward computes s again from x, which is all that is kept.
    Declines      integers
    """
    if x.dtype.kind != "f":
        return NotImplemented
    xp, n = array_module(x), np.uint64(x.size)
    x = contiguous(x)

    def run(kernel, *arrays):
        out = xp.empty(x.shape, x.dtype)
        grid = -(-x.size // (4 * THREADS))
        launch(kernel, grid, THREADS, *arrays, out, n, options=of_dtype(x.dtype))
        return out

    out = run("gelu_forward", x)
    return out, lambda dout: (run("gelu_backward", x, contiguous(dout)),)
