"""Where arrays live: the one place where the tape and the ops learn of an array library.

An op never says `numpy`.  It asks `array_module` for the library that owns its input and computes
there, so that the day a second library joins, it joins in this file alone.
"""

import ctypes

import numpy as np

CPU = "cpu"


def array_module(x):
    """The library that owns the array `x`.  Only NumPy so far."""
    return np


def device_of(x):
    """The name of the device that holds the array `x`."""
    return CPU


def is_array(x):
    """True of an array or an array library's scalar: of anything that brings its own dtype."""
    return isinstance(x, np.ndarray | np.generic)


def as_array(x):
    """An array of `x`: arrays keep their dtype, Python's numbers and lists become float32."""
    array = np.asarray(x) if is_array(x) else np.asarray(x, dtype=np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds real numbers or booleans, not {array.dtype}")
    return array


def to_device(array, device):
    """`array` on the device of that name; ValueError where there is none."""
    if device != CPU:
        raise ValueError(f"there is no device {device!r} here: arrays live on {CPU!r}")
    return array


def to_host(array):
    """`array` as a NumPy array."""
    return array


def keep_freed_memory():
    """Have the C library keep memory that is freed, for the next arrays, where it is glibc.

    By default every large array goes back to the system when it is freed, and the next one of its
    size comes as fresh pages that must be zeroed and mapped in, at every step again.
    """
    M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD = -3, -1, -2  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library: nothing to tell it
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 1 << 26)
