"""Attention: every position takes a weighted average of the values at the positions up to its own.

The weights are a softmax over how well a query and a key agree.  Five ordinary ops in a row are
what the one op F.attention does, and backward() through the five gives the gradients that are
derived by hand in minigrad/ops/attention.py.

    python examples/lesson/7_attention.py
"""

import math

import numpy as np

import minigrad as mg
import minigrad.ops as F

words = "The cat sat on the mat".split()
T, D = len(words), 4
generator = np.random.default_rng(5)
arrays = generator.standard_normal((3, 1, 1, T, D))  # q, k, v: (B, H, T, D), here B = H = 1
dout = generator.standard_normal((1, 1, T, D))  # some gradient that comes back


def spelled_out(q, k, v):
    """(out, weights), by ops that know nothing of attention."""
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(D)  # (B, H, T, T): query t, key s
    later = np.arange(T) > np.arange(T)[:, None]  # s > t: not to be seen yet
    scores = F.where(later, -math.inf, scores)
    weights = F.softmax(scores)  # by rows; e to the minus infinity is 0
    return weights @ v, weights


q, k, v = (mg.Tensor(array, requires_grad=True) for array in arrays)
out, weights = spelled_out(q, k, v)
out.backward(dout)

print("How much each word (row) looks at each word (column); a row sums to 1.")
print("q, k and v are random numbers here: the pattern means nothing yet.\n")
print("    ", *(f"{word:>5}" for word in words))
for t, word in enumerate(words):
    print(f"{word:4} ", *(f"{weight:5.2f}" for weight in weights.numpy()[0, 0, t, : t + 1]))

fused_q, fused_k, fused_v = (mg.Tensor(array, requires_grad=True) for array in arrays)
fused_out = F.attention(fused_q, fused_k, fused_v)
fused_out.backward(dout)

print("\n       largest entry   largest difference from F.attention")
for name, ours, theirs in (
    ("out", out.data, fused_out.data),
    ("dq", q.grad, fused_q.grad),
    ("dk", k.grad, fused_k.grad),
    ("dv", v.grad, fused_v.grad),
):
    print(f"{name:4} {abs(ours).max():14.2f} {abs(ours - theirs).max():12.0e}")
