"""Batches out of a text that lies on the GPU."""

import numpy as np

from minigrad.backend import array_module
from minigrad.fast.gpu.launch import launch


def windows(text, starts, length):
    """Return (x, y), int64 (B, length): the windows that begin at `starts`, and one token later.

    text    (N,) int32    starts (B,) int64, from 0 to N − length − 1: on the GPU, and not checked

    gpt_numpy.data.windows does the same on a CPU.
    """
    xp, shape = array_module(text), (len(starts), length)
    x, y = xp.empty(shape, np.int64), xp.empty(shape, np.int64)
    launch("windows", len(starts), min(256, length), text, starts, x, y, np.int32(length))
    return x, y
