"""Which array library owns an array: NumPy on a CPU, CuPy on an NVIDIA GPU.

An op never says `numpy`.  It asks `array_module` for the library that owns its inputs and computes
there, so the same lines run on both devices: arrays carry their device, and ops follow.
"""

from typing import Any

import numpy as np

from minigrad.internals.gpu import init_gpu

CPU, GPU = "cpu", "gpu"

ARRAYS = (np.ndarray, np.generic)  # what NumPy owns

cupy: Any = None  # the library, once a GPU has been asked for and has passed its self-tests


def array_module(*arrays):
    """Return the library that owns the arrays, CuPy or NumPy.  Numbers among them do not count."""
    if cupy is None:
        return np
    return cupy if any(isinstance(x, cupy.ndarray) for x in arrays) else np


def device_of(*arrays):
    """Return the name of the device that holds the arrays, "cpu" or "gpu"."""
    return CPU if array_module(*arrays) is np else GPU


def is_array(x):
    """Return whether `x` is an array, or an array library's scalar: it brings its own dtype."""
    return isinstance(x, ARRAYS) or (cupy is not None and isinstance(x, cupy.ndarray))


def as_array(x):
    """Return `x` as an array: arrays keep their dtype, numbers and lists become float32."""
    if type(x) is np.ndarray:  # most are
        array = x
    elif is_array(x):
        array = array_module(x).asarray(x)
    else:
        if requires_grad(x):
            raise TypeError(
                "a list of Tensors would lose their gradients: F.stack([...]) joins them; for the "
                "numbers alone give [float(x) for x in ...]"
            )
        array = np.asarray(x, np.float32 if isinstance(x, int) else None)  # of any size
        array = array.astype(np.float32) if array.dtype.kind in "fiub" else array
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers or booleans, not {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def requires_grad(x):
    """Return whether `x` is a Tensor that requires a gradient, or a list that holds one."""
    if isinstance(x, list | tuple):
        return any(map(requires_grad, x))
    return getattr(x, "requires_grad", False)


def to_device(array, device):
    """Return `array` on "cpu" or "gpu": itself if it is there.  GPUUnavailable without a GPU."""
    global cupy
    if device == GPU:
        cupy = init_gpu()
        return cupy.asarray(array)
    if device != CPU:
        raise ValueError(f"there is no device {device!r}: arrays live on {CPU!r} or {GPU!r}")
    return to_numpy(array)


def to_numpy(array):
    """Return `array` as a NumPy array; one on the GPU is copied, after the GPU has finished it."""
    return array if array_module(array) is np else cupy.asnumpy(array)


def synchronize(array):
    """Wait until `array` has been computed: an op may return while the GPU is still at it."""
    if device_of(array) == GPU:
        cupy.cuda.runtime.deviceSynchronize()


def as_floats(x):
    """Return `x`; integers and booleans as float64, because a difference of them may wrap."""
    return x if x.dtype.kind == "f" else x.astype("float64")


def axis_of(x, axis):
    """Return `axis`; None for axis 0 or −1 of a number, which NumPy accepts and CuPy does not."""
    return None if x.ndim == 0 and axis in (0, -1) else axis


def accurate_sum(x, axis=None, keepdims=False):
    """Return x.sum(axis), added up in float64 where x is float32; the result has the dtype of x.

    A float32 holds 24 bits.  Once a running total has reached 2²⁴ = 16,777,216, adding 1 to it
    changes nothing, and long before that every addition loses digits.
    """
    axis = axis_of(x, axis)
    if x.dtype != "float32":
        return x.sum(axis, keepdims=keepdims)
    return x.sum(axis, dtype="float64", keepdims=keepdims).astype("float32")


def add_up(values, index, shape):
    """Return an array of that shape, 0 but for total[index] += values.

    A place that the index names twice gets both values, which `+=` alone would not do.  As in
    accurate_sum, the running totals are float64.
    """
    xp = array_module(values)
    total = xp.zeros(shape, "float64")
    xp.add.at(total, index, values)
    return total.astype(values.dtype)
