"""Compile and start the CUDA kernels of this folder."""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad import backend
from minigrad.backend import GPU, device_of

PRELUDE = "prelude.cu"  # goes in front of every other file
MOST_BLOCKS = (2**31 - 1, 2**16 - 1, 2**16 - 1)  # of a grid, by axis
MOST_THREADS = 1024  # of a block
NULL = np.uint64(0)  # None itself would leave CUDA without an argument to read
SHARED = 48 * 1024  # bytes of shared memory that a kernel gets without asking


class Strided(NamedTuple):
    """An argument whose entries lie apart in memory, for a kernel that is given its strides too."""

    array: Any


def of_dtype(dtype):
    """Return the options that compile a kernel for float32 or float64."""
    return {"float32": (), "float64": ("-DDOUBLE",)}[np.dtype(dtype).name]


def contiguous(x):
    """Return `x` without gaps in memory, of the same shape: itself if it has none, or None."""
    if x is None or x.flags.c_contiguous:
        return x
    return backend.cupy.ascontiguousarray(x)


@functools.cache
def sources():
    """Return {kernel: the CUDA source of its file, prelude included}."""
    files = {
        path.name: path.read_text(encoding="ascii") for path in Path(__file__).parent.glob("*.cu")
    }
    prelude = files.pop(PRELUDE)
    return {
        name: f'#line 1 "{PRELUDE}"\n{prelude}\n#line 1 "{file}"\n{text}'
        for file, text in files.items()
        for name in re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)", text)
    }


@functools.cache
def module(source, options):
    """Return the compiled source; CuPy keeps the result on disk, too."""
    return backend.cupy.RawModule(code=source, options=options)


@functools.cache
def kernel(name, options=()):
    """Return the CUDA function of that name, compiled with the options, such as "-DC=384"."""
    return module(sources()[name], options).get_function(name)


def launch(name, grid, block, *arguments, options=(), shared=0):
    """Run the kernel `name` in `grid` blocks of `block` threads each, without waiting for it.

    grid, block     a number, or a tuple of up to three; a grid of no blocks does nothing
    arguments       NumPy scalars, contiguous arrays on the GPU, Strided arrays, or None for NULL.
                    CUDA checks no types: they must be those that the kernel declares, in its order
    shared          bytes of dynamic shared memory

    Raises TypeError for other arguments, ValueError for a size that CUDA does not accept.
    """
    grid = grid if isinstance(grid, tuple) else (grid,)
    block = block if isinstance(block, tuple) else (block,)
    passed = tuple(pointer_or_number(name, x) for x in arguments)
    if 0 in grid:
        return
    if any(n > most for n, most in zip(grid, MOST_BLOCKS, strict=False)):
        raise ValueError(f"{name}: a grid of {grid} blocks, of {MOST_BLOCKS} at most")
    if not 0 < functools.reduce(int.__mul__, block) <= MOST_THREADS:
        raise ValueError(f"{name}: a block of {block} threads, of {MOST_THREADS} at most")
    function = kernel(name, options)
    if shared > SHARED:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, passed, shared_mem=shared)


def pointer_or_number(name, x):
    """Return an argument as CuPy wants it; TypeError if a kernel would misread it."""
    if x is None:
        return NULL
    if isinstance(x, np.generic):
        return x
    if isinstance(x, Strided):
        return x.array
    if device_of(x) == GPU and x.flags.c_contiguous:
        return x
    raise TypeError(
        f"{name}: an argument must be a NumPy scalar or a contiguous array on the GPU, "
        f"not {type(x).__name__}"
    )
