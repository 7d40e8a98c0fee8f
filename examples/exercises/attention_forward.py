"""Exercise: write the forward pass of attention.

Check it with `python -m minigrad.exercises FOLDER attention_forward`.
FOLDER is where this file is.  For a hint add `--hint attention_forward`.
"""

import numpy as np


def attention(q, k, v, *, causal=True):
    """out = P v,  where  P = softmax(S)  by rows and  S = q kᵀ / √D,  −∞ where a key is hidden

    Shapes      q (B, H, T, D)   k (B, H, N, D)   v (B, H, N, D)   S, P (B, H, T, N)
                out (B, H, T, D).  Query t is at position N − T + t, because the queries are the
                last T of the N positions; causal lets it see positions up to its own.
                mask, booleans that broadcast to (B, H, T, N): True where a query may see a key,
                for padding say.  A query that sees no key gets 0.
                dropout, training, key: as in the op dropout, which is applied to P
    """
    raise NotImplementedError  # return out
