"""Dropout in one kernel, which draws the mask as it goes."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.gpu.launch import contiguous, launch, of_dtype
from minigrad.fast.gpu.masks import THREADS, draw, grid_of_rows


@twin(ops.dropout, "gpu")
def dropout(x, p, *, training, key=None):
    """Differs    One kernel draws the mask and applies it.  The mask is kept as bits, 8 in a byte.
    Declines      numbers, evaluation, p = 0, and integers
    """
    if x.ndim == 0 or not training or p == 0 or x.dtype.kind != "f":
        return NotImplemented
    xp = array_module(x)
    drawn = draw(x, p, key)
    size, blocks = grid_of_rows(x)
    kept = xp.empty((len(x), -(-size // 8)), np.uint8)
    numbers = x.dtype.type(1 / (1 - p)), np.uint64(size), np.uint32(blocks)

    def apply(kernel, y, *arguments):
        y, out = contiguous(y), xp.empty(y.shape, y.dtype)
        grid = len(y) * blocks
        launch(kernel, grid, THREADS, y, out, *arguments, *numbers, options=of_dtype(y.dtype))
        return out

    out = apply("dropout_forward", x, kept, *drawn)
    return out, lambda dout: (apply("dropout_backward", dout, kept), None)
