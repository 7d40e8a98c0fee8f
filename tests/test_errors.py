"""What an op, a module or a Tensor says of a mistake, word for word."""

import numpy as np
import pytest
from numpy.exceptions import AxisError

import minigrad as mg
import minigrad.ops as F
import minigrad.tensor
from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT
from minigrad import OPS, Tensor, nn
from minigrad.tensor import op

X = np.ones((2, 3))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: F.linear(X, None), "linear: weight must be an array, not None"),
        (lambda: F.embedding([0], 1.0), "embedding: weight must be an array, not 1.0"),
        (lambda: F.layer_norm(1.0, X[0]), "layer_norm: x must be an array, not 1.0"),
        (lambda: F.layer_norm(X, 1.0), "layer_norm: weight must be an array, not 1.0"),
        (lambda: F.attention(1.0, X, X), "attention: q must be an array, not 1.0"),
        (lambda: F.exp(None), "exp: x must be an array, not None"),
        (lambda: Tensor(X) * None, "mul: y must be an array, not None"),
        (lambda: F.maximum(X, None), "maximum: y must be an array, not None"),
        (lambda: F.stack([X, None]), "stack: the list has None in it"),
    ],
)
def test_what_is_no_array_is_named(call, words):
    """Not by an attribute that it lacks."""
    with pytest.raises(TypeError, match=words):
        call()


def of(*shape):
    """A tensor of that shape."""
    return Tensor(np.zeros(shape))


def ids(*numbers):
    return np.array(numbers)


def gpt():
    return GPT(GPTConfig(vocab_size=5, block_size=6, n_layer=1, n_head=2, n_embd=4))


TABLE = {  # what is wrong -> (what does it, the kind of error, what it says)
    # ---- entry by entry
    "add, lengths": (
        lambda: of(2, 3) + of(4),
        ValueError,
        "add: x (2, 3) and y (4,) do not broadcast: in axis -1 their lengths are 3 and 4, and "
        "neither is 1",
    ),
    "add, lengths further in front": (
        lambda: of(2, 1, 3) + of(4, 5, 3),
        ValueError,
        "add: x (2, 1, 3) and y (4, 5, 3) do not broadcast: in axis -3 their lengths are 2 and 4, "
        "and neither is 1",
    ),
    "add, an axis without entries": (
        lambda: of(2, 0) + of(2, 3),
        ValueError,
        "add: x (2, 0) and y (2, 3) do not broadcast: in axis -1 their lengths are 0 and 3, and "
        "neither is 1",
    ),
    "add, by name": (
        lambda: F.add(y=of(4), x=of(2, 3)),
        ValueError,
        "add: x (2, 3) and y (4,) do not broadcast: in axis -1 their lengths are 3 and 4, and "
        "neither is 1",
    ),
    "add, array first": (
        lambda: np.zeros(4) + of(2, 3),
        ValueError,
        "add: x (4,) and y (2, 3) do not broadcast: in axis -1 their lengths are 4 and 3, and "
        "neither is 1",
    ),
    "sub, lengths": (
        lambda: of(2) - of(3),
        ValueError,
        "sub: x (2,) and y (3,) do not broadcast: in axis -1 their lengths are 2 and 3, and "
        "neither is 1",
    ),
    "mul, lengths": (
        lambda: of(2) * of(3),
        ValueError,
        "mul: x (2,) and y (3,) do not broadcast: in axis -1 their lengths are 2 and 3, and "
        "neither is 1",
    ),
    "div, lengths": (
        lambda: of(2, 3) / of(3, 3),
        ValueError,
        "div: x (2, 3) and y (3, 3) do not broadcast: in axis -2 their lengths are 2 and 3, and "
        "neither is 1",
    ),
    "pow, lengths": (
        lambda: of(2) ** of(3),
        ValueError,
        "pow: x (2,) and y (3,) do not broadcast: in axis -1 their lengths are 2 and 3, and "
        "neither is 1",
    ),
    "maximum, lengths": (
        lambda: F.maximum(of(2, 3), of(4)),
        ValueError,
        "maximum: x (2, 3) and y (4,) do not broadcast: in axis -1 their lengths are 3 and 4, and "
        "neither is 1",
    ),
    "minimum, lengths": (
        lambda: F.minimum(of(2, 1), of(3, 1)),
        ValueError,
        "minimum: x (2, 1) and y (3, 1) do not broadcast: in axis -2 their lengths are 2 and 3, "
        "and neither is 1",
    ),
    "clip, a bound": (
        lambda: F.clip(of(2), np.zeros(3), 1.0),
        ValueError,
        "clip: x (2,) and min (3,) do not broadcast: in axis -1 their lengths are 2 and 3, and "
        "neither is 1",
    ),
    "clip, no bound": (lambda: F.clip(of(2)), ValueError, "clip: give min, max or both"),
    "where, condition": (
        lambda: F.where(np.zeros(2, bool), of(3), of(3)),
        ValueError,
        "where: condition (2,) and x (3,) do not broadcast: in axis -1 their lengths are 2 and 3, "
        "and neither is 1",
    ),
    "where, values": (
        lambda: F.where(np.zeros((2, 1), bool), of(2, 3), of(4)),
        ValueError,
        "where: x (2, 3) and y (4,) do not broadcast: in axis -1 their lengths are 3 and 4, and "
        "neither is 1",
    ),
    "where, a number": (
        lambda: F.where(np.zeros(2, bool), 0.0, of(3)),
        ValueError,
        "where: condition (2,) and y (3,) do not broadcast: in axis -1 their lengths are 2 and 3, "
        "and neither is 1",
    ),
    # ---- products
    "matmul, matrices": (
        lambda: of(2, 3) @ of(5, 7),
        ValueError,
        "matmul: x (2, 3) and y (5, 7) disagree: axis -1 of x has length 3, axis -2 of y has 5",
    ),
    "matmul, a vector": (
        lambda: of(2, 3) @ of(5),
        ValueError,
        "matmul: x (2, 3) and y (5,) disagree: axis -1 of x has length 3, axis -1 of y has 5",
    ),
    "matmul, batches": (
        lambda: of(2, 3, 5) @ of(4, 5, 7),
        ValueError,
        "matmul: x (2, 3, 5) and y (4, 5, 7) do not broadcast: in axis -3 their lengths are 2 and "
        "4, and neither is 1",
    ),
    "matmul, no axis": (
        lambda: of(2, 3) @ of(),
        ValueError,
        "matmul: x (2, 3) and y (): y is a number, without an axis to sum over; multiply by "
        "* instead",
    ),
    "matmul, a number": (
        lambda: 2.0 @ of(2, 3),
        ValueError,
        "matmul: x () and y (2, 3): x is a number, without an axis to sum over; multiply by "
        "* instead",
    ),
    "linear, features": (
        lambda: F.linear(of(2, 3, 5), of(7, 6)),
        ValueError,
        "linear: x (2, 3, 5) and weight (7, 6) disagree in I: axis -1 of x has length 5, axis 1 of "
        "weight has 6",
    ),
    "linear, bias": (
        lambda: F.linear(of(2, 5), of(7, 5), of(5)),
        ValueError,
        "linear: weight (7, 5) and bias (5,) disagree in O: axis 0 of weight has length 7, axis 0 "
        "of bias has 5",
    ),
    "linear, bias of two axes": (
        lambda: F.linear(of(2, 5), of(7, 5), of(1, 7)),
        ValueError,
        "linear: bias (1, 7) must have 1 axis, (O,)",
    ),
    "linear, weight of one axis": (
        lambda: F.linear(of(2, 5), of(5)),
        ValueError,
        "linear: weight (5,) must have 2 axes, (O, I)",
    ),
    "linear, no axis and one": (
        lambda: F.linear(of(), of(5)),
        ValueError,
        "linear: x () must have 1 axis or more, (..., I)",
    ),
    "linear, three axes that would fit": (
        lambda: F.linear(of(4), of(7, 4, 4), of(7, 4)),
        ValueError,
        "linear: weight (7, 4, 4) must have 2 axes, (O, I)",
    ),
    # ---- layers
    "layer_norm, weight": (
        lambda: F.layer_norm(of(2, 3, 5), of(3)),
        ValueError,
        "layer_norm: x (2, 3, 5) and weight (3,) disagree in C: axis -1 of x has length 5, axis 0 "
        "of weight has 3",
    ),
    "layer_norm, bias": (
        lambda: F.layer_norm(of(2, 5), of(5), of(1)),
        ValueError,
        "layer_norm: x (2, 5) and bias (1,) disagree in C: axis -1 of x has length 5, axis 0 of "
        "bias has 1",
    ),
    "layer_norm, weight of two axes": (
        lambda: F.layer_norm(of(2, 5), of(1, 5)),
        ValueError,
        "layer_norm: weight (1, 5) must have 1 axis, (C,)",
    ),
    "layer_norm, no axis": (
        lambda: F.layer_norm(of(), of()),
        ValueError,
        "layer_norm: x () must have 1 axis or more, (..., C)",
    ),
    "layer_norm, no entries": (
        lambda: F.layer_norm(of(2, 0), of(0)),
        ValueError,
        "layer_norm: x (2, 0) has no entries along axis -1, and so no mean",
    ),
    "dropout, no axis": (
        lambda: F.dropout(of(), 0.5, training=True),
        ValueError,
        "dropout: x () must have 1 axis or more, (B, ...): its rows are masked",
    ),
    "attention, B": (
        lambda: F.attention(of(2, 4, 3, 6), of(5, 4, 3, 6), of(5, 4, 3, 6)),
        ValueError,
        "attention: q (2, 4, 3, 6) and k (5, 4, 3, 6) disagree in B: axis 0 of q has length 2, "
        "axis 0 of k has 5",
    ),
    "attention, H": (
        lambda: F.attention(of(2, 4, 3, 6), of(2, 1, 3, 6), of(2, 1, 3, 6)),
        ValueError,
        "attention: q (2, 4, 3, 6) and k (2, 1, 3, 6) disagree in H: axis 1 of q has length 4, "
        "axis 1 of k has 1",
    ),
    "attention, D": (
        lambda: F.attention(of(2, 4, 3, 6), of(2, 4, 3, 7), of(2, 4, 3, 7)),
        ValueError,
        "attention: q (2, 4, 3, 6) and k (2, 4, 3, 7) disagree in D: axis 3 of q has length 6, "
        "axis 3 of k has 7",
    ),
    "attention, D of v": (
        lambda: F.attention(of(2, 4, 3, 6), of(2, 4, 3, 6), of(2, 4, 3, 7)),
        ValueError,
        "attention: q (2, 4, 3, 6) and v (2, 4, 3, 7) disagree in D: axis 3 of q has length 6, "
        "axis 3 of v has 7",
    ),
    "attention, N": (
        lambda: F.attention(of(2, 4, 3, 6), of(2, 4, 3, 6), of(2, 4, 5, 6)),
        ValueError,
        "attention: k (2, 4, 3, 6) and v (2, 4, 5, 6) disagree in N: axis 2 of k has length 3, "
        "axis 2 of v has 5",
    ),
    "attention, no heads": (
        lambda: F.attention(of(2, 3, 6), of(2, 3, 6), of(2, 3, 6)),
        ValueError,
        "attention: q (2, 3, 6) must have 4 axes, (B, H, T, D)",
    ),
    "attention, an axis too many": (
        lambda: F.attention(of(2, 4, 3, 6), of(2, 4, 3, 6, 1), of(2, 4, 3, 6, 1)),
        ValueError,
        "attention: k (2, 4, 3, 6, 1) must have 4 axes, (B, H, N, D)",
    ),
    "attention, too few keys": (
        lambda: F.attention(of(2, 4, 6, 3), of(2, 4, 5, 3), of(2, 4, 5, 3)),
        ValueError,
        "attention: q (2, 4, 6, 3) has more queries than k (2, 4, 5, 3) has keys: T is 6 in axis 2 "
        "of q, N is 5 in axis 2 of k, and causal queries are the last T of N positions",
    ),
    "attention, no keys": (
        lambda: F.attention(of(2, 4, 6, 3), of(2, 4, 0, 3), of(2, 4, 0, 3), causal=False),
        ValueError,
        "attention: k (2, 4, 0, 3) has no keys: N, its axis 2, must be at least 1",
    ),
    "attention, no channels": (
        lambda: F.attention(of(2, 4, 6, 0), of(2, 4, 6, 0), of(2, 4, 6, 0)),
        ValueError,
        "attention: q (2, 4, 6, 0) has no channels: D, its axis 3, must be at least 1",
    ),
    "cross_entropy, targets": (
        lambda: F.cross_entropy(of(2, 3, 7), np.zeros((2, 4), int)),
        ValueError,
        "cross_entropy: logits (2, 3, 7) and targets (2, 4) disagree: axis 1 of logits has length "
        "3, axis 1 of targets has 4",
    ),
    "cross_entropy, flat targets": (
        lambda: F.cross_entropy(of(2, 3, 7), np.zeros(6, int)),
        ValueError,
        "cross_entropy: logits (2, 3, 7) and targets (6,) disagree in their axes in front, ...: "
        "logits has (2, 3) there, targets has (6,)",
    ),
    "cross_entropy, no axis": (
        lambda: F.cross_entropy(of(), ids(1)[0]),
        ValueError,
        "cross_entropy: logits () must have 1 axis or more, (..., V)",
    ),
    "cross_entropy, no rows": (
        lambda: F.cross_entropy(of(0, 7), np.zeros(0, int)),
        ValueError,
        "cross_entropy: no row of logits (0, 7) has a target to be measured against",
    ),
    "cross_entropy, id": (
        lambda: F.cross_entropy(of(2, 7), ids(0, 7)),
        ValueError,
        "cross_entropy: id 7 is outside the vocabulary, 0 to 6",
    ),
    "embedding, weight": (
        lambda: F.embedding(ids(0, 1), of(5)),
        ValueError,
        "embedding: weight (5,) must have 2 axes, (V, C)",
    ),
    "embedding, id": (
        lambda: F.embedding(ids(0, -1), of(5, 4)),
        ValueError,
        "embedding: id -1 is outside the vocabulary, 0 to 4",
    ),
    # ---- over an axis
    "sum, axis": (
        lambda: of(2, 3).sum(2),
        AxisError,
        "sum: x (2, 3) has no axis 2: count from -2 to 1",
    ),
    "sum, one axis of two": (
        lambda: of(2, 3).sum((0, -3)),
        AxisError,
        "sum: x (2, 3) has no axis -3: count from -2 to 1",
    ),
    "sum, the same axis twice": (
        lambda: of(2, 3).sum((0, -2)),
        ValueError,
        "sum: axis (0, -2) names axis 0 of x (2, 3) twice",
    ),
    "sum, no axis": (lambda: of().sum(1), AxisError, "sum: x () has no axis 1: it has none"),
    "mean, axis": (
        lambda: of(2, 3).mean(-3),
        AxisError,
        "mean: x (2, 3) has no axis -3: count from -2 to 1",
    ),
    "var, axis": (
        lambda: of(2, 3).var(2),
        AxisError,
        "var: x (2, 3) has no axis 2: count from -2 to 1",
    ),
    "var, too few entries": (
        lambda: of(2, 1).var(1, correction=1),
        ValueError,
        "var: the groups of x (2, 1) have n = 1, and n - correction must be above 0",
    ),
    "max, axis": (
        lambda: of(2).max(1),
        AxisError,
        "max: x (2,) has no axis 1: count from -1 to 0",
    ),
    "max, an axis without entries": (
        lambda: of(0, 3).max(-2),
        ValueError,
        "max: x (0, 3) has no entries along axis 0",
    ),
    "max, no entries": (
        lambda: of(0, 3).max(),
        ValueError,
        "max: x (0, 3) has no entries along axis 0",
    ),
    "softmax, axis": (
        lambda: F.softmax(of(2, 3), axis=2),
        AxisError,
        "softmax: x (2, 3) has no axis 2: count from -2 to 1",
    ),
    "log_softmax, axis": (
        lambda: F.log_softmax(of(2, 3), axis=-3),
        AxisError,
        "log_softmax: x (2, 3) has no axis -3: count from -2 to 1",
    ),
    # ---- another shape
    "reshape, entries": (
        lambda: of(2, 3).reshape(4, 2),
        ValueError,
        "reshape: x (2, 3) has 6 entries, shape (4, 2) has 8",
    ),
    "reshape, a number": (
        lambda: F.reshape(of(2, 3), shape=5),
        ValueError,
        "reshape: x (2, 3) has 6 entries, shape (5,) has 5",
    ),
    "reshape, what remains": (
        lambda: of(2, 3).view(4, -1),
        ValueError,
        "reshape: x (2, 3) has 6 entries, shape (4, -1) needs a multiple of 4",
    ),
    "reshape, two open": (
        lambda: of(2, 3).reshape(-1, -1),
        ValueError,
        "reshape: shape (-1, -1) leaves 2 lengths open, and only one may be -1",
    ),
    "transpose, axis": (
        lambda: of(2, 3).transpose(0, 3),
        AxisError,
        "transpose: x (2, 3) has no axis 3: count from -2 to 1",
    ),
    "transpose, twice": (
        lambda: of(2, 3).transpose(1, -1),
        ValueError,
        "transpose: axes (1, -1) names axis 1 of x (2, 3) twice: name each once",
    ),
    "transpose, too many": (
        lambda: of(2, 3).transpose(0, 1, 1),
        ValueError,
        "transpose: x (2, 3) has 2 axes, axes (0, 1, 1) names 3: name each once",
    ),
    "transpose, too few": (
        lambda: of(2, 3).transpose(0),
        ValueError,
        "transpose: x (2, 3) has 2 axes, axes (0,) names 1: name each once",
    ),
    "transpose, no axis": (
        lambda: of().transpose(0),
        ValueError,
        "transpose: x () has 0 axes, axes (0,) names 1: name each once",
    ),
    # ---- parts
    "getitem, index": (
        lambda: of(2, 3)[:, 5],
        IndexError,
        "getitem: index 5 is outside axis 1 of x (2, 3), which has length 3",
    ),
    "getitem, index from the end": (
        lambda: of(2, 3)[-3],
        IndexError,
        "getitem: index -3 is outside axis 0 of x (2, 3), which has length 2",
    ),
    "getitem, behind an ellipsis": (
        lambda: of(2, 4, 3)[None, 1, ..., 3],
        IndexError,
        "getitem: index 3 is outside axis 2 of x (2, 4, 3), which has length 3",
    ),
    "getitem, one of a list": (
        lambda: of(2, 3)[[0, 1, 2]],
        IndexError,
        "getitem: index 2 is outside axis 0 of x (2, 3), which has length 2",
    ),
    "getitem, too many": (
        lambda: of(2, 3)[0, :, 0],
        IndexError,
        "getitem: x (2, 3) has 2 axes, the index needs 3",
    ),
    "getitem, a mask": (
        lambda: of(2, 3)[:, np.ones(4, bool)],
        IndexError,
        "getitem: x (2, 3) and the mask (4,) disagree: axis 1 of x has length 3, axis 0 of the "
        "mask has 4",
    ),
    "getitem, arrays": (
        lambda: of(2, 3)[ids(0, 1), ids(0, 1, 2)],
        IndexError,
        "getitem: index[0] (2,) and index[1] (3,) do not broadcast: in axis -1 their lengths are 2 "
        "and 3, and neither is 1",
    ),
    "getitem, a fraction": (
        lambda: of(2, 3)[0.5],
        IndexError,
        "getitem: x (2, 3) takes an index of integers, slices, one ..., None, and arrays of "
        "integers or booleans",
    ),
    "getitem, two ellipses": (
        lambda: of(2, 3)[..., 0, ...],
        IndexError,
        "getitem: x (2, 3) takes an index of integers, slices, one ..., None, and arrays of "
        "integers or booleans",
    ),
    # ---- several arrays
    "concat, lengths": (
        lambda: F.concat([of(2, 3), of(5, 3), of(2, 4)]),
        ValueError,
        "concat: arrays[0] (2, 3) and arrays[2] (2, 4) disagree: axis 1 of arrays[0] has length 3, "
        "axis 1 of arrays[2] has 4; only axis 0 may differ",
    ),
    "concat, lengths beside the last axis": (
        lambda: F.concat([of(2, 3), of(5, 4)], axis=-1),
        ValueError,
        "concat: arrays[0] (2, 3) and arrays[1] (5, 4) disagree: axis 0 of arrays[0] has length 2, "
        "axis 0 of arrays[1] has 5; only axis -1 may differ",
    ),
    "concat, axes": (
        lambda: F.concat([of(2, 3), of(3)]),
        ValueError,
        "concat: arrays[0] (2, 3) has 2 axes, arrays[1] (3,) has 1: all must have the same number",
    ),
    "concat, axis": (
        lambda: F.concat([of(2, 3), of(2, 3)], axis=2),
        AxisError,
        "concat: arrays[0] (2, 3) has no axis 2: count from -2 to 1",
    ),
    "concat, no axis": (
        lambda: F.concat([of(), of()]),
        ValueError,
        "concat: arrays[0] () has no axis to join along: stack makes one",
    ),
    "concat, a number": (
        lambda: F.concat([of(2), 1.0]),
        ValueError,
        "concat: arrays[0] (2,) has 1 axis, arrays[1] () has 0: all must have the same number",
    ),
    "stack, lengths": (
        lambda: F.stack([of(2, 3), of(2, 4)]),
        ValueError,
        "stack: arrays[0] (2, 3) and arrays[1] (2, 4) disagree: axis 1 of arrays[0] has length 3, "
        "axis 1 of arrays[1] has 4; all must have one shape",
    ),
    "stack, axes": (
        lambda: F.stack([of(2, 3), of(2, 3), of(3)]),
        ValueError,
        "stack: arrays[0] (2, 3) has 2 axes, arrays[2] (3,) has 1: all must have the same number",
    ),
    "stack, axis": (
        lambda: F.stack([of(2, 3), of(2, 3)], axis=3),
        AxisError,
        "stack: out, of 3 axes, has no axis 3: count from -3 to 2",
    ),
    # ---- modules
    "Linear": (
        lambda: nn.Linear(5, 7)(of(2, 6)),
        ValueError,
        "linear: x (2, 6) and weight (7, 5) disagree in I: axis -1 of x has length 6, axis 1 of "
        "weight has 5",
    ),
    "Embedding": (
        lambda: nn.Embedding(5, 4)(ids(5)),
        ValueError,
        "embedding: id 5 is outside the vocabulary, 0 to 4",
    ),
    "LayerNorm": (
        lambda: nn.LayerNorm(5)(of(2, 4)),
        ValueError,
        "layer_norm: x (2, 4) and weight (5,) disagree in C: axis -1 of x has length 4, axis 0 of "
        "weight has 5",
    ),
    "Dropout": (
        lambda: nn.Dropout(0.5)(of()),
        ValueError,
        "dropout: x () must have 1 axis or more, (B, ...): its rows are masked",
    ),
    "GPT, too long": (
        lambda: gpt()(np.zeros((1, 7), int)),
        ValueError,
        "GPT: ids (1, 7) are too long: axis 1 has T = 7 tokens, more than block_size 6",
    ),
    "GPT, one row": (
        lambda: gpt()([1, 2, 3]),
        ValueError,
        "GPT: ids (3,) must have 2 axes, (B, T): one row is (1, T)",
    ),
    "GPT, id": (
        lambda: gpt()([[1, 5]]),
        ValueError,
        "embedding: id 5 is outside the vocabulary, 0 to 4",
    ),
}

# one operand, entry by entry
ANY_SHAPE = {"abs", "neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "gelu"}


@pytest.mark.parametrize("mistake, kind, message", TABLE.values(), ids=TABLE)
def test_a_mistake_is_explained(mistake, kind, message):
    """The error is of its natural kind, and says what does not fit in these words."""
    with pytest.raises(kind) as caught:
        mistake()
    assert (type(caught.value), str(caught.value)) == (kind, message)


CPU_ALONE = {  # arrays of NumPy's among the operands, or a mistake that CuPy answers otherwise
    "add, array first", "matmul, a number", "concat, a number",
    "getitem, one of a list", "getitem, a mask", "getitem, arrays",
}  # fmt: skip
ON_GPU = {
    name: row
    for name, row in TABLE.items()
    if name not in CPU_ALONE
    and name.partition(",")[0] in set(OPS) - {"where", "cross_entropy", "embedding"}
}


@pytest.mark.parametrize("mistake, kind, message", ON_GPU.values(), ids=ON_GPU)
def test_a_gpu_says_the_same(mistake, kind, message, gpu, monkeypatch):
    """The words are the op's own, whichever library has found the mistake."""
    on_cpu = of
    monkeypatch.setitem(globals(), "of", lambda *shape: on_cpu(*shape).to("gpu"))
    test_a_mistake_is_explained(mistake, kind, message)


# ---- what a Tensor refuses -----------------------------------------------------------------------


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def replayed():
    y = leaf(3.0) * 2
    y.backward()
    return y * 2


def moved():
    w = leaf(1.0)
    y = w * w
    w.grad = np.ones(1)
    mg.optim.AdamW([w], lr=0.1, fused=True).step()
    y.backward()


def overwritten():
    layer = nn.Linear(3, 2)
    optimizer = mg.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    assert optimizer  # alive: its vector holds the weights
    y = layer(np.ones((1, 3), np.float32)).sum()
    layer.load_state_dict(layer.state_dict())
    y.backward()


def written():
    x = leaf(1.0)
    y = x * x
    x.data[0] = 2.0
    y.backward()


CONVERT = (
    " would give float64: convert one of them, as in {}.astype('float32'), or a model by "
    "model.to(dtype='float32')"
)
CALL_FIRST = (
    " was overwritten, by an optimizer or load_state_dict(), after the forward pass that used it, "
    "and the gradient would be wrong: call backward() first"
)
REFUSED = {  # what is done -> (how, the kind of error, what it says)
    "the truth of many entries": (
        lambda: bool(of(2, 3)),
        ValueError,
        "a Tensor of shape (2, 3) is neither true nor false: ask for x.any() or x.all(); "
        "`if x is not None` tests whether there is one",
    ),
    "two dtypes": (
        lambda: F.linear(Tensor([[1.0, 2.0]]), np.ones((1, 2))),
        TypeError,
        "linear: x float32, weight float64" + CONVERT.format("x"),
    ),
    "an integer that widens": (
        lambda: Tensor([1.0]) + np.arange(1),
        TypeError,
        "add: x float32, y int64" + CONVERT.format("y"),
    ),
    "used after its step was replayed": (
        replayed,
        RuntimeError,
        "a Tensor of shape (1,) is used after backward() has replayed 'mul', which made it: no "
        "gradient can pass there any more; go on with x.detach(), or with x.item() where a number "
        "will do",
    ),
    "moved before backward": (moved, RuntimeError, "mul: an input of shape (1,)" + CALL_FIRST),
    "overwritten before backward": (
        overwritten,
        RuntimeError,
        "linear: an input of shape (2, 3)" + CALL_FIRST,
    ),
    "written to before backward": (written, ValueError, "assignment destination is read-only"),
    "backward of many entries": (
        lambda: (leaf(1.0, 2.0) * 2).backward(),
        RuntimeError,
        "backward() alone needs one entry, this tensor has shape (2,): reduce it to a loss, or "
        "pass dout",
    ),
    "a dout of another shape": (
        lambda: (leaf(1.0, 2.0) * 2).backward(np.ones(3)),
        ValueError,
        "dout has shape (3,), the tensor (2,)",
    ),
    "nothing to follow": (
        lambda: of(1).backward(),
        RuntimeError,
        "backward() has nothing to follow: no input required a gradient, or the tensor was made "
        "under no_grad()",
    ),
    "integers with a gradient": (
        lambda: Tensor(np.arange(2), requires_grad=True),
        TypeError,
        "only floating-point tensors have gradients, this is int64",
    ),
    "an option without its name": (
        lambda: F.softmax(of(2, 3), 1),
        TypeError,
        "softmax(x, *, axis=-1): too many positional arguments",
    ),
    "an option that is missing": (
        lambda: F.dropout(of(2, 3), 0.5),
        TypeError,
        "dropout(x, p, *, training, key=None): missing a required argument: 'training'",
    ),
    "an option that it does not have": (
        lambda: F.pow(of(2, 3), 2, axis=1),
        TypeError,
        "pow(x, y): got an unexpected keyword argument 'axis'",
    ),
    "a difference of truths": (
        lambda: Tensor(np.array([True])) - True,
        TypeError,
        "sub: numpy boolean subtract, the `-` operator, is not supported, use the bitwise_xor, the "
        "`^` operator, or the logical_xor function instead.",
    ),
    "a number beyond its dtype": (
        lambda: Tensor(np.array([1], np.uint8)) * 300,
        OverflowError,
        "mul: Python integer 300 out of bounds for uint8 (x (1,))",
    ),
    "words": (
        lambda: Tensor(np.array(["a"])),
        TypeError,
        "a tensor holds real numbers or booleans, not <U1",
    ),
}


@pytest.mark.parametrize("mistake, kind, message", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_explained(mistake, kind, message):
    """In these words; NumPy's own where an array is written to."""
    test_a_mistake_is_explained(mistake, kind, message)


def test_devices_are_not_mixed(fake_gpu):
    """A caller who wants that says so."""
    words = (
        "add: inputs on cpu and gpu: move them to one device, as in x.to('gpu') (x (2,), y (2,))"
    )
    test_a_mistake_is_explained(lambda: of(2) + of(2).to("gpu"), ValueError, words)


# ---- the table is complete -----------------------------------------------------------------------


OWN = {  # what an op of one's own returns -> what it is told
    "no tuple of gradients": (
        lambda x: (2 * x, lambda dout: 2 * dout),
        "mine: backward returned an array: it must return a tuple with a gradient for each input, "
        "also for a single one: (dx,)",
    ),
    "no gradients at all": (
        lambda x: (2 * x, lambda dout: None),
        "mine: backward returned None: it must return a tuple with a gradient for each input, "
        "also for a single one: (dx,)",
    ),
    "no backward": (
        lambda x: 2 * x,
        "mine: an op must return its result and the function backward, as in `return out, "
        "backward`; this one returned an array",
    ),
    "too much": (
        lambda x: (x, x, lambda dout: (dout,)),
        "mine: an op must return its result and the function backward, as in `return out, "
        "backward`; this one returned a tuple of 3",
    ),
}


@pytest.mark.parametrize("page, message", OWN.values(), ids=OWN)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 2)])
def test_what_an_op_must_return(page, message, shape, monkeypatch):
    """Also where the result could be taken apart as if it were a tuple."""
    monkeypatch.setattr(minigrad.tensor, "OPS", {})
    page.__name__ = "mine"
    x = Tensor(np.ones(shape), requires_grad=True)
    with pytest.raises(TypeError) as caught:
        op(page)(x).sum().backward()
    assert str(caught.value) == message


def test_every_op_is_in_the_table():
    """Each has a row, but those that take any shape: they do."""
    explained = {message.partition(":")[0] for _, _, message in TABLE.values()}
    assert explained - {"GPT"} == set(OPS) - ANY_SHAPE
    for name in ANY_SHAPE:
        for shape in [(), (0,), (2, 0, 3), (2, 3)]:
            assert OPS[name](np.ones(shape)).shape == shape


OF_A_NUMBER = {"sum": (3, 1), "mean": (3, 1), "max": (3, 1), "var": (0, 0), "softmax": (1, 0)}
OF_A_NUMBER |= {"log_softmax": (0, 0)}  # op -> (what it makes of 3, its derivative there)


@pytest.mark.parametrize("axis", [0, -1, None])
@pytest.mark.parametrize("op", OF_A_NUMBER)
def test_a_number_has_an_axis_of_its_own(op, axis, gpu):
    """A number is a group of one entry, along axis 0 or -1 as in NumPy, also with CuPy."""
    for device in ("cpu", "gpu"):
        x = Tensor(np.array(3.0)).to(device)
        x.requires_grad = True
        out = OPS[op](x, axis=axis)
        out.backward()
        assert out.shape == () and (out.item(), float(x.grad)) == OF_A_NUMBER[op]


POWERS = {
    "a number as exponent": lambda x: x**-1,
    "a number as base": lambda x: 2 ** (-x),
    "arrays": lambda x: F.pow(x, x - 2),
    "booleans": lambda x: (x > 1) ** -1,
}


@pytest.mark.parametrize("power", POWERS.values(), ids=POWERS)
def test_an_error_that_is_not_of_shapes_keeps_its_words(power, gpu):
    """No shape is blamed for what is wrong with the numbers.  CuPy would return 0, 1 or -1."""
    for device in ("cpu", "gpu"):
        x = Tensor(np.array([1, 2])).to(device)
        with pytest.raises(ValueError, match="^pow: Integers to negative integer powers"):
            power(x)
        assert F.pow(x, 2).numpy().tolist() == F.pow(x, x).numpy().tolist() == [1, 4]
        assert F.pow(x * 1.0, -1).numpy().tolist() == [1, 0.5]


@pytest.mark.parametrize(
    "index", [1.5, np.float32(0), (0, 1.5), ([0, 1], 1.5), (..., np.float64(0))]
)
def test_a_fraction_is_no_index(index, gpu):
    """CuPy would cut it off; the twin for lists says the same."""
    for device in ("cpu", "gpu"):
        with pytest.raises(IndexError, match=r"^getitem: x \(2, 3\) takes an index of integers"):
            of(2, 3).to(device)[index]
