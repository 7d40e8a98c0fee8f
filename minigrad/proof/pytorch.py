"""Every op and module in PyTorch's words: the same inputs, the same options, the same result.

Imported only where PyTorch is installed: no other file of the package needs it to load.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from minigrad.proof.cases import ROW, SEED, STEP
from minigrad.random import dropout_mask


def mask(shape, p, key=None):
    """What dropout multiplies by.  The mask itself is test_random.py's subject."""
    return torch.tensor(dropout_mask(np.empty(shape), p, key or (SEED, STEP, 0, ROW)))


def dropout(x, p, training=True, key=None):
    return x * mask(x.shape, p, key) if training else x * 1


def attention(q, k, v, causal=True, dropout=0.0, training=False, key=None):
    """Written out: the query t of T stands at position N − T + t."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if causal:
        position = torch.arange(n_queries)[:, None] + n_keys - n_queries
        scores = scores.masked_fill(torch.arange(n_keys) > position, -torch.inf)
    p = torch.softmax(scores, -1)
    return (p * mask(p.shape, dropout, key) if training else p) @ v


def cross_entropy(logits, targets, ignore_index=-100):
    """PyTorch wants the scores in the second axis, and targets of 64 bits."""
    if logits.ndim > 1:
        logits = logits.movedim(-1, 1)
    return F.cross_entropy(logits, targets.long(), ignore_index=ignore_index)


def getitem(x, index):
    """NumPy's own indexing says which entry goes where, PyTorch gathers them."""
    places = np.arange(x.numel()).reshape(x.shape)[index]
    return torch.take(x, torch.tensor(places.copy()))  # PyTorch has no negative strides


def layer_norm(x, weight, bias=None, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


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
    "relu": torch.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "where": lambda condition, x, y: torch.where(condition != 0, x, y),
    "sum": lambda x, axis=None, keepdims=False: torch.sum(x, axis, keepdim=keepdims),
    "mean": lambda x, axis=None, keepdims=False: torch.mean(x, axis, keepdim=keepdims),
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
    "ModuleList": lambda x, w, b, weight, bias: layer_norm(F.linear(x, w, b), weight, bias),
}
