"""Dropout whose mask is drawn on the GPU, by dropout_keep.cu."""

import math

import numpy as np

from minigrad import ops, random
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.fast.gpu.launch import launch


def keep_mask(x, p, key=None):
    """Draw the mask that random.keep_mask(x, p, key) draws, bit for bit, by a kernel on the GPU."""
    keep = array_module(x).empty(x.shape, bool)
    n_rows, size = len(x), math.prod(x.shape[1:])
    numbers = (n_rows, size, round(p * 2**32), *random.check_key(p, key), random.MASK)
    n_threads = n_rows * -(-size // 8)  # each decides on 8 entries of a row
    launch("dropout_keep", n_threads, keep, *map(np.uint64, numbers))
    return keep


def dropout_mask(x, p, key=None):
    """Draw the mask that random.dropout_mask(x, p, key) draws, on the GPU."""
    mask = keep_mask(x, p, key).astype(x.dtype)
    mask /= 1 - p
    return mask


@twin(ops.dropout, "gpu")
def dropout(x, p, *, training, key=None):
    """Differs    The mask is drawn by a kernel.
    Declines      numbers, evaluation, and p = 0
    """
    if x.ndim == 0 or not training or p == 0:
        return NotImplemented
    xp = array_module(x)
    keep = keep_mask(x, p, key)
    scale = 1 / (1 - p)

    def backward(dout):
        return xp.where(keep, dout * scale, 0), None

    return xp.where(keep, x * scale, 0), backward
