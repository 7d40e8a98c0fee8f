"""A GPT that only speaks: every token is read once, and what later ones ask of it is kept.

While a text is written its beginning stays, and no position sees what comes after it (the causal
mask).  So the key and the value of a token, in every block, are what they were when it was read.
They stay in the *key/value cache*, and a new token costs the work of one row instead of T.

Nothing here is to be differentiated, so the model becomes plain arrays, and simpler ones.  They
compute the function of model.py; tests/test_inference.py compares every score.

Derivation  Let P take the mean off a vector of C entries, and g, β be a norm's weight and bias.
            Then Px = x − μ, and its mean square is σ² = |Px|²/C.  So layer norm, w and b of
            ops/layer_norm.py being g and β, is  √C Px / √(|Px|² + Cε) ⊙ g + β.  Three things can
            be done beforehand:

            1. Whoever reads the stream x reads it through a norm, which begins with Px.  The stream
               is a sum, and P is linear: take the mean off all that is ever added (the vectors of
               tokens and positions, the last map of a branch), in the weights.  Then Px is x.
            2. The map W, b after a norm is given  √C u ⊙ g + β,  with u = x / √(|x|² + Cε):

                   W (√C u ⊙ g + β) + b  =  (√C W ⊙ g) u + (W β + b)

               which is another map of u, a vector of length 1 (up to ε).
            3. q / √D is q of a query map that is divided by √D.
"""

import math
from typing import Any, NamedTuple

import minigrad.nn as nn
from minigrad.backend import array_module, to_device
from minigrad.fast.arrays import vecdot
from minigrad.ops.gelu import A
from minigrad.ops.gelu import C as C_GELU


class Map(NamedTuple):
    """x (N, I) → x weight + bias (N, O)"""

    weight: Any  # (I, O)
    bias: Any  # (O,) or None

    @classmethod
    def of(cls, weight, bias):
        """The map of a Linear's weight, (O, I), and bias."""
        return cls(array_module(weight).ascontiguousarray(weight.T), bias)

    def __call__(self, x):
        y = x @ self.weight
        if self.bias is not None:
            y += self.bias
        return y


def after_norm(norm: nn.LayerNorm, weight, bias=None) -> Map:
    """The map `weight` (O, C), `bias` (O,) of norm(x), as a map of unit(x): see 2. above."""
    if norm.bias is not None:
        through = weight @ norm.bias.data
        bias = through if bias is None else through + bias
    return Map.of(weight * (norm.weight.data * math.sqrt(weight.shape[1])), bias)


def without_mean(linear: nn.Linear) -> Map:
    """The map of `linear`, less the mean of what it returns: see 1. above."""
    weight = linear.weight.data
    bias = None if linear.bias is None else linear.bias.data - linear.bias.data.mean()
    return Map.of(weight - weight.mean(0), bias)


class Block:
    """The four maps of a block, and keys and values (2, B, H, block_size, D) of what was read."""

    def __init__(self, block, batch_size, block_size):
        attn, mlp = block.attn, block.mlp
        xp = array_module(attn.query.weight.data)
        C, H = attn.query.weight.shape[0], attn.n_head
        D = C // H
        weights = [linear.weight.data for linear in (attn.query, attn.key, attn.value)]
        weight, bias = xp.concatenate(weights), None
        weight[:C] /= math.sqrt(D)
        if attn.query.bias is not None:
            bias = xp.concatenate([attn.query.bias.data, attn.key.bias.data, attn.value.bias.data])
            bias[:C] /= math.sqrt(D)
        self.query_key_value = after_norm(block.ln_1, weight, bias)
        self.proj = without_mean(attn.proj)
        fc = mlp.fc
        self.fc = after_norm(block.ln_2, fc.weight.data, None if fc.bias is None else fc.bias.data)
        self.mlp_proj = without_mean(mlp.proj)
        self.cache = xp.empty((2, batch_size, H, block_size, D), weight.dtype)


class Reader:
    """Reads a batch of texts on and on, up to block_size tokens, and predicts the next one.

    It has copies of the weights, as they are now.
    """

    def __init__(self, model, batch_size: int = 1):
        config, wte, wpe = model.config, model.wte.weight.data, model.wpe.weight.data
        self.tokens = wte - wte.mean(1, keepdims=True)  # (V, C)
        self.positions = wpe - wpe.mean(1, keepdims=True)  # (block_size, C)
        self.blocks = [Block(block, batch_size, config.block_size) for block in model.h]
        self.head = after_norm(model.ln_f, wte)
        self.eps = config.n_embd * model.ln_f.eps  # C ε, alike in all norms
        self.device = model.device
        self.n = 0  # how many tokens were read

    def forget(self):
        """Begin another text."""
        self.n = 0

    def read(self, ids):
        """The tokens after those read so far, ids (B, T) → scores of the next one (B, V)."""
        ids = to_device(ids, self.device)
        (B, T), start = ids.shape, self.n
        self.n = stop = start + T
        x = self.tokens[ids] + self.positions[start:stop]  # (B, T, C)
        x = x.reshape(B * T, -1)
        for block in self.blocks:
            q_k_v = heads(block.query_key_value(self.unit(x)), block.cache.shape, T)
            block.cache[:, :, :, start:stop] = q_k_v[1:]
            y = attention(q_k_v[0], *block.cache[:, :, :, :stop])  # (B, H, T, D)
            x += block.proj(y.swapaxes(1, 2).reshape(x.shape))
            x += block.mlp_proj(gelu(block.fc(self.unit(x))))
        return self.head(self.unit(x[T - 1 :: T]))  # of the last position of each text

    def unit(self, x):
        """x (N, C) → the unit vectors u of the derivation."""
        return x * ((vecdot(x, x) + self.eps) ** -0.5)[:, None]


def heads(x, shape, T):
    """q, k and v, (3, B, H, T, D), of the rows x (B·T, 3 C)."""
    _, B, H, _, D = shape
    return x.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)


def attention(q, k, v):
    """softmax(q kᵀ) v, where query t of the last T positions sees the positions up to its own.

    Shapes      q, out (B, H, T, D)   k, v (B, H, N, D)
    """
    xp = array_module(q)
    T, N = q.shape[2], k.shape[2]
    p = q @ k.swapaxes(2, 3)  # (B, H, T, N), at first the scores
    if T > 1:  # a single query is the last, and sees all
        p += xp.triu(xp.full((T, N), -xp.inf, p.dtype), N - T + 1)
    p -= p.max(-1, keepdims=True)
    xp.exp(p, out=p)
    y = p @ v
    y /= p.sum(-1, keepdims=True)  # (e v) / Σ e is (e / Σ e) v, with fewer divisions
    return y


def gelu(x):
    """x s of ops/gelu.py, without the slope."""
    xp = array_module(x)
    s = x * x
    s *= C_GELU * A
    s += C_GELU
    s *= x
    xp.tanh(s, out=s)
    s += 1
    s *= 0.5
    s *= x
    return s
