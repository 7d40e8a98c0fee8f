"""How many roundings stand between the inputs of a case and its results?  Counted while it runs.

An operation rounds its result by at most u of it: 2⁻²⁴ in float32, 2⁻¹¹ in float16.  Where no later
step magnifies such an error (no division by something small, nothing steep), a result that n
operations lead to is off by n u at most, relative to the largest number on the way; a sum of m
terms, and so each entry of a matrix product, counts as m operations.  The cases are tame in this
sense, and the tests hold them to it.  (The theory: Higham 2002, "Accuracy and Stability of
Numerical Algorithms", chapters 2 to 4.)
"""

import functools

import numpy as np

import minigrad.ops as F
from minigrad.tensor import OPS, op

EXACT = {np.negative, np.maximum, np.equal, np.not_equal, np.greater}


def unit(dtype):
    """u: half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2


class Counting(np.ndarray):
    """An array that counts the operations that it and its offspring go through."""

    n_operations = 0
    largest = 1.0  # of the finite numbers on the way, or 1

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        arrays = [plain(x) for x in inputs]
        if out is not None:
            options["out"] = tuple(plain(x) for x in out)
        result = getattr(ufunc, method)(*arrays, **options)
        if ufunc not in EXACT:
            Counting.n_operations += {
                "reduce": lambda: np.size(arrays[0]) // max(1, np.size(result)),
                "at": lambda: np.size(arrays[2]),
                "__call__": lambda: arrays[0].shape[-1] if ufunc is np.matmul else 1,
            }[method]()
        return counting(result)

    def __array_function__(self, function, types, arguments, options):
        if function is np.einsum:
            Counting.n_operations += arguments[1].shape[-1]
        return counting(function(*plain(arguments), **plain(options)))


def plain(x):
    """`x` with ordinary arrays in it."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(plain(part) for part in x)
    return x.view(np.ndarray) if isinstance(x, Counting) else x


def counting(x):
    """`x` with arrays in it that count."""
    if isinstance(x, list | tuple):
        return type(x)(counting(part) for part in x)
    if isinstance(x, np.ndarray | np.floating) and x.dtype.kind == "f":
        finite = abs(x)[np.isfinite(x)]
        Counting.largest = max(Counting.largest, float(finite.max(initial=0)))
    return x.view(Counting) if isinstance(x, np.ndarray) else x


def counted(array_op):
    """The same op on arrays, the operations of its forward and its backward counted."""

    @functools.wraps(array_op)
    def op_that_counts(*arrays, **options):
        out, backward = array_op(*counting(arrays), **options)
        return plain(out), lambda dout: plain(backward(counting(dout)))

    return op_that_counts


def bounded(run, n_inputs, dtype, monkeypatch):
    """(what run() returns, how many operations led to it, by how much it may be off)."""
    Counting.n_operations, Counting.largest = 0, 1.0
    with monkeypatch.context() as patch:
        for name in list(OPS):  # let every op count, also where a module calls it
            patch.setitem(OPS, name, OPS[name])
            patch.setattr(F, name, op(counted(OPS[name].__wrapped__)))
        results = run()
    n = Counting.n_operations + n_inputs  # gradients of one leaf are added up
    return results, n, n * unit(dtype) * Counting.largest
