"""Randomness as a pure function of (seed, step, counter).

An ordinary generator has a state: to repeat step 900 you must first draw everything before it.
Philox has none.  It scrambles (key, counter) into random bits, so any number can be drawn at any
time, in any order, by any process (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2,
3").

Philox's key is (seed, step).  Its counter is (0, layer, row, use), and the 0 counts up as numbers
are drawn.  A key in this file is (seed, step, layer, row).  `layer` distinguishes the draws of one
step: every layer of a network that draws has its own number.  A draw without a key takes the
running key of its thread, whose `layer` then goes up by one.
"""

import contextlib
import itertools
import math
import threading

import numpy as np

from minigrad.backend import device_of, to_device

MASK, BATCH, WEIGHT, SAMPLE = range(4)  # uses: no two of them share random bits


class _Counter(threading.local):
    """The running key of a thread.

    A new thread takes the last seed that manual_seed() was given.  Its layers begin at a number of
    its own, so that two threads do not draw the same numbers: thread n, in the order in which they
    first draw after manual_seed(), begins at n 2³².
    """

    first_seed = 0
    threads = itertools.count()
    step = row = 0

    def __init__(self):
        self.seed, self.layer = self.first_seed, next(self.threads) << 32


_counter = _Counter()


def manual_seed(seed):
    """Restart the running key: later draws in this thread, and in new ones, depend on `seed`."""
    _Counter.first_seed, _Counter.threads = check_seed(seed), itertools.count(1)
    _counter.seed, _counter.step, _counter.layer, _counter.row = seed, 0, 0, 0


@contextlib.contextmanager
def rng_scope(seed, step, row=0):
    """Draw as step `step` of the run `seed`, starting at row `row` of that step's whole batch."""
    before = vars(_counter).copy()
    _counter.seed, _counter.step, _counter.layer, _counter.row = check_seed(seed), step, 0, row
    try:
        yield
    finally:
        vars(_counter).clear()
        vars(_counter).update(before)


def next_key():
    """Return the running key (seed, step, layer, row), then add 1 to its layer."""
    key = (_counter.seed, _counter.step, _counter.layer, _counter.row)
    _counter.layer += 1
    return key


def check_seed(seed):
    """Return `seed`; ValueError unless it has 64 bits, as Philox needs."""
    if not isinstance(seed, int | np.integer):
        raise TypeError(f"the seed must be an integer, not {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"the seed must be from 0 to 2^64 - 1, not {seed}")
    return seed


def philox(key, use):
    """Return NumPy's Philox generator for a key (seed, step, layer, row)."""
    seed, step, layer, row = key
    return np.random.Philox(
        key=np.array([seed, step], np.uint64), counter=np.array([0, layer, row, use], np.uint64)
    )


def keep_mask(x, p, key=None):
    """Draw which entries of x (B, ...) dropout keeps: booleans, each True with probability 1 − p.

    Row b keeps its entry i if the 32-bit integer i of Philox at (seed, step, layer, row + b) is at
    least p·2³².  So what a row keeps depends neither on the other rows of the batch nor on the
    device: a mask for the GPU is drawn by NumPy and copied there (fast/gpu/dropout.py draws the
    same mask on the GPU).
    """
    seed, step, layer, row = check_key(p, key)
    size = math.prod(x.shape[1:])
    words = np.empty((len(x), size), np.uint32)
    for b in range(len(x)):
        # 64 bits at a time: two integers
        raw = philox((seed, step, layer, row + b), MASK).random_raw((size + 1) // 2)
        words[b] = raw.view(np.uint32)[:size]
    return to_device(words >= round(p * 2**32), device_of(x)).reshape(x.shape)


def check_key(p, key):
    """Return `key`, or the next one of the running counter; ValueError unless 0 ≤ p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {p}")
    return key or next_key()


def dropout_mask(x, p, key=None):
    """Draw a mask like x (B, ...): 0 with probability p, otherwise 1 / (1 − p)."""
    mask = keep_mask(x, p, key).astype(x.dtype)
    mask /= 1 - p
    return mask


def normal(shape, std):
    """Draw float32 numbers from a normal distribution around 0, for initial weights."""
    draw = np.random.Generator(philox(next_key(), WEIGHT)).standard_normal(shape)
    return (std * draw).astype(np.float32)


def uniform(shape, bound):
    """Draw float32 numbers uniformly from −bound to bound, for initial weights."""
    draw = np.random.Generator(philox(next_key(), WEIGHT)).uniform(-bound, bound, shape)
    return draw.astype(np.float32)
