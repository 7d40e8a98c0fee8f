"""Twins: faster versions of ops and of AdamW.  Nobody needs them to understand the engine.

A twin has the signature of its op, takes the same arrays and returns the same `(out, backward)`.
It may decline an input by returning NotImplemented; then the page runs, as it does for all inputs
inside `with mg.plain():` and where the environment has MINIGRAD_PLAIN=1.  A twin takes float32 and
float64 alone (the tape converts float16), and checks no shapes beyond what it must to decline.

cpu/    NumPy, with less memory traffic      gpu/    CUDA, through CuPy; cuBLAS
flat.py, adamw.py    all parameters as one vector: AdamW(..., fused=True)
"""

import contextlib

from minigrad.internals.contexts import also_for_generators, reusable
from minigrad.internals.hooks import check_precision, this_thread
from minigrad.tensor import OPS, TWINS


def twin(op, *devices):
    """Decorate a function of arrays: on these devices it runs instead of the page of `op`."""

    def attach(function):
        name = op.__name__
        if OPS.get(name) is not op:
            raise ValueError(f"twin: {name} is no op")
        for device in devices:
            TWINS[name, device] = function
        return function

    return attach


@also_for_generators
@contextlib.contextmanager
def plain():
    """Run the pages alone, without their twins, in this thread.  Also a decorator."""
    before, this_thread.plain = this_thread.plain, True
    try:
        yield
    finally:
        this_thread.plain = before


@reusable
def precision(name):
    """Multiply float32 matrices on a GPU in "float32" or in "tf32", in this thread.

    fast/gpu/cublas.py says what they are.  Whatever is computed inside the context has its
    precision: a backward() too, wherever its forward pass was.  A CPU has float32 alone.
    """
    before, this_thread.precision = this_thread.precision, check_precision(name)
    try:
        yield
    finally:
        this_thread.precision = before
