"""Attention by blocks of queries."""

import math

import numpy as np

from minigrad import ops, random
from minigrad.backend import CPU, array_module, device_of
from minigrad.fast import twin
from minigrad.fast.arrays import same_float_dtype, transposed, vecdot

BLOCK = 32  # queries


@twin(ops.attention, "cpu")
def attention(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """Differs    A block of queries at a time: keys after its last query are not computed and
                  masked, almost half of the work where T is long.  In place; k and v transposed
                  by copies; out and the gradients lie in memory as q, k and v do, so that heads
                  can be joined without a copy.
                  The sum Σₙ dPₙ Pₙ of one query needs no T × N product of its own:

                      Σₙ dPₙ Pₙ = Σₙ dP̃ₙ P̃ₙ = Σₙ Σ_d dout_d vₙ_d P̃ₙ = Σ_d dout_d out_d

                  (Dao et al. 2022, "FlashAttention", arXiv:2205.14135, section B.2)
    Declines      a mask, integers, a mix of dtypes, and shapes that the page refuses
    """
    return in_blocks(q, k, v, causal, mask, dropout, training, key, BLOCK, random.dropout_mask)


def in_blocks(q, k, v, causal, mask, dropout, training, key, length, dropout_mask, matmul=None):
    """Return (out, backward), computed `length` queries at a time, with products by `matmul`."""
    if (
        mask is not None
        or q.ndim != 4
        or k.ndim != 4
        or k.shape != v.shape
        or not same_float_dtype(q, k, v)
    ):
        return NotImplemented
    (B, H, T, D), N = q.shape, k.shape[2]
    if k.shape != (B, H, N, D) or D == 0 or N == 0 or (causal and N < T):
        return NotImplemented
    xp = array_module(q)
    matmul = matmul or xp.matmul
    scale = 1 / math.sqrt(D)
    scaled_q, k_T = q * scale, transposed(k)  # T × D numbers to scale, fewer than T × N scores
    later = xp.triu(xp.ones((length, length), bool), 1)  # where a key comes after the query
    lowest = xp.finfo(q.dtype).min
    drop = None
    if training and dropout != 0:
        drop = dropout_mask(xp.empty((B, H, T, N), q.dtype), dropout, key)
    out = xp.empty_like(q)
    blocks = []  # (the queries of a block, the keys that they see, P, P̃)
    for start in range(0, T, length):
        queries = slice(start, min(start + length, T))
        seen = slice(N - T + queries.stop if causal else N)
        p = matmul(scaled_q[:, :, queries], k_T[..., seen])  # at first the scores
        if causal:
            n = queries.stop - start
            # The last n keys are at the positions of the queries.
            if device_of(p) == CPU:
                np.copyto(p[..., -n:], -np.inf, where=later[:n, :n])
            else:
                p[..., -n:] = xp.where(later[:n, :n], -xp.inf, p[..., -n:])
        p -= xp.maximum(p.max(-1, keepdims=True), lowest)  # a number, also where all are −∞
        xp.exp(p, out=p)
        if device_of(p) == CPU:  # faster than p.sum(-1)
            row_sums = p @ xp.ones(p.shape[-1], p.dtype)
        else:
            row_sums = p.sum(-1)
        p /= xp.maximum(row_sums, 1)[..., None]  # 0 where all are −∞
        dropped = p if drop is None else p * drop[:, :, queries, seen]  # P̃
        matmul(dropped, v[:, :, seen], out=out[:, :, queries])
        blocks.append((queries, seen, p, dropped))

    def backward(dout):
        dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
        v_T = transposed(v)
        row_dots = vecdot(dout, out)[..., None]  # Σ dP ⊙ P
        for queries, seen, p, dropped in blocks:
            douts = dout[:, :, queries]
            dv[:, :, seen] += matmul(dropped.swapaxes(2, 3), douts)
            ds = matmul(douts, v_T[..., seen])  # at first dP̃
            if drop is not None:
                ds *= drop[:, :, queries, seen]  # dP
            ds -= row_dots[:, :, queries]
            ds *= p
            matmul(ds, k[:, :, seen], out=dq[:, :, queries])
            # scaled_q has the 1/√D
            dk[:, :, seen] += matmul(ds.swapaxes(2, 3), scaled_q[:, :, queries])
        dq *= scale
        return dq, dk, dv

    return out, backward
