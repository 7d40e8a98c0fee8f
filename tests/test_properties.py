"""Shapes, broadcasting and indices that nobody thought of: Hypothesis makes them, PyTorch checks.

Hypothesis looks for a failing case, and then for the smallest one.  With `derandomize` it draws the
same cases in every run, so the suite has the same result tomorrow.
"""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad.fast import plain
from minigrad.internals.hooks import this_thread
from minigrad.ops import elementwise
from minigrad.tensor import OPS, TWINS, op
from minigrad.testing.cases import Case, Positive
from minigrad.testing.checks import LAYOUTS, by_pytorch

SIDES = {"min_dims": 0, "max_dims": 4, "min_side": 0, "max_side": 4}
SHAPES = hnp.array_shapes(**SIDES)
many = settings(
    max_examples=200, derandomize=True, deadline=None, database=None, report_multiple_bugs=False
)


@pytest.fixture(autouse=True, scope="module")
def twins_on():
    """Let twins run, also under MINIGRAD_PLAIN=1."""
    before, this_thread.plain = this_thread.plain, False
    yield
    this_thread.plain = before


def check(data, name, inputs, options=()):
    """Compare page and twin with PyTorch at 1e-10, in a layout that is drawn too.

    A gradient may be zero here: where nothing was read, or relu let nothing pass.
    """
    case = Case(inputs, dict(options))
    layout = data.draw(st.sampled_from([*LAYOUTS]))
    with plain():
        by_pytorch(name, case, layout, 1e-10, zero_is_fine=True)
    if (name, "cpu") in TWINS:
        by_pytorch(name, case, layout, 1e-10, zero_is_fine=True)


# ---- elementwise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "maximum", "minimum"])
@many
@given(data=st.data())
def test_two_operands(name, data):
    """Shapes that broadcast, in any way, or a number on one side."""
    kind = Positive if name in ("div", "pow") else tuple
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, **SIDES)).input_shapes
    inputs = [kind(shape) for shape in shapes]
    number = data.draw(st.none() | st.sampled_from([0, 1]))  # which of the two is a number
    if number is not None:
        inputs[number] = data.draw(st.floats(0.5, 2) | st.integers(1, 3))
    check(data, name, inputs)


@pytest.mark.parametrize(
    "name", ["neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "abs", "gelu"]
)
@many
@given(data=st.data())
def test_one_operand(name, data):
    """Any shape, of no entries too."""
    kind = Positive if name in ("log", "sqrt") else tuple
    check(data, name, [kind(data.draw(SHAPES))])


@many
@given(data=st.data())
def test_ties(data):
    """Small whole numbers beside each other: often equal, and often at a bound."""
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, **SIDES)).input_shapes
    x, y = (data.draw(hnp.arrays(np.float64, s, elements=st.integers(0, 2))) for s in shapes)
    check(data, data.draw(st.sampled_from(["maximum", "minimum"])), [x, y])
    bounds = data.draw(st.sampled_from([(0, 1), (None, 1), (1, None), (0.5, 1.5), (1, 1)]))
    check(data, "clip", [x, *bounds])


@many
@given(data=st.data())
def test_where(data):
    """Three shapes that broadcast."""
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, **SIDES)).input_shapes
    condition = data.draw(hnp.arrays(bool, shapes[0]))
    check(data, "where", [condition, *shapes[1:]])


# ---- reducing ------------------------------------------------------------------------------------


@st.composite
def axes(draw, shape, keepdims=True):
    """The options of a reduction over some axes, or one, or all, each counted from either end."""
    options = {}
    if draw(st.booleans()) and keepdims:
        options["keepdims"] = draw(st.booleans())
    if shape and draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True))
        signed = [a - len(shape) * draw(st.booleans()) for a in chosen]
        options["axis"] = signed[0] if len(signed) == 1 and draw(st.booleans()) else tuple(signed)
    return options


@pytest.mark.parametrize("name", ["sum", "mean", "max", "var"])
@many
@given(data=st.data())
def test_reductions(name, data):
    """Over any axes.  Mean, maximum and variance of nothing do not exist: those need an entry."""
    shape = data.draw(SHAPES if name == "sum" else hnp.array_shapes(min_dims=0, max_side=4))
    check(data, name, [shape], data.draw(axes(shape)))


@many
@given(data=st.data())
def test_max_with_ties(data):
    """Small whole numbers: every group has several largest entries, which share the gradient."""
    shape = data.draw(hnp.array_shapes(min_dims=0, max_side=4))
    x = data.draw(hnp.arrays(np.float64, shape, elements=st.integers(0, 2)))
    check(data, "max", [x], data.draw(axes(shape)))


# ---- shaping -------------------------------------------------------------------------------------


@many
@given(data=st.data())
def test_reshape(data):
    """Into any other way to write the same number of entries, one length left open or not."""
    lengths = data.draw(st.lists(st.sampled_from([1, 2, 3]), max_size=5))
    shape = []
    for n in data.draw(st.permutations(lengths)):
        if shape and data.draw(st.booleans()):
            shape[-1] *= n
        else:
            shape.append(n)
    if shape and data.draw(st.booleans()):
        shape[data.draw(st.sampled_from(range(len(shape))))] = -1
    check(data, "reshape", [tuple(lengths)], {"shape": tuple(shape)})


@many
@given(data=st.data())
def test_transpose(data):
    """Any order of the axes, each counted from either end."""
    shape = data.draw(SHAPES)
    order = data.draw(st.permutations(range(len(shape))))
    order = tuple(a - len(shape) * data.draw(st.booleans()) for a in order)
    check(data, "transpose", [shape], {"axes": order})


@pytest.mark.parametrize("name", ["concat", "stack"])
@many
@given(data=st.data())
def test_joining(name, data):
    """One to four arrays along any axis; for concat their lengths may differ there."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    shapes = [shape] * len(lengths)
    if name == "concat":
        around = axis % len(shape)
        shapes = [(*shape[:around], n, *shape[around + 1 :]) for n in lengths]
    check(data, name, shapes, {"axis": axis})


@many
@given(data=st.data())
def test_slices_and_new_axes(data):
    """Numbers, slices of either direction, an ellipsis, None; fewer than there are axes."""
    shape = data.draw(SHAPES)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True, max_dims=6))
    check(data, "getitem", [shape], {"index": index})


@many
@given(data=st.data())
def test_arrays_of_integers(data):
    """For some axes an array of places, which may repeat; for the others a slice or a number."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    common = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))
    index = []
    for n in shape[: data.draw(st.integers(1, len(shape)))]:
        places = hnp.arrays(np.int64, common, elements=st.integers(-n, n - 1))
        index.append(data.draw(places | st.slices(n) | st.integers(-n, n - 1)))
    for new in data.draw(st.sampled_from([(), (None,), (...,)])):
        # Parts after "..." are for the last axes: with fewer parts than axes they would be others.
        first = 0 if new is None or len(index) == len(shape) else len(index)
        index.insert(data.draw(st.integers(first, len(index))), new)
    check(data, "getitem", [shape], {"index": tuple(index)})


@many
@given(data=st.data())
def test_masks(data):
    """An array of booleans for the first axes, or for the last."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    n = data.draw(st.integers(1, len(shape)))
    if data.draw(st.booleans()):
        index = data.draw(hnp.arrays(bool, shape[:n]))
    else:
        index = (..., data.draw(hnp.arrays(bool, shape[len(shape) - n :])))
    check(data, "getitem", [shape], {"index": index})


# ---- matmul --------------------------------------------------------------------------------------


@many
@given(data=st.data())
def test_matmul(data):
    """Vectors, matrices and stacks of them, of length 0 too, as far as they fit."""
    shapes = hnp.mutually_broadcastable_shapes(
        signature=np.matmul.signature, max_dims=3, min_side=0, max_side=4
    )
    check(data, "matmul", list(data.draw(shapes).input_shapes))


# ---- the ops of a language model -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@many
@given(data=st.data())
def test_softmax(name, data):
    """Along any axis, counted from either end."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    axis = st.integers(-len(shape), len(shape) - 1)
    check(data, name, [shape], data.draw(st.just({}) | st.fixed_dictionaries({"axis": axis})))


@many
@given(data=st.data())
def test_linear(data):
    """Any axes in front, any numbers of inputs and outputs, with a bias or without."""
    front = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    n_in, n_out = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    bias = data.draw(st.sampled_from([(n_out,), None]))
    check(data, "linear", [(*front, n_in), (n_out, n_in), bias])


@many
@given(data=st.data())
def test_layer_norm(data):
    """Any axes in front, with or without weight and bias, any eps.

    Not rows of one number, or of two: these become 0, or ±1 whatever they are, and the gradient is
    left with no digits.
    """
    shape = (*data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)), 5)
    weight, bias = (data.draw(st.sampled_from([(5,), None])) for _ in range(2))
    eps = data.draw(st.sampled_from([{}, {"eps": 1e-3}, {"eps": 1.0}]))
    check(data, "layer_norm", [shape, weight, bias], eps)


@many
@given(data=st.data())
def test_embedding(data):
    """Ids of any shape, in a small table or a large one."""
    n_rows = data.draw(st.sampled_from([1, 3, 600]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ids = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, n_rows - 1)))
    check(data, "embedding", [ids, (n_rows, 3)])


@many
@given(data=st.data())
def test_cross_entropy(data):
    """Targets of any shape, some of them ignored, but not all; any reduction and smoothing."""
    n_tokens = data.draw(st.integers(1, 5))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    targets = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, n_tokens - 1)))
    ignored = data.draw(st.none() | st.integers(-1, n_tokens - 1))
    if ignored is not None and (targets == ignored).all():
        ignored = -1
    options = {} if ignored is None else {"ignore_index": ignored}
    options["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
    options["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    check(data, "cross_entropy", [(*shape, n_tokens), targets], options)


@st.composite
def masks(draw, scores):
    """Return a shape that broadcasts to that of the scores."""
    lengths = [n if draw(st.booleans()) else 1 for n in scores]
    return tuple(lengths[draw(st.integers(0, 4)) :])


@many
@given(data=st.data())
def test_attention(data):
    """Any number of queries and keys; causal, masked, with dropout, in training, or not.

    Without a mask at least two keys for each query: of a single one softmax is 1.
    """
    B, H, D = data.draw(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4)))
    T = data.draw(st.integers(1, 4))
    N = T + data.draw(st.integers(1, 4))
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "causal": st.booleans(),
                "dropout": st.sampled_from([0.0, 0.3]),
                "training": st.booleans(),
                "key": st.just((3, 1, 4, 1)),
                "mask": hnp.arrays(bool, data.draw(masks((B, H, T, N)))),
            },
        )
    )
    check(data, "attention", [(B, H, T, D), (B, H, N, D), (B, H, N, D)], options)


@many
@given(data=st.data())
def test_dropout(data):
    """Any shape with rows, any share."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    p = data.draw(st.sampled_from([0, 0.1, 0.5, 0.9]))
    check(data, "dropout", [shape, p], {"training": data.draw(st.booleans()), "key": (1, 2, 3, 4)})


# ---- the search, tested --------------------------------------------------------------------------


def scatter(index, dout, shape):
    dx = np.zeros(shape)
    dx[index] = dout
    return dx


def largest(x, axis, keepdims):
    """max, but every one of several largest entries gets the whole gradient."""
    out = x.max(axis, keepdims=keepdims)

    def backward(dout):
        kept = x.max(axis, keepdims=True)
        return (np.reshape(dout, kept.shape) * (x == kept),)

    return out, backward


def add(x, y):
    return x + y, lambda dout: (dout, dout)  # no sum over the axes that were stretched


def matmul(x, y):
    return x @ y, lambda dout: (dout @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ dout)


def getitem(x, *, index):
    return x[index], lambda dout: (
        scatter(index, dout, x.shape),
    )  # an entry read twice counts once


def max(x, *, axis=None, keepdims=False):
    return largest(x, axis, keepdims)


def transpose(x, *, axes=None):
    return x.transpose(axes), lambda dout: (dout.transpose(axes),)  # not the inverse


def maximum(x, y):
    dx = np.greater_equal(x, y)  # the whole gradient where they are equal, not half
    return np.maximum(x, y), lambda dout: (
        elementwise.unbroadcast(dout * dx, elementwise.shape_of(x)),
        elementwise.unbroadcast(dout * ~dx, elementwise.shape_of(y)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong, search",
    [
        (add, lambda: test_two_operands(name="add")),
        (max, test_max_with_ties),
        (maximum, test_ties),
        (transpose, test_transpose),
        (getitem, test_arrays_of_integers),
        (matmul, test_matmul),
    ],
)
def test_a_mistake_of_the_usual_kind_is_found(wrong, search, monkeypatch):
    """A sum, a share, an inverse that was forgotten: right for simple shapes, but found here."""
    monkeypatch.setitem(OPS, wrong.__name__, OPS[wrong.__name__])  # to be put back
    OPS[wrong.__name__] = op(wrong)
    with pytest.raises(Exception, match=wrong.__name__):
        search()


def last_id_wins(ids, weight):
    """The twin of embedding, where an id that occurs twice counts once."""
    return weight[ids], lambda dout: (None, scatter(ids, dout, weight.shape))


def one_axis_in_front(x, weight, bias=None):
    """The twin of linear, which takes the last axis but one for all axes in front."""
    if bias is None:
        return NotImplemented
    return x @ weight.T + bias, lambda dout: (
        dout @ weight,
        dout.swapaxes(-1, -2) @ x if x.ndim > 1 else np.outer(dout, x),
        dout.sum(-2) if x.ndim > 1 else dout,
    )


def blind_to_positions(q, k, v, *, causal=True, mask=None, dropout=0.0, training=False, key=None):
    """The twin of attention, where query t is at position t, and not at N − T + t."""
    if not causal or q.shape[2] == k.shape[2]:
        return NotImplemented
    T, N = q.shape[2], k.shape[2]
    visible = np.arange(N) <= np.arange(T)[:, None]
    options = {"dropout": dropout, "training": training, "key": key}
    page = OPS["attention"].__wrapped__
    return page(q, k, v, causal=False, mask=visible & (True if mask is None else mask), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, wrong, search",
    [
        ("embedding", last_id_wins, test_embedding),
        ("linear", one_axis_in_front, test_linear),
        ("attention", blind_to_positions, test_attention),
    ],
)
def test_a_mistake_in_a_twin_is_found(name, wrong, search, monkeypatch):
    """The search covers twins as well as pages."""
    monkeypatch.setitem(TWINS, (name, "cpu"), wrong)
    with pytest.raises(Exception, match=name):
        search()
