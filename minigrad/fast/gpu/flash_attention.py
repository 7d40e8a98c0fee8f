"""Flash attention: softmax(S) v, a tile at a time."""

import math

import numpy as np

from minigrad.backend import array_module
from minigrad.fast.gpu.launch import MOST_BLOCKS, Strided, contiguous, launch
from minigrad.fast.gpu.masks import draw

THREADS = 128  # of a block
LONGEST = 128  # entries of a query


def tile(D):
    """Return how many queries, or keys, of D entries are a tile: R in flash_attention.cu."""
    return 64 if D <= 64 else 32


def takes(q, k, v, causal):
    """Return whether the kernels compute attention for these arrays."""
    if not (q.dtype == k.dtype == v.dtype == np.float32 and q.ndim == k.ndim == 4):
        return False
    (B, H, T, D), N = q.shape, k.shape[2]
    if k.shape != (B, H, N, D) or k.shape != v.shape or N == 0 or (causal and N < T):
        return False
    return 0 < D <= LONGEST and D % 4 == 0 and B <= MOST_BLOCKS[1]


def flash_attention(q, k, v, causal, dropout, key):
    """Return (out, backward) of ops.attention.  The layout of out, dq, dk and dv is (B, T, H, D)."""
    (B, H, T, D), N = q.shape, k.shape[2]
    xp, R = array_module(q), tile(D)
    query_tiles, key_tiles = -(-T // R), -(-N // R)
    q, k, v = map(readable, (q, k, v))
    scale = 1 / math.sqrt(D)
    sizes = np.int32(T), np.int32(N), np.int32(N - T if causal else N), np.float32(scale / LN2)
    kept, drawn = None, (None, np.uint64(0), np.uint64(0), np.uint64(0))
    if dropout != 0:
        kept = xp.empty((B, H, query_tiles * R, key_tiles * R // 32), np.uint32)
        drawn = draw(q, dropout, key)
    rescale = np.float32(1 / (1 - dropout))
    words = np.int32(key_tiles * R // 32)

    def run(kernel, n_tiles, *arguments):
        launch(kernel, (H, B, n_tiles), THREADS, *strided(q), *strided(k), *strided(v), *arguments,
               options=(f"-DD={D}",))  # fmt: skip

    out, lse = empty(xp, q.shape), xp.empty((B, H, query_tiles * R), np.float32)
    run("flash_forward", query_tiles, Strided(out), lse, *sizes, kept, words, *drawn, rescale)

    def backward(dout):
        dout = readable(dout)
        dq, dk, dv = (empty(xp, x.shape) for x in (q, k, v))
        delta = xp.empty(lse.shape, np.float32)
        rest = *sizes, np.float32(scale), kept, words, rescale
        run("flash_backward_query", query_tiles, *strided(dout), Strided(out), lse, delta,
            Strided(dq), *rest)  # fmt: skip
        run("flash_backward_key", key_tiles, *strided(dout), lse, delta, Strided(dk), Strided(dv),
            *rest)  # fmt: skip
        return dq, dk, dv

    return out, backward


LN2 = math.log(2)


def readable(x):
    """Return `x` as the kernels read it, 16 bytes at a time: itself if its layout allows, or a copy."""
    *steps, step = x.strides
    fits = step == 4 and not any(s % 16 for s in steps) and x.data.ptr % 16 == 0
    return x if fits else contiguous(x)


def strided(x):
    """Return the arguments for x (B, H, n, D): x and the steps in b, h and n, in entries."""
    return Strided(x), *(np.int64(step // x.dtype.itemsize) for step in x.strides[:3])


def empty(xp, shape):
    """Return an array (B, H, n, D) that lies in memory as (B, n, H, D): heads are joined for free."""
    B, H, n, D = shape
    return xp.empty((B, n, H, D), np.float32).transpose(0, 2, 1, 3)
