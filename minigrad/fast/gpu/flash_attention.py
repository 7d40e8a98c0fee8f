"""Flash attention: softmax(S) v a tile at a time, without an array of T × N scores.

    out = P̃ v,  where  P̃ = P ⊙ M,  P = softmax(S)  and  S = q kᵀ / √D       as in ops/attention.py

Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   out (B, H, T, D)
            m, l, lse, delta: a number for each query.  Below, s, p, dp and dS are one query's row
            of S, P, dP and dS; n counts keys
Source      Dao et al. 2022, "FlashAttention", arXiv:2205.14135, and Dao 2023, "FlashAttention-2",
            arXiv:2307.08691; the running softmax: Milakov & Gimelshein 2018, "Online normalizer
            calculation for softmax", arXiv:1805.02867

Derivation  A GPU computes much faster than it reads memory, and the page writes and reads S, P and
            P̃, which have T × N numbers a head.  A tile of queries and a tile of keys fit into the
            fast memory of one thread block.  What keeps us from computing out from tiles is that
            softmax wants sums over a whole row.  There are two of them.

            Forward: the sum Σₙ e^(sₙ − m), with m the largest score.  For the tiles of keys that a
            row has seen so far, keep

                m = max sₙ      l = Σₙ e^(sₙ − m)      o = Σₙ e^(sₙ − m) Mₙ vₙ

            If the next tile has a larger score, all terms so far were computed with too small an m.
            They share the error, a factor, because e^(s − m′) = e^(s − m) e^(m − m′).  So

                m′ = max(m, the tile's sₙ)
                l′ = e^(m − m′) l + Σ e^(sₙ − m′)             sums over the tile's n
                o′ = e^(m − m′) o + Σ e^(sₙ − m′) Mₙ vₙ

            Before the first tile l and o are 0, and m is the lowest number there is.  After the
            last one out = o / l.  Dropout comes after softmax: M is in o, and not in l.

            Backward: pₙ is computed again, from one number per row that forward has kept:

                lse = m + ln l        pₙ = e^(sₙ − m) / l = e^(sₙ − lse)

            The second sum is in the gradient of softmax, dS = p ⊙ (dp − Σₙ dpₙ pₙ).  But with
            dp̃ₙ = dout · vₙ (the products of D numbers) and dpₙ = Mₙ dp̃ₙ

                Σₙ dpₙ pₙ = Σₙ dp̃ₙ Mₙ pₙ = Σₙ (dout · vₙ) p̃ₙ = dout · Σₙ p̃ₙ vₙ = dout · out = delta

            which is known before the first tile.  (Section B.2 of Dao et al. 2022.)  So a tile of
            dS needs no other tile:

                dSₙ = pₙ (Mₙ dp̃ₙ − delta)
                dq = Σₙ dSₙ kₙ / √D                      over the tiles of keys
                dkₙ = Σ dSₙ q / √D,  dvₙ = Σ p̃ₙ dout      over the tiles of queries

            in_tiles() below is all of this in NumPy.

In words    A running maximum can be corrected later, because all that was added up so far is wrong
            by one known factor.  And the correction of softmax, how far dp is above its average,
            needs no average over keys: it is how far out already points along dout.

Kernels     flash_attention.cu has three.  flash_forward and flash_backward_query own a tile of
            queries and go through the keys; flash_backward_key owns a tile of keys and goes through
            the queries.  S and dp̃ are computed twice in backward, so that no sum is shared by two
            blocks: no atomic additions, and the same bits in every run.  Tiles that are hidden from
            all their queries are skipped.  Forward draws the mask, the same bits as
            random.keep_mask, and keeps them, a bit an entry: the only array of T × N anything.

Numerics    Everything is float32.  Scores are turned into exponents of 2, e^s = 2^(s log₂ e), which
            the hardware computes in one instruction; m and lse are kept in this unit.  m is rounded
            once, so all tiles subtract the same number: rounded again from the largest score, it
            would differ from itself where a GPU rounds a b + c only once.  lse is rounded to
            2⁻²⁴ |lse|, and backward's p is off by as much, relative to p; so is s, on the page too.
            A hidden key has the score −∞, and 2^(−∞ − m) = 0 because m is finite.  What is not
            finite in keys and values of a skipped tile does no harm; on the page 0 · ∞ = NaN does.
            If all scores that a query sees are −∞, l is 0; with 1 in its place out is 0, as on the
            page.

Costs       Predicted, not measured on a card: 2.3 to 3.0 ms of a training step of `baby` (B 64,
            H 6, T 256, D 64, 6 layers) on an H100.  Of the 4 × 4 pairs of tiles in a head 10 are
            not skipped, so a step has 64 · 6 · 6 · 10 = 23,040.  Each takes 9 products (2 forward,
            3 and 4 backward) of 64 × 64 × 64 multiplications and additions, 109 · 10⁹ operations a
            step: 1.6 ms at 67 · 10¹² a second.  The machine code has 5,600, 8,000 and 11,200
            instructions a warp and pair, and 1,400 to draw; 70 % of them multiply and add.  132
            processors that begin 4 instructions in each cycle of 1.98 GHz need 2.3 ms for them.
            Registers (128, 168 and 168 a thread, none spilled) and shared memory (48 KB a block)
            let 4, 3 and 3 blocks of 4 warps share a processor: some compute while others wait.
            Tiles are 3.3 GB to read, mostly from the second-level cache, 0.6 ms of the same time.
"""

import math

import numpy as np

from minigrad.backend import array_module
from minigrad.fast.gpu.launch import MOST_BLOCKS, Strided, contiguous, launch
from minigrad.fast.gpu.masks import draw

THREADS = 128  # of a block
LONGEST = 128  # entries of a query


def in_tiles(q, k, v, M=1, causal=True, R=2):
    """Return (out, backward) of one head, as the kernels compute it: q, out (T, D), k, v (N, D).

    M    the dropout mask (T, N): 0 or 1/(1 − p); R    queries or keys of a tile
    """
    T, N, scale = len(q), len(k), 1 / math.sqrt(q.shape[1])
    M, ahead = np.broadcast_to(M, (T, N)), N - T if causal else N
    out, lse = np.empty_like(q), np.empty(T, q.dtype)

    def pairs(t):
        """Yield the keys of each tile that some of the queries t see, and their scores."""
        for start in range(0, min(N, t.stop + ahead), R):
            n = slice(start, min(start + R, N))
            hidden = np.arange(N)[n] > np.arange(T)[t, None] + ahead
            yield n, np.where(hidden, -np.inf, q[t] @ k[n].T * scale)

    tiles = [slice(start, min(start + R, T)) for start in range(0, T, R)]
    for t in tiles:
        m, l, o = np.finfo(q.dtype).min, 0, 0
        for n, s in pairs(t):
            largest = np.maximum(m, s.max(-1, keepdims=True))  # m′
            shrink, e = np.exp(m - largest), np.exp(s - largest)
            m, l = largest, l * shrink + e.sum(-1, keepdims=True)
            o = o * shrink + (e * M[t, n]) @ v[n]
        above_0 = np.where(l == 0, 1, l)
        out[t], lse[t] = o / above_0, (m + np.log(above_0))[:, 0]

    def backward(dout):
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        delta = (dout * out).sum(-1)
        for t in tiles:
            for n, s in pairs(t):
                p = np.exp(s - lse[t, None])
                ds = p * ((dout[t] @ v[n].T) * M[t, n] - delta[t, None])
                dq[t] += ds @ k[n] * scale
                dk[n] += ds.T @ q[t] * scale
                dv[n] += (p * M[t, n]).T @ dout[t]
        return dq, dk, dv

    return out, backward


def takes(q, k, v, causal):
    """Return whether the kernels compute attention of these arrays."""
    if not (q.dtype == k.dtype == v.dtype == np.float32 and q.ndim == k.ndim == 4):
        return False
    (B, H, T, D), N = q.shape, k.shape[2]
    if k.shape != (B, H, N, D) or k.shape != v.shape or N == 0 or (causal and N < T):
        return False
    return 0 < D <= LONGEST and D % 4 == 0 and B <= MOST_BLOCKS[1]


def flash_attention(q, k, v, causal, dropout, key):
    """Return (out, backward) of ops.attention, for arrays that the kernels take.

    Arrays are read where they are, if their last axis has no gaps.  out, dq, dk and dv lie in
    memory as (B, T, H, D), so that heads are joined without a copy.
    """
    (B, H, T, D), N = q.shape, k.shape[2]
    xp, R = array_module(q), 64 if D <= 64 else 32  # R as in flash_attention.cu
    query_tiles, key_tiles = -(-T // R), -(-N // R)
    q, k, v = map(readable, (q, k, v))
    scale = 1 / math.sqrt(D)
    to_bits = scale * math.log2(math.e)  # scores q · k times this are exponents of 2
    sizes = np.int32(T), np.int32(N), np.int32(N - T if causal else N), np.float32(to_bits)
    kept, drawn = None, (None, *np.zeros(3, np.uint64))
    if dropout != 0:
        drawn = draw(q, dropout, key)
        kept = xp.empty((B, H, query_tiles * R, key_tiles * R // 32), np.uint32)
    mask = kept, np.int32(key_tiles * R // 32), np.float32(1 / (1 - dropout))

    def run(kernel, n_tiles, *arguments):
        arrays = *strided(q), *strided(k), *strided(v)
        launch(kernel, (H, B, n_tiles), THREADS, *arrays, *arguments, *sizes, options=(f"-DD={D}",))

    out, lse = joinable(xp, q.shape), xp.empty((B, H, query_tiles * R), np.float32)
    run("flash_forward", query_tiles, *strided(out)[:1], lse, *mask, *drawn)

    def backward(dout):
        dout = readable(dout)
        dq, dk, dv = (joinable(xp, x.shape) for x in (q, k, v))
        delta = xp.empty(lse.shape, np.float32)
        rest = lse, delta, *mask, np.float32(scale)
        run("flash_backward_query", query_tiles, *strided(dout), Strided(out), Strided(dq), *rest)
        run("flash_backward_key", key_tiles, *strided(dout), Strided(dk), Strided(dv), *rest)
        return dq, dk, dv

    return out, backward


def readable(x):
    """Return `x` in a layout that the kernels read, 16 bytes at a time: itself, or a copy."""
    *steps, step = x.strides
    fits = step == 4 and not any(s % 16 for s in steps) and x.data.ptr % 16 == 0
    return x if fits else contiguous(x)


def strided(x):
    """Return the arguments for x (B, H, n, D): x, and how many entries apart two b, h or n are."""
    return Strided(x), *(np.int64(step // x.dtype.itemsize) for step in x.strides[:3])


def joinable(xp, shape):
    """Return a new array of a shape (B, H, n, D) that lies in memory as (B, n, H, D)."""
    B, H, n, D = shape
    return xp.empty((B, n, H, D), np.float32).transpose(0, 2, 1, 3)
