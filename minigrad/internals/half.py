"""float16: every op computes in float32 and rounds its results once.

A float16 has 11 bits and ends at 65,504, so a sum of a thousand squares overflows or loses its
digits.  A float32 holds any product of two float16 numbers exactly, and long sums of them well.
"""

import numpy as np

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def run(array_op, arrays, options):
    """Return array_op(*arrays, **options); where float16 is among the arrays, via float32."""
    for x in arrays:
        dtype = getattr(x, "dtype", None)
        if dtype is not SINGLE and dtype == HALF:  # `is HALF` would miss arrays out of a pickle
            break
    else:
        return array_op(*arrays, **options)
    result = array_op(*map(widen, arrays), **options)
    if result is NotImplemented:
        return result
    out, backward = result

    def half_backward(dout):
        return [None if dx is None else narrow(dx) for dx in backward(widen(dout))]

    return narrow(out), half_backward


def widen(x):
    """Return a float16 array as float32, and everything else as it is."""
    return x.astype(np.float32) if getattr(x, "dtype", None) == HALF else x


def narrow(x):
    """Return a float32 array as float16, and everything else as it is."""
    return x.astype(HALF) if x.dtype == np.float32 else x
