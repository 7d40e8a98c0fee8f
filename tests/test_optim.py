"""AdamW and clipping against PyTorch over hundreds of steps, in float64.

One step proves little: bias correction, decay and the schedule go wrong slowly.  The gradients are
random and the same on both sides, so that no model stands between the optimizer and the comparison.
"""

import copy

import numpy as np
import pytest
import torch

from minigrad import Tensor
from minigrad.device import to_device, to_host
from minigrad.optim import AdamW, clip_grad_norm
from minigrad.schedule import warmup_cosine

SHAPES = [(3, 5), (4,), (2, 1, 3), ()]
STEPS = 200


def make_parameters(dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(0)
    return [Tensor(np.asarray(scale * rng.standard_normal(s), dtype), True) for s in SHAPES]


def twins_of(parameters):
    return [torch.tensor(p.data, requires_grad=True) for p in parameters]


def set_gradients(rng, parameters, twins=(), skip=None):
    """Random gradients of very different sizes; parameter number `skip` gets none."""
    for i, p in enumerate(parameters):
        g = np.asarray(10.0 ** rng.uniform(-3, 1) * rng.standard_normal(p.shape), p.dtype)
        p.grad = None if i == skip else g
        if twins:
            twins[i].grad = None if i == skip else torch.tensor(g)


def assert_same(parameters, twins):
    for p, twin in zip(parameters, twins, strict=True):
        twin = twin.detach().numpy() if isinstance(twin, torch.Tensor) else twin
        np.testing.assert_allclose(p.data, twin, rtol=0, atol=1e-12 * abs(twin).max())


# ---- AdamW ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decays", [(0.1, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("options", [{}, {"betas": (0.9, 0.99), "eps": 1e-5}])
def test_adamw_matches_pytorch(options, decays):
    """Two groups, a schedule, and a parameter without a gradient on some steps, for 200 steps."""
    parameters = make_parameters()
    twins = twins_of(parameters)

    def groups(of):
        return [
            {"params": of[:2], "weight_decay": decays[0]},
            {"params": of[2:], "weight_decay": decays[1]},
        ]

    ours = AdamW(groups(parameters), lr=1.0, **options)
    theirs = torch.optim.AdamW(groups(twins), lr=1.0, **options)
    rng = np.random.default_rng(1)
    for step in range(1, STEPS + 1):
        set_gradients(rng, parameters, twins, skip=step % 7)
        for i in range(2):
            lr = (i + 1) * warmup_cosine(step, 20, STEPS, 1e-1, 1e-3)
            ours.param_groups[i]["lr"] = theirs.param_groups[i]["lr"] = lr
        ours.step()
        theirs.step()
        assert_same(parameters, twins)


def test_defaults_match_pytorch():
    """With lr alone: betas (0.9, 0.999), eps 1e-8 and a decay of 0.01, which is easy to forget."""
    parameters = make_parameters(scale=100)
    twins = twins_of(parameters)
    ours, theirs = AdamW(iter(parameters), lr=0.1), torch.optim.AdamW(twins, lr=0.1)
    for key in ("lr", "betas", "eps", "weight_decay"):
        assert ours.param_groups[0][key] == theirs.param_groups[0][key]
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        set_gradients(rng, parameters, twins)
        ours.step()
        theirs.step()
    assert_same(parameters, twins)


def test_the_first_step_is_as_long_as_lr():
    """m̂/√v̂ = g/|g| at step 1: bias correction makes up for the averages' start at 0."""
    p = Tensor(np.zeros(2), requires_grad=True)
    p.grad = np.array([1e-3, -1e3])
    AdamW([p], lr=0.25, eps=0.0).step()
    np.testing.assert_allclose(p.data, [-0.25, 0.25], rtol=1e-14)


def test_decay_is_scaled_by_lr_and_apart_from_the_gradient():
    """Under a gradient of 0 a weight shrinks by 1 − lr λ; without one it stays."""
    p, q = Tensor(np.array([2.0]), True), Tensor(np.array([2.0]), True)
    p.grad = np.zeros(1)
    AdamW([p, q], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(p.data, [2 * (1 - 0.1 * 0.5)], rtol=1e-15)
    np.testing.assert_array_equal(q.data, [2.0])


def test_step_works_in_place_and_leaves_the_gradients():
    """Weights stay the arrays that the optimizer made of them; gradients are read only."""
    p = Tensor(np.ones(3), requires_grad=True)
    optimizer = AdamW([p], lr=0.1)
    array, p.grad = p.data, np.array([1.0, 2.0, 3.0])
    optimizer.step()
    assert p.data is array and (array != 1).all()
    np.testing.assert_array_equal(p.grad, [1.0, 2.0, 3.0])


def test_float32_stays_float32():
    """Weights and moments, though lr may be a NumPy float64."""
    parameters = make_parameters(np.float32)
    optimizer = AdamW(parameters, lr=np.float64(0.1))
    for step in range(3):
        set_gradients(np.random.default_rng(step), parameters)
        optimizer.step()
    assert {p.dtype for p in parameters} == {np.dtype(np.float32)}
    for state in optimizer.state_dict()["state"].values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == np.float32


def test_zero_grad_forgets():
    """None, not zeros: a parameter that the next loss does not use is skipped."""
    parameters = make_parameters()
    set_gradients(np.random.default_rng(0), parameters)
    AdamW(parameters, lr=0.1).zero_grad()
    assert all(p.grad is None for p in parameters)


def test_no_parameters():
    """An empty list is a mistake, and said to be one."""
    with pytest.raises(ValueError, match="AdamW: there are no parameters"):
        AdamW([], lr=0.1)


def test_groups_are_checked():
    """A misspelt option, or a parameter that would move twice a step; a generator is fine."""
    parameters = make_parameters()
    with pytest.raises(ValueError, match=r"unknown options \['colour', 'size'\]$"):
        AdamW([{"params": parameters, "size": 1, "colour": 2, "lr": 3}], lr=0.1)
    with pytest.raises(ValueError, match="stands in the groups twice"):
        AdamW([{"params": parameters[:2]}, {"params": parameters[1:]}], lr=0.1)
    optimizer = AdamW([{"params": (p for p in parameters)}], lr=0.1)
    set_gradients(np.random.default_rng(0), parameters)
    for _ in range(2):  # a generator can be read once
        before = [p.data.copy() for p in parameters]
        optimizer.step()
        assert all((p.data != b).all() for p, b in zip(parameters, before, strict=True))


# ---- saving --------------------------------------------------------------------------------------


def run(optimizer, parameters, steps):
    for step in steps:
        set_gradients(np.random.default_rng(step), parameters, skip=step % 5)
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()


def two_groups(parameters, lr=0.1):
    return AdamW([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.2}], lr=lr)


def test_a_saved_state_continues_exactly():
    """Stop at step 10 and go on in another optimizer: not one bit differs at step 30."""
    parameters = make_parameters()
    optimizer = two_groups(parameters)
    run(optimizer, parameters, range(10))

    others = [Tensor(p.data.copy(), requires_grad=True) for p in parameters]
    resumed = two_groups(others, lr=123.0)
    saved = optimizer.state_dict()
    resumed.load_state_dict(saved)
    assert resumed.param_groups[1]["lr"] == 0.2 and resumed.param_groups[0]["lr"] == 0.1 / 10

    run(optimizer, parameters, range(10, 30))
    run(resumed, others, range(10, 30))
    for p, q in zip(parameters, others, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_a_saved_state_is_a_copy():
    """Training on changes neither what was saved nor, after loading, the dict it came from."""
    parameters = make_parameters()
    optimizer = two_groups(parameters)
    run(optimizer, parameters, range(1, 4))
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["state"])

    def assert_unchanged():
        for i, state in before.items():
            for key, value in state.items():
                np.testing.assert_array_equal(saved["state"][i][key], value)

    run(optimizer, parameters, range(4, 6))
    assert_unchanged()
    optimizer.load_state_dict(saved)
    run(optimizer, parameters, range(4, 8))
    assert_unchanged()
    assert saved["param_groups"][0]["lr"] == 0.1 / 4


def test_a_parameter_that_has_no_saved_state_starts_anew():
    """It had never moved when the state was saved: as if this optimizer had never moved it."""
    parameters = make_parameters()
    set_gradients(np.random.default_rng(0), parameters, skip=2)
    optimizer = AdamW(parameters, lr=0.1)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"].keys() == {0, 1, 3}
    run(optimizer, parameters, range(3, 9))
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"].keys() == {0, 1, 3}
    fresh = Tensor(parameters[2].data.copy(), requires_grad=True)
    fresh.grad = parameters[2].grad = np.full(fresh.shape, 0.3)
    optimizer.step()
    AdamW([fresh], lr=optimizer.param_groups[0]["lr"]).step()
    np.testing.assert_array_equal(parameters[2].data, fresh.data)


def test_the_state_is_laid_out_as_pytorchs():
    """Numbers for parameters, PyTorch's names for the moments."""
    parameters = make_parameters()
    twins = twins_of(parameters)
    ours, theirs = AdamW(parameters, lr=0.1), torch.optim.AdamW(twins, lr=0.1)
    set_gradients(np.random.default_rng(0), parameters, twins, skip=2)
    ours.step()
    theirs.step()
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]
    assert ours["state"].keys() == theirs["state"].keys()
    for i, state in ours["state"].items():
        assert state.keys() == theirs["state"][i].keys()
        assert state["step"] == theirs["state"][i]["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_allclose(state[key], theirs["state"][i][key], rtol=1e-12)


def test_a_state_of_other_parameters_is_refused():
    """By the groups' sizes and the moments' shapes; the optimizer is as it was."""
    parameters = make_parameters()
    optimizer = AdamW(parameters, lr=0.1)
    run(optimizer, parameters, [4])
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="other numbers of parameters"):
        AdamW(parameters[:2], lr=0.5).load_state_dict(saved)
    with pytest.raises(ValueError, match="other numbers of parameters"):
        two_groups(parameters).load_state_dict(saved)
    other = AdamW(parameters[::-1], lr=0.5)
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(\), .*\(3, 5\)"):
        other.load_state_dict(saved)
    saved["state"][0]["exp_avg_sq"] = np.ones(1)
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(3, 5\), .*\(1,\)"):
        optimizer.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.5 and other.state_dict()["state"] == {}


# ---- clipping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 10.0, 1e6])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_clip_grad_norm_matches_pytorch(max_norm, dtype, tolerance):
    """The norm before clipping, and the gradients after it, above and below max_norm.

    In float32 both sides round the norm at 2⁻²⁴ = 6·10⁻⁸ per operation, hence 10⁻⁶.
    """
    parameters = make_parameters(dtype)
    twins = twins_of(parameters)
    set_gradients(np.random.default_rng(3), parameters, twins, skip=1)
    arrays = [p.grad for p in parameters]
    norm = clip_grad_norm(iter(parameters), max_norm)
    assert (norm.shape, norm.dtype, norm.requires_grad) == ((), np.float64, False)
    expected = torch.nn.utils.clip_grad_norm_(twins, max_norm).item()
    assert norm.item() == pytest.approx(expected, rel=tolerance)
    assert 1 < norm.item() < 1e6 and parameters[1].grad is None
    for p, twin, array in zip(parameters, twins, arrays, strict=True):
        if array is not None:
            assert p.grad is array and array.dtype == dtype  # in place
            np.testing.assert_allclose(p.grad, twin.grad, rtol=tolerance)


def test_clipping_bounds_the_joint_norm():
    """Above the bound the norm becomes it, and the direction stays; below, not a bit moves."""
    p, q = Tensor(np.zeros(1), True), Tensor(np.zeros(1), True)
    p.grad, q.grad = np.array([3.0]), np.array([4.0])
    assert clip_grad_norm([p, q], 5.1).item() == 5
    assert (p.grad[0], q.grad[0]) == (3, 4)
    assert clip_grad_norm([p, q], 0.5).item() == 5
    assert q.grad[0] / p.grad[0] == pytest.approx(4 / 3, rel=1e-15)
    # the 10⁻⁶ in the formula leaves the new norm short of the bound by 10⁻⁶/5 of it
    norm = clip_grad_norm([p, q], 100.0).item()
    assert norm == pytest.approx(0.5 * 5 / (5 + 1e-6), rel=1e-14)
    p.grad = np.array([1.0])
    clip_grad_norm([p], 0.5)  # a norm of 1 is not a scale of 1
    assert p.grad[0] == pytest.approx(0.5 / (1 + 1e-6), rel=1e-14)
    clip_grad_norm([p], 0.0)
    assert p.grad[0] == 0


def test_the_norm_is_added_up_in_double():
    """2²⁴ + 1 is 2²⁴ in float32: many small gradients beside a large one would not count."""
    parameters = [Tensor(np.zeros(1, np.float32), True) for _ in range(1001)]
    for p in parameters:
        p.grad = np.ones(1, np.float32)
    parameters[0].grad[0] = 4096
    norm = clip_grad_norm(parameters, 1e9).item()
    assert norm == pytest.approx(np.sqrt(2.0**24 + 1000), rel=1e-9)


def test_clipping_without_gradients():
    """Nothing to clip has length 0."""
    assert clip_grad_norm(make_parameters(), 1.0).item() == 0


# ---- stopping on the device ----------------------------------------------------------------------


def test_an_optimizer_that_is_stopped_moves_nothing(gpu):
    """From the first number that is not finite on, though later ones are; and it tells when."""
    start = np.arange(1.0, 7.0, dtype=np.float32)
    runs = []
    for watched in (True, False):
        w = Tensor(start.copy()).to("gpu")
        w.requires_grad = True
        optimizer = AdamW([w], lr=0.1, weight_decay=0.1)
        for step in range(1, 6):
            bad = watched and step in (3, 5)
            w.grad = to_device(np.full(6, np.nan if bad else step, np.float32), "gpu")
            if watched:
                loss, norm = (Tensor(np.float32(x)).to("gpu") for x in (1.0, np.nan if bad else 2))
                optimizer.stop_unless_finite(step, loss, norm)
            if watched or step < 3:
                optimizer.step()
        runs.append(
            [to_host(vector) for vector in (w.data, optimizer.exp_avg, optimizer.exp_avg_sq)]
        )
        assert optimizer.stopped_at() == (3 if watched else 0)
    for stopped, two_steps in zip(*runs, strict=True):
        np.testing.assert_array_equal(stopped, two_steps)
        assert np.isfinite(stopped).all() and stopped.any()


@pytest.mark.parametrize("numbers", [(np.inf, 1.0), (1.0, -np.inf), (np.inf, -np.inf), (np.nan, 0)])
def test_each_number_is_looked_at(numbers):
    """Also infinities of both signs; the same on a CPU."""
    w = Tensor([1.0], requires_grad=True)
    optimizer = AdamW([w], lr=0.1)
    optimizer.stop_unless_finite(1, Tensor(1.0), Tensor(2.0))
    assert optimizer.stopped_at() == 0
    optimizer.stop_unless_finite(2, *map(Tensor, numbers))
    w.grad = np.ones(1, np.float32)
    with np.errstate(invalid="ignore"):
        optimizer.step()
    assert optimizer.stopped_at() == 2 and w.data == 1


def test_every_step_is_noticed_by_what_was_computed_before():
    """A gradient through weights that have moved since would be wrong: after each of them."""
    w = Tensor([1.0], requires_grad=True)
    optimizer = AdamW([w], lr=0.1)
    for _ in range(3):
        before = w * w
        w.grad = np.ones(1, np.float32)
        optimizer.step()
        with pytest.raises(RuntimeError, match="overwritten, by an optimizer"):
            before.backward()
        del before
