"""SGD, AdamW and clipping against PyTorch over hundreds of steps, in float64.

One step proves little: bias correction, decay and the schedule go wrong slowly.  The gradients are
random and the same on both sides, so that no model stands between the optimizer and the comparison.
Every test of AdamW runs on the page, optim.py, and on its twin, fast/adamw.py.
"""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch

import minigrad as mg
from minigrad import Tensor, nn
from minigrad.backend import to_device, to_numpy
from minigrad.fast.adamw import FusedAdamW
from minigrad.optim import SGD, AdamW, Optimizer, clip_grad_norm
from minigrad.schedule import warmup_cosine


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_data_of_another_shape_is_refused(cls):
    """An old gradient would broadcast against it."""
    w = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    w.sum().backward()
    w.data = np.ones(1, np.float32)
    with pytest.raises(
        ValueError, match=rf"{cls.__name__}: a parameter has shape \(1,\), its grad"
    ):
        cls([w], lr=0.1).step()
    assert w.shape == (1,)


@pytest.mark.parametrize("cls", [SGD, AdamW, FusedAdamW])
def test_without_decay_an_infinite_weight_stays(cls):
    """There is no 0 · ∞."""
    w = Tensor([np.inf, 1.0], requires_grad=True)
    optimizer = cls([w], lr=0.1, weight_decay=0)
    (2 * w).sum().backward()
    optimizer.step()
    assert w.data[0] == np.inf and w.data[1] < 1


SHAPES = [(3, 5), (4,), (2, 1, 3), ()]
STEPS = 200


@pytest.fixture(name="adamw", params=[False, True], ids=["page", "fused"])
def each_adamw(request):
    """Return AdamW, as the page has it and as its twin."""
    return functools.partial(AdamW, fused=request.param)


@pytest.fixture(name="clip", params=[False, True], ids=["page", "fused"])
def each_clip(request):
    """Return a function of (parameters, max_norm) that clips, as the page does and as the twin."""
    if not request.param:
        return clip_grad_norm  # whose twin declines gradients that are in no vector
    return clip_in_vector


def clip_in_vector(params, max_norm):
    """Clip gradients that are in the vector of a fused optimizer, where backward() puts them."""
    optimizer = AdamW(params, 0.1, fused=True)
    for p in optimizer.parameters:
        if p.grad is not None:
            p.grad_buffer[...] = p.grad
            p.grad = p.grad_buffer
    return clip_grad_norm(optimizer.parameters, max_norm)


def each_optimizer(test):
    """Run a test with make(params) for SGD, AdamW and its twin."""
    makes = {
        "SGD": functools.partial(SGD, lr=0.1, momentum=0.9),
        "AdamW": functools.partial(AdamW, lr=0.1),
        "fused AdamW": functools.partial(AdamW, lr=0.1, fused=True),
    }
    return pytest.mark.parametrize("make", makes.values(), ids=makes)(test)


def leaf(*values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


def make_parameters(dtype=np.float64, scale=1.0):
    rng = np.random.default_rng(0)
    return [Tensor(np.asarray(scale * rng.standard_normal(s), dtype), True) for s in SHAPES]


def twins_of(parameters):
    return [torch.tensor(p.data, requires_grad=True) for p in parameters]


def set_gradients(rng, parameters, twins=(), skip=None):
    """Set random gradients of very different sizes; parameter number `skip` gets none."""
    for i, p in enumerate(parameters):
        g = np.asarray(10.0 ** rng.uniform(-3, 1) * rng.standard_normal(p.shape), p.dtype)
        p.grad = None if i == skip else g
        if twins:
            twins[i].grad = None if i == skip else torch.tensor(g)


def assert_same(parameters, twins):
    for p, twin in zip(parameters, twins, strict=True):
        twin = twin.detach().numpy() if isinstance(twin, torch.Tensor) else twin.data
        np.testing.assert_allclose(p.data, twin, rtol=0, atol=1e-12 * abs(twin).max())


def run_beside_pytorch(ours, theirs, parameters, twins):
    """Take STEPS steps under a schedule, one parameter without a gradient now and then."""
    rng = np.random.default_rng(1)
    for step in range(1, STEPS + 1):
        set_gradients(rng, parameters, twins, skip=step % 7)
        for i in range(2):
            lr = (i + 1) * warmup_cosine(step, 20, STEPS, 1e-1, 1e-3)
            ours.param_groups[i]["lr"] = theirs.param_groups[i]["lr"] = lr
        ours.step()
        theirs.step()
        assert_same(parameters, twins)


# ---- the formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize("decays", [(0.1, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("options", [{}, {"betas": (0.9, 0.99), "eps": 1e-5}])
def test_adamw_matches_pytorch(adamw, options, decays):
    """Two groups, a schedule, and a parameter without a gradient on some steps, for 200 steps."""
    parameters = make_parameters()
    twins = twins_of(parameters)

    def groups(of):
        return [
            {"params": of[:2], "weight_decay": decays[0]},
            {"params": of[2:], "weight_decay": decays[1]},
        ]

    ours = adamw(groups(parameters), lr=1.0, **options)
    theirs = torch.optim.AdamW(groups(twins), lr=1.0, **options)
    run_beside_pytorch(ours, theirs, parameters, twins)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}])
def test_sgd_matches_pytorch(options):
    """The same for SGD: with momentum in one group alone, and decay of another size."""
    parameters = make_parameters()
    twins = twins_of(parameters)

    def groups(of):
        return [{"params": of[:2], "momentum": 0.5}, {"params": of[2:], "weight_decay": 0.5}]

    ours = SGD(groups(parameters), lr=1.0, **options)
    theirs = torch.optim.SGD(groups(twins), lr=1.0, **options)
    run_beside_pytorch(ours, theirs, parameters, twins)


def test_defaults_match_pytorch(adamw):
    """With lr alone: betas (0.9, 0.999), eps 1e-8 and a decay of 0.01, which is easy to forget."""
    parameters = make_parameters(scale=100)
    twins = twins_of(parameters)
    ours, theirs = adamw(iter(parameters), lr=0.1), torch.optim.AdamW(twins, lr=0.1)
    for key in ("lr", "betas", "eps", "weight_decay"):
        assert ours.param_groups[0][key] == theirs.param_groups[0][key]
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        set_gradients(rng, parameters, twins)
        ours.step()
        theirs.step()
    assert_same(parameters, twins)


def test_sgd_without_options_is_one_line():
    """w ← w − lr g."""
    w = leaf(1.0, 2.0)
    w.grad = np.array([4.0, -8.0])
    SGD([w], lr=0.25).step()
    np.testing.assert_array_equal(w.data, [0.0, 4.0])


def test_the_twin_matches_the_page_in_float64():
    """Over 200 steps, at 1e-12, though nobody else is asked."""
    sides = make_parameters(), make_parameters()
    page, fused, norms = AdamW(sides[0], lr=0.1), AdamW(sides[1], lr=0.1, fused=True), []
    assert type(page) is AdamW and type(fused) is FusedAdamW
    for step in range(STEPS):
        for side, optimizer in zip(sides, (page, fused), strict=True):
            set_gradients(np.random.default_rng(step), side, skip=step % 7)
            norms.append(clip_grad_norm(side, 3.0))
            optimizer.step()
        assert norms[-1].item() == pytest.approx(norms[-2].item(), rel=1e-12)
        assert_same(*sides)


@pytest.mark.parametrize("t", [1, 1000])
def test_a_float32_step_is_off_by_its_roundings_alone(adamw, t):
    """Against the formulas in float64, at the roundings that lead to the result.

    Each operation, and each constant that becomes a float32, is off by at most u = 2⁻²⁴.  m is
    behind 3 of them, relative to M = β₁|m| + (1 − β₁)|g|; m̂ behind 5; v behind 4, v̂ 6, √v̂ 4, √v̂ + ε
    5; so lr m̂ / (√v̂ + ε) behind 13 (11 in the twin), relative to D, the same with M for m; and w
    behind 3 more, relative to |w| + D.
    """
    rng = np.random.default_rng(t)
    lr, beta1, beta2, eps, decay, n = 0.1, 0.9, 0.99, 1e-3, 0.1, 10_000
    w, g, m = (rng.standard_normal(n).astype(np.float32) for _ in range(3))
    v = (rng.standard_normal(n).astype(np.float32) * 10.0 ** rng.uniform(-4, 1, n)) ** 2
    v = v.astype(np.float32)
    p = Tensor(w.copy(), requires_grad=True)
    optimizer = adamw([p], lr, (beta1, beta2), eps, decay)
    saved = optimizer.state_dict()
    saved["state"] = {0: {"step": t - 1, "exp_avg": m, "exp_avg_sq": v}}
    optimizer.load_state_dict(saved)
    p.grad = g.copy()
    optimizer.step()

    w, g, m, v = (x.astype(np.float64) for x in (w, g, m, v))
    v = beta2 * v + (1 - beta2) * g * g
    length = lr / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    expected = w - lr * decay * w - length * (beta1 * m + (1 - beta1) * g)
    D = length * (beta1 * abs(m) + (1 - beta1) * abs(g))
    assert (abs(p.data - expected) <= 16 * 2.0**-24 * (abs(w) + D)).all()


def test_the_first_step_is_as_long_as_lr(adamw):
    """m̂/√v̂ = g/|g| at step 1: bias correction makes up for the averages' start at 0."""
    p = leaf(0.0, 0.0)
    p.grad = np.array([1e-3, -1e3])
    adamw([p], lr=0.25, eps=0.0).step()
    np.testing.assert_allclose(p.data, [-0.25, 0.25], rtol=1e-14)


def test_decay_is_scaled_by_lr_and_apart_from_the_gradient(adamw):
    """Under a gradient of 0 a weight shrinks by 1 − lr λ; without one it stays."""
    p, q = leaf(2.0), leaf(2.0)
    p.grad = np.zeros(1)
    adamw([p, q], lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(p.data, [2 * (1 - 0.1 * 0.5)], rtol=1e-15)
    np.testing.assert_array_equal(q.data, [2.0])


@each_optimizer
def test_a_step_leaves_the_gradients(make):
    """They are read only: another optimizer may use them too."""
    p = leaf(1.0, 1.0, 1.0)
    optimizer = make([p])
    p.grad = np.array([1.0, 2.0, 3.0])
    optimizer.step()
    assert (p.data != 1).all()
    np.testing.assert_array_equal(p.grad, [1.0, 2.0, 3.0])


def test_the_page_writes_into_no_array_and_the_twin_into_its_own(adamw):
    """The page assigns a new array to p.data.  In the twin p.data is always the same view."""
    p = leaf(1.0, 1.0)
    before = p.data
    optimizer = adamw([p], lr=0.1)
    array, p.grad = p.data, np.ones(2)
    optimizer.step()
    np.testing.assert_array_equal(before, [1.0, 1.0])
    assert (p.data is array) == isinstance(optimizer, FusedAdamW)


@each_optimizer
@pytest.mark.parametrize("shape", [(), (2,), (0, 3)])
def test_data_and_gradients_stay_arrays(make, shape):
    """Of the same dtype and shape, also without axes or entries, where NumPy returns scalars."""
    p = Tensor(np.ones(shape, np.float32), requires_grad=True)
    optimizer = make([p])
    for _ in range(2):
        optimizer.zero_grad()
        (p * 3.0).sum().backward()
        clip_grad_norm(p, 1.0)
        optimizer.step()
        for array in (p.data, p.grad):
            assert type(array) is np.ndarray and array.shape == shape
            assert array.dtype == np.float32


@each_optimizer
def test_float32_stays_float32(make):
    """Weights and moments, though options may be NumPy's float64, and so may a gradient."""
    parameters = make_parameters(np.float32)
    optimizer = make(parameters)
    group = optimizer.param_groups[0]
    group.update({k: np.float64(v) for k, v in group.items() if isinstance(v, float)})
    if "betas" in group:
        group["betas"] = [*map(np.float64, group["betas"])]
    for step in range(3):
        set_gradients(np.random.default_rng(step), parameters)
        parameters[0].grad = parameters[0].grad.astype(np.float64)
        optimizer.step()
    assert {p.dtype for p in parameters} == {np.dtype(np.float32)}
    for state in optimizer.state_dict()["state"].values():
        moments = [value for key, value in state.items() if key != "step"]
        assert moments and all(moment.dtype == np.float32 for moment in moments)


@pytest.mark.parametrize("kind", [functools.partial(SGD, momentum=0.9), AdamW])
def test_float16_is_updated_in_float32_and_rounded_once(kind):
    """Bit for bit what float32 gives, rounded; gradients of 300 square to more than 65,504."""
    half = [Tensor(p.data.astype(np.float16), True) for p in make_parameters()]
    full = [Tensor(p.data.astype(np.float32), True) for p in half]
    optimizers = kind(half, lr=0.1, weight_decay=0.1), kind(full, lr=0.1, weight_decay=0.1)
    for step in range(5):
        set_gradients(np.random.default_rng(step), half)
        half[0].grad = half[0].grad + np.float16(300)
        for p, q in zip(half, full, strict=True):
            q.grad = p.grad.astype(np.float32)
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(half, full, strict=True):
            q.data = np.asarray(q.data.astype(np.float16), np.float32)
            assert p.dtype == np.float16 and np.isfinite(p.data).all()
            np.testing.assert_array_equal(p.data, q.data)
    for state in optimizers[0].state.values():
        assert all(value.dtype == np.float32 for key, value in state.items() if key != "step")


def test_the_twin_refuses_float16():
    """In words that say what to do."""
    message = r"takes float32 and float64 .* model.to\(dtype='float32'\), or leave fused out"
    with pytest.raises(ValueError, match=message):
        AdamW([leaf(1.0, dtype=np.float16)], lr=0.1, fused=True)


@each_optimizer
def test_zero_grad_forgets(make):
    """None, not zeros: a parameter that the next loss does not use is skipped."""
    parameters = make_parameters()
    set_gradients(np.random.default_rng(0), parameters)
    make(parameters).zero_grad()
    assert all(p.grad is None for p in parameters)


@each_optimizer
def test_a_tensor_can_be_a_gradient(make):
    """It becomes an array, as x.grad always is."""
    p, q = leaf(1.0, 2.0), leaf(1.0, 2.0)
    optimizer, other = make([p]), make([q])
    p.grad, q.grad = Tensor(np.ones(2)), np.ones(2)
    assert type(p.grad) is np.ndarray
    optimizer.step()
    other.step()
    np.testing.assert_array_equal(p.data, q.data)


def test_an_optimizer_of_your_own():
    """A subclass defines update() and initial_state; groups, saving and dtypes come with it."""

    class Sign(Optimizer):
        initial_state = {"n": 0}

        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def update(self, w, g, state, lr):
            state["n"] += 1
            return w - lr * np.sign(g)

    w, v = leaf(1.0, 2.0), leaf(1.0)
    optimizer = Sign([{"params": w}, {"params": [v], "lr": 2.0}], lr=0.5)
    w.grad = np.array([3.0, -4.0])
    for _ in range(2):
        optimizer.step()
    np.testing.assert_array_equal(w.data, [0.0, 3.0])
    assert optimizer.state == {w: {"n": 2}} and v.data == 1


# ---- what is refused -----------------------------------------------------------------------------


@each_optimizer
def test_parameters_are_checked(make):
    """Everything that would never be updated, or twice, is refused with the reason."""
    w, name = leaf(1.0, 2.0), "SGD" if make.func is SGD else "AdamW"
    made = w * 0.5
    no_grad_view = mg.no_grad()(lambda: w[:1])()
    for params, kind, message in [
        ([], ValueError, "there are no parameters to optimize"),
        (iter([]), ValueError, "there are no parameters to optimize"),
        ([{"params": []}], ValueError, "there are no parameters to optimize"),
        (w, TypeError, "params must be a list of Tensors or of groups, not one Tensor"),
        (nn.Linear(1, 1), TypeError, "params must be a list .* not one Linear"),
        ({"params": [w]}, TypeError, "params must be a list .* not one dict"),
        ({w}, TypeError, "params must be a list .* not one set"),
        (None, TypeError, "params must be a list .* not one NoneType"),
        ([w.data], TypeError, "a parameter must be a Tensor, not ndarray"),
        (nn.Linear(1, 1).named_parameters(), TypeError, "must be a Tensor, not tuple"),
        ([{"lr": 0.1}], ValueError, r"a group needs an entry 'params', this has \['lr'\]"),
        ([made], ValueError, r"a parameter of shape \(2,\) is the result of 'mul'; only leaves"),
        ([w, {"params": made}], ValueError, "is the result of 'mul'; only leaves"),
        ([Tensor(np.arange(3))], TypeError, "must be floating-point, not int64"),
        ([Tensor(np.array(True))], TypeError, "must be floating-point, not bool"),
        ([w, w], ValueError, "a parameter is in the groups twice"),
        ([{"params": [w]}, {"params": (p for p in [w])}], ValueError, "in the groups twice"),
        ([{"params": w, "size": 1, "lr": 3, "colour": 2}], ValueError, r"\['colour', 'size'\]$"),
    ]:
        with pytest.raises(kind, match=f"^{name}: .*{message}"):
            make(params)
    assert w.data.base is None and no_grad_view.node is None  # nothing has become a view
    optimizer = make([w])
    optimizer.param_groups[0]["params"].append(leaf(1.0))
    with pytest.raises(ValueError, match="was added to a group: make another optimizer"):
        optimizer.step()


WRONG = [
    ("lr", -0.1, ValueError, "at least 0 and finite, not -0.1"),
    ("lr", np.nan, ValueError, "at least 0 and finite, not nan"),
    ("lr", np.inf, ValueError, "at least 0 and finite, not inf"),
    ("lr", "0.1", TypeError, "a number, not str"),
    ("lr", None, TypeError, "a number, not NoneType"),
    ("lr", leaf(0.1), TypeError, "a number, not Tensor"),
    ("weight_decay", -1, ValueError, "at least 0 and finite, not -1"),
    ("eps", -1e-8, ValueError, "at least 0 and finite, not -1e-08"),
    ("momentum", 1.0, ValueError, "at least 0 and below 1, not 1.0"),
    ("momentum", -0.5, ValueError, "at least 0 and below 1, not -0.5"),
    ("betas", (1.5, 0.999), ValueError, r"at least 0 and below 1, not \(1.5, 0.999\)"),
    ("betas", (1.0, 0.999), ValueError, "at least 0 and below 1"),
    ("betas", (0.9, 1.0), ValueError, "at least 0 and below 1"),
    ("betas", (-0.1, 0.9), ValueError, "at least 0 and below 1"),
    ("betas", (0.9, np.nan), ValueError, "at least 0 and below 1"),
    ("betas", (0.9, "x"), TypeError, "a number, not str"),
    ("betas", 0.9, ValueError, "two numbers, not 0.9"),
    ("betas", (0.9, 0.99, 0.999), ValueError, "two numbers"),
]
WRONG_OF_EACH = [
    (make, name, *wrong)
    for make, name, others in [
        (SGD, "SGD", {"eps", "betas"}),
        (AdamW, "AdamW", {"momentum"}),
        (FusedAdamW, "AdamW", {"momentum"}),
    ]
    for wrong in WRONG
    if wrong[0] not in others
]


@pytest.mark.parametrize("where", ["argument", "group", "load_state_dict", "later"])
@pytest.mark.parametrize("make, name, option, value, kind, message", WRONG_OF_EACH)
def test_options_are_checked(make, name, option, value, kind, message, where):
    """Wherever they come from, before any weight has changed."""
    w, v = leaf(1.0), leaf(1.0)
    w.grad, v.grad = np.ones(1), np.ones(1)
    groups, options = [{"params": w}, {"params": v}], {"lr": 0.1}
    with pytest.raises(kind, match=f"^{name}: {option} must be {message}"):
        if where == "argument":
            make(groups, **options | {option: value})
        elif where == "group":
            groups[1][option] = value
            make(groups, **options)
        else:
            optimizer = make(groups, **options)
            before = optimizer.state_dict()
            if where == "later":
                optimizer.param_groups[1][option] = value
                optimizer.step()
            else:
                saved = optimizer.state_dict()
                saved["param_groups"][1][option] = value
                optimizer.load_state_dict(saved)
    if where == "load_state_dict":
        assert optimizer.state_dict() == before
    assert w.data == v.data == 1


def test_an_option_that_is_set_later_is_checked_for_its_name(adamw):
    """A misspelt one would have no effect."""
    w = leaf(1.0)
    optimizer = adamw([w], lr=0.1)
    optimizer.param_groups[0]["learning_rate"] = 1.0
    with pytest.raises(ValueError, match=r"unknown options \['learning_rate'\]"):
        optimizer.step()


def test_a_subclass_has_no_twin():
    """fused=True of it would silently be another class."""

    class Mine(AdamW):
        pass

    assert type(Mine([leaf(1.0)], lr=0.1)) is Mine
    with pytest.raises(TypeError, match="Mine: there is no fused version of it"):
        Mine([leaf(1.0)], lr=0.1, fused=True)
    with pytest.raises(TypeError):
        AdamW([leaf(1.0)], 0.1, (0.9, 0.99), 1e-8, 0.0, True)  # fused by its name alone
    assert type(FusedAdamW([leaf(1.0)], lr=0.1, fused=True)) is FusedAdamW


def test_groups_may_be_generators_and_single_tensors(adamw):
    """A generator can be read once, and the second step needs the parameters again."""
    parameters = make_parameters()
    optimizer = adamw([{"params": (p for p in parameters[:3])}, {"params": parameters[3]}], lr=0.1)
    set_gradients(np.random.default_rng(0), parameters)
    for _ in range(2):
        before = [p.data.copy() for p in parameters]
        optimizer.step()
        assert all((p.data != b).all() for p, b in zip(parameters, before, strict=True))


# ---- arrays that a graph still reads -------------------------------------------------------------


def strided(array):
    return np.lib.stride_tricks.sliding_window_view(array, 2)[0]


ALIASES = {  # w (2,) -> its numbers, in the memory that they had then
    "detach": lambda w: w.detach(),
    "detach, twice": lambda w: w.detach().detach(),
    "data": lambda w: w.data,
    "Tensor(data)": lambda w: Tensor(w.data),
    "numpy()": lambda w: w.numpy(),
    "asarray": lambda w: np.asarray(w),
    "slice of data": lambda w: w.data[:],
    "slice of a slice": lambda w: w.data[::-1][::-1],
    "Tensor(slice)": lambda w: Tensor(w.data[:]),
    "reshaped data": lambda w: w.data.reshape(2, 1)[:, 0],
    "strided": lambda w: strided(w.data),
    "memoryview": lambda w: np.asarray(memoryview(w.data)),
    "slice, no_grad": lambda w: mg.no_grad()(lambda: w[:])(),
    "view, no_grad": lambda w: mg.no_grad()(lambda: w.view(1, 2))().view(2),
    "T, no_grad": lambda w: mg.no_grad()(lambda: w.T)(),
    "flatten of detach": lambda w: w.detach().flatten(),
    "view": lambda w: w.view(2),
    "slice": lambda w: w[:],
}


class One(nn.Module):
    def __init__(self, w):
        self.w = w


def step(optimizer, w):
    w.grad = np.array([1.0, -2.0])
    optimizer.step()


def load_state_dict(optimizer, w):
    One(w).load_state_dict({"w": np.array([50.0, 60.0])})


def load_then_step(optimizer, w):
    load_state_dict(optimizer, w)
    step(optimizer, w)


def assign_then_step(optimizer, w):
    w.data = np.array([50.0, 60.0])
    step(optimizer, w)


@each_optimizer
@pytest.mark.parametrize("write", [step, load_state_dict, load_then_step, assign_then_step])
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize("when", ["before the optimizer", "after it", "after its first step"])
def test_an_alias_of_a_parameter_gives_the_right_gradient_or_an_error(make, write, alias, when):
    """v ⊙ c, where c is w by another name, and w changes before backward(): dv is the old w."""
    w, v = leaf(1.0, 2.0), leaf(1.0, 1.0)
    if when == "before the optimizer":
        c = alias(w)
    optimizer = make([w])
    if when == "after its first step":
        step(optimizer, w)
    if when != "before the optimizer":
        c = alias(w)
    expected = w.numpy().copy()
    loss = (v * c).sum()
    write(optimizer, w)
    assert not np.array_equal(w.data, expected)
    try:
        loss.backward()
    except RuntimeError as error:
        assert "was overwritten" in str(error)
        assert isinstance(optimizer, FusedAdamW)
    else:
        np.testing.assert_array_equal(v.grad, expected)


def test_an_alias_is_noticed_after_its_optimizer_is_gone():
    """load_state_dict() then assigns a new array, as to any parameter."""
    w, v = leaf(1.0, 2.0), leaf(1.0, 1.0)
    optimizer = AdamW([w], lr=0.1, fused=True)
    c = w.detach()
    loss = (v * c).sum()
    del optimizer
    load_state_dict(None, w)
    loss.backward()
    np.testing.assert_array_equal(v.grad, [1.0, 2.0])
    np.testing.assert_array_equal(w.data, [50.0, 60.0])


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_parameter_that_a_graph_reads_is_read_only(kind):
    """The page's parameters are guarded as any leaf: an in-place write is an error."""
    w = leaf(1.0, 2.0)
    optimizer = kind([w], lr=0.1)
    loss = (w * w).sum()
    with pytest.raises(ValueError, match="read-only"):
        w.data += 1
    loss.backward()
    np.testing.assert_array_equal(w.grad, [2.0, 4.0])
    w.data += 1
    optimizer.step()


@each_optimizer
def test_copy_of_an_alias_leaves_the_parameter(make):
    """Loading into what detach() returned is not loading into the parameter."""
    w = leaf(1.0, 2.0)
    optimizer = make([w])
    loss, c = (w * w).sum(), w.detach()
    c.copy_(np.array([7.0, 8.0]))
    np.testing.assert_array_equal(w.data, [1.0, 2.0])
    np.testing.assert_array_equal(c.data, [7.0, 8.0])
    loss.backward()
    np.testing.assert_array_equal(w.grad, [2.0, 4.0])
    optimizer.step()
    assert (w.data < [1.0, 2.0]).all()


def clip(optimizer, w):
    clip_grad_norm(w, 0.5)


def clip_by_the_twin(optimizer, w):
    if isinstance(optimizer, FusedAdamW):
        clip_grad_norm(optimizer.parameters, 0.5)


def clip_and_step(optimizer, w):
    clip_by_the_twin(optimizer, w)
    optimizer.step()


def next_step(optimizer, w):
    optimizer.step()
    optimizer.zero_grad()
    (w * 100.0).sum().backward()
    optimizer.step()


@each_optimizer
@pytest.mark.parametrize("write", [step, clip, clip_by_the_twin, clip_and_step, next_step])
@pytest.mark.parametrize("alias", ["itself", "slice", "Tensor", "Tensor of a slice", "reshaped"])
def test_a_gradient_that_a_graph_reads(make, write, alias):
    """v ⊙ g, where g is w's gradient: dv is g as it was, or an error that says what to do."""
    w, v = leaf(1.0, 2.0), leaf(1.0, 1.0)
    optimizer = make([w])
    (w * w).sum().backward()
    g = {
        "itself": lambda: w.grad,
        "slice": lambda: w.grad[:],
        "Tensor": lambda: Tensor(w.grad),
        "Tensor of a slice": lambda: Tensor(w.grad[::-1])[::-1],
        "reshaped": lambda: w.grad.reshape(1, 2)[0],
    }[alias]()
    loss = (v * g).sum()
    try:
        write(optimizer, w)
    except RuntimeError as error:
        assert "is still read by a graph" in str(error) and isinstance(optimizer, FusedAdamW)
    loss.backward()
    np.testing.assert_array_equal(v.grad, [2.0, 4.0])


@each_optimizer
def test_a_gradient_of_a_gradients_graph(make):
    """x ⊙ dx, and then a step: the second backward() gives dx at the weights that it read."""
    x = leaf(3.0)
    optimizer = make([x])
    (x * x).sum().backward()
    z = (x * x.grad).sum()
    optimizer.zero_grad()
    z.backward()
    np.testing.assert_array_equal(x.grad, [6.0])
    optimizer.step()
    assert x.data < 3


def test_every_step_of_the_twin_is_noticed_by_what_was_computed_before():
    """A gradient through weights that have changed since would be wrong: after each of them."""
    w = leaf(1.0)
    optimizer = AdamW([w], lr=0.1, fused=True)
    for _ in range(3):
        before = w * w
        w.grad = np.ones(1)
        optimizer.step()
        with pytest.raises(RuntimeError, match="overwritten, by an optimizer"):
            before.backward()
        del before


# ---- saving --------------------------------------------------------------------------------------


def run(optimizer, parameters, steps):
    for step in steps:
        set_gradients(np.random.default_rng(step), parameters, skip=step % 5)
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()


def two_groups(make, parameters, lr=0.1):
    return make([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.2}], lr=lr)


@each_optimizer
def test_a_saved_state_continues_exactly(make):
    """Stop at step 10 and go on in another optimizer: not one bit differs at step 30."""
    parameters = make_parameters()
    optimizer = two_groups(make, parameters)
    run(optimizer, parameters, range(10))

    others = [Tensor(p.data.copy(), requires_grad=True) for p in parameters]
    resumed = two_groups(make, others, lr=123.0)
    saved = optimizer.state_dict()
    resumed.load_state_dict(saved)
    assert resumed.param_groups[1]["lr"] == 0.2 and resumed.param_groups[0]["lr"] == 0.1 / 10

    run(optimizer, parameters, range(10, 30))
    run(resumed, others, range(10, 30))
    for p, q in zip(parameters, others, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-4)])
@pytest.mark.parametrize("fused", [False, True])
def test_page_and_twin_load_each_others_state(fused, dtype, tolerance):
    """Ten steps of one, ten of the other: what twenty of one give.

    In float32 each of the 20 steps is off by at most 16 · 2⁻²⁴ (|w| + D), see above, on each side,
    and D is below 1: 20 · 2 · 16 · 2⁻²⁴ · 2 = 8·10⁻⁵ of |w|, or of 1 if that is more.
    """
    sides = make_parameters(dtype), make_parameters(dtype)
    same = AdamW(sides[0], lr=0.1, fused=fused)
    first, second = (AdamW(sides[1], lr=0.1, fused=which) for which in (fused, not fused))
    for start, optimizer in ((0, first), (10, second)):
        if start:
            saved = first.state_dict()
            optimizer.load_state_dict(saved)
            again = optimizer.state_dict()
            assert again["param_groups"] == saved["param_groups"]
            assert again["state"].keys() == saved["state"].keys()
            for i, state in saved["state"].items():
                assert again["state"][i].keys() == state.keys()
                for key, value in state.items():
                    assert type(again["state"][i][key]) is type(value) or np.ndim(value) == 0
                    np.testing.assert_array_equal(again["state"][i][key], value)
        run(same, sides[0], range(start, start + 10))
        run(optimizer, sides[1], range(start, start + 10))
    for p, q in zip(*sides, strict=True):
        np.testing.assert_allclose(
            p.data, q.data, rtol=0, atol=tolerance * max(1, abs(p.data).max())
        )


@each_optimizer
def test_a_saved_state_is_a_copy(make):
    """Training on changes neither what was saved nor, after loading, the dict it came from."""
    parameters = make_parameters()
    optimizer = two_groups(make, parameters)
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


def test_a_parameter_that_has_no_saved_state_starts_from_zero(adamw):
    """It had not been updated when the state was saved: as if this optimizer never had either."""
    parameters = make_parameters()
    set_gradients(np.random.default_rng(0), parameters, skip=2)
    optimizer = adamw(parameters, lr=0.1)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["state"].keys() == {0, 1, 3}
    run(optimizer, parameters, range(3, 9))
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"].keys() == {0, 1, 3}
    assert set(optimizer.state) == {parameters[i] for i in (0, 1, 3)}
    fresh = Tensor(parameters[2].data.copy(), requires_grad=True)
    fresh.grad = parameters[2].grad = np.full(fresh.shape, 0.3)
    optimizer.step()
    adamw([fresh], lr=optimizer.param_groups[0]["lr"]).step()
    np.testing.assert_array_equal(parameters[2].data, fresh.data)


@pytest.mark.parametrize("make", [AdamW, FusedAdamW, SGD])
def test_the_state_is_laid_out_as_pytorchs(make):
    """Numbers for parameters, PyTorch's names for the moments."""
    parameters = make_parameters()
    twins = twins_of(parameters)
    if make is SGD:
        ours = make(parameters, lr=0.1, momentum=0.9)
        theirs = torch.optim.SGD(twins, lr=0.1, momentum=0.9)
    else:
        ours, theirs = make(parameters, lr=0.1), torch.optim.AdamW(twins, lr=0.1)
    set_gradients(np.random.default_rng(0), parameters, twins, skip=2)
    ours.step()
    theirs.step()
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours["param_groups"][0]["params"] == theirs["param_groups"][0]["params"]
    assert ours["state"].keys() == theirs["state"].keys()
    for i, state in ours["state"].items():
        assert state.keys() == theirs["state"][i].keys()
        for key, value in state.items():
            np.testing.assert_allclose(value, theirs["state"][i][key], rtol=1e-12)


def test_a_state_of_other_parameters_is_refused(adamw):
    """By the groups' sizes and the moments' shapes; the optimizer is as it was."""
    parameters = make_parameters()
    optimizer = adamw(parameters, lr=0.1)
    run(optimizer, parameters, [4])
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="other numbers of parameters"):
        adamw(parameters[:2], lr=0.5).load_state_dict(saved)
    with pytest.raises(ValueError, match="other numbers of parameters"):
        two_groups(adamw, parameters).load_state_dict(saved)
    other = adamw(parameters[::-1], lr=0.5)
    with pytest.raises(ValueError, match=r"parameter 0 has shape \(\), its saved exp_avg \(3, 5\)"):
        other.load_state_dict(saved)
    for i, changed, message in [
        (0, {"exp_avg_sq": np.ones(1)}, r"0 has shape \(3, 5\), its saved exp_avg_sq \(1,\)"),
        (0, {"exp_avg": 0.5}, r"0 has shape \(3, 5\), its saved exp_avg \(\)"),
        (0, {"max_exp_avg_sq": np.ones((3, 5))}, r"the state of a parameter has \['step', 'exp_av"),
        (4, {}, "there is no parameter 4, only 4 of them"),
        ("0", {}, "there is no parameter '0', only 4 of them"),
    ]:
        state = {i: saved["state"][0] | changed}
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(saved | {"state": state})
    del saved["state"][0]["exp_avg"]
    with pytest.raises(ValueError, match=r"of parameter 0 \['step', 'exp_avg_sq'\]"):
        optimizer.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.5 and other.state_dict()["state"] == {}
    assert optimizer.state_dict()["state"].keys() == {0, 1, 2, 3}


@pytest.mark.parametrize("make", [AdamW, FusedAdamW])
def test_a_state_of_another_kind_of_optimizer_is_refused(make):
    """The moments of SGD are not those of AdamW; nor the other way round."""
    w = leaf(1.0)
    w.grad = np.ones(1)
    adamw, sgd = make([w], lr=0.1), SGD([w], lr=0.1)
    adamw.step()
    sgd.step()
    with pytest.raises(ValueError, match=r"a group has unknown options \['momentum'\]"):
        adamw.load_state_dict(sgd.state_dict())
    with pytest.raises(ValueError, match=r"a group has unknown options \['betas', 'eps'\]"):
        sgd.load_state_dict(adamw.state_dict())


@each_optimizer
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))],
    ids=["copy", "pickle"],
)
@pytest.mark.parametrize("when", ["at rest", "with gradients", "weights assigned"])
def test_a_copy_of_model_and_optimizer_trains_on_identically(make, duplicate, when):
    """Bit for bit, whatever was going on; and neither touches the other."""
    mg.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = make(model.parameters())
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)

    def train(model, optimizer, n=3):
        for _ in range(n):
            (model(x) * model(x)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    train(model, optimizer)
    if when == "with gradients":
        model(x).sum().backward()
    elif when == "weights assigned":
        model[0].weight.data = model[0].weight.data * 2
    twin, its = duplicate((model, optimizer))
    before = twin.state_dict()
    ours = train(model, optimizer)
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
        assert np.abs(ours[name] - array).max() > 1e-3, "the original trains by itself"
    theirs = train(twin, its)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    again, state = optimizer.state_dict(), its.state_dict()
    assert again["param_groups"] == state["param_groups"]
    for i, values in again["state"].items():
        for key, value in values.items():
            np.testing.assert_array_equal(value, state["state"][i][key])


def test_a_copy_of_the_model_alone_is_in_no_optimizers_vector():
    """Its parameters are guarded as any: a write that would spoil a gradient is refused."""
    model = nn.Linear(2, 2)
    optimizer = AdamW(model.parameters(), lr=0.1, fused=True)
    twin = copy.deepcopy(model)
    loss = twin(np.ones((1, 2), np.float32)).sum()
    with pytest.raises(ValueError, match="read-only"):
        twin.weight.data += 1
    before = twin.weight.data
    twin.load_state_dict(model.state_dict())
    assert twin.weight.data is not before
    loss.backward()
    assert optimizer.flat.parameters[0].grad is None


# ---- clipping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 10.0, 1e6])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_clip_grad_norm_matches_pytorch(clip, max_norm, dtype, tolerance):
    """The norm before clipping, and the gradients after it, above and below max_norm.

    In float32 PyTorch and the twin round the norm at 2⁻²⁴ = 6·10⁻⁸ per operation: at 10⁻⁶.
    """
    parameters = make_parameters(dtype)
    twins = twins_of(parameters)
    set_gradients(np.random.default_rng(3), parameters, twins, skip=1)
    norm = clip(parameters, max_norm)
    assert (norm.shape, norm.dtype, norm.requires_grad) == ((), np.float64, False)
    expected = torch.nn.utils.clip_grad_norm_(twins, max_norm).item()
    assert norm.item() == pytest.approx(expected, rel=tolerance)
    assert 1 < norm.item() < 1e6 and parameters[1].grad is None
    for p, twin in zip(parameters, twins, strict=True):
        if p.grad is not None:
            assert p.grad.dtype == dtype
            np.testing.assert_allclose(p.grad, twin.grad, rtol=tolerance)


def test_the_page_scales_into_new_arrays_and_the_twin_in_place():
    """An array that somebody gave as a gradient is not written to by the page."""
    w = leaf(0.0, 0.0)
    given = w.grad = np.array([3.0, 4.0])
    clip_grad_norm(w, 1.0)
    np.testing.assert_array_equal(given, [3.0, 4.0])
    optimizer = AdamW([w], lr=0.1, fused=True)
    w.grad = None
    (w * np.array([3.0, 4.0])).sum().backward()
    buffer = w.grad
    clip_grad_norm(optimizer.parameters, 1.0)
    assert w.grad is buffer and np.shares_memory(buffer, optimizer.flat.grad)
    np.testing.assert_allclose(optimizer.flat.grad, [0.6, 0.8], rtol=1e-6)


def test_clipping_bounds_the_joint_norm(clip):
    """Above the bound the norm becomes it, and the direction stays; below, not a bit changes."""
    p, q = leaf(0.0), leaf(0.0)
    p.grad, q.grad = np.array([3.0]), np.array([4.0])
    assert clip([p, q], 5.1).item() == 5
    assert (p.grad[0], q.grad[0]) == (3, 4)
    assert clip([p, q], 0.5).item() == 5
    assert q.grad[0] / p.grad[0] == pytest.approx(4 / 3, rel=1e-15)
    # the 10⁻⁶ in the formula leaves the new norm short of the bound by 10⁻⁶/5 of it
    norm = clip([p, q], 100.0).item()
    assert norm == pytest.approx(0.5 * 5 / (5 + 1e-6), rel=1e-14)
    p.grad = np.array([1.0])
    clip([p], 0.5)  # a norm of 1 is not a scale of 1
    assert p.grad[0] == pytest.approx(0.5 / (1 + 1e-6), rel=1e-14)
    clip([p], 0.0)
    assert p.grad[0] == 0
    assert clip([p], np.inf).item() == 0


def test_one_tensor_can_be_clipped():
    """Its rows are not what was meant; and a parameter that is given twice is scaled once."""
    w = leaf(0.0, 0.0)
    for params in (w, [w], iter([w]), [w, w]):
        w.grad = np.array([3.0, 4.0])
        assert clip_grad_norm(params, 1.0).item() == 5
        np.testing.assert_allclose(w.grad, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    "params, kind",
    [([np.ones(2)], "ndarray"), (nn.Linear(1, 1).named_parameters(), "tuple"), ({"w": 1}, "str")],
)
def test_clipping_anything_else_is_refused(params, kind):
    """Arrays have no gradient, and names neither."""
    with pytest.raises(TypeError, match="clip_grad_norm: a parameter must be a Tensor|unhashable"):
        clip_grad_norm(params, 1.0)


@pytest.mark.parametrize("max_norm", [-1.0, np.nan, -np.inf])
def test_a_negative_bound_is_refused(clip, max_norm):
    """It would turn the gradients around."""
    w = leaf(0.0)
    w.grad = np.ones(1)
    with pytest.raises(
        ValueError, match="clip_grad_norm: max_norm must be at least 0, not -?(1|n|i)"
    ):
        clip([w], max_norm)
    assert w.grad == 1


def test_the_norm_is_added_up_in_double(clip):
    """2²⁴ + 1 is 2²⁴ in float32: many small gradients beside a large one would not count."""
    parameters = [Tensor(np.zeros(1, np.float32), True) for _ in range(1001)]
    for i, p in enumerate(parameters):
        p.grad = np.full(1, 1.0 if i else 4096.0, np.float32)
    assert clip(parameters, 1e9).item() == pytest.approx(np.sqrt(2.0**24 + 1000), rel=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_squares_that_float32_cannot_hold(clip, size):
    """10²⁰ squared is infinite in float32, 10⁻³⁰ squared is 0: neither is the norm's fault."""
    w, v = leaf(0.0, 0.0, dtype=np.float32), leaf(0.0, dtype=np.float32)
    w.grad, v.grad = np.array([3.0, 4.0], np.float32) * np.float32(size), np.zeros(1, np.float32)
    assert clip([w, v], size).item() == pytest.approx(5 * size, rel=1e-6)
    scale = size / (5 * size + 1e-6)
    np.testing.assert_allclose(w.grad, np.array([3.0, 4.0]) * size * min(1, scale), 1e-6, 1e-45)


def test_clipping_float16():
    """The norm is float64, and the scale is not rounded to a float16 before it is used."""
    w, v = leaf(0.0, dtype=np.float16), leaf(*[0.0] * 1000, dtype=np.float16)
    w.grad = np.full(1, 300, np.float16)
    assert clip_grad_norm([w], 1.0).item() == 300
    assert w.grad.dtype == np.float16 and w.grad[0] == 1
    v.grad = np.full(1000, 60_000, np.float16)
    norm = 60_000 * np.sqrt(1000)
    assert clip_grad_norm([v], 1.0).item() == pytest.approx(float(np.float16(60_000)) * norm / 6e4)
    # one rounding to a float16, at 2⁻¹¹
    np.testing.assert_allclose(v.grad, 1 / np.sqrt(1000), rtol=2.0**-11)


def test_clipping_without_gradients(clip):
    """Nothing to clip has length 0; nor do zeros have a direction."""
    parameters = make_parameters()
    assert clip(parameters, 1.0).item() == 0
    for p in parameters:
        p.grad = np.zeros(p.shape)
    assert clip(parameters, 1.0).item() == 0
    assert all((p.grad == 0).all() for p in parameters)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite(clip, bad):
    """It is returned; all gradients are spoiled or 0, as in PyTorch, and no weight will explode."""
    w, v = leaf(0.0, 0.0), leaf(0.0)
    w.grad, v.grad = np.array([bad, 1.0]), np.ones(1)
    twins = twins_of([w, v])
    for p, twin in zip((w, v), twins, strict=True):
        twin.grad = torch.tensor(p.grad)
    with np.errstate(invalid="ignore"):
        norm = clip([w, v], 1.0)
    assert not np.isfinite(norm.item())
    torch.nn.utils.clip_grad_norm_(twins, 1.0)
    for p, twin in zip((w, v), twins, strict=True):
        np.testing.assert_array_equal(p.grad, twin.grad)


# ---- on a GPU ------------------------------------------------------------------------------------


@each_optimizer
def test_a_step_on_the_gpu(make, gpu):
    """Page and twin do there what they do on the CPU; a state goes from one to the other."""
    start = np.arange(1.0, 7.0)
    sides = []
    for device in ("cpu", "gpu"):
        w = Tensor(start.copy()).to(device)
        w.requires_grad = True
        optimizer = make([w])
        for step in range(3):
            w.grad = to_device(np.linspace(-1, step, 6), device)
            clip_grad_norm(w, 1.0)
            optimizer.step()
        assert w.device == device
        sides.append((w, optimizer))
    (ours, on_cpu), (theirs, on_gpu) = sides
    np.testing.assert_allclose(theirs.numpy(), ours.data, rtol=1e-12)
    on_cpu.load_state_dict(on_gpu.state_dict())
    on_gpu.load_state_dict(on_cpu.state_dict())
    ours.grad, theirs.grad = np.ones(6), to_device(np.ones(6), "gpu")
    for optimizer in (on_cpu, on_gpu):
        optimizer.step()
    np.testing.assert_allclose(theirs.numpy(), ours.data, rtol=1e-12)


def test_an_optimizer_that_is_stopped_updates_nothing(gpu):
    """From the first number that is not finite on, though later ones are; it says at which step."""
    start = np.arange(1.0, 7.0, dtype=np.float32)
    runs = []
    for watched in (True, False):
        w = Tensor(start.copy()).to("gpu")
        w.requires_grad = True
        optimizer = AdamW([w], lr=0.1, weight_decay=0.1, fused=True)
        for step in range(1, 6):
            bad = watched and step in (3, 5)
            w.grad = to_device(np.full(6, np.nan if bad else step, np.float32), "gpu")
            if watched:
                loss, norm = (Tensor(np.float32(x)).to("gpu") for x in (1.0, np.nan if bad else 2))
                optimizer.stop_unless_finite(step, loss, norm)
            if watched or step < 3:
                optimizer.step()
        runs.append(
            [to_numpy(vector) for vector in (w.data, optimizer.exp_avg, optimizer.exp_avg_sq)]
        )
        assert optimizer.stopped_at() == (3 if watched else 0)
    for stopped, two_steps in zip(*runs, strict=True):
        np.testing.assert_array_equal(stopped, two_steps)
        assert np.isfinite(stopped).all() and stopped.any()


@pytest.mark.parametrize("numbers", [(np.inf, 1.0), (1.0, -np.inf), (np.inf, -np.inf), (np.nan, 0)])
def test_each_number_is_looked_at(numbers):
    """Also infinities of both signs; the same on a CPU."""
    w = leaf(1.0, dtype=np.float32)
    optimizer = AdamW([w], lr=0.1, fused=True)
    optimizer.stop_unless_finite(1, Tensor(1.0), Tensor(2.0))
    assert optimizer.stopped_at() == 0
    optimizer.stop_unless_finite(2, *map(Tensor, numbers))
    w.grad = np.ones(1, np.float32)
    with np.errstate(invalid="ignore"):
        optimizer.step()
    assert optimizer.stopped_at() == 2 and w.data == 1


def test_plain_sgd_has_no_memory():
    """Without momentum an infinite gradient of the past is nothing to the next step: no 0 · ∞."""
    w = leaf(1.0)
    optimizer = SGD([w], lr=0.5)
    w.grad = np.array([np.inf])
    optimizer.step()
    w.data, w.grad = np.array([1.0]), np.array([1.0])
    optimizer.step()
    assert w.data == 0.5


def test_momentum_that_is_switched_on_later():
    """As in PyTorch, nothing was remembered before; no gradient is kept alive as momentum."""
    ours, theirs = Tensor(np.zeros(2), requires_grad=True), torch.zeros(2, dtype=torch.float64)
    optimizers = SGD([ours], lr=1.0), torch.optim.SGD([theirs], lr=1.0)
    for momentum in (0.0, 0.0, 0.9, 0.9):
        g = np.arange(1.0, 3.0)
        ours.grad, theirs.grad = g, torch.tensor(g)
        for optimizer in optimizers:
            optimizer.param_groups[0]["momentum"] = momentum
            optimizer.step()
        assert momentum or optimizers[0].state[ours] == {"momentum_buffer": 0.0}
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=1e-15)
