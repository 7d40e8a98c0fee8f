"""Attention: every position asks all earlier ones, and takes a weighted average of their answers."""

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
                dropout mask over 1 − p (1 without dropout) and P̃ = P ⊙ M:

                    out = P̃ v            dv = P̃ᵀ dout        dP̃ = dout vᵀ
                    P̃ = P ⊙ M            dP = dP̃ ⊙ M
                    P = softmax(S)        dS = P ⊙ (dP − Σₙ dP ⊙ P)      sum along each row
                    S = q kᵀ / √D         dq = dS k / √D       dk = dSᵀ q / √D

                The sum needs no T × N product of its own.  For one query t,

                    Σₙ dPₙ Pₙ = Σₙ dP̃ₙ P̃ₙ = Σₙ Σ_d dout_d vₙ_d P̃ₙ = Σ_d dout_d out_d

                A masked score is −∞ and its P is 0, so its dS is 0 too: nothing more to do.

    In words    q asks, k offers, v answers.  √D keeps the scores' spread near 1: a sum of D
                products of spread 1 has spread √D.

    Numerics    Softmax with the largest score of each row taken out.  In place where a fresh
                (B, H, T, N) array would cost more than the arithmetic.
    """
    if not (q.ndim == 4 and k.shape == v.shape and q.shape[:2] + q.shape[3:] == k.shape[:2] + k.shape[3:]):
        raise ValueError(
            "attention: q (B, H, T, D) and k, v (B, H, N, D) must agree in B, H and D, got "
            f"q {q.shape}, k {k.shape}, v {v.shape}"
        )
    xp = array_module(q)
    T, N = q.shape[2], k.shape[2]
    if causal and N < T:
        raise ValueError(f"attention: {T} causal queries need at least as many keys, got {N}")
    scale = 1 / math.sqrt(q.shape[3])

    p = (q * scale) @ k.swapaxes(2, 3)  # (B, H, T, N), at first the scores
    if causal:
        later = ~xp.tri(T, N, N - T, dtype=bool)
        p[..., later] = -xp.inf
    p -= p.max(-1, keepdims=True)
    xp.exp(p, out=p)
    p /= p.sum(-1, keepdims=True)
    mask = random.dropout_mask(p, dropout, key) if training and dropout > 0 else 1
    dropped = p * mask
    out = dropped @ v  # (B, H, T, D)

    def backward(dout):
        dv = dropped.swapaxes(2, 3) @ dout
        ds = (dout @ v.swapaxes(2, 3)) * mask
        ds -= (dout * out).sum(-1, keepdims=True)
        ds *= p
        dq = (ds @ k) * scale
        dk = ds.swapaxes(2, 3) @ (q * scale)
        return dq, dk, dv

    return out, backward
