"""Parameters as views of one vector: the numbers, the gradients, and what is assigned later."""

import copy
import pickle

import numpy as np
import pytest

from minigrad import Tensor
from minigrad.fast import arrays
from minigrad.fast.adamw import FusedAdamW, ParamRange, adamw_update
from minigrad.fast.flat import FlatParameters
from minigrad.internals import guards

SHAPES = [(2, 3), (), (0, 4), (4,)]


def make(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [Tensor(np.asarray(rng.standard_normal(s), dtype), requires_grad=True) for s in SHAPES]


def test_one_after_another():
    """In order, each in its shape, and in the same memory."""
    parameters = make(np.float32)
    before = [p.data.copy() for p in parameters]
    flat = FlatParameters(iter(parameters))
    assert flat.data.shape == flat.grad.shape == (11,) and flat.data.dtype == np.float32
    np.testing.assert_array_equal(flat.data, np.concatenate([b.ravel() for b in before]))
    flat.data += 1
    for p, b in zip(parameters, before, strict=True):
        assert p.shape == b.shape
        np.testing.assert_array_equal(p.data, b + 1)


def test_gradients_meet_in_the_vector():
    """The first of a step replaces what is there, later ones add up; None until then."""
    parameters = make()
    flat = FlatParameters(parameters)
    x, y = parameters[0], parameters[3]
    assert x.grad is None
    for _ in range(2):
        for p in parameters:
            p.grad = None
        (3 * x).backward(np.ones((2, 3)))
        (2 * x).backward(np.ones((2, 3)))
        (y * y).backward(np.ones(4))
        assert parameters[1].grad is None
        np.testing.assert_array_equal(flat.grad[:6], np.full(6, 5.0))
        np.testing.assert_array_equal(flat.grad[7:], 2 * y.data)
        assert np.shares_memory(x.grad, flat.grad) and x.grad.shape == (2, 3)


def test_the_vector_is_a_copy():
    """A gradient that someone else holds is not written to."""
    x, y = Tensor(np.ones(2), True), Tensor(np.ones(2), True)
    flat = FlatParameters([x, y])
    dout = np.array([1.0, 2.0])
    (x + y).backward(dout)
    x.grad *= 10
    np.testing.assert_array_equal(dout, [1, 2])
    np.testing.assert_array_equal(flat.grad, [10, 20, 1, 2])


def test_what_was_assigned_is_copied_in():
    """p.data = ... and p.grad = ... bring their numbers in; p.data is a view again."""
    parameters = make()
    flat = FlatParameters(parameters)
    view = parameters[0].data
    parameters[0].data = np.arange(6.0).reshape(2, 3)
    parameters[3].grad = np.arange(4.0)
    flat.sync()
    assert parameters[0].data is view
    np.testing.assert_array_equal(flat.data[:6], np.arange(6.0))
    np.testing.assert_array_equal(flat.grad[7:], np.arange(4.0))


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda p: p.data.astype(np.float32), r"\(2, 3\) of float64 on cpu has become \(2, 3\) of"),
        (lambda p: p.data.T.copy(), r"has become \(3, 2\) of float64"),
    ],
)
def test_what_does_not_fit_is_refused(change, part):
    """An optimizer cannot follow a model into another precision: it says what to do."""
    parameters = make()
    optimizer = FusedAdamW(parameters, lr=0.1)
    parameters[0].data = change(parameters[0])
    with pytest.raises(RuntimeError, match=part + ".* then make its optimizer"):
        optimizer.step()


def test_parameters_of_two_kinds_are_refused():
    """One vector has one dtype."""
    parameters = [*make(np.float32), *make(np.float64)]
    with pytest.raises(ValueError, match="must have one dtype and device") as error:
        FusedAdamW(parameters, lr=0.1)
    assert all(kind in str(error.value) for kind in ("float32 on cpu", "float64 on cpu"))


def test_unbind_and_bind():
    """Empty in between; then the numbers are those of the new vectors."""
    parameters = make()
    flat = FlatParameters(parameters)
    flat.unbind()
    assert all(p.data.size == 0 and p.grad_buffer is None for p in parameters) and flat.data is None
    assert all(p.data.base is None for p in parameters), "the old memory is free"
    flat.bind(np.arange(11.0), np.zeros(11))
    assert [p.shape for p in parameters] == SHAPES
    assert parameters[1].item() == 6
    parameters[0].sum().backward()
    np.testing.assert_array_equal(flat.grad, [1] * 6 + [0] * 5)


@pytest.mark.parametrize(
    "copy", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"]
)
def test_a_copy_trains_on_by_itself(copy):
    """Model and optimizer, copied together, go on where they are, and do not touch the first."""
    x = Tensor(np.ones(2), True)
    optimizer = FusedAdamW([x], lr=0.1)
    y, other = copy((x, optimizer))
    for tensor, its in ((x, optimizer), (y, other)):
        tensor.sum().backward()
        its.step()
        np.testing.assert_allclose(tensor.data, np.full(2, 0.9 - 1e-3))
    assert not np.shares_memory(x.data, y.data)
    flat = copy(optimizer.flat)
    flat.unbind()
    assert copy(flat).data is None


def test_a_buffer_that_no_longer_fits_is_not_used():
    """The model was converted, and the optimizer forgotten: gradients are the model's again."""
    x = Tensor(np.ones((2, 3), np.float32), True)
    optimizer = FusedAdamW([x], lr=0.1)
    assert x.grad_buffer is optimizer.flat.buffers[0]
    x.data = x.data.astype(np.float64)
    (x * (1 / 3)).sum().backward()
    assert x.grad.dtype == np.float64 and (x.grad == 1 / 3).all()
    x.data, x.grad = np.ones(3, np.float32), None
    x.sum().backward()
    assert x.grad.shape == (3,)


def test_two_optimizers_of_one_model():
    """The one made last holds the numbers; a step of the other brings them back to it."""
    x, twin = Tensor(np.ones(2), True), Tensor(np.ones(2), True)
    first, second = FusedAdamW([x], lr=0.1), FusedAdamW([x], lr=0.2)
    alone = FusedAdamW([twin], lr=0.1)
    for optimizer, lr in ((first, 0.1), (second, 0.2), (first, 0.1)):
        x.grad = None
        x.sum().backward()
        optimizer.step()
        alone.param_groups[0]["lr"] = lr
        twin.grad = np.ones(2)
        alone.step()
    # under a gradient that never changes, m̂/√v̂ is 1 from the first step on
    np.testing.assert_allclose(x.data, twin.data, rtol=1e-7)


# ---- the ranges that a step of AdamW updates -----------------------------------------------------


def test_neighbours_are_updated_as_one_range():
    """As many ranges as groups; a parameter without a gradient, or newly come, cuts one."""
    parameters = make()
    groups = [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:]}]
    optimizer = FusedAdamW(groups, lr=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0)

    def plan(*with_gradient):
        for i, p in enumerate(parameters):
            p.grad = np.ones(p.shape) if i in with_gradient else None
        return optimizer.plan_step()

    assert plan(0, 1, 2, 3) == [
        ParamRange(0, 7, 1, 0.5, (0.8, 0.9), 1e-3, 0.1),
        ParamRange(7, 11, 1, 0.5, (0.8, 0.9), 1e-3, 0.0),
    ]
    assert [s[:3] for s in plan(0, 3)] == [(0, 6, 2), (7, 11, 2)]
    assert [s[:3] for s in plan(0, 1, 3)] == [(0, 6, 3), (6, 7, 2), (7, 11, 3)]
    optimizer.param_groups[1]["weight_decay"] = 0.1
    assert [s[:3] for s in plan(0, 3)] == [(0, 6, 4), (7, 11, 4)]
    assert plan() == []


def test_a_range_grows_at_its_end():
    """The last one, not the first."""
    parameters = make()
    optimizer = FusedAdamW(parameters, lr=0.1)
    parameters[0].grad = np.ones((2, 3))
    optimizer.plan_step()
    for p in parameters:
        p.grad = np.ones(p.shape)
    assert [s[:3] for s in optimizer.plan_step()] == [(0, 6, 2), (6, 11, 1)]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 16])
@pytest.mark.parametrize("n_parts", [1, 2, 3, 20])
def test_parts_and_chunks_cover_every_entry_once(n_parts, chunk, monkeypatch):
    """However the vectors are cut, a step of all parts is the step of the whole."""
    results = []
    for cut in (False, True):
        parameters = make()
        optimizer = FusedAdamW(parameters, lr=0.1)
        for p in parameters:
            p.grad = 2 * p.data
        plan = optimizer.plan_step()
        if cut:
            monkeypatch.setattr(arrays, "CHUNK", chunk)
            for part in range(n_parts):
                adamw_update(optimizer.vectors(), plan, False, part, n_parts)
        else:
            adamw_update(optimizer.vectors(), plan)
        results.append(optimizer.flat.data)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("updated", [False, True])
def test_what_was_assigned_overwrites_what_was_read(updated):
    """sync() copies it into the vector; a step that read that memory before is out of date."""
    w = Tensor([1.0, 2.0], requires_grad=True)
    optimizer = FusedAdamW([w], lr=0.1)
    for _ in range(3):
        before = w * w
        w.data = np.array([3.0, 4.0], np.float32)
        w.grad = np.ones(2, np.float32) if updated else None
        optimizer.step()
        with pytest.raises(RuntimeError, match="overwritten"):
            before.backward(np.ones(2))
        del before


def test_a_gradient_written_in_place():
    """grad_slot gives the range of the vector, and what a twin wrote there becomes the gradient."""
    x = make()[0]
    flat = FlatParameters([x])
    slot = guards.grad_slot(x.data)
    assert slot is x.grad_buffer
    slot[...] = 3
    x.accumulate_grad(slot)
    assert x.grad is slot and (flat.grad == 3).all()
    assert guards.grad_slot(x.data) is None  # there is a gradient, to which the next one is added
    x.grad = None
    assert guards.grad_slot(x.data) is slot


def test_a_slot_is_given_away_once():
    """Two threads use one parameter: the second writes elsewhere, and the gradients add up."""
    x = make()[0]
    flat = FlatParameters([x])  # it lives as long as its optimizer
    slot = guards.grad_slot(x.data)
    assert guards.grad_slot(x.data) is None
    x.accumulate_grad(np.full((2, 3), 2.0))  # of the second thread
    assert x.grad is not flat.buffers[0]
    slot[...] = 3  # the first is ready now
    x.accumulate_grad(slot)
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 5.0))


def test_a_slot_that_a_graph_still_reads_is_not_given_away():
    x = make()[0]
    flat = FlatParameters([x])  # it lives as long as its optimizer
    x.accumulate_grad(np.ones((2, 3)))
    loss = (Tensor(np.ones((2, 3)), requires_grad=True) * x.grad).sum()
    x.grad = None
    assert guards.grad_slot(x.data) is None
    loss.backward()
    assert guards.grad_slot(x.data) is flat.buffers[0]
