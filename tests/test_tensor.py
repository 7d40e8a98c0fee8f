"""The tape: what a Tensor is, how gradients reach the leaves, and what is freed when.

The derivatives themselves are test_ops.py's subject.  Here the numbers are chosen so that they can
be checked by eye, and the questions are about order, memory, threads and errors.
"""

import contextlib
import copy
import gc
import pickle
import re
import threading
import weakref

import numpy as np
import pytest
import torch

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor, no_grad
from minigrad.tensor import OPS, op


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


# ---- what a Tensor is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, dtype",
    [
        (3, np.float32),
        (2.5, np.float32),
        (True, np.float32),
        (2**70, np.float32),
        ([1, 2, 3], np.float32),
        ([[1.0], [2.0]], np.float32),
        ((), np.float32),
        (np.float64(2), np.float64),
        (np.int64(2), np.int64),
        (np.zeros(2, np.float16), np.float16),
        (np.zeros(2, np.float64), np.float64),
        (np.zeros(2, np.uint16), np.uint16),
        (np.zeros(2, bool), bool),
    ],
)
def test_numbers_become_float32_and_arrays_keep_their_dtype(data, dtype):
    """A dtype changes only where there was none."""
    x = Tensor(data)
    assert isinstance(x.data, np.ndarray)
    assert (x.dtype, x.shape, x.ndim) == (dtype, np.shape(data), np.ndim(data))
    np.testing.assert_array_equal(x.data, data)


def test_an_array_is_not_copied():
    """A tensor, its NumPy view and its detached twin share the array they were made of."""
    array = np.arange(3.0)
    x = Tensor(array, requires_grad=True)
    assert x.data is array
    assert np.shares_memory(x.numpy(), array)
    assert np.shares_memory(x.detach().data, array)


@pytest.mark.parametrize("data", [np.arange(3), np.array(True), np.zeros(2, np.uint8)])
def test_integers_have_no_gradient(data):
    """There is no small step from one integer to the next."""
    with pytest.raises(TypeError, match=f"only floating-point .* {data.dtype}"):
        Tensor(data, requires_grad=True)


@pytest.mark.parametrize(
    "data", [np.array(["a"]), np.array([1j]), np.array([None]), "a", 1j, ["a"], [1j, 2]]
)
def test_only_real_numbers_are_held(data):
    """Text, complex numbers and objects are refused when they come in."""
    dtype = np.asarray(data).dtype
    with pytest.raises(TypeError, match=f"holds real numbers or booleans, not {dtype}$"):
        Tensor(data)


def test_sums_of_booleans_and_integers():
    """They count; a mean of them is float32, as lists are."""
    flags = Tensor(np.array([True, False, True]))
    assert flags.sum().dtype.kind == "i" and flags.sum().item() == 2
    assert flags.mean().dtype == np.float32


def test_what_it_tells():
    """item, numpy, len, bool and repr give the plain value."""
    x = leaf(1.5, -2.0)
    assert len(x) == 2 and (x * x).sum().item() == 6.25
    assert isinstance(x.sum().item(), float) and isinstance(Tensor(np.arange(2))[1].item(), int)
    assert repr(x) == "Tensor([ 1.5 -2. ], requires_grad=True)"
    assert repr(x.detach()) == "Tensor([ 1.5 -2. ])"
    assert bool(Tensor(1.0)) and not Tensor(0.0)
    with pytest.raises(ValueError, match="neither true nor false"):
        bool(x)
    with pytest.raises(ValueError):
        x.item()


def test_detach_has_no_history():
    """A detached tensor is a constant."""
    x = leaf(2.0)
    y = (x * x).detach()
    assert not y.requires_grad and y.node is None
    (x * y).backward()
    np.testing.assert_array_equal(x.grad, [4.0])


def test_to():
    """A tensor is on the CPU already; a device that is not there is named in one line."""
    x = leaf(1.0)
    assert x.device == "cpu" and x.to("cpu") is x
    with pytest.raises(ValueError, match="'tpu'") as caught:
        x.to("tpu")
    assert "\n" not in str(caught.value)


def test_shapes():
    """view is reshape; lengths and axes may come as several numbers, a tuple or a list."""
    x = Tensor(np.arange(24.0).reshape(2, 3, 4))
    assert Tensor.view is Tensor.reshape
    assert x.view(6, 4).shape == x.view((6, 4)).shape == x.view([6, -1]).shape == (6, 4)
    assert x.view(-1).shape == (24,)
    assert x.transpose(1, 2, 0).shape == x.transpose((1, 2, 0)).shape == (3, 4, 2)
    assert x.transpose().shape == x.T.shape == (4, 3, 2)
    np.testing.assert_array_equal(x.T.data, x.data.T)
    np.testing.assert_array_equal(x.transpose(0, 2, 1).data, x.data.swapaxes(1, 2))
    np.testing.assert_array_equal(x.sum((0, 1), keepdims=True).data, [[[60, 66, 72, 78]]])
    np.testing.assert_array_equal(x.max(-1).mean(0).data, [9, 13, 17])
    assert x[:1, :1, :1].view(()).shape == ()
    for reduce in (x.sum, x.mean, x.max):
        assert (reduce().shape, reduce(1).shape, reduce((0, 2)).shape) == ((), (2, 4), (3,))
        assert reduce(keepdims=True).shape == (1, 1, 1) and reduce(-1, True).shape == (2, 3, 1)


# ---- operators -----------------------------------------------------------------------------------

OPERATORS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "**": lambda x, y: x**y,
    "@": lambda x, y: x @ y,
}
MATRIX = np.array([[2.0, 0.5], [1.0, 3.0]])
NUMBERS = [2, 0.5, np.float64(1.5), np.float32(0.5), np.int64(3)]
OPERANDS = [(sign, o) for sign in OPERATORS for o in NUMBERS if sign != "@"]
OPERANDS += [(sign, MATRIX) for sign in OPERATORS]


@pytest.mark.parametrize(
    "sign, other", [pytest.param(s, o, id=f"{s} {type(o).__name__}") for s, o in OPERANDS]
)
def test_operators_take_numbers_and_arrays_on_either_side(sign, other):
    """Values and gradients are PyTorch's, and an array on the left does not take over."""
    data = np.array([[1.0, 0.5], [2.0, 1.5]])
    for apply in (OPERATORS[sign], lambda x, y: OPERATORS[sign](y, x)):
        x, twin = Tensor(data, True), torch.tensor(data, requires_grad=True)
        out, theirs = apply(x, other), apply(twin, torch.tensor(other))
        assert isinstance(out, Tensor)
        dout = np.array([[0.3, -1.0], [2.0, 0.7]])
        out.backward(dout)
        theirs.backward(torch.tensor(dout))
        np.testing.assert_allclose(out.data, theirs.detach(), rtol=1e-14)
        np.testing.assert_allclose(x.grad, twin.grad, rtol=1e-14)


def test_numbers_take_their_neighbours_dtype():
    """Float32 does not turn into float64 because a number stands beside it."""
    x = Tensor([1.0, 2.0])
    for y in (x + 1, 1.5 * x, x / np.float64(3), np.float64(3) - x, 2**x, x ** np.float64(2), -x):
        assert y.dtype == np.float32


# ---- gradients -----------------------------------------------------------------------------------


def test_gradients_accumulate():
    """A second backward adds to what the first left, in the array that is already there."""
    x = leaf(1.0, 2.0)
    assert x.grad is None
    (3 * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5.0, 7.0])
    assert x.grad is first


def test_first_gradients_are_copies():
    """`add` hands one array to both inputs; each leaf, and the caller, keeps its own."""
    x, y, dout = leaf(1.0, 2.0), leaf(3.0, 4.0), np.array([5.0, 6.0])
    (x + y).backward(dout)
    x.grad += 100
    np.testing.assert_array_equal(y.grad, [5.0, 6.0])
    np.testing.assert_array_equal(dout, [5.0, 6.0])
    assert not np.shares_memory(x.grad, y.grad)


def test_a_broadcast_gradient_can_be_written_to():
    """The gradient of a sum is one number seen many times; x.grad has memory for each."""
    x = leaf(1.0, 2.0, 3.0)
    x.sum().backward()
    x.grad[0] = 7
    np.testing.assert_array_equal(x.grad, [7, 1, 1])


def test_a_shared_gradient_is_not_added_into():
    """d = dout goes to x + y's inputs; one of them collects more, and the other must not see it."""
    x = leaf(1.0)
    a, b = x * 2, x * 3
    ((a + b) + a).backward(np.array([1.0]))
    np.testing.assert_array_equal(x.grad, [2 + 3 + 2])


def test_grad_has_the_dtype_of_its_leaf():
    """A dout of another dtype is converted."""
    x, y = Tensor([1.0, 2.0], requires_grad=True), leaf(3.0, 4.0)
    for tensor, other in ((x, np.float64), (y, np.float32)):
        (tensor * 2).backward(np.ones(2, other))
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


def test_grad_has_the_dtype_of_its_leaf_whatever_an_op_returns(monkeypatch):
    """Of a backward that computes in float64."""
    monkeypatch.setitem(mg.OPS, "careful", None)

    @op
    def careful(x):
        return x * 1, lambda dout: (dout.astype(np.float64),)

    x = Tensor([1.0, 2.0], requires_grad=True)
    careful(x).backward(np.ones(2))
    assert x.grad.dtype == np.float32


def test_a_leaf_is_its_own_derivative():
    """d(x)/dx = 1."""
    x = leaf(3.0)
    x.backward()
    x.backward(np.array([4.0]))
    np.testing.assert_array_equal(x.grad, [5.0])


def test_a_constant_collects_nothing():
    """Only leaves that require a gradient get one; results in between keep none."""
    x, constant = leaf(2.0), Tensor(np.array([3.0]))
    y = x * constant
    (y * y).sum().backward()
    assert constant.grad is None
    with pytest.warns(UserWarning, match="grad of the result of an op is always None.*leaves only"):
        assert y.grad is None
    np.testing.assert_array_equal(x.grad, [36.0])


def test_backward_of_a_zero_dimensional_tensor():
    """One entry, whatever the shape around it, needs no dout."""
    for shape in ((), (1,), (1, 1)):
        x = Tensor(np.full(shape, 3.0), True)
        (x * x).backward()
        np.testing.assert_array_equal(x.grad, np.full(shape, 6.0))


def test_backward_alone_needs_one_entry():
    """The gradient of many entries needs to know how much each matters."""
    with pytest.raises(RuntimeError, match=r"one entry.*\(2,\)"):
        (leaf(1.0, 2.0) * 2).backward()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2)])
def test_dout_is_like_the_output(shape):
    """No broadcasting of dout: it would hide a mistake."""
    with pytest.raises(ValueError, match=r"dout has shape .* \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(np.ones(shape))


def test_dout_may_be_a_tensor_a_list_or_a_number():
    """Whatever could be an operand."""
    for dout in (Tensor(np.array([5.0, 6.0])), np.array([5.0, 6.0]), [5.0, 6.0]):
        x = leaf(1.0, 2.0)
        (x * 2).backward(dout)
        np.testing.assert_array_equal(x.grad, [10.0, 12.0])
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward(5)
    np.testing.assert_array_equal(x.grad, [10.0, 10.0])


def test_integers_pass_no_gradient():
    """The targets of cross-entropy and the condition of where are followed by nobody."""
    logits, targets = Tensor(np.zeros((2, 3)), True), Tensor(np.array([0, 2]))
    F.cross_entropy(logits, targets).backward()
    assert targets.grad is None and logits.grad.shape == (2, 3)


# ---- the worked trace of tensor.py ---------------------------------------------------------------


def trace_rows(header, n_columns):
    """The rows of the table in tensor.py's docstring that begins with this header."""
    lines = mg.tensor.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == header.split()[:2])
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            return rows
        rows.append(re.split(r"\s{2,}", line.strip(), maxsplit=n_columns - 1))
    raise AssertionError(f"the table {header!r} does not end")


def test_the_worked_trace(monkeypatch):
    """The nodes, their parents and results, the order of the heap, and every gradient."""
    x, w, b = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(1.0)
    b.data = b.data.reshape(())
    product = x * w
    total = product.sum()
    shifted = total + b
    result = shifted**2
    nodes = [t.node for t in (product, total, shifted, result)]
    first = nodes[0].time

    recorded = trace_rows("time node", 5)
    names = {x: "x", w: "w", b: "b", None: "None"} | {n: f"node {i}" for i, n in enumerate(nodes)}
    assert len(recorded) == len(nodes)
    for node, tensor, row in zip(nodes, (product, total, shifted, result), recorded, strict=True):
        time, op_name, parents, out, _ = row
        assert (str(node.time - first), node.op) == (time, op_name)
        assert ", ".join(names[parent] for parent in node.parents) == parents
        assert [float(n) for n in re.findall(r"\d+", out)] == np.atleast_1d(tensor.data).tolist()
    two = np.array([2.0, 5.0])  # any dout: what the column on the right says of it
    assert [d.tolist() for d in nodes[0].backward(two)] == [[6.0, 20.0], [2.0, 10.0]]
    assert [d.tolist() for d in nodes[1].backward(np.array(2.0))] == [[2.0, 2.0]]
    assert [d.tolist() for d in nodes[2].backward(np.array(2.0))] == [2.0, 2.0]
    dx, dy = nodes[3].backward(np.array(2.0))
    assert (dx, dy) == (2 * 12 * 2, None)

    replayed, replay = [], mg.tensor.Node.replay
    monkeypatch.setattr(
        mg.tensor.Node,
        "replay",
        lambda node, dout: replayed.append((node, dout.tolist())) or replay(node, dout),
    )
    result.backward()
    heap = trace_rows("heap node", 4)
    assert len(heap) == len(replayed)
    for (node, dout), (number, op_name, of_dout, _) in zip(replayed, heap, strict=True):
        assert (node is nodes[int(number)], node.op) == (True, op_name)
        assert [float(n) for n in re.findall(r"\d+", of_dout)] == np.atleast_1d(dout).tolist()
    for name, tensor in (("x", x), ("w", w), ("b", b)):
        told = re.search(rf"\b{name}\.grad = (\[.*?\]|\d+)", mg.tensor.__doc__).group(1)
        assert [float(n) for n in re.findall(r"\d+", told)] == np.atleast_1d(tensor.grad).tolist()


def test_where_paths_meet_the_heap_has_two_nodes():
    """In h + h * x the product goes first, and the node of h has both of its gradients."""
    x = leaf(3.0)
    h = x * x
    (h + h * x).backward()  # x² + x³
    np.testing.assert_array_equal(x.grad, [2 * 3.0 + 3 * 9.0])


# ---- graphs --------------------------------------------------------------------------------------


def test_diamond():
    """A tensor used many times waits for all its consumers: 20 doublings give 2²⁰, once."""
    x = leaf(1.0)
    y = x
    for _ in range(20):
        y = y + y
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0**20])


def test_uneven_paths():
    """A long and a short path that meet: newest first replays no step too early."""
    x = leaf(2.0)
    trunk = x * x
    long = trunk
    for _ in range(5):
        long = long * 3
    (trunk * long).backward()  # 3⁵ x⁴
    np.testing.assert_array_equal(x.grad, [3**5 * 4 * 2.0**3])


def test_older_branches_may_be_consumed_later():
    """The order of creation, not of nesting, decides: a is older than b and consumed after it."""
    x = leaf(3.0)
    a = x * 2
    b = x * x
    c = b * a
    (c + a * b).backward()  # 4 x³
    np.testing.assert_array_equal(x.grad, [12 * 9.0])


def test_a_part_that_leads_nowhere_is_left_alone():
    """What the loss does not depend on is neither replayed nor freed."""
    x, z = leaf(2.0), leaf(5.0)
    trunk, other = x * 3, z * 4
    both = trunk + other
    other.backward()
    assert x.grad is None
    with pytest.raises(RuntimeError, match="already replayed"):
        both.backward()


def test_deep_chain():
    """Ten thousand ops in a row: backward is a loop, not a recursion."""
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + 1.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0])


@pytest.mark.slow
def test_a_deeper_chain_may_be_dropped():
    """Freeing 100,000 linked steps that were never replayed is no recursion into a crash either."""
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    end = weakref.ref(y)
    del y
    assert end() is None and x.grad is None


def test_wide_graph():
    """Two thousand consumers of one tensor, and one op of two thousand inputs."""
    x = leaf(1.0, 2.0)
    h = x * 2
    branches = [h * float(i) for i in range(2_000)]
    F.stack(branches).sum().backward()
    np.testing.assert_array_equal(x.grad, [2 * 1999 * 1000.0] * 2)


def test_a_replayed_step_is_spent():
    """Its arrays are freed, so that a second backward cannot be right: it says so."""
    loss = (leaf(2.0) * 3).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="'sum' was already replayed"):
        loss.backward()


def test_a_trunk_cannot_be_shared_with_a_replayed_loss():
    """Two losses on one trunk: their sum works, one after the other says what to do."""
    x = leaf(2.0)
    trunk = x * x
    first, second = trunk * 3, trunk * 5
    first.backward()
    with pytest.raises(RuntimeError, match="'mul' was already replayed.*sum of all losses"):
        second.backward()

    x = leaf(2.0)
    trunk = x * x
    (trunk * 3 + trunk * 5).backward()
    np.testing.assert_array_equal(x.grad, [8 * 4.0])


@pytest.mark.parametrize(
    "gradient, error",
    [
        (lambda dout: (dout[:1],), r"bad: gradient of shape \(1,\) for an input \(2,\)"),
        (lambda dout: (None,), "bad has no derivative"),
        (lambda dout: (dout, dout), "argument"),
        (lambda dout: (), "argument"),
    ],
)
def test_the_tape_checks_an_op(gradient, error, monkeypatch):
    """A backward that returns too little, too much or the wrong shape is found out at once."""
    monkeypatch.setitem(mg.OPS, "bad", None)  # takes the name out again afterwards

    @mg.tensor.op
    def bad(x):
        return x * 1, gradient

    with pytest.raises((RuntimeError, ValueError), match=error):
        bad(leaf(1.0, 2.0)).backward(np.ones(2))


# ---- memory --------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_collector():
    """Without the cycle collector only reference counts free memory: at once, or never."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


INDEPENDENT = {  # ops whose backward does not need the value of their input
    "add": lambda h: h + 1.0,
    "add_tensor": lambda h: h + Tensor(np.ones(3)),
    "sub": lambda h: 1.0 - h,
    "div": lambda h: h / 2.0,
    "neg": lambda h: -h,
    "exp": F.exp,
    "sqrt": F.sqrt,
    "tanh": F.tanh,
    "relu": F.relu,
    "sum": lambda h: h.sum(),
    "mean": lambda h: h.mean(1),
    "getitem": lambda h: h[[0, 1]],
    "concat": lambda h: F.concat([h, Tensor(np.ones((1, 3)))]),
    "stack": lambda h: F.stack([h]),
    "where": lambda h: F.where(np.eye(2, 3) > 0, h, 0.0),
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "layer_norm": lambda h: F.layer_norm(h, np.ones(3)),
    "dropout": lambda h: F.dropout(h, 0.5, training=True),
    "cross_entropy": lambda h: F.cross_entropy(h, np.array([0, 2])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_value_no_backward_needs_is_freed_at_once(name):
    """The graph keeps what its derivations mention, and nothing else."""
    with no_collector():
        h = Tensor(np.ones((2, 3)), True) + 1.0
        array = weakref.ref(h.data)
        out = INDEPENDENT[name](h)
        del h
        assert array() is None, f"{name} holds its input"
        assert out.requires_grad


def test_an_intermediate_tensor_is_freed():
    """Steps point to steps, not to the tensors in between."""
    with no_collector():
        h = leaf(1.0) + 1.0
        gone = weakref.ref(h)
        out = h * h
        del h
        assert gone() is None
        out.backward()


def test_saved_arrays_are_freed_by_backward():
    """Although the loss lives on, what its graph had saved does not."""
    with no_collector():
        x = leaf(1.0, 2.0)
        h = F.exp(x)
        array = weakref.ref(h.data)
        loss = (h * h).sum()
        del h
        assert array() is not None  # mul and exp need it
        loss.backward()
        assert array() is None


def test_a_replayed_graph_lets_go_of_its_leaves():
    """A list of losses kept for a plot does not keep the networks that they came from."""
    with no_collector():
        x = leaf(1.0)
        gone = weakref.ref(x)
        loss = x * 2.0 + 1.0
        loss.backward()
        del x
        assert gone() is None
        assert loss.item() == 3


def test_arrays_are_freed_during_backward(monkeypatch):
    """Not only at its end: a step's arrays go as soon as it has been replayed."""
    monkeypatch.setitem(mg.OPS, "spy", None)  # takes the name out again afterwards
    seen = []

    @mg.tensor.op
    def spy(x):
        def backward(dout):
            seen.append(array() is None)
            return (dout,)

        return x * 1, backward

    with no_collector():
        h = F.exp(spy(leaf(1.0, 2.0)))
        array = weakref.ref(h.data)
        loss = F.tanh(h * h).sum()
        del h
        loss.backward()
        assert seen == [True]


def test_no_reference_cycles():
    """A training step leaves nothing for the cycle collector to find."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        w = Tensor(np.ones((3, 3)), True)
        x = Tensor(np.ones((2, 3)))
        for replay in (True, False):
            loss = F.cross_entropy(F.layer_norm(F.gelu(x @ w), np.ones(3)), np.array([0, 1]))
            if replay:
                loss.backward()
            with no_grad():
                x @ w
        del loss, w, x
        gc.collect()
        assert gc.garbage == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


# ---- no_grad -------------------------------------------------------------------------------------


def test_no_grad_records_nothing():
    """What is computed inside has no history, to the end of the outermost block."""
    x = leaf(2.0)
    with no_grad():
        y = x * x
        with no_grad():
            pass
        z = y * x  # the inner block's end does not end the outer one
    assert not y.requires_grad and not z.requires_grad and y.node is None
    assert (x * x).requires_grad
    with pytest.raises(RuntimeError, match="no_grad"):
        y.backward()


def test_nothing_to_follow():
    """A tensor made of constants says why it has no gradient."""
    with pytest.raises(RuntimeError, match="no input required a gradient"):
        (Tensor(2.0) * 3).backward()


def test_no_grad_is_a_decorator():
    """Decorated functions run without recording, call after call."""
    x = leaf(2.0)
    square = no_grad()(lambda: x * x)
    for _ in range(3):
        assert not square().requires_grad
        assert (x * x).requires_grad


def test_no_grad_decorates_generators():
    """Their own code is not recorded, whichever way it goes on; the code between is."""
    x, log = leaf(2.0), []

    @no_grad()
    def squares(n):
        """Yields."""
        try:
            for _ in range(n):
                try:
                    sent = yield x * x
                except KeyError:
                    sent = yield x * 5
                log.append((sent, (x * x).requires_grad))
        finally:
            log.append(("closed", (x * x).requires_grad))
        return (x * 3).requires_grad

    assert (squares.__name__, squares.__doc__) == ("squares", "Yields.")
    generator = squares(2)
    assert log == [] and not next(generator).requires_grad
    assert (x * 2).requires_grad
    assert not generator.send("a").requires_grad and log == [("a", False)]
    assert not generator.throw(KeyError).requires_grad and (x * 2).requires_grad
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value is False and log[-1] == ("closed", False)
    assert [y.requires_grad for y in squares(3)] == [False] * 3

    early = squares(3)
    next(early)
    early.close()
    assert log[-1] == ("closed", False) and (x * 2).requires_grad
    with pytest.raises(ZeroDivisionError):  # an error that it does not catch comes out
        early = squares(3)
        next(early)
        early.throw(ZeroDivisionError)
    assert (x * 2).requires_grad


def test_two_generators_under_no_grad_may_take_turns():
    """Each switches recording off for its own steps alone, in whatever order they end."""
    x = leaf(2.0)

    @no_grad()
    def results():
        for _ in range(2):
            yield x * x

    first, second = results(), results()
    for y in (next(first), next(second), next(first), next(second)):
        assert not y.requires_grad and (x * 2).requires_grad
    del first, second
    assert (x * 2).requires_grad


def test_no_grad_decorates_methods_and_recursion():
    """A call inside of a call, and an object that is made once and used again and again."""
    x, off = leaf(2.0), no_grad()

    class Evaluator:
        @off
        def depth(self, n):
            """Ends deep inside."""
            assert not (x * n).requires_grad
            return n if n == 0 else self.depth(n - 1)

    assert Evaluator().depth(3) == 0 and Evaluator.depth.__doc__ == "Ends deep inside."
    with off, off:
        assert not (x * x).requires_grad
    assert (x * x).requires_grad


def test_no_grad_does_not_decorate_asynchronous_functions():
    """Other tasks would run inside of the block: use `with` around what does not wait."""

    async def later():
        pass

    async def several():
        yield

    for function in (later, several):
        with pytest.raises(TypeError, match="is asynchronous: use `with` inside it"):
            no_grad()(function)


def test_no_grad_ends_with_an_exception():
    """A failed evaluation does not leave training unrecorded."""
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (leaf(1.0) * 2).requires_grad


@pytest.mark.parametrize("data", [[3, 4], (3.0, 4.0), Tensor([3, 4]), np.array([3, 4], np.float32)])
def test_data_is_always_an_array(data):
    """What is assigned to it is converted as Tensor() converts it."""
    x = Tensor([1, 2], requires_grad=True)
    x.data = data
    assert type(x.data) is np.ndarray and x.dtype == np.float32
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [6, 8])
    for wrong in ["no", None, [Tensor(1, requires_grad=True)]]:
        with pytest.raises(TypeError):
            x.data = wrong
    np.testing.assert_array_equal(x.data, [3, 4])


def test_no_grad_is_per_thread():
    """Evaluating in one thread does not stop another from training, in either direction."""
    x, seen = leaf(2.0), {}
    inside, done = threading.Event(), threading.Event()

    def evaluate():
        with no_grad():
            inside.set()
            done.wait(5)
            seen["evaluating"] = (x * x).requires_grad

    def train():
        seen["new thread"] = (x * x).requires_grad

    thread = threading.Thread(target=evaluate)
    thread.start()
    assert inside.wait(5)
    seen["training"] = (x * x).requires_grad
    done.set()
    thread.join()
    with no_grad():
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert seen == {"evaluating": False, "training": True, "new thread": True}


# ---- @op -----------------------------------------------------------------------------------------


def test_inputs_may_be_named():
    """Inputs bind by signature: by name in any order, and an absent one is its default."""
    x, w, b = (Tensor(np.random.default_rng(i).random((2, 2))) for i in range(3))
    b = b[0]
    expected = F.linear(x, w, b).data
    np.testing.assert_array_equal(F.linear(bias=b, weight=w, x=x).data, expected)
    np.testing.assert_array_equal(F.linear(x, w, bias=b).data, expected)
    np.testing.assert_array_equal(F.linear(x, weight=w).data, (x @ w.T).data)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_inputs_by_name_get_their_gradients(n):
    """As the first n by position do."""
    inputs = {"x": leaf([1.0, 2.0]), "weight": leaf([3.0, 4.0]), "bias": leaf(5.0)}
    F.linear(*[*inputs.values()][:n], **dict([*inputs.items()][n:])).backward()
    np.testing.assert_array_equal(inputs["x"].grad, [[3, 4]])
    np.testing.assert_array_equal(inputs["weight"].grad, [[1, 2]])
    np.testing.assert_array_equal(inputs["bias"].grad, [1])


def test_an_op_of_ones_own_may_have_any_name():
    """It runs neither the twin of the op of minigrad.ops, nor in that one's place."""
    before = dict(OPS)

    @op
    def gelu(x):
        return 10 * x, lambda dout: (10 * dout,)

    @op
    def add(x, y):
        return x - y, lambda dout: (dout, -dout)

    x = leaf(1.0, 2.0)
    gelu(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [10, 10])
    assert (x + x).data[1] == 4 and add(x, x).data[1] == 0
    assert before == OPS
    assert F.gelu(leaf(1.0)).item() == pytest.approx(0.841192)


def test_threads_may_share_a_leaf():
    """The gradients of all of them are added up."""
    for _ in range(10):
        w = leaf(*np.ones(100_000))
        together = threading.Barrier(4)

        def run(w=w, together=together):
            loss = (w * 1.0).sum()
            together.wait()
            loss.backward()

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (w.grad == 4).all()


def test_a_leaf_may_be_frozen_before_backward():
    """It gets no gradient then, as in PyTorch."""
    x = leaf(1.0)
    y = x * 2
    x.requires_grad = False
    y.backward()
    assert x.grad is None


@pytest.mark.parametrize("returned", [2.0, leaf(2.0)])
def test_a_gradient_is_an_array(returned):
    """A backward that returns something else is told so."""

    @op
    def wrong(x):
        return 2 * x, lambda dout: (returned,)

    with pytest.raises(RuntimeError, match="wrong: backward returned a (float|Tensor), not an arr"):
        wrong(leaf(1.0)).backward()
    del OPS["wrong"]


@pytest.mark.parametrize(
    "array",
    [
        np.ones((1, 2)).cumsum(1).view(np.matrix),
        np.ma.array([[1.0, 2.0]]),
        np.array([[1, 2]], ">f8"),
    ],
    ids=["matrix", "masked", "big-endian"],
)
def test_arrays_of_other_kinds_are_arrays(array):
    """A subclass brings no arithmetic of its own, nor does the order of bytes matter."""
    for x in (array, Tensor(array)):
        product = F.mul(leaf([3.0, 4.0]), x).data
        assert type(product) is np.ndarray and product.dtype.isnative
        np.testing.assert_array_equal(product, [[3, 8]])
        np.testing.assert_array_equal(F.sum(x, axis=0).data, [1, 2])


@pytest.mark.parametrize(
    "inputs", [[], [[]], [()], [[1.0], [2.0]], [leaf(1.0, 2.0)], [np.ones((2, 2))], [1.0]]
)
def test_an_op_of_several_inputs_takes_one_list(inputs):
    """Two lists, none, an empty one, or an array that could be taken for a list are refused."""
    for join in (F.concat, F.stack):
        with pytest.raises(TypeError, match=rf"{join.__name__}: give one list"):
            join(*inputs)
    np.testing.assert_array_equal(F.concat((Tensor([1.0]), [2.0])).data, [1.0, 2.0])


def test_an_absent_input_stays_absent(monkeypatch):
    """None is not a number, also where numbers alone are given."""
    monkeypatch.setitem(mg.OPS, "plus", None)  # takes the name out again afterwards

    @mg.tensor.op
    def plus(x, y=None):
        return (x + 1 if y is None else x + y), lambda dout: (dout, None)

    assert (plus(2.0).item(), plus(2.0, None).item(), plus(2.0, 5.0).item()) == (3, 3, 7)


@pytest.mark.parametrize("options", [{"colour": 1}, {"axis": 0, "x": None}])
def test_unknown_options_are_refused(options):
    """A misspelt option is an error, as in any function."""
    with pytest.raises(TypeError):
        F.sum(leaf(1.0), **options)


def test_numbers_alone_become_float32():
    """F.add(2, 3) is what Tensor(2) + 3 is."""
    assert F.add(2, 3).dtype == np.float32 and F.add(2, 3).item() == 5
    assert F.exp(0).dtype == np.float32


def test_the_registry_knows_each_op_by_its_name():
    """mg.OPS maps a name to the lifted op, which still shows its docstring and array function."""
    for name, lifted in mg.OPS.items():
        assert lifted.__name__ == name and lifted.__doc__ and callable(lifted.__wrapped__)


# ---- what would falsify a gradient is refused ----------------------------------------------------


def test_what_backward_may_need_cannot_be_written_to():
    """A leaf's array until backward() has passed, or the result is gone; a result for good."""
    x = leaf(1.0, 2.0)
    y = x * x
    z = (y * y).sum()
    for tensor in (x, y):
        with pytest.raises(ValueError, match="read-only"):
            tensor.data[0] = 9.0
        with pytest.raises(ValueError, match="read-only"):
            tensor.data += 1.0
    z.backward()
    np.testing.assert_array_equal(x.grad, [4.0, 32.0])
    x.data[0] = 5.0
    z = (x * x).sum()
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 6.0
    del z
    x.data[0] = 7.0
    with mg.no_grad():
        y = x * x
    x.data[0], y.data[0] = 8.0, 0.0


def test_a_leaf_stays_read_only_until_its_last_reader_is_gone():
    """Two graphs, a constant in both: the array is free when the second was replayed."""
    x, c = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    first, second = (x * c).sum(), (c * x * c).sum()
    for loss, free in ((first, False), (second, True)):
        loss.backward()
        assert (x.data.flags.writeable, c.data.flags.writeable) == (free, free)


def test_all_arrays_that_go_into_an_op_stay_as_they_are():
    """Not the last one alone, where two are no Tensors."""
    q, k = (np.random.default_rng(i).standard_normal((1, 1, 3, 2)) for i in range(2))
    v = Tensor(np.ones((1, 1, 3, 2)), requires_grad=True)
    out = mg.OPS["attention"](q, k, v)
    assert not q.flags.writeable and not k.flags.writeable
    del out
    assert q.flags.writeable and k.flags.writeable


def test_an_array_is_read_only_until_its_last_reader_is_gone():
    """Also where two Tensors hold it."""
    w, u = leaf(1.0, 1.0), leaf(1.0, 1.0)
    first, second = (w * w).sum(), (w.detach() * u).sum()
    first.backward()
    with pytest.raises(ValueError, match="read-only"):
        w.data -= w.grad
    second.backward()
    w.data -= w.grad
    np.testing.assert_array_equal(u.grad, [1.0, 1.0])


def test_an_optimizers_parameters_are_read_only_too():
    """For writes by hand, until backward() has run.  (A fused one counts its own writes alone.)"""
    w = leaf(1.0, 1.0)
    mg.optim.AdamW([w], lr=0.1)
    y = (w * w).sum()
    with pytest.raises(ValueError, match="read-only"):
        w.data[:] = 50
    y.backward()
    w.data[:] = 50
    np.testing.assert_array_equal(w.grad, [2.0, 2.0])


def test_plain_arrays_are_kept_too():
    """A buffer that is refilled too early: of factors, ids or targets."""
    x = leaf(1.0, 2.0)
    factors, ids, targets = np.ones(2), np.array([0, 1]), np.array([0])
    losses = [x * factors, F.embedding(ids, leaf([1.0], [2.0])), x[Tensor(ids)]]
    for array in (factors, ids):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    index = np.array([0, 0])
    losses += [x[index], F.cross_entropy(x.reshape(1, 2), targets)]
    index[:], targets = 1, None
    x.grad = None
    losses[3].backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [2.0, 0.0])
    for loss in losses[:3]:
        loss.backward(np.ones(loss.shape))
    factors[:], ids[:] = 0, 0


def test_two_arrays_in_one_memory():
    """One is a part of the other: what is locked first is not always free again, and no noise."""
    a = np.ones((2, 3))
    part, whole = Tensor(a[0], requires_grad=True), Tensor(a, requires_grad=True)
    losses = (part * part).sum(), (whole * whole).sum()
    for loss in losses:
        loss.backward()
    a[:] = 2.0


def test_a_view_of_a_leaf_is_read_only_too():
    """What reshape returns lies in the leaf's memory."""
    x = leaf(1.0, 2.0)
    y = x.reshape(2, 1) * 2.0
    view = x.reshape(2, 1)
    with pytest.raises(ValueError, match="read-only"):
        view.data[0] = 5.0
    del y, view


def test_an_array_that_was_read_only_stays_so():
    """It was the user's decision, and backward() does not undo it."""
    array = np.ones(2)
    array.setflags(write=False)
    x = Tensor(array, requires_grad=True)
    (x * x).sum().backward()
    assert not array.flags.writeable


def test_another_array_may_be_assigned_at_any_time():
    """The recorded step keeps the old one, and its gradient is right."""
    x = leaf(3.0)
    y = x * x
    x.data = np.array([100.0])
    y.backward()
    np.testing.assert_array_equal(x.grad, [6.0])


def test_an_array_assigned_later_is_read_only_as_well():
    """While an older graph keeps the one before."""
    x = leaf(1.0, 2.0)
    old = x * x
    x.data = np.array([3.0, 4.0])
    new = x * x
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 5.0
    for y, grad in ((new, [6.0, 8.0]), (old, [8.0, 12.0])):
        y.backward(np.ones(2))
        np.testing.assert_array_equal(x.grad, grad)
    x.data[0] = 5.0


def test_an_array_that_is_overwritten_is_noticed_every_time():
    """load_state_dict() writes into a fused optimizer's vector, and every time is noticed."""
    model = mg.nn.Linear(3, 2)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    assert model.weight.grad_buffer is not None and optimizer
    for _ in range(2):
        y = model(np.ones((1, 3), np.float32)).sum()
        model.load_state_dict(model.state_dict())
        with pytest.raises(RuntimeError, match="overwritten"):
            y.backward()
        del y
        model.weight.data[0] = 0
        model.load_state_dict(model.state_dict())
        model.weight.data[0] = 0


@pytest.mark.parametrize("how", ["step", "load_state_dict", "assigned, then step"])
def test_a_step_of_a_fused_optimizer_before_backward_is_refused(how):
    """It writes into the vector behind the arrays: the recorded nodes are out of date."""
    model = mg.nn.Linear(3, 2)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    x = np.ones((1, 3), np.float32)
    model(x).sum().backward()
    late = model(x).sum()
    if how == "load_state_dict":
        model.load_state_dict(model.state_dict())
    else:
        if how != "step":
            model.weight.data = model.weight.data * 2
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"^linear: an input of shape \(2, 3\) was overwritten"):
        late.backward()
    fresh = model(x).sum()
    fresh.backward()
    optimizer.step()


@pytest.mark.parametrize("how", ["step", "load_state_dict", "assigned"])
def test_a_plain_optimizer_may_step_before_backward(how):
    """It assigns new arrays, and the gradient is that of the weights that the forward pass read."""
    model = mg.nn.Linear(3, 2)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.1)
    x = Tensor(np.ones((1, 3), np.float32), requires_grad=True)
    model(x).sum().backward()
    x.grad, old = None, model.weight.data
    late = model(x).sum()
    if how == "step":
        optimizer.step()
    elif how == "load_state_dict":
        model.load_state_dict({n: a + 1 for n, a in model.state_dict().items()})
    else:
        model.weight.data = model.weight.data + 1
    assert (model.weight.data != old).all()
    late.backward()
    np.testing.assert_array_equal(x.grad, old.sum(0, keepdims=True))


def test_a_copy_has_no_readers():
    """A deep copy, and one by pickle, of a leaf that a step reads can be written to."""
    x = leaf(1.0)
    y = x * x
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        twin.data[0] = 5.0
    y.backward()


def test_a_tensor_is_not_used_after_its_step_was_replayed():
    """No gradient would come through: who wants the number alone says so."""
    x = leaf(3.0)
    y = x * x
    y.backward()
    with pytest.raises(
        RuntimeError, match=r"\(1,\) is used after .* replayed 'mul'.*x\.detach\(\)"
    ):
        y * 2.0
    assert (y.detach() * 2.0).item() == 18 and y.item() == 9
    with mg.no_grad():
        assert (y * 2.0).item() == 18


MIXED = {  # what is done with a float32 x, how the message begins
    "two floats": (lambda x: x * np.ones(2), "mul: x float32, y float64 would give float64"),
    "an integer": (lambda x: x + np.arange(2), "add: x float32, y int64 would give float64"),
    "in a list": (
        lambda x: F.stack([x, np.ones(2)]),
        "stack: arrays[0] float32, arrays[1] float64",
    ),
    "in the middle": (
        lambda x: F.where(np.array([True, False]), x, np.ones(2)),
        "where: condition bool, x float32, y float64 would give float64",
    ),
    "a weight": (lambda x: F.linear(x, np.ones((1, 2))), "linear: x float32, weight float64 would"),
}


@pytest.mark.parametrize("case", MIXED)
def test_dtypes_do_not_mix_silently(case):
    """float32 turns into float64 only where somebody says so."""
    mix, message = MIXED[case]
    with pytest.raises(TypeError) as error:
        mix(Tensor([1.0, 2.0]))
    assert str(error.value).startswith(message) and "convert one" in str(error.value)


def test_dtypes_that_widen_nothing_may_meet():
    """Booleans, short integers, single numbers, and integers that are ids."""
    x = Tensor([1.0, 2.0])
    for y in (np.array([True, False]), np.arange(2, dtype=np.int8), np.float64(2.0), 3):
        assert (x * y).dtype == np.float32
    assert F.embedding(np.arange(2), Tensor([[1.0]] * 2)).dtype == np.float32
    assert (Tensor(np.arange(3)) + np.arange(3)).dtype == np.int64


def test_a_gradient_that_a_graph_reads_is_added_to_elsewhere():
    """The array that the other graph reads keeps its numbers; grad is a new one with the sum."""
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    reading = leaf(1.0, 1.0)
    other = (reading * x.grad).sum()
    (x * 5).sum().backward()
    np.testing.assert_array_equal(x.grad, [8.0, 8.0])
    other.backward()
    np.testing.assert_array_equal(reading.grad, [3.0, 3.0])
    np.testing.assert_array_equal(first, [3.0, 3.0])


def test_integers_that_want_no_gradient_may_be_mixed():
    """A result of another dtype than the inputs is refused only where a gradient is wanted."""
    out = F.where(np.array([True, False]), np.array([1, 2]), np.array([3, 4]))
    assert out.dtype == np.int64 and out.data.tolist() == [1, 4]
    assert F.exp(np.array([0, 1])).dtype == np.float32
