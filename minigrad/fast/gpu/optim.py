"""AdamW and clipping on the GPU, over one vector of all parameters: see fast/adamw.py."""

import math

import numpy as np

from minigrad.backend import array_module
from minigrad.fast.gpu.launch import launch, of_dtype

THREADS = 256  # of a block, each for 4 entries
PARTS = 1024  # blocks of clipping at most; not measured


def hyperparameters(entries):
    """Return what the kernel reads for a ParamRange: see adamw.cu."""
    t, lr, (beta1, beta2) = entries.t, entries.lr, entries.betas
    c = math.sqrt(1 - beta2**t)
    step_size = lr * c / (1 - beta1**t)
    decay = 1 - lr * entries.weight_decay
    return [beta1, 1 - beta1, beta2, 1 - beta2, entries.eps * c, step_size, decay]


def adamw_update(vectors, plan, skip=False, hyper=None):
    """Update the weights in the ranges of `plan`, a list of ParamRanges, by one kernel for two.

    vectors     w, g, m, v of shape (N,)
    skip        False, or a boolean array of one entry: nothing happens if it is true
    hyper       (len(plan), 7), hyperparameters() of the plan on the GPU, in the dtype of w; they
                are uploaded if it is not given
    """
    xp, dtype = array_module(vectors[0]), vectors[0].dtype
    if hyper is None:
        hyper = xp.asarray(np.array([hyperparameters(r) for r in plan], dtype))
    skip, i = None if skip is False else skip, 0
    while i < len(plan):
        both = i + 1 < len(plan) and plan[i].stop == plan[i + 1].start
        start, middle, stop = plan[i].start, plan[i].stop, plan[i + both].stop
        arrays = [vector[start:stop] for vector in vectors]
        sizes = np.uint64(middle - start), np.uint64(stop - start)
        grid = -(-(stop - start) // (4 * THREADS))
        launch("adamw", grid, THREADS, *arrays, *sizes, hyper[i : i + 1 + both], skip,
               options=of_dtype(dtype))  # fmt: skip
        i += 1 + both


def clip(g, max_norm):
    """Scale the vector g (N,) down in place to the length max_norm, if it is longer.

    Returns the length before, a float64 array of one entry.
    """
    xp, n, options = array_module(g), np.uint64(g.size), of_dtype(g.dtype)
    n_parts = max(1, min(PARTS, -(-g.size // (4 * THREADS))))
    parts, norm = xp.empty(n_parts, np.float64), xp.empty((), np.float64)
    launch("square_sums", n_parts, THREADS, g, parts, n, options=options)
    numbers = n, np.int32(n_parts), np.float64(max_norm)
    launch("clip", n_parts, THREADS, g, parts, norm, *numbers, options=options)
    return norm


def stop_unless_finite(found_inf, skip, step, loss, norm):
    """Write `step` into found_inf if that is 0, and the loss or the norm is not finite.

    found_inf   (), int64
    skip        (), bool, becomes found_inf != 0
    step        a number, or uint64 (1,) on the GPU, for a CUDA graph
    """
    there = hasattr(step, "dtype") and step.ndim > 0
    numbers = (step, np.int64(0)) if there else (None, np.int64(step))
    norm = norm.astype(np.float64, copy=False)
    arrays = loss, norm, found_inf, skip
    launch("stop_unless_finite", 1, 1, *arrays, *numbers, options=of_dtype(loss.dtype))
