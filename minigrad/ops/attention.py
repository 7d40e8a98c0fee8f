"""Attention: each position scores itself and those before it, and takes their weighted mean."""

import math

from minigrad import random
from minigrad.backend import array_module
from minigrad.internals.errors import attention_error, check_shapes
from minigrad.tensor import op


@op
@check_shapes("q (B, H, T, D)  k (B, H, N, D)  v (B, H, N, D)", attention_error)
def attention(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """out = P v,  where  P = softmax(S)  by rows and  S = q kᵀ / √D,  −∞ where a key is hidden

    Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   S, P (B, H, T, N)
                out (B, H, T, D).  Query t is at position N − T + t, because the queries are the
                last T of the N positions; causal lets it see positions up to its own.
                mask, booleans that broadcast to (B, H, T, N): True where a query may see a key,
                for padding say.  A query that sees no key gets 0.
                dropout, training, key: as in the op dropout, which is applied to P
    Source      Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.1
    Derivation  Two matrix products with a softmax between.  From the last to the first, with M the
                dropout mask (0 or 1/(1 − p); 1 without dropout) and P̃ = P ⊙ M:

                    out = P̃ v             dv = P̃ᵀ dout         dP̃ = dout vᵀ
                    P̃ = P ⊙ M             dP = dP̃ ⊙ M
                    P = softmax(S)        dS = P ⊙ (dP − Σₙ dP ⊙ P)      row by row; see softmax
                    S = q kᵀ / √D         dq = dS k / √D       dk = dSᵀ q / √D

                Where a key is hidden P is 0, so dS is 0 too: nothing more to do.

    In words    q asks, k offers, v answers.  Dividing by √D keeps the scores' spread near 1: a
                sum of D independent products of spread 1 has spread √D.

    Numerics    The largest score of each row is subtracted first, as in softmax.  So a row that
                sees any key has Σ e ≥ 1; one that sees none has e = 0, and is divided by 1.
                A score of −∞ hides its key, as a mask does.
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
        dv = (p * M).swapaxes(2, 3) @ dout
        dp = (dout @ v.swapaxes(2, 3)) * M
        dscores = p * (dp - (dp * p).sum(-1, keepdims=True))
        dq = dscores @ k * scale
        dk = dscores.swapaxes(2, 3) @ q * scale
        return dq, dk, dv

    return out, backward
