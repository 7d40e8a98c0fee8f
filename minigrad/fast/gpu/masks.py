"""The masks of random.keep_mask, drawn on the GPU; and the key that kernels draw with."""

import contextlib
import math
import threading
from typing import Any

import numpy as np

from minigrad import backend, random
from minigrad.backend import array_module
from minigrad.fast.gpu.launch import launch

THREADS = 256  # of a block


class _Last(threading.local):
    key: Any = None  # what device_key() was last asked for, and the array that it returned
    array: Any = None
    fixed: Any = None  # the array of fixed_key()


_last = _Last()


def device_key(seed, step):
    """Return [seed, step], two uint64 on the GPU, for kernels to read.

    They are uploaded when the first kernel of a random.rng_scope asks for them, and again only when
    they change.  The array is never written to: backward() may read it after the scope has ended.
    """
    if _last.fixed is not None:
        return _last.fixed
    key = (backend.cupy, seed, step)
    if _last.key != key:
        _last.key = key
        _last.array = backend.cupy.asarray(np.array([seed, step], np.uint64))
    return _last.array


@contextlib.contextmanager
def fixed_key(array):
    """Have kernels read seed and step from `array`: for a CUDA graph, which always reads the same.

    Before a replay the caller of the graph writes into the array.
    """
    before, _last.fixed = _last.fixed, array
    try:
        yield
    finally:
        _last.fixed = before


def draw(x, p, key):
    """Return (arguments, threads): what kernels need to know to draw a mask for x (B, ...).

    arguments   the key on the GPU, layer, row, and the threshold
    """
    seed, step, layer, row = random.check_key(p, key)
    return device_key(seed, step), np.uint64(layer), np.uint64(row), np.uint64(round(p * 2**32))


def grid_of_rows(x):
    """Return (the size of a row of x (B, ...), the blocks of a row): a thread has 8 entries."""
    size = math.prod(x.shape[1:])
    return size, -(-size // (8 * THREADS))


def keep_mask(x, p, key=None):
    """Draw the mask that random.keep_mask(x, p, key) draws, bit for bit, by a kernel on the GPU."""
    keep = array_module(x).empty(x.shape, bool)
    size, blocks = grid_of_rows(x)
    numbers = np.uint64(size), np.uint32(blocks)
    launch("dropout_keep", len(x) * blocks, THREADS, keep, *draw(x, p, key), *numbers)
    return keep


def dropout_mask(x, p, key=None):
    """Draw the mask that random.dropout_mask(x, p, key) draws, on the GPU."""
    mask = keep_mask(x, p, key).astype(x.dtype)
    mask /= 1 - p
    return mask
