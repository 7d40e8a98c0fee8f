"""Guards: whatever would make a gradient wrong is refused, or does not make it wrong.

Each test writes, copies, replaces or mixes what a recorded graph has read, and asks for the right
gradient or an error.  The guards of plain reading and writing are in test_tensor.py.
"""

import copy
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor, no_grad
from minigrad.internals import guards
from minigrad.optim import clip_grad_norm


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


@pytest.mark.parametrize("make_optimizer", [None, lambda w: fused(w)])
def test_a_gradient_may_be_dout(make_optimizer):
    """Also where backward() adds to that very gradient, twice."""
    w = leaf([1, 2])
    if make_optimizer:
        optimizer = make_optimizer(w)
    (w * w).sum().backward()
    (w + w).backward(w.grad)
    np.testing.assert_array_equal(w.grad, [6, 12])
    (w + w).backward(w.grad[:])
    np.testing.assert_array_equal(w.grad, [18, 36])
    if make_optimizer:
        optimizer.step()


def clipped(w):
    """A gradient that clipping has assigned."""
    (w * w).sum().backward()
    clip_grad_norm([w], 1e9)


def given(w):
    w.grad = np.array([2.0, 4.0])


def copied(w):
    (w * w).sum().backward()
    w.grad = copy.deepcopy(w).grad


def added(w):
    """A gradient that was read when the second one came."""
    (w * w / 2).sum().backward()
    reader = w.grad * leaf([1, 1])
    (w * w / 2).sum().backward()
    del reader


@pytest.mark.parametrize("origin", [clipped, given, copied, added])
def test_a_gradient_of_any_origin_is_not_overwritten(origin):
    """backward() adds in place only into arrays that it made, and that nobody reads."""
    w, v = leaf([1, 2]), leaf([1, 1])
    origin(w)
    np.testing.assert_array_equal(w.grad, [2, 4])
    z = (v * w.grad[:]).sum()
    (w * 10.0).sum().backward()
    z.backward()
    np.testing.assert_array_equal(v.grad, [2, 4])
    np.testing.assert_array_equal(w.grad, [12, 14])

    w = leaf([1, 2])
    origin(w)
    ((w * 1.0) + w).backward(w.grad)
    np.testing.assert_array_equal(w.grad, [6, 12])


def test_two_leaves_may_be_given_one_gradient():
    """What backward() adds to one is not added to the other."""
    a, b, g = leaf([1]), leaf([1]), np.ones(1)
    a.grad = b.grad = g
    (a * 2.0).sum().backward()
    assert (a.grad, b.grad, g) == (3, 1, 1)


@pytest.mark.parametrize("part", [lambda g: g[::-1], lambda g: g.ravel(), lambda g: Tensor(g).T])
def test_a_part_of_a_gradient_that_a_graph_reads_is_not_overwritten(part):
    """backward() then makes a new array."""
    w, u = leaf([1, 2]), leaf([1, 1])
    (w * 2.0).sum().backward()
    loss = (u * part(w.grad)).sum()
    (w * 3.0).sum().backward()
    loss.backward()
    np.testing.assert_array_equal(u.grad, [2, 2])
    np.testing.assert_array_equal(w.grad, [5, 5])


@pytest.mark.parametrize("first", ["part", "whole"])
def test_an_array_and_a_part_of_it_are_writable_again(first):
    """In whatever order their locks are released."""
    array = np.arange(4.0)
    parts = array[:2], array[1:]
    leaves = [Tensor(x, requires_grad=True) for x in (*parts, array)]
    losses = [(x * 2).sum() for x in leaves]
    for loss in losses if first == "part" else losses[::-1]:
        loss.backward()
    assert [x.flags.writeable for x in (array, *parts)] == [True] * 3
    loss = (leaves[0] * 2).sum()
    assert not parts[0].flags.writeable
    del loss
    assert parts[0].flags.writeable


def test_an_op_that_changes_nothing_does_not_lock_its_input():
    """Its result is a view, read-only by itself."""
    w = leaf([1, 2])
    optimizer = fused(w)
    out = F.dropout(w, 0.5, training=False)
    assert not out.data.flags.writeable
    out.sum().backward()
    optimizer.step()
    del out
    assert w.data.flags.writeable


def test_an_index_of_lists_is_copied():
    """At every depth."""
    for index in ([np.array([0, 1])], [[0, 1], [1, 0]]):
        x = leaf(np.arange(4.0).reshape(2, 2))
        y = x[index]
        index[0][0] = 1
        y.sum().backward()
        np.testing.assert_array_equal(x.grad, [[y.size / 4] * 2] * 2)


def fused(*parameters):
    """An optimizer that has made the parameters views of one vector."""
    return mg.optim.AdamW(parameters, lr=1.0, weight_decay=0, fused=True)


# ---- other names for a parameter's memory --------------------------------------------------------

ALIASES = {  # what shares the memory of a parameter w, once an optimizer has it
    "detach": lambda w: w.detach(),
    "Tensor": lambda w: Tensor(w),
    "data": lambda w: w.data,
    "numpy": lambda w: w.numpy(),
    "asarray": lambda w: np.asarray(w),
    "a slice of data": lambda w: w.data[:],
    "a slice of a slice": lambda w: w.data[:2][:2],
    "reversed twice": lambda w: w.data[::-1][::-1],
    "copy.copy": lambda w: copy.copy(w),
    "a view under no_grad": lambda w: no_grad()(lambda: w.reshape(2))(),
    "a row under no_grad": lambda w: no_grad()(lambda: w.reshape(1, 2)[0])(),
    "a detached view": lambda w: w.reshape(2).detach(),
    "dropout at evaluation": lambda w: no_grad()(lambda: F.dropout(w, 0.5, training=False))(),
    "a memoryview": lambda w: np.asarray(memoryview(w.data)),
}


def change_by_step(w, optimizer):
    w.grad = np.ones(2)
    optimizer.step()


CHANGES = {
    "step": change_by_step,
    "copy_": lambda w, optimizer: w.copy_(w.data + 1),
    "assigned, then step": lambda w, optimizer: (
        setattr(w, "data", w.data + 1),
        change_by_step(w, optimizer),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_an_alias_of_a_parameter_is_guarded(alias, change):
    """If the optimizer overwrites it before backward(), that is an error, not a wrong gradient."""
    w, v = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    optimizer = fused(w)
    loss = (v * alias(w)).sum()
    change(w, optimizer)
    with pytest.raises(RuntimeError, match=r"^mul: an input of shape \(2,\) was overwritten"):
        loss.backward()
    assert v.grad is None
    (v * w.detach()).sum().backward()  # what is read afresh is up to date
    np.testing.assert_array_equal(v.grad, w.data)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_with_a_plain_optimizer_an_alias_keeps_its_numbers(alias, change):
    """It assigns new arrays, so the gradient is that of the numbers that were read."""
    w, v = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    optimizer = mg.optim.AdamW([w], lr=1.0, weight_decay=0)
    loss = (v * alias(w)).sum()
    change(w, optimizer)
    loss.backward()
    np.testing.assert_array_equal(v.grad, [1.0, 2.0])


def test_a_neighbour_in_the_vector_is_not_blamed():
    """Only the parameter that is read counts, not the others in the same vector."""
    w, u, v = leaf([1.0, 2.0]), leaf([5.0, 5.0]), leaf([1.0, 1.0])
    optimizer = fused(w, u)
    loss = (v * w.detach()).sum()
    u.grad = np.ones(2)
    optimizer.step()
    loss.backward()
    np.testing.assert_array_equal(v.grad, [1.0, 2.0])


def test_a_frozen_parameter_is_guarded():
    """requires_grad=False keeps it out of the graph, not out of the forward pass."""
    w, v = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    optimizer = fused(w)
    w.requires_grad = False
    loss = (v * w).sum()
    change_by_step(w, optimizer)
    with pytest.raises(RuntimeError, match="overwritten"):
        loss.backward()


# ---- gradients as inputs -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "plain", "fused"])
def test_a_gradient_may_be_an_input(kind):
    """x.grad is locked while a graph reads it, and backward() then adds to a new array."""
    x = leaf([1.0, 2.0])
    if kind != "none":
        optimizer = mg.optim.AdamW([x], lr=0.1, fused=kind == "fused")
        assert optimizer.param_groups
    (x * x).sum().backward()
    (x * x.grad).sum().backward()
    np.testing.assert_array_equal(x.grad, [2 + 2.0, 4 + 4.0])
    x.grad += 1  # nobody reads it any more


@pytest.mark.parametrize("kind", ["none", "plain", "fused"])
@pytest.mark.parametrize("wrap", [lambda g: g, Tensor], ids=["array", "Tensor"])
def test_a_gradient_that_a_graph_reads_is_not_overwritten(kind, wrap):
    """Neither by another backward(), nor after zero_grad(), nor by clipping."""
    for disturb in ("backward", "zero_grad", "clip"):
        x, v = leaf([1.0, 2.0]), leaf([1.0, 1.0])
        optimizer = mg.optim.AdamW([x], lr=0.1, fused=kind == "fused") if kind != "none" else None
        (x * x).sum().backward()
        loss = (v * wrap(x.grad)).sum()
        if disturb == "zero_grad":
            optimizer.zero_grad() if optimizer else setattr(x, "grad", None)
        if disturb == "clip":
            mg.optim.clip_grad_norm([x], 0.1)
        else:
            (x * 7).sum().backward()
        loss.backward()
        np.testing.assert_array_equal(v.grad, [2.0, 4.0])


@pytest.mark.parametrize(
    "grad", [[1, 2], (1.0, 2.0), Tensor(np.array([1.0, 2.0])), np.arange(1, 3)]
)
def test_grad_becomes_an_array(grad):
    """Of the dtype of its Tensor if it was a list, and backward() adds to it."""
    x = leaf([1.0, 2.0])
    x.grad = grad
    assert type(x.grad) is np.ndarray
    if not isinstance(grad, np.ndarray):
        assert x.grad.dtype == np.float64
        (x * 0.5).sum().backward()
        np.testing.assert_array_equal(x.grad, [1.5, 2.5])


@pytest.mark.parametrize("grad", [np.ones(1), 1.0, [1.0], np.ones((1, 2)), np.float64(1)])
def test_grad_has_the_shape_of_its_tensor(grad):
    """What would broadcast is refused."""
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"grad must have the shape \(2,\) of its tensor, not"):
        x.grad = grad
    assert x.grad is None


def test_a_gradient_of_a_number_stays_an_array():
    """Also where two are added up into a new one: NumPy makes a scalar of that."""
    x = leaf(3.0)
    (x * x).backward()
    (x * x.grad).backward()
    assert type(x.grad) is np.ndarray and x.grad.shape == () and x.grad == 12


def test_the_gradient_of_a_result_is_warned_of():
    """Where it is asked for, not where it is used; a leaf and a detached Tensor do not warn."""
    x = leaf([1.0, 2.0])
    y = x * 2
    with pytest.warns(UserWarning, match="of the result of an op is always None.*leaves") as caught:
        assert y.grad is None
    assert caught[0].filename == __file__
    y.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert x.grad is not None and y.detach().grad is None and repr(y) and y.requires_grad
        with no_grad():
            assert (x * 2).grad is None


# ---- requires_grad -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_get_no_gradient_by_any_way(dtype):
    """At construction, by the attribute, or because the data became integers afterwards."""
    integers = np.ones(2, dtype)
    with pytest.raises(TypeError, match=f"only floating-point .* {np.dtype(dtype)}"):
        Tensor(integers, requires_grad=True)
    x = Tensor(integers)
    with pytest.raises(TypeError, match=f"only floating-point .* {np.dtype(dtype)}"):
        x.requires_grad = True
    assert not x.requires_grad
    x.requires_grad = False

    x = leaf([1.0, 2.0])
    early = (x * 2).sum()
    x.data = integers
    for use in (
        lambda: x * 0.5,
        lambda: x + np.ones(2),
        lambda: F.where(integers > 0, x, 0.0),
        early.backward,
        lambda: x.backward(np.ones(2)),
    ):
        with pytest.raises(TypeError, match="only floating-point"):
            use()
    assert x.grad is None


def test_requires_grad_of_a_result():
    """Is not switched off: detach() does that.  Under no_grad() a result is a leaf."""
    y = leaf([1.0]) * 2
    with pytest.raises(RuntimeError, match=r"leaves only; x.detach\(\)"):
        y.requires_grad = False
    y.requires_grad = True
    with no_grad():
        z = leaf([1.0]) * 2
    z.requires_grad = True
    (z * 3).backward()
    np.testing.assert_array_equal(z.grad, [3.0])


def test_requires_grad_of_a_leaf_may_change():
    """What is recorded later follows it."""
    x, w = leaf([1.0]), leaf([1.0])
    x.requires_grad = False
    (x * w).backward()
    assert x.grad is None
    x.requires_grad = True
    (x * w).backward()
    np.testing.assert_array_equal(x.grad, [1.0])


# ---- copies --------------------------------------------------------------------------------------

COPY = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}


@pytest.mark.parametrize("how", COPY.values(), ids=COPY)
def test_results_are_not_copied(how):
    """Their history cannot be; nor inside of a list, a dict or a module that keeps one."""
    y = leaf([1.0]) * 2
    module = mg.nn.Dropout(0.5)
    module.kept = y
    holders = [y] if how is copy.copy else [y, [y], {"y": y}, module]
    for holder in holders:
        with pytest.raises(RuntimeError, match=r"only leaves.*result of 'mul': copy x.detach\(\)"):
            how(holder)
    assert how(y.detach()).item() == 2
    y.backward()
    with no_grad():
        assert how(leaf([1.0]) * 2).item() == 2


@pytest.mark.parametrize("how", COPY.values(), ids=COPY)
@pytest.mark.parametrize("kind", ["none", "plain", "fused"])
def test_a_copy_of_a_leaf_is_a_leaf_of_its_own(how, kind):
    """With the same numbers and requires_grad; its gradient and its guards are its own."""
    x = leaf([1.0, 2.0])
    optimizer = mg.optim.AdamW([x], lr=1.0, fused=kind == "fused") if kind != "none" else None
    (x * x).sum().backward()
    reader = (x * x).sum()  # the copy is not read by it
    twin = how(x)
    assert type(twin) is Tensor and twin.requires_grad and twin is not x
    np.testing.assert_array_equal(twin.data, [1.0, 2.0])
    assert np.shares_memory(twin.data, x.data) == (how is copy.copy)
    assert twin.grad is not x.grad or x.grad is None
    twin.grad = None
    (twin * 5).sum().backward()
    np.testing.assert_array_equal(twin.grad, [5.0, 5.0])
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])
    reader.backward()
    if optimizer and how is not copy.copy:
        optimizer.step()
        np.testing.assert_array_equal(twin.data, [1.0, 2.0])
        loss = (twin * twin).sum()
        with pytest.raises(ValueError, match="read-only"):
            twin.data[0] = 5.0
        del loss
        twin.data[0] = 5.0


def test_a_pickled_float16_is_still_computed_in_float32():
    """NumPy gives an array out of a pickle a dtype object of its own."""
    x = pickle.loads(pickle.dumps(Tensor(np.ones(70_000, np.float16))))
    assert x.mean().item() == 1 and x.mean().dtype == np.float16  # the sum exceeds 65,504


# ---- locks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fail",
    [
        lambda x: x @ np.ones(3),
        lambda x: x + np.ones(2, np.float32),
        lambda x: F.concat([x, np.ones((1, 1))]),
        lambda x: x + None,
        lambda x: F.embedding(np.array([0]), x),
    ],
    ids=["shapes", "dtypes", "a list", "None", "an embedding"],
)
def test_an_op_that_fails_locks_nothing(fail):
    """Although a traceback, which an interactive session keeps, holds all that the op held."""
    x = leaf([1.0, 2.0])
    with pytest.raises((ValueError, TypeError)) as caught:
        fail(x)
    x.data[0] = 5.0
    assert caught.value.__traceback__ and not guards._n_locks.get(id(x.data))


def test_an_input_that_is_returned_is_writable_again():
    """dropout at evaluation returns x itself: it is read-only while the graph needs it."""
    x = leaf([[1.0, 2.0]])
    y = F.dropout(x, 0.5, training=False)
    loss = (y * y).sum()
    del y
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 9.0
    loss.backward()
    x.data[0] = 9.0
    np.testing.assert_array_equal(x.grad, [[2.0, 4.0]])


def test_threads_may_share_an_array():
    """The locks are counted: not one too many is left, and none is opened too early."""
    array, errors = np.ones(3), []
    unraisable, sys.unraisablehook = sys.unraisablehook, errors.append
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read():
        for _ in range(500):
            out = leaf([1.0, 1.0, 1.0]) * array
            if array.flags.writeable:
                errors.append("writable while it is read")
            del out

    try:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        sys.unraisablehook = unraisable
    assert not errors and array.flags.writeable and id(array) not in guards._n_locks


def test_ids_and_conditions_are_copied():
    """backward() reads them again; a write through another view of their memory does no harm."""
    buffer = np.zeros((2, 3), int)
    weight = Tensor(np.ones((4, 2)), requires_grad=True)
    loss = F.embedding(buffer[:, :-1], weight).sum()
    buffer[:] = 3
    loss.backward()
    np.testing.assert_array_equal(weight.grad, [[4, 4], [0, 0], [0, 0], [0, 0]])

    mask = np.array([True, False])
    x = Tensor(np.ones(2), requires_grad=True)
    loss = F.where(mask[:], x, 0.0).sum()
    mask[:] = False
    loss.backward()
    np.testing.assert_array_equal(x.grad, [1, 0])
