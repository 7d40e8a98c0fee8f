"""The ops, also imported as `F`.  One idea a file: formula, derivation, forward and backward.

How to read them:

    dx          short for ∂loss/∂x, of the shape of x
    dout        ∂loss/∂out: what backward receives; by the chain rule  dxⱼ = Σᵢ doutᵢ ∂outᵢ/∂xⱼ,
                where i and j run over all entries
    x ⊙ y       multiplied entry by entry
    [c]         1 where c holds, else 0
    B, T, C     rows of a batch, places in time, channels (numbers per token)
    H, D, V     heads, channels per head (C = H D), tokens of the vocabulary
    @explained  chooses the words of an error, and nothing else: faults.py, to be read last
"""

from minigrad.ops.attention import attention
from minigrad.ops.cross_entropy import cross_entropy
from minigrad.ops.dropout import dropout
from minigrad.ops.elementwise import add, div, exp, log, mul, neg, pow, relu, sqrt, sub, tanh, where
from minigrad.ops.embedding import embedding
from minigrad.ops.gelu import gelu
from minigrad.ops.layer_norm import layer_norm
from minigrad.ops.linear import linear
from minigrad.ops.matmul import matmul
from minigrad.ops.reduce import max, mean, sum
from minigrad.ops.shape import concat, getitem, reshape, stack, transpose
from minigrad.ops.softmax import log_softmax, softmax

__all__ = [
    "add", "attention", "concat", "cross_entropy", "div", "dropout", "embedding", "exp", "gelu",
    "getitem", "layer_norm", "linear", "log", "log_softmax", "matmul", "max", "mean", "mul", "neg",
    "pow", "relu", "reshape", "softmax", "sqrt", "stack", "sub", "sum", "tanh", "transpose",
    "where",
]  # fmt: skip
