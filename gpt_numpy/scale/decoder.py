"""The decoder: a GPT that generates text, and computes the key and value of each token only once.

While a text is generated, its beginning does not change, and no position sees a later one (the
causal mask).  So in every block the key and the value of a token stay what they were when it came
in.  The *key/value cache* keeps them, and a new token costs the work of one row instead of T.

Nothing is differentiated here, so the model becomes plain arrays, with fewer operations.  They
compute the same function as model.py; tests/test_inference.py compares every score.

Derivation  Let P subtract the mean of a vector of C entries, and let g, β be a norm's weight and
            bias.  Then Px = x − μ, and its mean square is σ² = |Px|²/C.  So layer norm, with w = g
            and b = β in ops/layer_norm.py, is  √C Px / √(|Px|² + Cε) ⊙ g + β.  Three parts of that
            can be computed beforehand, and are folded into the weights:

            1. Every layer that reads the residual stream x reads it through a norm, which begins
               with Px.  The stream is a sum, and P is linear.  So P can be applied to everything
               that is ever added: the token and position vectors, and the last linear layer of each
               branch.  Then Px is x.
            2. The linear layer W, b after a norm receives  √C u ⊙ g + β,  with the normalized
               vector u = x / √(|x|² + Cε), whose length is 1 up to ε:

                   W (√C u ⊙ g + β) + b  =  (√C W ⊙ g) u + (W β + b)

               That is another linear layer, of u.
            3. q / √D is the output of a query layer that is divided by √D.
"""

import math
from typing import Any, NamedTuple

import minigrad.nn as nn
from minigrad.backend import array_module, to_device
from minigrad.fast.arrays import vecdot
from minigrad.ops.gelu import A
from minigrad.ops.gelu import C as C_GELU


class FoldedLinear(NamedTuple):
    """x (N, I) → x weight + bias (N, O): a linear layer with other computations folded in."""

    weight: Any  # (I, O)
    bias: Any  # (O,) or None

    @classmethod
    def transposed(cls, weight, bias):
        """Return the layer for a weight (O, I), as Linear has it, and its bias."""
        return cls(array_module(weight).ascontiguousarray(weight.T), bias)

    def __call__(self, x):
        y = x @ self.weight
        if self.bias is not None:
            y += self.bias
        return y


def after_norm(norm: nn.LayerNorm, weight, bias=None) -> FoldedLinear:
    """Fold a norm into the layer that follows it, weight (O, C) and bias (O,): see 2. above."""
    if norm.bias is not None:
        through = weight @ norm.bias.data
        bias = through if bias is None else through + bias
    return FoldedLinear.transposed(weight * (norm.weight.data * math.sqrt(weight.shape[1])), bias)


def without_mean(linear: nn.Linear) -> FoldedLinear:
    """Fold the subtraction of the output's mean into a linear layer: see 1. above."""
    weight = linear.weight.data
    bias = None if linear.bias is None else linear.bias.data - linear.bias.data.mean()
    return FoldedLinear.transposed(weight - weight.mean(0), bias)


class Block:
    """The four linear layers of a block, and its key/value cache (2, B, H, block_size, D)."""

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


class Decoder:
    """Takes in the tokens of a batch of texts, up to block_size, and predicts the next one.

    It copies the weights: training the model afterwards does not change it.
    """

    def __init__(self, model, batch_size: int = 1):
        config, wte, wpe = model.config, model.wte.weight.data, model.wpe.weight.data
        self.tokens = wte - wte.mean(1, keepdims=True)  # (V, C)
        self.positions = wpe - wpe.mean(1, keepdims=True)  # (block_size, C)
        self.blocks = [Block(block, batch_size, config.block_size) for block in model.h]
        self.head = after_norm(model.ln_f, wte)
        self.eps = config.n_embd * model.ln_f.eps  # C ε, the same in all norms
        self.device = model.device
        self.length = 0  # of the text so far, in tokens

    def reset(self):
        """Begin another text."""
        self.length = 0

    def forward(self, ids):
        """ids (B, T), the next tokens of the text → scores (B, V) of the token after them."""
        ids = to_device(ids, self.device)
        (B, T), start = ids.shape, self.length
        self.length = stop = start + T
        x = self.tokens[ids] + self.positions[start:stop]  # (B, T, C)
        x = x.reshape(B * T, -1)
        for block in self.blocks:
            q_k_v = heads(block.query_key_value(rms_normalize(x, self.eps)), block.cache.shape, T)
            block.cache[:, :, :, start:stop] = q_k_v[1:]
            y = attention(q_k_v[0], *block.cache[:, :, :, :stop])  # (B, H, T, D)
            x += block.proj(y.swapaxes(1, 2).reshape(x.shape))
            x += block.mlp_proj(gelu(block.fc(rms_normalize(x, self.eps))))
        last = x[T - 1 :: T]  # (B, C): the last position of each text
        return self.head(rms_normalize(last, self.eps))


def rms_normalize(x, eps):
    """x (N, C) → the normalized vectors u of the derivation, with eps = C ε."""
    return x * ((vecdot(x, x) + eps) ** -0.5)[:, None]


def heads(x, shape, T):
    """Return q, k and v, (3, B, H, T, D), from the rows x (B·T, 3 C)."""
    _, B, H, _, D = shape
    return x.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)


def attention(q, k, v):
    """Return softmax(q kᵀ) v; query t of the last T positions sees the positions up to its own.

    Shapes      q, out (B, H, T, D)   k, v (B, H, N, D)
    """
    xp = array_module(q)
    T, N = q.shape[2], k.shape[2]
    p = q @ k.swapaxes(2, 3)  # (B, H, T, N), at first the scores
    if T > 1:  # a single query is the last one and sees every key
        p += xp.triu(xp.full((T, N), -xp.inf, p.dtype), N - T + 1)
    p -= p.max(-1, keepdims=True)
    xp.exp(p, out=p)
    y = p @ v
    y /= p.sum(-1, keepdims=True)  # (e v) / Σ e is (e / Σ e) v, with fewer divisions
    return y


def gelu(x):
    """Return the value of ops/gelu.py, x s, without a backward."""
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
