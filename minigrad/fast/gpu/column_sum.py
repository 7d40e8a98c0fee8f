"""Sums over the rows of a matrix on the GPU: the gradient of whatever all rows share."""

import numpy as np

from minigrad.backend import array_module
from minigrad.fast.gpu.launch import Strided, contiguous, launch, of_dtype

ROWS, PARTS = 256, 1024  # rows that one block adds up, and how many parts at most; not measured
BLOCK = (32, 8)  # columns, and warps that take turns with the rows: as in column_sum.cu


def column_sum(x, out=None):
    """Return Σ over the rows of x (N, C), float32 or float64: accurate_sum(x, 0), (C,).

    out     (C,), of the dtype of x, to write it to
    """
    xp, (N, C) = array_module(x), x.shape
    rows = max(ROWS, -(-N // PARTS))
    n_parts = max(1, -(-N // rows))
    parts = xp.empty((n_parts, C), np.float64)
    grid = (-(-C // 32), n_parts)
    numbers = map(np.int32, (N, C, rows))
    x = contiguous(x)
    launch("column_sum_parts", grid, BLOCK, x, parts, *numbers, options=of_dtype(x.dtype))
    return total(parts, x.dtype, out)


def total(parts, dtype, out=None):
    """Return Σ over the rows of parts (P, C), float64 sums of some rows each, in the dtype.

    parts   its rows may be parts of longer ones
    out     (C,), to write it to
    """
    n_parts, C = parts.shape
    out = array_module(parts).empty(C, dtype) if out is None else out
    numbers = map(np.int32, (n_parts, C, parts.strides[0] // parts.itemsize))
    launch("column_sum_total", -(-C // 32), BLOCK, Strided(parts), out, *numbers,
           options=of_dtype(dtype))  # fmt: skip
    return out
