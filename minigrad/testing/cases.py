"""The cases: every op and every module, with every one of its arguments.

Lengths differ from axis to axis, so that swapped axes show.  The right answers are not here:
checks.py computes them.  tests/test_ops.py fails if an op, a module or an argument has no case, and
tests/test_twins.py if a twin has none.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from minigrad import nn

B, T, C, V, H, N, D = 2, 3, 5, 7, 4, 6, 8
LONG = 400  # more than the 128 numbers that NumPy adds up in one go
MANY = 5000  # rows: more than a twin adds up in float32
KEY = (1337, 3, 2, 5)  # of dropout: (seed, step, layer, row)
SEED, STEP, ROW = 7, 11, 2  # where the running key is when a case begins


class Positive(tuple):
    """The shape of an input between ½ and 2, where logarithms, roots and quotients are tame."""


class Same(int):
    """The Tensor with this index among the inputs, a second time."""


class Case(NamedTuple):
    """One way to call an op or, with `build`, a module.

    inputs   a shape means a random array of that shape; an array of floats is an input with a
             gradient; everything else (integers, booleans, numbers, None) is passed on as it is
    options  keyword options of the op; for a module the arguments of `build`
    build    makes the module, whose parameters then become inputs too, filled at random
    smooth   False where the inputs are at a kink: finite differences see both sides of it
    """

    inputs: list
    options: Any = MappingProxyType({})
    build: Callable[..., nn.Module] | None = None
    smooth: bool = True


def several(inputs, *options, **rest):
    """Return a case for each of `options`."""
    return [Case(inputs, o, **rest) for o in options]


NUMBERS = (3, -1.5, np.float64(2.5), np.float32(0.5))


def broadcasting(kind=tuple, numbers=NUMBERS):
    """Return cases of two operands: all ways to broadcast, and numbers on either side."""
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
        ((0, C), (0, C)),  # no entries at all
        ((0, C), (C,)),  # y is used by nobody
        ((B, 1), (B, 0)),
        ((LONG, 2), (2,)),  # a long sum in backward
    ]
    cases = [Case([kind(x), kind(y)]) for x, y in shapes]
    for number in numbers:
        cases.append(Case([kind((T, C)), number]))
        if number > 0 or kind is tuple:
            cases.append(Case([number, kind((T, C))]))
    return cases


def competing(tied, smaller):
    """Return cases of maximum or minimum: all ways to broadcast, and ties.

    Not two single entries, of which only one has a gradient.
    """
    cases = [
        case
        for case in broadcasting(numbers=(0, -0.5, np.float64(0.25), np.float32(0.5)))
        if not all(isinstance(x, tuple) and np.prod(x) == 1 for x in case.inputs)
    ]
    return [
        *cases,
        Case([(T, C), Same(0)]),
        Case([tied, tied[::-1].copy()], smooth=False),
        Case([tied, smaller], smooth=False),
        Case([np.array(2.0), np.array(2.0)], smooth=False),
    ]


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
AXES: list[dict] = [{}, {"axis": 0}, {"axis": 1}, {"axis": -1}, {"axis": -2}]
TIES = np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0], [3.0, -1.0, 0.0, 1.0]])
EVEN = np.arange(C) % 2 == 0
LOWER = np.arange(T)[:, None] >= np.arange(C)
IDS = np.array([[0, 4, 4], [6, 4, 1]])  # (B, T), below V; 4 repeats, 2, 3 and 5 are missing
ROWS, COLUMNS = np.array([2, 0, 2, 2]), np.array([1, 1, 4, 1])  # (2, 1) is read twice
INDICES = [  # into x (B, T, C)
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
    (..., slice(None, None, -1)),
    (0, ..., None),
    None,
    (slice(None), None, 1),
    [1, 0, 1],
    (slice(None), ROWS),
    (slice(None), ROWS, COLUMNS),
    (1, ROWS, COLUMNS),
    (np.array([1]), slice(None), ROWS),  # the axes of arrays apart: theirs comes first
    (slice(None), np.array([[0, 1], [2, 2]])),
    (..., ROWS[:, None], COLUMNS),
    (..., EVEN),
    (1, EVEN[:T]),
    (slice(None), LOWER),
    np.stack([LOWER, ~LOWER]),
    slice(2, 2),  # nothing
    (..., np.array([], int)),
]

QKV = [(B, H, T, D)] * 3
PADDED = np.arange(N) < np.array([4, N])[:, None, None, None]  # (B, 1, 1, N): two lengths
BAND = abs(np.arange(T)[:, None] + 2 - np.arange(N)) <= 2  # (T, N)
BLIND = PADDED & (np.arange(T) != 1)[:, None]  # (B, 1, T, N): query 1 sees no key
LEFT = np.arange(T) >= np.array([1, 2])[:, None, None, None]  # (B, 1, 1, T): padding in front
RANDOM_QKV = np.random.default_rng(1).standard_normal((3, B, H, T, D))
SCALE = np.array([1.0, 0.5, 1.5, 1.0]).reshape(H, 1, 1)  # by head
MIDDLING = [RANDOM_QKV[0] * SCALE**5 * 2, *RANDOM_QKV[1:]]  # scores some tens apart
WIDE = [RANDOM_QKV[0] * SCALE**15, *RANDOM_QKV[1:]]  # in one head a thousand apart
LAST = [(B, H, T, D), (B, H, N, D), (B, H, N, D)]  # queries at the last T of N positions
TRAINING = {"dropout": 0.4, "training": True, "key": KEY}


class Chain(nn.Module):
    """A ModuleList computes nothing itself: here its layers run one after another."""

    def __init__(self, layers):
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def layers():
    """Return what Sequential and ModuleList hold."""
    return [nn.Linear(C, V), nn.LayerNorm(V)]


def appended():
    """Return a Chain whose layers are appended one by one."""
    chain = Chain(nn.ModuleList())
    for layer in layers():
        chain.layers.append(layer)
    return chain


CASES: dict[str, list[Case]] = {
    "add": [*broadcasting(), Case([(T, C), Same(0)])],
    "sub": broadcasting(),  # x − x and x / x are constants: they would check nothing
    "mul": [*broadcasting(), Case([(T, C), Same(0)])],
    "div": [*broadcasting(Positive), Case([(T, C), Positive((T, C))])],
    "pow": [
        *broadcasting(Positive),
        Case([Positive((T, C)), Same(0)]),
        Case([(T, C), 2]),  # a power of negative numbers
        Case([(T, C), 3.0]),
        Case([(T, C), -1]),
        Case([Positive((T, C)), (T, C)]),
        Case([np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0, 3.0])], smooth=False),
        Case([np.array([0.0, -2.0, 0.5]), 1]),
    ],
    "neg": [Case([(B, T, C)]), Case([()]), Case([(0, C)])],
    "exp": [Case([(B, T, C)]), Case([()]), Case([(0, C)])],
    "log": [Case([Positive((B, T, C))]), Case([Positive()]), Case([(0, C)])],
    "sqrt": [Case([Positive((B, T, C))]), Case([Positive()]), Case([(0, C)])],
    "tanh": [Case([(B, T, C)]), Case([()]), Case([(0, C)])],
    "relu": [
        Case([(B, T, C)]),
        Case([()]),
        Case([(0, C)]),
        Case([np.array([-1.0, 0.0, 2.0])], smooth=False),
    ],
    "abs": [
        Case([(B, T, C)]),
        Case([()]),
        Case([(0, C)]),
        Case([np.array([-1.0, 0.0, 2.0])], smooth=False),
    ],
    "maximum": competing(TIES, 2),
    "minimum": competing(TIES, 2),
    "clip": [
        Case([(B, T, C), -0.5, 0.75]),
        Case([(B, T, C), None, 0.5]),
        Case([(B, T, C), 0]),
        Case([(T, 1), -np.arange(C, dtype=np.int8), np.int8(1)]),  # bounds that broadcast
        Case([(B, T, C), -1, np.ones((T, 1), np.int8)]),
        Case([(0, C), -0.5, 0.75]),
        Case([np.array([-1.0, -0.5, 0.0, 0.75, 2.0]), -0.5, 0.75], smooth=False),
        Case([np.array(0.25), -0.5, 0.75]),
    ],
    "sigmoid": [
        Case([(B, T, C)]),
        Case([()]),
        Case([(0, C)]),
        Case([np.array([-800.0, -9.0, 0.0, 9.0, 800.0])]),
    ],
    "gelu": [
        Case([(B, T, C)]),
        Case([()]),
        Case([(0, C)]),
        Case([np.array([-9.0, -0.8, 0.0, 9.0])]),
        Case([(2, 40_001)]),  # more than a chunk of the twin
    ],
    "where": [
        Case([LOWER, (T, C), (T, C)]),
        Case([LOWER, (B, 1, C), (T, 1)]),
        Case([EVEN, (B, T, C), ()]),
        Case([LOWER, (T, C), -1.5]),
        Case([LOWER, 2, (T, C)]),
        Case([LOWER, np.float64(0.5), (T, C)]),
        Case([LOWER, (T, C), Same(1)]),
        Case([LOWER * 2, (T, C), (T, C)]),  # numbers: true where they are not 0
        Case([LOWER[:, 2:3], (T, C), (C,)]),
        Case([np.zeros((0, C), bool), (0, C), (C,)]),
    ],
    "sum": [
        *several([(B, T, C)], *REDUCTIONS),
        *several([(B, 1, 0)], {}, {"axis": 1}, {"axis": 2}, {"axis": (1, 2), "keepdims": True}),
        Case([()]),
        Case([(LONG, 2)], {"axis": 0}),
    ],
    "mean": [
        *several([(B, T, C)], *REDUCTIONS),
        *several([(B, 1, 0)], {"axis": 1}, {"axis": (0, 1), "keepdims": True}),
        Case([()]),
        Case([(LONG, 2)], {"axis": 0}),
    ],
    "var": [
        *several([(B, T, C)], *REDUCTIONS),
        *several([(B, T, C)], {"correction": 1}, {"axis": 1, "keepdims": True, "correction": 1}),
        *several([(B, 1, 0)], {"axis": 1}, {"axis": (0, 1), "keepdims": True}),
        Case([(LONG, 2)], {"axis": 0}),
    ],
    "max": [
        *several([(B, T, C)], *REDUCTIONS),
        *several([(B, 1, 0)], {"axis": 1}, {"axis": (0, 1), "keepdims": True}),
        *several([TIES], {}, {"axis": 0}, {"axis": 1}, {"axis": (0, 1)}, smooth=False),
        Case([()]),
    ],
    "reshape": [
        *several([(B, T, C)], {"shape": (T, B * C)}, {"shape": (-1, C)}, {"shape": -1}),
        Case([(1, 1)], {"shape": ()}),
        Case([()], {"shape": (1, 1)}),
        Case([(0, C)], {"shape": (C, 0)}),
    ],
    "transpose": [
        *several([(B, T, C)], {}, {"axes": (1, 2, 0)}, {"axes": (-1, -3, 1)}),
        Case([(B, T, C, D)], {"axes": (0, 2, 1, 3)}),
        Case([(C,)]),
        Case([()]),
        Case([(0, C)]),
    ],
    "getitem": several([(B, T, C)], *[{"index": index} for index in INDICES]),
    "concat": [
        Case([(B, C), (T, C)]),
        Case([(B, T), (B, 1), (B, C)], {"axis": -1}),
        Case([(B, T, C), (B, 1, C)], {"axis": 1}),
        Case([(B, T, C, 1), (B, T, C, D)], {"axis": 3}),
        Case([(T, C), Same(0), Same(0)]),
        Case([(T, C)]),
        Case([(0, C), (T, C)]),
    ],
    "stack": [
        Case([(T, C), (T, C)]),
        Case([(T, C)] * 3, {"axis": 1}),
        Case([(T, C)] * 2, {"axis": -1}),
        Case([(), ()]),
        Case([(T,), (T,), Same(0)]),
        Case([(0, C), (0, C)]),
    ],
    "matmul": [
        Case([(T, C), (C, V)]),
        Case([(C,), (C,)]),
        Case([(C,), (C, V)]),
        Case([(T, C), (C,)]),
        Case([(C,), (B, C, V)]),
        Case([(B, T, C), (C,)]),
        Case([(B, T, C), (B, C, V)]),
        Case([(B, T, C), (C, V)]),
        Case([(T, C), (B, C, V)]),
        Case([(B, 1, T, C), (H, C, V)]),  # both are stretched
        Case([(1, T, 1), (B, 1, V)]),
        Case([(C, C), Same(0)]),
        Case([(C,), Same(0)]),
        Case([(T, LONG), (LONG, V)]),
        Case([(0, C), (C, V)]),
        Case([(T, 0), (0, V)]),  # a sum of nothing
    ],
    "linear": [
        Case([(B, T, C), (V, C), (V,)]),
        Case([(B, T, C), (V, C), None]),
        Case([(B, T, C), (V, C)]),
        Case([(B, H, T, C), (1, C), (1,)]),
        Case([(T, C), (V, C), (V,)]),
        Case([(C,), (V, C), (V,)]),
        Case([(C, C), Same(0)]),
        Case([(B, LONG), (V, LONG), (V,)]),
        Case([(LONG, C), (V, C), (V,)]),
        Case([(MANY, 1), (2, 1), (2,)]),
        Case([(B, 0, C), (V, C), (V,)]),
        Case([(T, 0), (V, 0), (V,)]),  # out is the bias
        Case([(T, 0), (V, 0)]),
        Case([(T, C), (0, C), (0,)]),
    ],
    "embedding": [
        Case([IDS, (V, C)]),
        Case([IDS[0], (V, C)]),
        Case([IDS.astype(np.int32), (V, C)]),
        Case([100 * IDS, (700, C)]),  # a table too long for the one-hot product
        Case([100 * IDS[0], (700, C)]),
        Case([IDS[:, 1:2], (V, C)]),  # one id and nothing else
        Case([np.array(3), (V, C)]),
        Case([IDS[:, :0], (V, C)]),
        Case([IDS, (V, 0)]),
    ],
    **dict.fromkeys(
        ["softmax", "log_softmax"],
        [
            *several([(B, T, C)], *AXES),
            Case([(B, LONG)]),
            Case([(C,)]),
            Case([(0, C)]),
            *several([(T, 0)], {}, {"axis": 0}),
        ],
    ),
    "cross_entropy": [
        Case([(B * T, V), IDS.ravel()]),
        Case([(T, V), IDS[1].astype(np.uint8)]),
        Case([(B, T, V), IDS]),
        Case([(V,), np.array(4)]),
        Case([(B * T, V), IDS.ravel()], {"ignore_index": 4}),
        Case([(4, V), np.array([-100, 2, -100, 6])], {"ignore_index": -100}),
        Case([(T, V), IDS[0]], {"ignore_index": -1}),  # nothing is ignored
        Case([(B, T, V), IDS], {"ignore_index": 4}),
        Case([(T, LONG), IDS[0]]),
        Case([(1, V), np.array([6])]),
        *several(
            [(B, T, V), IDS],
            {"reduction": "sum"},
            {"reduction": "none"},
            {"reduction": "sum", "ignore_index": 4},
            {"reduction": "none", "ignore_index": 4},
            {"label_smoothing": 0.1},
            {"label_smoothing": 1.0},
            {"label_smoothing": 0.1, "ignore_index": 4},
            {"label_smoothing": 0.25, "ignore_index": 4, "reduction": "sum"},
            {"label_smoothing": 0.25, "ignore_index": 4, "reduction": "none"},
        ),
        *several([(V,), np.array(4)], {"reduction": "none"}, {"label_smoothing": 0.5}),
        *several([(0, V), IDS[:0, 0]], {"reduction": "sum"}, {"reduction": "none"}),
    ],
    "layer_norm": [
        Case([(B, T, C), (C,), (C,)]),
        Case([(B, T, C), (C,), None]),
        Case([(B, T, C), (C,)]),
        Case([(C,), (C,), (C,)]),
        Case([(0, C), (C,), (C,)]),
        *several([(T, C), (C,), (C,)], {"eps": 0.1}, {"eps": 1e-12}),
        Case([(B, H, T, C), (C,)], {"eps": 0.1}),
        Case([(B, LONG), (LONG,), (LONG,)]),
        Case([(MANY, C), (C,), (C,)]),
        Case([(B, T, C)]),
        Case([(C,)], {"eps": 0.1}),
        Case([(B, T, C), None, (C,)]),
    ],
    "dropout": [
        Case([(B, T, C), 0.4], {"training": True, "key": KEY}),
        Case([(C,), 0.5], {"training": True, "key": KEY}),
        Case([(B, T, C), 0.4], {"training": True}),  # the running key
        Case([(B, T, C), 0.4], {"training": False}),
        Case([(B, T, C), 0], {"training": True}),
        Case([(B, LONG), 0.2], {"training": True, "key": KEY}),
        Case([(0, C), 0.4], {"training": True, "key": KEY}),
    ],
    "attention": [
        *several(QKV, {}, {"causal": False}),
        *several(LAST, {}, {"causal": False}),
        *several(WIDE, {}, {"causal": False}),
        Case(MIDDLING),
        Case([(B, H, 1, D), (B, H, N, D), (B, H, N, D)]),  # the last position alone
        Case([(B, H, N, D), (B, H, T, D), (B, H, T, D)], {"causal": False}),
        Case([(B, H, T, D), Same(0), Same(0)]),
        *several(QKV, TRAINING, TRAINING | {"training": False}, TRAINING | {"dropout": 0.0}),
        *several(QKV, {"dropout": 0.4, "key": KEY}, {"training": True}),  # neither alone drops
        Case(QKV, {"dropout": 0.4, "training": True}),  # the running key
        *several(LAST, TRAINING, TRAINING | {"causal": False}),
        Case([(1, 2, 100, D), (1, 2, LONG, D), (1, 2, LONG, D)]),
        *several([(B, 1, 70, D)] * 3, {"causal": False}, TRAINING, TRAINING | {"causal": False}),
        Case([(0, H, T, D)] * 3),
        *several(
            LAST,
            {"mask": PADDED},
            {"mask": BAND},
            {"mask": PADDED, "causal": False},
            {"mask": BAND, "causal": False},
            {"mask": BLIND, "causal": False},
            {"mask": BLIND & BAND},
            {"mask": np.ones(N, bool)},
            TRAINING | {"mask": BLIND},
        ),
        Case(QKV, {"mask": LEFT}),  # the first queries see no key
        Case(WIDE, {"mask": LEFT}),
    ],
    "Linear": several([(B, T, C)], {}, {"bias": False}, build=partial(nn.Linear, C, V)),
    "Embedding": several([IDS], {}, build=partial(nn.Embedding, V, C)),
    "LayerNorm": several(
        [(B, T, C)], {}, {"bias": False}, {"eps": 0.1}, build=partial(nn.LayerNorm, C)
    ),
    "Dropout": [
        Case([(B, T, C)], {"p": 0.4}, nn.Dropout),
        Case([(B, T, C)], {"p": 0.0}, nn.Dropout),
        Case([(B, T, C)], {"p": 0.4, "training": False}, lambda p, training: nn.Dropout(p).eval()),
    ],
    "ModuleList": [
        Case([(T, C)], build=lambda: Chain(nn.ModuleList(layers()))),
        Case([(T, C)], build=appended),
    ],
    "Sequential": [Case([(T, C)], build=lambda: nn.Sequential(*layers()))],
}
