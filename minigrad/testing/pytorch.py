"""Every op and module in PyTorch: the same inputs, the same options, the same result.

Imported only where PyTorch is installed: no other file of the package needs it to load.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from minigrad.random import dropout_mask
from minigrad.testing.cases import ROW, SEED, STEP


def dropout_factor(shape, p, key=None):
    """Return what dropout multiplies by.  The mask itself is tested in tests/test_random.py."""
    return torch.tensor(dropout_mask(np.empty(shape), p, key or (SEED, STEP, 0, ROW)))


def dropout(x, p, training=True, key=None):
    return x * dropout_factor(x.shape, p, key) if training else x * 1


def attention(q, k, v, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """Written out, because PyTorch's own attention returns NaN for a query that sees no key."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    visible = torch.ones(scores.shape, dtype=torch.bool)
    if causal:
        position = torch.arange(n_queries)[:, None] + n_keys - n_queries
        visible = visible & (torch.arange(n_keys) <= position)
    if mask is not None:
        visible = visible & torch.tensor(mask)
    blind = ~visible.any(-1, keepdim=True)  # such a row may have any softmax: it counts 0 times
    p = torch.softmax(scores.masked_fill(~visible & ~blind, -torch.inf), -1) * visible
    return (p * dropout_factor(p.shape, dropout, key) if training else p) @ v


def cross_entropy(logits, targets, ignore_index=-100, **options):
    """PyTorch wants the scores in the second axis, and targets of 64 bits."""
    if logits.ndim > 1:
        logits = logits.movedim(-1, 1)
    return F.cross_entropy(logits, targets.long(), ignore_index=ignore_index, **options)


def getitem(x, index):
    """NumPy says which entry goes where, and PyTorch gathers them."""
    places = np.arange(x.numel()).reshape(x.shape)[index]
    return torch.take(x, torch.tensor(places.copy()))  # PyTorch has no negative strides


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def two_layers(x, w, b, weight, bias):
    return layer_norm(F.linear(x, w, b), weight, bias)


def var(x, axis=None, keepdims=False, correction=0):
    if not x.numel():  # PyTorch warns of groups without entries, also where there are no groups
        return x.sum(axis, keepdim=keepdims)
    return torch.var(x, axis, correction=correction, keepdim=keepdims)


def operand(x):
    """PyTorch's maximum and minimum take no plain numbers."""
    return x if isinstance(x, torch.Tensor) else torch.tensor(float(x), dtype=torch.float64)


REFERENCES: dict[str, Callable] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "abs": torch.abs,
    "maximum": lambda x, y: torch.maximum(operand(x), operand(y)),
    "minimum": lambda x, y: torch.minimum(operand(x), operand(y)),
    "clip": lambda x, *bounds: torch.clamp(x, *[b if b is None else operand(b) for b in bounds]),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "where": lambda condition, x, y: torch.where(condition != 0, x, y),
    "sum": lambda x, axis=None, keepdims=False: torch.sum(x, axis, keepdim=keepdims),
    "mean": lambda x, axis=None, keepdims=False: torch.mean(x, axis, keepdim=keepdims),
    "var": var,
    "max": lambda x, axis=(), keepdims=False: torch.amax(x, axis, keepdim=keepdims),
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes=None: torch.permute(x, axes or tuple(range(x.ndim))[::-1]),
    "getitem": getitem,
    "concat": lambda *arrays, axis=0: torch.cat(arrays, axis),
    "stack": lambda *arrays, axis=0: torch.stack(arrays, axis),
    "matmul": torch.matmul,
    "linear": F.linear,
    "embedding": F.embedding,
    "softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "log_softmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "cross_entropy": cross_entropy,
    "layer_norm": layer_norm,
    "dropout": dropout,
    "attention": attention,
    # modules: their parameters follow the input
    "Linear": lambda x, weight, bias_=None, bias=True: F.linear(x, weight, bias_),
    "Embedding": F.embedding,
    "LayerNorm": lambda x, weight, bias_=None, bias=True, eps=1e-5: layer_norm(
        x, weight, bias_, eps
    ),
    "Dropout": dropout,
    "ModuleList": two_layers,
    "Sequential": two_layers,
}
