"""Attention: every position asks itself and those before it, and averages what they answer."""

import math

from minigrad import random
from minigrad.device import CPU, GPU, array_module, device_of, dots
from minigrad.faults import misfit
from minigrad.tensor import op

BLOCK = {CPU: 32, GPU: 256}  # queries; the GPU's is a guess, not measured


@op
def attention(q, k, v, *, causal=True, dropout=0.0, training=False, key=None):
    """out = P v,  where  P = softmax(S)  by rows and  S = q kᵀ / √D,  −∞ where causal hides a key

    Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   S, P (B, H, T, N)
                out (B, H, T, D).  Query t stands at position N − T + t, for the queries are the
                last T of the N positions; causal lets it see positions up to its own.
                dropout, training, key: as in dropout, which falls on P
    Source      Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.1;
                the row sum below: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, section B.2
    Derivation  Two matrix products with a softmax between.  From the last to the first, with M the
                dropout mask (0 or 1/(1 − p); 1 without dropout) and P̃ = P ⊙ M:

                    out = P̃ v             dv = P̃ᵀ dout         dP̃ = dout vᵀ
                    P̃ = P ⊙ M             dP = dP̃ ⊙ M
                    P = softmax(S)        dS = P ⊙ (dP − Σₙ dP ⊙ P)      row by row; see softmax
                    S = q kᵀ / √D         dq = dS k / √D       dk = dSᵀ q / √D

                The sum needs no T × N product of its own.  For one query t,

                    Σₙ dPₙ Pₙ = Σₙ dP̃ₙ P̃ₙ = Σₙ Σ_d dout_d vₙ_d P̃ₙ = Σ_d dout_d out_d

                Where causal hides a key S is −∞ and P is 0, so dS is 0 too: nothing more to do.

    In words    q asks, k offers, v answers.  Dividing by √D keeps the scores' spread near 1: a
                sum of D independent products of spread 1 has spread √D.

    Numerics    The largest score of each row is subtracted first, as in softmax.
                A block of queries at a time: keys after its last query need not be computed and
                masked, almost half of the work where T is long.  dk and dv add up over blocks.
                On a GPU blocks are longer: short ones would leave it idle.
    """
    fits = k.ndim == 4 and q.shape[:2] + q.shape[3:] == k.shape[:2] + k.shape[3:]
    if not (fits and k.shape == v.shape):
        shapes = "q (B, H, T, D)  k (B, H, N, D)  v (B, H, N, D)"
        raise ValueError(f"attention: {misfit(shapes, q=q, k=k, v=v)}")
    (B, H, T, D), N = q.shape, k.shape[2]
    if D == 0 or N == 0 or (causal and N < T):
        raise ValueError(f"attention: {too_few(q, k)}")
    xp = array_module(q)
    scale = 1 / math.sqrt(D)
    scaled_q, k_T = q * scale, transposed(k)  # T × D numbers to scale, fewer than T × N scores
    length = BLOCK[device_of(q)]
    ahead = xp.triu(xp.full((length, length), -xp.inf, q.dtype), 1)  # −∞ where a key comes later
    mask = None
    if training and dropout != 0:
        mask = random.dropout_mask(xp.empty((B, H, T, N), q.dtype), dropout, key)
    # In memory as q is: where its heads lie side by side, so do those of out.
    out = xp.empty_like(q)
    blocks = []  # (the queries of a block, the keys that they see, P, P̃)
    for start in range(0, T, length):
        queries = slice(start, min(start + length, T))
        seen = slice(N - T + queries.stop if causal else N)
        p = scaled_q[:, :, queries] @ k_T[..., seen]  # at first the scores
        if causal:
            n = queries.stop - start
            p[..., -n:] += ahead[:n, :n]  # the last n keys stand where the queries stand
        p -= p.max(-1, keepdims=True)
        xp.exp(p, out=p)
        row_sums = p @ xp.ones(p.shape[-1], p.dtype)  # on a CPU quicker than p.sum(-1)
        p /= row_sums[..., None]
        dropped = p if mask is None else p * mask[:, :, queries, seen]  # P̃
        xp.matmul(dropped, v[:, :, seen], out=out[:, :, queries])
        blocks.append((queries, seen, p, dropped))

    def backward(dout):
        dq, dk, dv = xp.empty_like(q), xp.zeros_like(k), xp.zeros_like(v)
        v_T = transposed(v)
        row_dots = dots(dout, out)[..., None]  # Σ dP ⊙ P
        for queries, seen, p, dropped in blocks:
            douts = dout[:, :, queries]
            dv[:, :, seen] += dropped.swapaxes(2, 3) @ douts
            ds = douts @ v_T[..., seen]  # at first dP̃
            if mask is not None:
                ds *= mask[:, :, queries, seen]  # dP
            ds -= row_dots[:, :, queries]
            ds *= p
            xp.matmul(ds, k[:, :, seen], out=dq[:, :, queries])
            dk[:, :, seen] += ds.swapaxes(2, 3) @ scaled_q[:, :, queries]  # which has the 1/√D
        dq *= scale
        return dq, dk, dv

    return out, backward


def too_few(q, k):
    """What q and k, which fit each other, have too few of."""
    T, N = q.shape[2], k.shape[2]
    if q.shape[3] == 0:
        return f"q {q.shape} has no channels: D, its axis 3, must be at least 1"
    if N == 0:
        return f"k {k.shape} has no keys: N, its axis 2, must be at least 1"
    return (
        f"q {q.shape} has more queries than k {k.shape} has keys: T is {T} in axis 2 of q, N is "
        f"{N} in axis 2 of k, and causal queries are the last T of N positions"
    )


def transposed(x):
    """xᵀ of every matrix as a copy: a view, as the right factor, halves the speed of a product."""
    return array_module(x).ascontiguousarray(x.swapaxes(2, 3))
