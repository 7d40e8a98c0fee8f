"""Every op, forward and backward, against PyTorch: one table, read by every test below it.

Both sides run in float64, so that a right derivative agrees to about 1e-15 and the tolerance hides
nothing.  The cotangent `dout` is random, never ones: under out.sum() the gradient of softmax is
exactly zero, and a broken backward would pass.  Sizes differ, so that swapped axes show.
"""

import ast
import functools
import importlib
import inspect
import math
import pathlib
import pkgutil
import re
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as tF

import minigrad.ops as F
from minigrad.random import dropout_mask
from minigrad.tensor import OPS, Tensor, op

B, T, C = 2, 3, 5
V, H, N, D = 7, 4, 6, 2
TOLERANCE = 1e-12  # times the largest entry; float64 rounds at 1e-16, and the sums are short
KEY = (1337, 3, 2, 5)  # (seed, step, layer, row)


class Positive(tuple):
    """The shape of an input between ½ and 2, where logarithms, roots and quotients are tame."""


def call(op, *inputs, **options):
    return op(*inputs, **options)


class Case(NamedTuple):
    """One way to call an op.

    inputs   a shape stands for a random array; an array of floats is an input with a gradient;
             all else (integers, booleans, numbers, None) is handed to both sides as it is
    theirs   the same function in PyTorch
    options  keyword options of our op
    ours     how to call it, where that is not op(*inputs, **options)
    """

    inputs: list
    theirs: object
    options: dict = types.MappingProxyType({})
    ours: object = call


def several(inputs, theirs, *options):
    """A Case for each of `options`; `theirs` is given them too."""
    return [Case(inputs, functools.partial(theirs, **o), o) for o in options]


def broadcasting(theirs, second=tuple):
    """An op of two operands in every relation that two shapes can have, and with numbers."""
    shapes = [
        ((B, T, C), (B, T, C)),
        ((B, T, C), (C,)),
        ((T, 1), (B, T, C)),
        ((B, 1, C), (1, T, 1)),  # both are stretched
        ((B, 1, C), (B, 1, C)),  # an axis of length 1, and nothing is stretched
        ((), (T, C)),
        ((T, C), ()),
        ((), ()),
        ((1,), ()),
        ((1, 1, 1), (C,)),
    ]
    cases = [Case([second(x), second(y)], theirs) for x, y in shapes]
    for number in (3, -1.5, np.float64(2.5), np.float32(0.5)):
        cases.append(Case([second((T, C)), number], theirs))
        if number > 0 or second is tuple:
            cases.append(Case([number, second((T, C))], theirs))
    return cases


def torch_pow(x, y):
    return x**y


def torch_sum(x, axis=None, keepdims=False):
    return torch.sum(x, axis, keepdim=keepdims)


def torch_mean(x, axis=None, keepdims=False):
    return torch.mean(x, axis, keepdim=keepdims)


def torch_amax(x, axis=None, keepdims=False):
    return torch.amax(x, () if axis is None else axis, keepdim=keepdims)


REDUCTIONS = [
    {},
    {"keepdims": True},
    {"axis": 0},
    {"axis": 1},
    {"axis": -1},
    {"axis": -2, "keepdims": True},
    {"axis": (0, 2)},
    {"axis": (-1, 0), "keepdims": True},
    {"axis": (0, 1, 2)},
]
TIES = np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0], [3.0, -1.0, 0.0, 1.0]])
EVEN = np.arange(C) % 2 == 0
LOWER = np.arange(T)[:, None] >= np.arange(C)
IDS = np.array([[0, 4, 4], [6, 4, 1]])  # (B, T), below V; 4 repeats, 2, 3 and 5 are missing


def indexing():
    """x (B, T, C) indexed in every way: (ours, theirs) where PyTorch says it in other words."""
    rows, columns = np.array([2, 0, 2, 2]), np.array([1, 1, 4, 1])  # (2, 1) is read twice
    same = [
        1,
        -1,
        np.int64(1),
        slice(1, None),
        (slice(None), slice(0, T, 2)),
        (slice(None), 1),
        (1, 2, 3),
        ...,
        (..., 2),
        (..., slice(-2, None)),
        (0, ..., None),
        None,
        (slice(None), None, 1),
        [1, 0, 1],
        (slice(None), rows),
        (slice(None), rows, columns),
        (1, rows, columns),
        (np.array([1]), slice(None), rows),  # the axes of arrays apart: theirs comes first
        (slice(None), np.array([[0, 1], [2, 2]])),
        (..., rows[:, None], columns),
        (..., EVEN),
        (1, EVEN[:T]),
        (slice(None), LOWER),
    ]
    cases = [Case([(B, T, C)], lambda x, i=i: x[i], ours=lambda op, x, i=i: x[i]) for i in same]
    cases += [
        Case([(B, T, C)], lambda x: x.flip(-1), ours=lambda op, x: x[..., ::-1]),
        Case([(B, T, C)], lambda x: x[:, rows], ours=lambda op, x: x[:, Tensor(rows)]),
        Case([(B, T, C)], lambda x: x[IDS[0] % B], ours=lambda op, x: x[Tensor(IDS[0] % B)]),
        Case([(B, T, C)], lambda x: x[..., EVEN], ours=lambda op, x: x[..., Tensor(EVEN)]),
        Case([(B, T, C)], lambda x: x[x > 0], ours=lambda op, x: x[x.data > 0]),
        Case([(B, T, C)], lambda x: x[1], {"index": 1}),
    ]
    return cases


def torch_layer_norm(x, weight, bias=None, eps=1e-5):
    return tF.layer_norm(x, weight.shape, weight, bias, eps)


def torch_attention(q, k, v, causal=True, mask=1.0):
    """Written out, with an explicit mask: the query t of T stands at position N − T + t."""
    n_queries, n_keys = q.shape[2], k.shape[2]
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    if causal:
        position = torch.arange(n_queries)[:, None] + n_keys - n_queries
        scores = scores.masked_fill(torch.arange(n_keys) > position, -torch.inf)
    return torch.softmax(scores, -1) * mask @ v


def mask_at(shape, p):
    """What dropout multiplies by at KEY."""
    return torch.tensor(dropout_mask(np.zeros(shape), p, KEY))


QKV = [(B, H, T, D), (B, H, T, D), (B, H, T, D)]
RANDOM_QKV = np.random.default_rng(1).standard_normal((3, B, H, T, D))
SCALE = np.array([1.0, 0.5, 1.5, 1.0]).reshape(H, 1, 1)  # by head
MIDDLING = [RANDOM_QKV[0] * SCALE**5 * 2, *RANDOM_QKV[1:]]  # scores some tens apart
WIDE = [RANDOM_QKV[0] * SCALE**15, *RANDOM_QKV[1:]]  # in one head hundreds apart
LAST = [(B, H, T, D), (B, H, N, D), (B, H, N, D)]  # the last T of N positions ask
TRAINING = {"dropout": 0.4, "training": True, "key": KEY}

CASES = {
    "add": [
        *broadcasting(torch.add),
        Case([(T, C)], lambda x: x + x, ours=lambda op, x: op(x, x)),
    ],
    "sub": [
        *broadcasting(lambda x, y: x - y),
        Case([(T, C)], lambda x: x - (x + x), ours=lambda op, x: op(x, x + x)),
    ],
    "mul": [
        *broadcasting(torch.mul),
        Case([(T, C)], lambda x: x * x, ours=lambda op, x: op(x, x)),
        Case([(T, C)], lambda x: x * x * x, ours=lambda op, x: op(x, op(x, x))),
    ],
    "div": [
        *broadcasting(lambda x, y: x / y, Positive),
        Case([(T, C), Positive((T, C))], torch.div),
        Case([Positive((T, C))], lambda x: x / (x * x), ours=lambda op, x: op(x, x * x)),
    ],
    "pow": [
        *broadcasting(torch_pow, Positive),
        Case([(T, C), 2], torch_pow),  # a power of negative numbers
        Case([(T, C), 3.0], torch_pow),
        Case([(T, C), -1], torch_pow),
        Case([Positive((T, C)), (T, C)], torch_pow),
        Case([Positive((T, C))], lambda x: x**x, ours=lambda op, x: op(x, x)),
    ],
    "neg": [Case([(B, T, C)], torch.neg), Case([()], torch.neg)],
    "exp": [Case([(B, T, C)], torch.exp), Case([()], torch.exp)],
    "log": [Case([Positive((B, T, C))], torch.log), Case([Positive()], torch.log)],
    "sqrt": [Case([Positive((B, T, C))], torch.sqrt), Case([Positive()], torch.sqrt)],
    "tanh": [Case([(B, T, C)], torch.tanh), Case([()], torch.tanh)],
    "relu": [Case([(B, T, C)], torch.relu), Case([np.array([-1.0, 0.0, 2.0])], torch.relu)],
    "gelu": [
        Case([(B, T, C)], lambda x: tF.gelu(x, approximate="tanh")),
        Case([np.array([-9.0, -0.8, 0.0, 9.0])], lambda x: tF.gelu(x, approximate="tanh")),
        Case([(3, 30_001)], lambda x: tF.gelu(x, approximate="tanh")),  # more than one block
    ],
    "where": [
        Case([LOWER, (T, C), (T, C)], torch.where),
        Case([LOWER, (B, 1, C), (T, 1)], torch.where),
        Case([EVEN, (B, T, C), ()], torch.where),
        Case([LOWER, (T, C), -1.5], torch.where),
        Case([LOWER, 2, (T, C)], torch.where),
        Case([LOWER, np.float64(0.5), (T, C)], torch.where),
        Case([LOWER, (T, C)], lambda c, x: torch.where(c, x, x * x),
             ours=lambda op, c, x: op(Tensor(c), x, x * x)),
        Case([LOWER[:, 2:3], (T, C), (C,)], torch.where),
    ],
    "sum": several([(B, T, C)], torch_sum, *REDUCTIONS) + several([()], torch_sum, {}),
    "mean": several([(B, T, C)], torch_mean, *REDUCTIONS) + several([()], torch_mean, {}),
    "max": [
        *several([(B, T, C)], torch_amax, *REDUCTIONS),
        *several([TIES], torch_amax, {}, {"axis": 0}, {"axis": 1}, {"axis": (0, 1)},
                 {"axis": -1, "keepdims": True}),
        *several([()], torch_amax, {}),
    ],
    "reshape": [
        Case([(B, T, C)], lambda x: x.reshape(T, B * C), {"shape": (T, B * C)}),
        Case([(B, T, C)], lambda x: x.reshape(-1, C), {"shape": (-1, C)}),
        Case([(B, T, C)], lambda x: x.reshape(-1), {"shape": -1}),
        Case([(1, 1)], lambda x: x.reshape(()), {"shape": ()}),
        Case([()], lambda x: x.reshape(1, 1), {"shape": (1, 1)}),
        Case([(T, C)], lambda x: x.T.reshape(T, C), ours=lambda op, x: x.T.reshape(T, C)),
    ],
    "transpose": [
        Case([(B, T, C)], lambda x: x.permute(2, 1, 0)),
        Case([(B, T, C)], lambda x: x.permute(1, 2, 0), {"axes": (1, 2, 0)}),
        Case([(B, T, C)], lambda x: x.permute(2, 0, 1), {"axes": (-1, -3, 1)}),
        Case([(B, T, C, D)], lambda x: x.permute(0, 2, 1, 3), {"axes": (0, 2, 1, 3)}),
        Case([(C,)], lambda x: x),
        Case([()], lambda x: x),
    ],
    "getitem": indexing(),
    "concat": [
        Case([(B, C), (T, C)], lambda x, y: torch.cat([x, y]), ours=lambda op, *xs: op(xs)),
        Case([(B, T), (B, 1), (B, C)], lambda *xs: torch.cat(xs, -1),
             ours=lambda op, *xs: op(list(xs), axis=-1)),
        Case([(B, T, C), (B, 1, C)], lambda *xs: torch.cat(xs, 1),
             ours=lambda op, *xs: op(xs, axis=1)),
        Case([(T, C)], lambda x: torch.cat([x, x, -x]), ours=lambda op, x: op([x, x, -x])),
        Case([(T, C)], lambda x: x.clone(), ours=lambda op, x: op([x])),
    ],
    "stack": [
        Case([(T, C), (T, C)], lambda x, y: torch.stack([x, y]), ours=lambda op, *xs: op(xs)),
        Case([(T, C)] * 3, lambda *xs: torch.stack(xs, 1), ours=lambda op, *xs: op(xs, axis=1)),
        Case([(T, C)] * 2, lambda *xs: torch.stack(xs, -1), ours=lambda op, *xs: op(xs, axis=-1)),
        Case([(), ()], lambda *xs: torch.stack(xs), ours=lambda op, *xs: op(xs)),
        Case([(T,)], lambda x: torch.stack([x, x, x * x]), ours=lambda op, x: op([x, x, x * x])),
    ],
    "matmul": [
        Case([(T, C), (C, V)], torch.matmul),
        Case([(C,), (C,)], torch.matmul),
        Case([(C,), (C, V)], torch.matmul),
        Case([(T, C), (C,)], torch.matmul),
        Case([(C,), (B, C, V)], torch.matmul),
        Case([(B, T, C), (C,)], torch.matmul),
        Case([(B, T, C), (B, C, V)], torch.matmul),
        Case([(B, T, C), (C, V)], torch.matmul),
        Case([(T, C), (B, C, V)], torch.matmul),
        Case([(B, 1, T, C), (H, C, V)], torch.matmul),  # both are stretched
        Case([(1, T, 1), (B, 1, V)], torch.matmul),
        Case([(T, C)], lambda x: x @ x.T, ours=lambda op, x: op(x, x.T)),
        Case([(C, C)], lambda x: x @ x, ours=lambda op, x: op(x, x)),
        Case([(C,)], lambda x: x @ x, ours=lambda op, x: op(x, x)),
    ],
    "linear": [
        Case([(B, T, C), (V, C), (V,)], tF.linear),
        Case([(B, T, C), (V, C), None], tF.linear),
        Case([(B, T, C), (V, C)], tF.linear),
        Case([(B, H, T, C), (1, C), (1,)], tF.linear),
        Case([(T, C), (V, C), (V,)], tF.linear),
        Case([(C,), (V, C), (V,)], tF.linear),
        Case([(T, C), (V, C), (V,)], tF.linear,
             ours=lambda op, x, w, b: op(x, bias=b, weight=w)),  # by name, in another order
        Case([(C, C)], lambda x: tF.linear(x, x), ours=lambda op, x: op(x, x)),
    ],
    "embedding": [
        Case([IDS, (V, C)], tF.embedding),
        Case([IDS[0], (V, C)], tF.embedding),
        Case([IDS.astype(np.int32), (V, C)], tF.embedding),
        Case([100 * IDS, (700, C)], tF.embedding),  # too many tokens for the one-hot product
        Case([IDS, (V, C)], tF.embedding, ours=lambda op, i, w: op(Tensor(i), weight=w)),
        Case([IDS[:, 1:2], (V, C)], tF.embedding),  # one id and nothing else
        Case([np.array(3), (V, C)], tF.embedding, ours=lambda op, i, w: op(Tensor(i), w)),
    ],
    "softmax": several([(B, T, C)], lambda x, axis=-1: torch.softmax(x, axis),
                       {}, {"axis": 0}, {"axis": 1}, {"axis": -1}, {"axis": -2}),
    "log_softmax": several([(B, T, C)], lambda x, axis=-1: torch.log_softmax(x, axis),
                           {}, {"axis": 0}, {"axis": 1}, {"axis": -1}, {"axis": -2}),
    "cross_entropy": [
        Case([(B * T, V), IDS.ravel()], tF.cross_entropy),
        Case([(T, V), IDS[1].astype(np.uint8)], lambda x, t: tF.cross_entropy(x, t.long())),
        Case([(B, T, V), IDS], lambda x, t: tF.cross_entropy(x.transpose(1, 2), t)),
        Case([(B, T, V), IDS], lambda x, t: tF.cross_entropy(x.transpose(1, 2), t),
             ours=lambda op, x, t: op(targets=Tensor(t), logits=x)),
        Case([(B * T, V), IDS.ravel()], lambda x, t: tF.cross_entropy(x, t, ignore_index=4),
             {"ignore_index": 4}),
        Case([(4, V), np.array([-100, 2, -100, 6])], tF.cross_entropy, {"ignore_index": -100}),
        Case([(T, V), IDS[0]], tF.cross_entropy, {"ignore_index": -1}),  # nothing is ignored
        Case([(1, V), np.array([6])], tF.cross_entropy),
    ],
    "layer_norm": [
        Case([(B, T, C), (C,), (C,)], torch_layer_norm),
        Case([(B, T, C), (C,), None], torch_layer_norm),
        Case([(B, T, C), (C,)], torch_layer_norm),
        Case([(C,), (C,), (C,)], torch_layer_norm),
        Case([(T, C), (C,), (C,)], torch_layer_norm,
             ours=lambda op, x, w, b: op(x, bias=b, weight=w)),
        *several([(T, C), (C,), (C,)], torch_layer_norm, {"eps": 0.1}, {"eps": 1e-12}),
    ],
    "dropout": [
        Case([(B, T, C), 0.4], lambda x, p: x * mask_at((B, T, C), p),
             {"training": True, "key": KEY}),
        Case([(C,), 0.5], lambda x, p: x * mask_at((C,), p), {"training": True, "key": KEY}),
        Case([(B, T, C), 0.4], lambda x, p: x.clone(), {"training": False}),
        Case([(B, T, C), 0], lambda x, p: x.clone(), {"training": True}),
        Case([(B, T, C)], lambda x: x * mask_at((B, T, C), 0.4) * x,
             ours=lambda op, x: op(p=0.4, x=x, training=True, key=KEY) * x),
    ],
    "attention": [
        Case(QKV, torch_attention),
        Case(QKV, functools.partial(tF.scaled_dot_product_attention, is_causal=True)),
        Case(QKV, tF.scaled_dot_product_attention, {"causal": False}),
        Case(MIDDLING, torch_attention),
        Case(WIDE, torch_attention),
        Case(WIDE, tF.scaled_dot_product_attention, {"causal": False}),
        Case(LAST, torch_attention),
        Case(LAST, tF.scaled_dot_product_attention, {"causal": False}),
        Case([(B, H, 1, D), (B, H, N, D), (B, H, N, D)], torch_attention),  # a cached step
        Case([(B, H, N, D), (B, H, T, D), (B, H, T, D)], tF.scaled_dot_product_attention,
             {"causal": False}),
        Case([(B, H, T, D)], lambda x: torch_attention(x, x, x), ours=lambda op, x: op(x, x, x)),
        Case(QKV, lambda q, k, v: torch_attention(q, k, v, True, mask_at((B, H, T, T), 0.4)),
             TRAINING),
        Case(LAST, lambda q, k, v: torch_attention(q, k, v, False, mask_at((B, H, T, N), 0.4)),
             TRAINING | {"causal": False}),
        Case(QKV, torch_attention, TRAINING | {"training": False}),
        Case(QKV, torch_attention, TRAINING | {"dropout": 0.0}),
    ],
}  # fmt: skip
ALL = [pytest.param(n, c, id=f"{n}-{i}") for n, cs in CASES.items() for i, c in enumerate(cs)]


def strided(array):
    """The same entries, with gaps between them."""
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    view = wide[(..., *[slice(None, None, 2)] * array.ndim)]
    view[...] = array
    return view


LAYOUTS = {"contiguous": np.ascontiguousarray, "transposed": np.asfortranarray, "strided": strided}


def is_differentiable(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def make_inputs(case, layout, dtype=np.float64):
    """(the arrays, numbers and Nones of a case, a function that makes a random cotangent)."""
    rng = np.random.default_rng(0)

    def make(x):
        if isinstance(x, tuple):
            draw = rng.uniform(0.5, 2, x) if isinstance(x, Positive) else rng.standard_normal(x)
            x = np.asarray(draw)
        if isinstance(x, np.ndarray):
            x = LAYOUTS[layout](x.astype(dtype) if is_differentiable(x) else x).reshape(x.shape)
            x.flags.writeable = False  # an op that writes into its input fails at once
        return x

    return [make(x) for x in case.inputs], make


def to_torch(x):
    if is_differentiable(x):
        return torch.tensor(x, requires_grad=True)
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def assert_close(ours, theirs, what):
    """Equal in shape, and to TOLERANCE times the largest entry."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch's {theirs.shape}"
    error, size = abs(ours - theirs).max(), abs(theirs).max()
    assert error <= TOLERANCE * size, f"{what}: off by {error:.3g} where PyTorch has {size:.3g}"


def check(name, case, layout="contiguous"):
    """Hold output and gradients of one case against PyTorch."""
    inputs, make = make_inputs(case, layout)
    ours = [Tensor(x, requires_grad=True) if is_differentiable(x) else x for x in inputs]
    theirs = [to_torch(x) for x in inputs]
    out, reference = case.ours(OPS[name], *ours, **case.options), case.theirs(*theirs)
    assert_close(out.data, reference, f"{name}: out")

    dout = make(out.shape)
    out.backward(dout)
    wanted = [i for i, x in enumerate(inputs) if is_differentiable(x)]
    gradients = torch.autograd.grad(reference, [theirs[i] for i in wanted], torch.tensor(dout))
    for i, d in zip(wanted, gradients, strict=True):
        assert abs(d).max() > 1e-3, f"{name}: input {i} has zero gradient, which checks nothing"
        assert_close(ours[i].grad, d, f"{name}: d{i}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name, case", ALL)
def test_matches_pytorch(name, case, layout):
    """Output and gradients are PyTorch's, however the inputs and dout lie in memory."""
    check(name, case, layout)


@pytest.mark.parametrize("name, case", ALL)
def test_float32_stays_float32(name, case, monkeypatch):
    """Neither numbers nor np.float64 scalars widen an output, or a gradient on its way."""
    inputs, make = make_inputs(case, "contiguous", np.float32)
    arrived = []  # the gradients as they reach a leaf, before it converts them to its own dtype
    monkeypatch.setattr(Tensor, "_accumulate", lambda self, d: arrived.append(d.dtype))
    ours = [Tensor(x, requires_grad=True) if is_differentiable(x) else x for x in inputs]
    out = case.ours(OPS[name], *ours, **case.options)
    assert out.dtype == np.float32
    out.backward(make(out.shape).astype(np.float32))
    assert set(arrived) == {np.dtype(np.float32)}


# ---- extreme values ------------------------------------------------------------------------------


def scores(dtype):
    """Rows of logits as far apart as ±10⁴, in float32 or float64."""
    return Tensor((1e4 * np.linspace(-1, 1, B * T * V)).reshape(B * T, V).astype(dtype), True)


EXTREMES = {
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "cross_entropy": lambda x: F.cross_entropy(x, IDS.ravel()),
    "attention": lambda x: F.attention(*[x.reshape(1, B, T, V)] * 3),
    "cross_entropy_right": lambda x: F.cross_entropy(1e4 * x, np.full(B * T, V - 1)),
    "tanh": F.tanh,
    "layer_norm": lambda x: F.layer_norm(x, np.ones(V, x.dtype)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXTREMES)
def test_large_logits_are_harmless(name, dtype):
    """Logits of 10⁴ overflow eˣ; the stable formulas neither overflow nor divide by zero."""
    x = scores(dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        out = EXTREMES[name](x)
        out.backward(np.full(out.shape, 0.5, dtype))
    assert np.isfinite(out.data).all() and np.isfinite(x.grad).all()


def test_extreme_logits_give_the_limits():
    """Softmax becomes a choice, a right and confident guess costs 0, a wrong one its distance."""
    x = Tensor(np.array([[1e4, -1e4, 0.0]]))
    np.testing.assert_array_equal(F.softmax(x).data, [[1, 0, 0]])
    np.testing.assert_array_equal(F.log_softmax(x).data, [[0, -2e4, -1e4]])
    assert F.cross_entropy(x, np.array([0])).item() == 0
    assert F.cross_entropy(x, np.array([1])).item() == 2e4


def test_a_large_mean_costs_layer_norm_no_digits():
    """mean(x²) − μ² would subtract 10⁸ from 10⁸ to find a variance of 1: float32 has 7 digits.

    The mean itself is rounded at 10⁴ · 6·10⁻⁸ = 6·10⁻⁴ per operation, and x̂ by as much.
    """
    x = (1e4 + np.random.default_rng(0).standard_normal((T, 64))).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    out = F.layer_norm(x, np.ones(64, np.float32)).data
    np.testing.assert_allclose(out, exact, rtol=0, atol=3e-3)


def test_where_takes_a_single_condition():
    """A condition of one boolean, however it is written, hands the gradient to one side only."""
    for condition in (True, np.bool_(True), np.array(True), Tensor(np.array(True))):
        x, y = Tensor(np.ones(T), True), Tensor(np.ones(T), True)
        F.where(condition, x, y).backward(np.arange(1.0, T + 1))
        np.testing.assert_array_equal(x.grad, np.arange(1.0, T + 1))
        np.testing.assert_array_equal(y.grad, np.zeros(T))


@pytest.mark.parametrize("scale", [1, 100])
def test_uniform_guess_costs_log_v(scale):
    """Equal logits, of whatever size, are a uniform guess: ln V nats, a perplexity of V."""
    loss = F.cross_entropy(np.full((B * T, V), float(scale)), IDS.ravel())
    assert loss.item() == pytest.approx(math.log(V), rel=1e-14)


# ---- errors --------------------------------------------------------------------------------------


def zeros(*shape):
    return Tensor(np.zeros(shape))


ERRORS = [  # the op, its inputs, the error, what it must name besides the op
    ("linear", [zeros(B, T, C), zeros(V, C + 1)], ValueError, ["(2, 3, 5)", "(7, 6)"]),
    ("linear", [zeros(B, T, C), zeros(V, C), zeros(C)], ValueError, ["(7, 5)", "(5,)"]),
    ("linear", [zeros(B, T, C), zeros(V, C), zeros(1)], ValueError, ["(7, 5)", "(1,)"]),
    ("linear", [zeros(B, T, C), zeros(C)], ValueError, ["(2, 3, 5)", "(5,)"]),
    ("linear", [zeros(), zeros(V, C)], ValueError, ["()", "(7, 5)"]),
    ("matmul", [zeros(B, T), zeros(C, V)], ValueError, ["(2, 3)", "(5, 7)"]),
    ("matmul", [zeros(T), zeros(C)], ValueError, ["(3,)", "(5,)"]),
    ("matmul", [zeros(T, C), zeros()], ValueError, ["(3, 5)", "()"]),
    ("matmul", [zeros(B, T, C), zeros(H, C, V)], ValueError, ["(2, 3, 5)", "(4, 5, 7)"]),
    ("layer_norm", [zeros(B, T, C), zeros(T)], ValueError, ["(2, 3, 5)", "(3,)"]),
    ("layer_norm", [zeros(B, C), zeros(C), zeros(1)], ValueError, ["(2, 5)", "(5,)", "(1,)"]),
    ("layer_norm", [zeros(B, C), zeros(1), zeros(1)], ValueError, ["(2, 5)", "(1,)"]),
    ("cross_entropy", [zeros(B, T, V), IDS.ravel()], ValueError, ["(2, 3, 7)", "(2, 3)", "(6,)"]),
    ("cross_entropy", [zeros(B, V), IDS], ValueError, ["(2, 7)", "(2,)", "(2, 3)"]),
    ("cross_entropy", [zeros(2, V), np.array([0, V])], ValueError, ["7", "6"]),
    ("cross_entropy", [zeros(2, V), np.array([0, -1])], ValueError, ["-1", "6"]),
    ("cross_entropy", [zeros(2, V), np.array([0.0, 1.0])], TypeError, ["integers", "float64"]),
    ("cross_entropy", [zeros(2, V), np.array([True, False])], TypeError, ["integers", "bool"]),
    ("cross_entropy", [zeros(0, V), np.array([], int)], ValueError, []),
    ("embedding", [np.array([[1, V]]), zeros(V, C)], ValueError, ["7", "6"]),
    ("embedding", [np.array([-1, 1]), zeros(V, C)], ValueError, ["-1", "6"]),
    ("embedding", [np.array([1.0]), zeros(V, C)], TypeError, ["integers", "float64"]),
    ("embedding", [[0, 1], zeros(V, C)], TypeError, ["integers", "float32"]),
    ("attention", [zeros(B, H, T, D), zeros(B, H, T, D + 1), zeros(B, H, T, D + 1)], ValueError,
     ["(2, 4, 3, 2)", "(2, 4, 3, 3)"]),
    ("attention", [zeros(B, H, T, D), zeros(B, H, T, D), zeros(B, H, N, D)], ValueError,
     ["(2, 4, 3, 2)", "(2, 4, 6, 2)"]),
    ("attention", [zeros(B, H, T, D), *[zeros(B, 1, T, D)] * 2], ValueError, ["(2, 1, 3, 2)"]),
    ("attention", [zeros(B, T, D)] * 3, ValueError, ["(2, 3, 2)"]),
    ("attention", [zeros(B, H, N, D), *[zeros(B, H, T, D)] * 2], ValueError, ["6", "3", "causal"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, inputs, error, parts",
    [pytest.param(*e, id=f"{e[0]}-{i}") for i, e in enumerate(ERRORS)],
)
def test_errors_teach(name, inputs, error, parts):
    """What does not fit is refused by the op, in one line that names it and the shapes."""
    with pytest.raises(error) as caught:
        OPS[name](*inputs)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(name)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_dropout_refuses_a_share(p):
    """A share below 0 or of 1 and more makes no sense; at 1, 1/(1 − p) would divide by zero."""
    with pytest.raises(ValueError, match=rf"dropout .* not {p}"):
        F.dropout(zeros(B, C), p, training=True)


def test_all_ignored_is_an_error():
    """The mean over no rows is not a number: said at once, not found as nan in the weights."""
    with pytest.raises(ValueError, match="cross_entropy: no row"):
        F.cross_entropy(zeros(2, V), np.array([-1, -1]), ignore_index=-1)


# ---- the tests, tested ---------------------------------------------------------------------------


def test_no_op_is_unchecked():
    """Every op in the registry has cases, also one that nobody imports, and F offers all."""
    for module in pkgutil.iter_modules(F.__path__):
        importlib.import_module(f"minigrad.ops.{module.name}")
    assert set(CASES) == set(OPS), f"give these cases: {sorted(set(OPS) ^ set(CASES))}"
    assert set(F.__all__) == set(OPS)
    assert all(getattr(F, name) is OPS[name] for name in OPS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_op_teaches(name):
    """A docstring opens with the formula; its sections follow in one order everywhere."""
    doc = inspect.getdoc(OPS[name])
    order = ["Shapes", "Source", "Derivation", "In words", "Numerics"]
    sections = re.findall(rf"^({'|'.join(order)})\s", doc, re.MULTILINE)
    assert doc.startswith("out = ")
    assert set(order[:3]) <= set(sections), f"{name}: docstring has only {sections}"
    assert sections == sorted(sections, key=order.index), f"{name}: sections out of order"


def imported(source):
    """The top-level packages that a piece of Python imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


FILES = sorted(pathlib.Path(*F.__path__).glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ops_follow_their_input(path):
    """An op that names an array library is wrong on the other device; no GPU is needed to see."""
    assert not {"numpy", "cupy"} & set(imported(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "import os, numpy as np",
        "import numpy.linalg as la",
        "from numpy import exp",
        "from numpy.lib.stride_tricks import as_strided",
        "def f():\n    import numpy",
    ],
)
def test_no_import_goes_unseen(line):
    """The check above sees an import however it is written, and no other by mistake."""
    assert "numpy" in set(imported(line))
    assert "numpy" not in set(imported(line.replace("numpy", "minigrad.numpy")))


def plant(monkeypatch, name, wrong_input=None, wrong_out=1):
    """Replace an op by one that is off by one part in a thousand, in a gradient or in out."""
    right = OPS[name].__wrapped__

    @functools.wraps(right)  # its name and, for @op, its signature
    def wrong(*inputs, **options):
        out, backward = right(*inputs, **options)

        def wrong_backward(dout):
            gradients = enumerate(backward(dout))
            return tuple(d * 1.001 if i == wrong_input else d for i, d in gradients)

        return out * wrong_out, wrong_backward

    monkeypatch.setitem(OPS, name, OPS[name])  # restores the right one afterwards
    op(wrong)


GRADIENTS = [
    (name, i)
    for name in sorted(CASES)
    for i, x in enumerate(CASES[name][0].inputs)
    if is_differentiable(x) or isinstance(x, tuple)
]


@pytest.mark.parametrize("name, i", GRADIENTS)
def test_a_wrong_gradient_is_caught(name, i, monkeypatch):
    """A backward that is off by one part in a thousand, in one input of any op, fails the check."""
    plant(monkeypatch, name, wrong_input=i)
    with pytest.raises(AssertionError, match=rf"^{name}: d{i}: off by"):
        check(name, CASES[name][0])


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_wrong_output_is_caught(name, monkeypatch):
    """So does a forward that is off by as much."""
    plant(monkeypatch, name, wrong_out=1.001)
    with pytest.raises(AssertionError, match=rf"^{name}: out: off by"):
        check(name, CASES[name][0])


def test_a_zero_gradient_is_caught():
    """Softmax over an axis of length 1 is 1 whatever x: such a case would check nothing."""
    with pytest.raises(AssertionError, match="softmax: input 0 has zero gradient"):
        check("softmax", Case([(T, 1)], lambda x: torch.softmax(x, -1)))


def test_an_op_that_writes_into_its_input_is_caught(monkeypatch):
    """Inputs and dout are read-only in the check."""

    def neg(x):
        x *= -1
        return x, lambda dout: (-dout,)

    monkeypatch.setitem(OPS, "neg", OPS["neg"])
    op(neg)
    with pytest.raises(ValueError, match="read-only"):
        check("neg", CASES["neg"][0])
