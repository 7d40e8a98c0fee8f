"""Passes over arrays that the twins have in common."""

import numpy as np

from minigrad.backend import CPU, array_module, device_of

CHUNK = 1 << 16  # entries: a few arrays of this length fit into a processor's cache
BLOCK, FEW = 256, 1024  # rows: so many, or fewer than FEW in all, are added up in float32


def chunks(array, start=0, stop=None):
    """Return slices that together cover array[start:stop], for formulas with many passes.

    On a CPU each is short enough to stay in the cache from pass to pass.  On a GPU every pass is a
    kernel launch, so one slice covers all entries.
    """
    stop = len(array) if stop is None else stop
    if device_of(array) != CPU:
        return [slice(start, stop)] if stop > start else []
    return [slice(i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]


def pieces(x):
    """Return x (N,) as a list of slices that chunks() gives, or x itself where it is short."""
    return [x] if len(x) <= CHUNK else [x[chunk] for chunk in chunks(x)]


def vecdot(x, y):
    """Return Σ x ⊙ y along the last axis; NumPy can do it without an array for x ⊙ y."""
    return np.vecdot(x, y) if device_of(x) == CPU else (x * y).sum(-1)


def sum_of_rows(x):
    """Return Σ over the rows of x (N, C), as a product with ones: x.sum(0) takes twice as long.

    The product adds up in the dtype of x, so of many rows only a BLOCK at a time.  The totals of
    the blocks are added up in float64.
    """
    ones = array_module(x).ones(min(len(x), FEW), x.dtype)
    if len(x) <= FEW:
        return ones @ x
    n_blocks = len(x) // BLOCK
    n = n_blocks * BLOCK
    totals = ones[:BLOCK] @ x[:n].reshape(n_blocks, BLOCK, x.shape[1])  # (n_blocks, C)
    rest = ones[: len(x) - n] @ x[n:]
    return (totals.sum(0, dtype="float64") + rest).astype(x.dtype)


def same_float_dtype(*arrays):
    """Return whether arrays have one floating-point dtype.  None among them does not count."""
    dtype = arrays[0].dtype
    for x in arrays:
        if x is not None and x.dtype != dtype:
            return False
    return dtype.kind == "f"


def transposed(x):
    """Return the transpose of every matrix, as a copy: a view halves the speed of a product."""
    return array_module(x).ascontiguousarray(x.swapaxes(-1, -2))
