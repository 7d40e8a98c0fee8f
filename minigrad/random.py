"""Randomness as a pure function of (seed, step, place).

A stored generator has a history: to repeat step 900 one must have drawn everything before it.
Philox is a counter instead: it scrambles (key, counter) into random bits, so any number can be had
at any time, in any order, by whoever computes that part (Salmon et al. 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3").  Here Philox's key is (seed, step) and its counter (0, layer, row,
use).  Ours, (seed, step, layer, row), names a place: `layer` tells the draws of one step apart, for
every layer of a network that draws has a number of its own.  A draw without a key takes the running
one of its thread, and `layer` goes up by one.
"""

import contextlib
import math
import threading

import numpy as np

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


def dropout_mask(x, p, key=None):
    """A mask like x (B, ...): 0 with probability p, else 1/(1 − p).

    Row b keeps its entry i where the 32-bit integer i of Philox at (seed, step, layer, row + b) is
    at least p·2³²; so a row's mask does not depend on which other rows it is computed with.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {p}")
    seed, step, layer, row = key or next_key()
    size = math.prod(x.shape[1:])
    words = np.empty((len(x), size), np.uint32)
    for b in range(len(x)):
        raw = philox((seed, step, layer, row + b), MASK).random_raw((size + 1) // 2)
        words[b] = raw.view(np.uint32)[:size]
    mask = (words >= round(p * 2**32)).astype(x.dtype)
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
