"""The kernels of minigrad/fast/gpu, by the NumPy functions that specify them."""

import re

import numpy as np

from minigrad import random

TYPES = {"bool": np.bool_, "uint64": np.uint64}


def parameters(code, name):
    """Return [(name, dtype, is it an array)] of the parameters that a CUDA source declares."""
    declared = re.search(rf"__global__ void {name}\((.*?)\)\s*{{", code, re.DOTALL)
    assert declared, f"there is no kernel {name} in the source"
    text = re.sub(r"//.*", "", declared[1])
    found = [re.fullmatch(r"\s*(\w+) (\*?)(\w+)\s*", part) for part in text.split(",")]
    assert all(found), f"{name}: its parameters cannot be read"
    return [(m[3], np.dtype(TYPES[m[1]]), bool(m[2])) for m in found if m]


def dropout_keep(n_threads, keep, n_rows, size, threshold, seed, step, layer, row, use):
    assert use == random.MASK and (len(keep), keep.size) == (n_rows, n_rows * size)
    assert n_threads >= n_rows * -(-size // 8), "a thread makes 8 entries"
    p = min(threshold / 2**32, 1 - 2**-53)  # below 1, also where p·2³² was rounded up to 2³²
    keep[...] = random.keep_mask(keep, p, (seed, step, layer, row))
