"""Exercise: write the backward of attention.

Check it with `python -m minigrad.exercises FOLDER attention`.
FOLDER is where this file is.  For a hint add `--hint attention`.

xp is NumPy (CuPy on a GPU).
"""

import math

from minigrad import random
from minigrad.backend import array_module


def attention(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """out = P v,  where  P = softmax(S)  by rows and  S = q kᵀ / √D,  −∞ where a key is hidden

    Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   S, P (B, H, T, N)
                out (B, H, T, D).  Query t is at position N − T + t, because the queries are the
                last T of the N positions; causal lets it see positions up to its own.
                mask, booleans that broadcast to (B, H, T, N): True where a query may see a key,
                for padding say.  A query that sees no key gets 0.
                dropout, training, key: as in the op dropout, which is applied to P
    """
    T, N, D = q.shape[2], k.shape[2], q.shape[3]
    xp = array_module(q)
    scale = 1 / math.sqrt(D)
    scores = q * scale @ k.swapaxes(2, 3)  # (B, H, T, N)
    visible = scores != -xp.inf
    if mask is not None:
        visible = visible & mask
    if causal:
        visible = visible & (xp.arange(N) <= xp.arange(N - T, N)[:, None])  # (T, N)
    scores = xp.where(visible, scores, xp.finfo(q.dtype).min)
    e = xp.where(visible, xp.exp(scores - scores.max(-1, keepdims=True)), 0)
    p = e / xp.maximum(e.sum(-1, keepdims=True), 1)
    M = random.dropout_mask(p, dropout, key) if training and dropout != 0 else 1
    out = (p * M) @ v

    def backward(dout):
        raise NotImplementedError  # return dq, dk, dv

    return out, backward
