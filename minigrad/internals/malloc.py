"""Keep freed memory: a training step allocates the arrays that the last one has freed."""

import ctypes


def tune_malloc():
    """Tell the C library to keep freed memory for the next arrays, where it is glibc.

    By default glibc returns every large array to the system when it is freed.  The next array of
    that size then gets fresh pages, which the kernel must zero and map, in every step again.
    """
    M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD = -3, -1, -2  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library, without these settings
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 1 << 26)
