"""How many roundings are between the inputs of a case and its results?  Counted while it runs.

An operation rounds its result by at most u of it: 2⁻²⁴ in float32, 2⁻¹¹ in float16, 2⁻⁵³ in
float64.  Where no later step magnifies such an error (no division by something small, nothing
steep), a result of n operations is off by n u at most, relative to the largest number on the way.
A sum of m terms, and so each entry of a matrix product, counts as m operations.  The cases are tame
in this sense.  (Higham 2002, "Accuracy and Stability of Numerical Algorithms", chapters 2 to 4.)

The count is in units of the dtype that is tested.  So an operation in a wider dtype counts as a
small fraction, and the conversion of its result back as 1: a float32 sum that is accumulated in
float64 counts as 1 and a little, however many terms it has.
"""

import functools

import numpy as np

import minigrad.ops as F
from minigrad.internals import half
from minigrad.tensor import OPS, TWINS, op

EXACT = {np.negative, np.maximum, np.minimum, np.absolute}


def unit(dtype):
    """Return u: half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2


class Counting(np.ndarray):
    """An array that counts the operations that it and its offspring go through."""

    tested = np.dtype(np.float32)  # the dtype in whose units we count
    n_operations = 0.0
    largest = 1.0  # of the finite numbers on the way, or 1

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        arrays = [plain(x) for x in inputs]
        if out is not None:
            options["out"] = tuple(plain(x) for x in out)
        result = getattr(ufunc, method)(*arrays, **options)
        computed_in = np.asarray(arrays[0] if method == "at" else result).dtype
        if ufunc not in EXACT and computed_in.kind == "f":  # integers and booleans are exact
            n = {
                "reduce": lambda: np.size(arrays[0]) // max(1, np.size(result)),
                "at": lambda: np.size(arrays[2]),
                "reduceat": lambda: len(arrays[0]),
                "__call__": lambda: np.shape(arrays[0])[-1] if is_a_product(ufunc) else 1,
            }[method]()
            count(n, computed_in)
        if method in ("at", "reduceat"):  # the total is converted to the dtype of the values next
            count_conversion(computed_in, arrays[2 if method == "at" else 0].dtype)
        return counting(result)

    def __array_function__(self, function, types, arguments, options):
        result = function(*plain(arguments), **plain(options))
        if function is np.empty_like:  # whatever was in memory is no number on the way
            return result.view(Counting)
        return counting(result)

    def astype(self, dtype, **options):
        count_conversion(self.dtype, np.dtype(dtype))
        return counting(plain(self).astype(dtype, **options))


def is_a_product(ufunc):
    """Return whether an entry of the result is a sum of products."""
    return ufunc in (np.matmul, np.vecdot)


def count(n, dtype):
    """Count n operations in a dtype."""
    Counting.n_operations += n * unit(dtype) / unit(Counting.tested)


def count_conversion(before, after):
    """Count a rounding if a float is converted to a narrower one."""
    if before.kind == after.kind == "f" and after.itemsize < before.itemsize:
        count(1, after)


def plain(x):
    """Return `x` with ordinary arrays in it."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(plain(part) for part in x)
    return x.view(np.ndarray) if isinstance(x, Counting) else x


def counting(x):
    """Return `x` with arrays in it that count, a NumPy scalar as an array of one entry."""
    if isinstance(x, list | tuple):
        return type(x)(counting(part) for part in x)
    if isinstance(x, np.floating):
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        size = abs(plain(x))
        counts = np.isfinite(size) & (size < np.finfo(x.dtype).max)  # the largest means infinity
        Counting.largest = max(Counting.largest, float(size.max(initial=0, where=counts)))
    return x.view(Counting) if isinstance(x, np.ndarray) else x


def counted(array_op):
    """Return the same op on arrays, with the operations of forward and backward counted."""

    @functools.wraps(array_op)
    def op_that_counts(*arrays, **options):
        result = array_op(*counting(arrays), **options)
        if result is NotImplemented:
            return result
        out, backward = result
        return plain(counting(out)), lambda dout: plain(counting(backward(counting(dout))))

    return op_that_counts


def narrow(x):
    """internals.half.narrow, counted: it rounds the results of an op on float16."""
    result = half_narrow(x)
    count_conversion(x.dtype, result.dtype)
    return result


half_narrow = half.narrow


def bounded(run, n_inputs, dtype, monkeypatch):
    """Return (what run() returns, how many operations led to it, by how much it may be off)."""
    Counting.n_operations, Counting.largest, Counting.tested = 0.0, 1.0, np.dtype(dtype)
    with monkeypatch.context() as patch:
        for key, twin in TWINS.items():
            patch.setitem(TWINS, key, counted(twin))
        for name in list(OPS):  # let every op count, also where a module calls it
            patch.setitem(OPS, name, OPS[name])  # to be put back
            OPS[name] = op(counted(OPS[name].__wrapped__))
            patch.setattr(F, name, OPS[name])
        patch.setattr(half, "narrow", narrow)
        results = run()
    n = Counting.n_operations + n_inputs  # gradients of one leaf are added up
    return results, n, n * unit(dtype) * Counting.largest
