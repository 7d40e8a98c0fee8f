"""Attention: every position asks those before it, and takes a weighted average of their answers."""

import math

from minigrad import random
from minigrad.device import array_module
from minigrad.tensor import op


@op
def attention(q, k, v, *, causal=True, dropout=0.0, training=False, key=None):
    """out = P v,  where  P = softmax(S)  by rows and  S = q kᵀ / √D

    Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   S, P (B, H, T, N)
                out (B, H, T, D).  Query t stands at position N − T + t, for the queries are the
                last T of the N positions; causal lets it see positions up to its own.
                dropout, training, key: as in dropout, which falls on P
    Source      Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.1;
                the row sum below: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, section B.2
    Derivation  Two matrix products with a softmax between.  From the last to the first, with M the
                dropout mask (0 or 1/(1 − p); 1 without dropout) and P̃ = P ⊙ M:

                    out = P̃ v            dv = P̃ᵀ dout        dP̃ = dout vᵀ
                    P̃ = P ⊙ M            dP = dP̃ ⊙ M
                    P = softmax(S)        dS = P ⊙ (dP − Σₙ dP ⊙ P)      row by row; see softmax
                    S = q kᵀ / √D         dq = dS k / √D       dk = dSᵀ q / √D

                The sum needs no T × N product of its own.  For one query t,

                    Σₙ dPₙ Pₙ = Σₙ dP̃ₙ P̃ₙ = Σₙ Σ_d dout_d vₙ_d P̃ₙ = Σ_d dout_d out_d

                A masked score is −∞ and its P is 0, so its dS is 0 too: nothing more to do.

    In words    q asks, k offers, v answers.  Dividing by √D keeps the scores' spread near 1: a
                sum of D independent products of spread 1 has spread √D.

    Numerics    The largest score of each row is subtracted first, as in softmax.  In place, where a
                fresh (B, H, T, N) array would cost more than the arithmetic.
    """
    fits = k.ndim == 4 and q.shape[:2] + q.shape[3:] == k.shape[:2] + k.shape[3:]
    if not (fits and k.shape == v.shape):
        raise ValueError(
            "attention: q (B, H, T, D) and k, v (B, H, N, D) must agree in B, H and D, got "
            f"q {q.shape}, k {k.shape}, v {v.shape}"
        )
    T, N, D = q.shape[2], k.shape[2], q.shape[3]
    if causal and N < T:
        raise ValueError(f"attention: {T} causal queries need at least as many keys, got {N}")
    xp = array_module(q)
    scale = 1 / math.sqrt(D)

    scaled_q = q * scale  # T × D numbers to scale, fewer than T × N scores
    p = scaled_q @ transposed(k)  # (B, H, T, N), at first the scores
    if causal:
        p += xp.triu(xp.full((T, N), -xp.inf, p.dtype), N - T + 1)  # what lies ahead
    p -= p.max(-1, keepdims=True)
    xp.exp(p, out=p)
    row_sums = p @ xp.ones(N, p.dtype)  # quicker than p.sum(-1)
    p /= row_sums[..., None]
    mask = random.dropout_mask(p, dropout, key) if training and dropout != 0 else None
    dropped = p if mask is None else p * mask
    out = product(dropped, v)  # (B, H, T, D)

    def backward(dout):
        dv = product(dropped.swapaxes(2, 3), dout)
        ds = dout @ transposed(v)  # at first dP̃
        if mask is not None:
            ds *= mask  # dP
        ds -= xp.einsum("bhtd,bhtd->bht", dout, out)[..., None]
        ds *= p
        dq = product(ds, k)
        dq *= scale
        dk = product(ds.swapaxes(2, 3), scaled_q)
        return dq, dk, dv

    return out, backward


def transposed(x):
    """xᵀ of every matrix as a copy: as a view it would halve the speed of a product."""
    return array_module(x).ascontiguousarray(x.swapaxes(2, 3))


def product(x, y):
    """x y (B, H, T, D), in memory (B, T, H, D): the heads can be joined where they lie."""
    B, H, T, _ = x.shape
    xp = array_module(x)
    out = xp.empty((B, T, H, y.shape[3]), xp.result_type(x, y)).transpose(0, 2, 1, 3)
    return xp.matmul(x, y, out=out)
