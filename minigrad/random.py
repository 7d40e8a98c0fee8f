"""Randomness as a pure function of (seed, step, place).

A stored generator has a history: to repeat step 900 one must have drawn everything before it.
Philox is a counter instead: it scrambles (key, counter) into random bits, so any number can be had
at any time, in any order, by whoever computes that part (Salmon et al. 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3").  Here Philox's key is (seed, step) and its counter (0, layer, row,
use), whose 0 counts up as numbers are drawn.  Ours, (seed, step, layer, row), names a place:
`layer` tells the draws of one step apart, for every layer of a network that draws has a number of
its own.  A draw without a key takes the running one of its thread, and `layer` goes up by one.
"""

import contextlib
import math
import threading

import numpy as np

from minigrad.device import CPU, array_module, device_of, launch

MASK, BATCH, WEIGHT, SAMPLE = range(4)  # uses, so that no two of them share their bits


class _Place(threading.local):
    seed = step = layer = row = 0


_place = _Place()


def manual_seed(seed):
    """Start over: what is drawn from now on in this thread depends on `seed` alone."""
    _place.seed, _place.step, _place.layer, _place.row = check_seed(seed), 0, 0, 0


@contextlib.contextmanager
def at(seed, step, row=0):
    """Draw as step `step` of the run `seed`, from row `row` of that step's whole batch on."""
    before = vars(_place).copy()
    _place.seed, _place.step, _place.layer, _place.row = check_seed(seed), step, 0, row
    try:
        yield
    finally:
        vars(_place).clear()
        vars(_place).update(before)


def next_key():
    """The running place as a key (seed, step, layer, row); the layer then counts on."""
    key = (_place.seed, _place.step, _place.layer, _place.row)
    _place.layer += 1
    return key


def check_seed(seed):
    """`seed`, or ValueError: Philox takes 64 bits."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"the seed must be from 0 to 2^64 - 1, not {seed}")
    return seed


def philox(key, use):
    """NumPy's Philox generator at a place: key (seed, step, layer, row)."""
    seed, step, layer, row = key
    return np.random.Philox(
        key=np.array([seed, step], np.uint64), counter=np.array([0, layer, row, use], np.uint64)
    )


def kept(n_rows, size, p, key):
    """Which of the entries (n_rows, size) dropout keeps, at random: each with probability 1 − p.

    Row b keeps its entry i where the 32-bit integer i of Philox at (seed, step, layer, row + b) is
    at least p·2³²; so what a row keeps does not depend on which other rows come with it.
    """
    seed, step, layer, row = key
    words = np.empty((n_rows, size), np.uint32)
    for b in range(n_rows):
        # 64 bits at a time: two integers
        raw = philox((seed, step, layer, row + b), MASK).random_raw((size + 1) // 2)
        words[b] = raw.view(np.uint32)[:size]
    return words >= round(p * 2**32)


def kept_on_gpu(xp, n_rows, size, p, key):
    """kept() on the GPU, by kernels/dropout_keep.cu, so that no mask need be copied there."""
    keep = xp.empty((n_rows, size), bool)
    numbers = (n_rows, size, round(p * 2**32), *key, MASK)
    n_threads = n_rows * -(-size // 8)  # each decides on 8 entries of a row
    launch("dropout_keep", n_threads, keep, *map(np.uint64, numbers))
    return keep


def dropout_mask(x, p, key=None):
    """A mask like x (B, ...): 0 with probability p, else 1/(1 − p), the same on every device."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {p}")
    which = len(x), math.prod(x.shape[1:]), p, key or next_key()
    keep = kept(*which) if device_of(x) == CPU else kept_on_gpu(array_module(x), *which)
    mask = keep.astype(x.dtype)
    mask /= 1 - p
    return mask.reshape(x.shape)


def normal(shape, std):
    """float32 numbers of a normal distribution around 0, for initial weights."""
    draw = np.random.Generator(philox(next_key(), WEIGHT)).standard_normal(shape)
    return (std * draw).astype(np.float32)


def uniform(shape, bound):
    """float32 numbers spread evenly from −bound to bound, for initial weights."""
    draw = np.random.Generator(philox(next_key(), WEIGHT)).uniform(-bound, bound, shape)
    return draw.astype(np.float32)
