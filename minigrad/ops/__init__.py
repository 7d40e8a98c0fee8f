"""The ops, also imported as `F`.  One idea a file: formula, derivation, forward and backward.

How to read them:

    dx          short for ∂loss/∂x, of the shape of x
    dout        ∂loss/∂out: what backward receives; by the chain rule  dxⱼ = Σᵢ doutᵢ ∂outᵢ/∂xⱼ,
                where i and j run over all entries
    x ⊙ y       multiplied entry by entry
    [c]         1 where c holds, else 0
    B, T, C     rows of a batch, positions in time, channels (numbers per token)
    H, D, V     heads, channels per head (C = H D), tokens of the vocabulary
    xp          the array library that owns the inputs, NumPy or CuPy: backend.py

The decorators check_shapes and explain_errors_with only choose the words of an error
(internals/errors.py).  What is not here, such as convolutions, the language model does not need.
"""

from minigrad.ops.attention import attention
from minigrad.ops.cross_entropy import cross_entropy
from minigrad.ops.dropout import dropout
from minigrad.ops.elementwise import (
    abs,
    add,
    clip,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    sqrt,
    sub,
    tanh,
    where,
)
from minigrad.ops.embedding import embedding
from minigrad.ops.gelu import gelu
from minigrad.ops.layer_norm import layer_norm
from minigrad.ops.linear import linear
from minigrad.ops.matmul import matmul
from minigrad.ops.reduce import max, mean, sum, var
from minigrad.ops.shape import concat, getitem, reshape, stack, transpose
from minigrad.ops.softmax import log_softmax, softmax

__all__ = [
    "abs", "add", "attention", "clip", "concat", "cross_entropy", "div", "dropout", "embedding",
    "exp", "gelu", "getitem", "layer_norm", "linear", "log", "log_softmax", "matmul", "max",
    "maximum", "mean", "minimum", "mul", "neg", "pow", "relu", "reshape", "sigmoid", "softmax",
    "sqrt", "stack", "sub", "sum", "tanh", "transpose", "var", "where",
]  # fmt: skip
