"""The gradient of getitem on a GPU, the same bits in every run."""

import numpy as np

from minigrad import ops
from minigrad.backend import array_module
from minigrad.fast import twin
from minigrad.ops.shape import parts_of


def add_up(values, index, shape):
    """Return backend.add_up(values, index, shape), the same bits in whatever order the GPU adds.

    Contributions arrive in any order on a GPU, and a sum of floating-point numbers depends on the
    order.  A sum of integers does not.  So the values are rounded to whole multiples of a unit, a
    2⁶²-th of the largest possible sum.  One value that is not finite makes the whole result not
    finite, where on a CPU only its own entry is affected.
    """
    xp = array_module(values)
    if not values.size:
        return xp.zeros(shape, values.dtype)
    largest = xp.maximum(abs(values).max().astype(np.float64), 1e-280)  # not 0: we divide by it
    bits = 62 - values.size.bit_length()  # the sum of all values fits into 63
    units_per_one = 2.0**bits / largest
    whole = xp.rint(values * units_per_one).astype(np.int64)
    # As unsigned integers, because not every CuPy adds signed ones; modulo 2⁶⁴ all bits are right.
    total = xp.zeros(shape, np.uint64)
    xp.add.at(total, index, whole.view(np.uint64))
    return (total.view(np.int64) / units_per_one).astype(values.dtype)


@twin(ops.getitem, "gpu")
def getitem(x, *, index):
    """Differs    An index with arrays or lists, which may name an entry twice, uses add_up above.
    Declines      any other index
    """
    parts = parts_of(index)
    if not any(hasattr(part, "__len__") for part in parts):
        return NotImplemented
    index = tuple(part.copy() if hasattr(part, "copy") else part for part in parts)
    shape = x.shape

    def backward(dout):
        return (add_up(dout, index, shape),)

    return x[index], backward
