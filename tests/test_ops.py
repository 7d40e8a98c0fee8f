"""Every op and every module, forward and backward, in every case of minigrad/testing/cases.py.

First the checks: PyTorch, finite differences, and float32 and float16 beside float64; of pages and
of twins.  Then extreme values and errors.  Then the checks themselves are checked: errors are
planted, and must be caught.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import math
import pathlib
import pkgutil
import re

import numpy as np
import pytest
import rounding
import torch

import minigrad as mg
import minigrad.ops as F
from minigrad import nn, random
from minigrad.internals.hooks import this_thread
from minigrad.tensor import OPS, TWINS, Tensor, op
from minigrad.testing.cases import (
    BLIND,
    CASES,
    EVEN,
    IDS,
    LAST,
    LEFT,
    QKV,
    B,
    C,
    Case,
    D,
    H,
    N,
    T,
    V,
)
from minigrad.testing.checks import (
    LAYOUTS,
    by_finite_differences,
    by_page,
    by_pytorch,
    prepare,
)
from minigrad.testing.pytorch import REFERENCES
from minigrad.testing.table import check_op

MODULES = {
    name: cls
    for name, cls in vars(nn).items()
    if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls is not nn.Module
}


PAGE, TWIN = "page", "twin"
HAVE_TWINS = {name for name, device in TWINS if device == "cpu"}


def versions(names):
    """Return (name, "page") for all, and (name, "twin") where there is a twin, or one inside."""
    twins = [(name, TWIN) for name in names if name in HAVE_TWINS | MODULES.keys()]
    return [*[(name, PAGE) for name in names], *twins]


@contextlib.contextmanager
def running(version):
    """Run pages alone, or twins where there are some, also under MINIGRAD_PLAIN=1."""
    before, this_thread.plain = this_thread.plain, version == PAGE
    try:
        yield
    finally:
        this_thread.plain = before


@pytest.mark.parametrize("name", CASES)
def test_every_gradient(name):
    """Output and gradients are right, page and twin, however inputs and dout are in memory."""
    with running(TWIN):
        found = check_op(name, CASES[name])
    assert not found.failures, "\n".join(found.failures)
    assert found.n_trials[PAGE] == len(LAYOUTS) * len(CASES[name])
    assert (found.n_trials[TWIN] > 0) == ((name, TWIN) in versions(CASES))


ROUNDED = [np.float32, np.float16]


def results(name, case, layout, dtype, held):
    """Return [out, and every gradient] of a trial."""
    trial = prepare(name, case, layout, dtype, held)
    out = trial.run()
    out.backward(trial.draw(out.shape))
    return [out.data, *[x.grad for x in trial.leaves]]


def check_rounding(name, case, layout, dtype, monkeypatch):
    """Assert that a dtype differs from float64 by at most its counted roundings: rounding.py."""
    exact = results(name, case, layout, np.float64, dtype)
    run = functools.partial(results, name, case, layout, dtype, dtype)
    rounded, n, bound = rounding.bounded(run, len(case.inputs), dtype, monkeypatch)
    for i, (ours, reference) in enumerate(zip(rounded, exact, strict=True)):
        what = f"d{i - 1}" if i else "out"
        error = abs(ours - reference).max(initial=0)
        assert error <= bound, (
            f"{name}: {what} is off by {error:.3g} after {n:.1f} operations in {dtype.__name__}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name, version", versions(CASES))
def test_fewer_digits_are_float64_rounded(name, version, dtype, monkeypatch):
    """Each operation may round once; a result that is off by more has lost digits on the way."""
    with running(version):
        for case in CASES[name]:
            for layout in LAYOUTS:
                check_rounding(name, case, layout, dtype, monkeypatch)


def dtypes(name, case, layout, dtype, monkeypatch):
    """Return the dtypes of out, and of the gradients as they reach a leaf."""
    trial = prepare(name, case, layout, dtype)
    out = trial.run()
    seen = {out.dtype.name}
    with monkeypatch.context() as patch:  # a leaf converts gradients to its own dtype
        patch.setattr(Tensor, "accumulate_grad", lambda self, d: seen.add(d.dtype.name))
        out.backward(trial.draw(out.shape))
    return seen


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name, version", versions(CASES))
def test_a_dtype_stays_what_it_is(name, version, dtype, monkeypatch):
    """Neither numbers nor np.float64 scalars widen an output, or a gradient on its way."""
    with running(version):
        for case in CASES[name]:
            for layout in LAYOUTS:
                assert dtypes(name, case, layout, dtype, monkeypatch) == {dtype.__name__}


def test_a_dropout_of_nothing_draws_nothing():
    """With p = 0 the running key stays where it is, and so do all masks that come after."""
    for version in (contextlib.nullcontext, mg.plain):
        with version(), random.rng_scope(seed=1, step=2):
            F.dropout(zeros(B, C), 0, training=True)
            F.attention(*[zeros(*shape) for shape in QKV], dropout=0.0, training=True)
            assert random.next_key() == (1, 2, 0, 0)


def test_numpys_indexing():
    """x[index] is the op getitem; Tensors may stand in the index."""
    x = Tensor(np.arange(B * T * C).reshape(B, T, C))
    rows = np.array([2, 0, 2])
    np.testing.assert_array_equal(x[1, ..., None].data, x.data[1, ..., None])
    np.testing.assert_array_equal(x[:, Tensor(rows)].data, x.data[:, rows])
    np.testing.assert_array_equal(x[Tensor(rows % B)].data, x.data[rows % B])
    np.testing.assert_array_equal(x[..., Tensor(EVEN)].data, x.data[..., EVEN])
    np.testing.assert_array_equal(x[x.data > 4].data, x.data[x.data > 4])


def test_the_reference_attention_is_pytorchs():
    """The reference writes attention out; where every query sees a key, PyTorch's own op agrees."""
    theirs = torch.nn.functional.scaled_dot_product_attention
    for shapes, causal in ((QKV, True), (QKV, False), (LAST, False)):  # causal LAST differs there
        q, k, v = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
        ours = REFERENCES["attention"](q, k, v, causal=causal)
        torch.testing.assert_close(ours, theirs(q, k, v, is_causal=causal))
    mask = np.random.default_rng(0).random((B, 1, T, N)) < 0.5
    mask[..., 0] = True
    q, k, v = (torch.randn(shape, dtype=torch.float64) for shape in LAST)
    ours = REFERENCES["attention"](q, k, v, causal=False, mask=mask)
    torch.testing.assert_close(ours, theirs(q, k, v, attn_mask=torch.tensor(mask)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_query_that_sees_no_key_gets_nothing(dtype):
    """Its output is 0, and neither it nor a key gets a gradient through it: exactly 0, not NaN."""
    rng = np.random.default_rng(0)
    for shapes, mask, blind in ((LAST, BLIND, (..., 1)), (QKV, LEFT, (..., 0))):
        q, k, v = (Tensor(rng.standard_normal(s).astype(dtype), True) for s in shapes)
        out = F.attention(q, k, v, mask=mask)
        dout = np.zeros(out.shape, dtype)
        dout[(*blind, slice(None))] = 1
        assert not out.data[(*blind, slice(None))].any()
        out.backward(dout)
        assert not q.grad.any() and not k.grad.any() and not v.grad.any()


def test_a_mask_may_be_a_tensor():
    """Such as a comparison: ids != padding."""
    ids = Tensor(np.array([[3, 1, 0], [2, 0, 0]]))
    q, k, v = (Tensor(x) for x in np.random.default_rng(0).standard_normal((3, B, H, T, D)))
    mask = (ids != 0).reshape(B, 1, 1, T)
    np.testing.assert_array_equal(
        F.attention(q, k, v, mask=mask).data, F.attention(q, k, v, mask=mask.data).data
    )
    for b, n in enumerate([2, 1]):  # as if the keys that are hidden were not there
        alone = F.attention(q[b : b + 1], *(x[b : b + 1, :, :n] for x in (k, v)), causal=False)
        masked = F.attention(q, k, v, mask=mask, causal=False)
        np.testing.assert_allclose(masked.data[b], alone.data[0], rtol=0, atol=1e-14)


def test_a_clip_between_crossed_bounds_is_the_upper_one():
    """As in NumPy and in PyTorch; nothing moves there."""
    x = Tensor(np.array([-1.0, 0.0, 2.0]), True)
    out = F.clip(x, 1, -0.5)
    np.testing.assert_array_equal(out.data, np.clip(x.data, 1, -0.5))
    out.backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, 0)


@pytest.mark.parametrize("reduction, loss", [("sum", 0.0), ("none", [0.0, 0.0])])
def test_ignored_rows_alone_cost_nothing(reduction, loss):
    """A sum over no rows is 0, and so is the gradient; only their mean does not exist."""
    logits = Tensor(np.ones((2, V)), True)
    out = F.cross_entropy(logits, [4, 4], ignore_index=4, reduction=reduction)
    np.testing.assert_array_equal(out.data, loss)
    out.backward(np.ones(out.shape))
    np.testing.assert_array_equal(logits.grad, np.zeros((2, V)))


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
    "sigmoid": F.sigmoid,
    "gelu": F.gelu,
    "layer_norm": lambda x: F.layer_norm(x, np.ones(V, x.dtype)),
}


@pytest.mark.parametrize("version", [PAGE, TWIN])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXTREMES)
def test_large_logits_are_harmless(name, dtype, version):
    """Logits of 10⁴ overflow eˣ; the stable formulas neither overflow nor divide by zero."""
    x = scores(dtype)
    # An invalid result is not finite, which is asserted below.
    with running(version), np.errstate(over="raise", divide="raise"):
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


def test_where_takes_a_single_condition():
    """A condition of one boolean, however it is written, gives the gradient to one side only."""
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
    ("linear", [zeros(B, T, C), zeros(C)], ValueError, ["(5,)", "2 axes, (O, I)"]),
    ("linear", [zeros(), zeros(V, C)], ValueError, ["x ()", "(..., I)"]),
    ("matmul", [zeros(B, T), zeros(C, V)], ValueError, ["(2, 3)", "(5, 7)"]),
    ("matmul", [zeros(T), zeros(C)], ValueError, ["(3,)", "(5,)"]),
    ("matmul", [zeros(T, C), zeros()], ValueError, ["(3, 5)", "()"]),
    ("matmul", [zeros(B, T, C), zeros(H, C, V)], ValueError, ["(2, 3, 5)", "(4, 5, 7)"]),
    ("layer_norm", [zeros(B, T, C), zeros(T)], ValueError, ["(2, 3, 5)", "(3,)"]),
    ("layer_norm", [zeros(B, C), zeros(C), zeros(1)], ValueError, ["(2, 5)", "(1,)"]),
    ("layer_norm", [zeros(B, C), zeros(1), zeros(1)], ValueError, ["(2, 5)", "(1,)"]),
    ("cross_entropy", [zeros(B, T, V), IDS.ravel()], ValueError, ["(2, 3, 7)", "(2, 3)", "(6,)"]),
    ("cross_entropy", [zeros(B, V), IDS], ValueError, ["(2, 7)", "(2,)", "(2, 3)"]),
    ("cross_entropy", [zeros(2, V), np.array([0, V])], ValueError, ["id 7 is", "0 to 6"]),
    ("cross_entropy", [zeros(2, V), np.array([0, -1])], ValueError, ["id -1 is", "0 to 6"]),
    ("cross_entropy", [zeros(2, V), np.array([0.0, 1.0])], TypeError, ["integers", "float64"]),
    ("cross_entropy", [zeros(2, V), np.array([True, False])], TypeError, ["integers", "bool"]),
    ("cross_entropy", [zeros(0, V), np.array([], int)], ValueError, []),
    ("embedding", [np.array([[1, V]]), zeros(V, C)], ValueError, ["id 7 is", "0 to 6"]),
    ("embedding", [np.array([-1, 1]), zeros(V, C)], ValueError, ["id -1 is", "0 to 6"]),
    ("add", [zeros(2), zeros(3)], ValueError, ["x (2,) and y (3,)", "axis -1"]),
    ("embedding", [np.array([1.0]), zeros(V, C)], TypeError, ["integers", "float64"]),
    ("embedding", [[0.0, 1.0], zeros(V, C)], TypeError, ["integers", "float64"]),
    ("embedding", [V, zeros(V, C)], ValueError, ["id 7 is", "0 to 6"]),
    ("embedding", [np.array([1]), zeros(V)], ValueError, ["(7,)", "2 axes, (V, C)"]),
    ("var", [zeros(B, 0)], ValueError, ["(2, 0)", "no entries along axis 1"]),
    ("clip", [zeros(2)], ValueError, ["min, max or both"]),
    ("clip", [zeros(2), np.zeros(3)], ValueError, ["x (2,) and min (3,)", "axis -1"]),
    ("maximum", [zeros(2), zeros(3)], ValueError, ["x (2,) and y (3,)", "axis -1"]),
    ("minimum", [zeros(2), zeros(3)], ValueError, ["x (2,) and y (3,)", "axis -1"]),
    ("attention", [zeros(B, H, T, D), zeros(B, H, T, D + 1), zeros(B, H, T, D + 1)], ValueError,
     [str((B, H, T, D)), str((B, H, T, D + 1)), "in D:"]),
    ("attention", [zeros(B, H, T, D), zeros(B, H, T, D), zeros(B, H, N, D)], ValueError,
     [str((B, H, T, D)), str((B, H, N, D)), "in N:"]),
    ("attention", [zeros(B, H, T, D), *[zeros(B, 1, T, D)] * 2], ValueError,
     [str((B, 1, T, D)), "in H:"]),
    ("attention", [zeros(B, T, D)] * 3, ValueError, [str((B, T, D)), "4 axes"]),
    ("attention", [zeros(B, H, T), *[zeros(B, H, T, D)] * 2], ValueError, ["4 axes"]),
    ("attention", [zeros(B, H, T, D), *[zeros(B, H, T)] * 2], ValueError, ["4 axes"]),
    ("attention", [zeros(B, H, T, D), *[zeros(B, H, T, D, 1)] * 2], ValueError, ["4 axes"]),
    ("attention", [zeros(B, H, T, D, 1), *[zeros(B, H, T, D)] * 2], ValueError, ["4 axes"]),
    ("attention", [zeros(B, H, N, D), *[zeros(B, H, T, D)] * 2], ValueError, ["6", "3", "causal"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, inputs, error, parts",
    [pytest.param(*e, id=f"{e[0]}-{i}") for i, e in enumerate(ERRORS)],
)
def test_errors_teach(name, inputs, error, parts):
    """An op refuses what does not fit, in one line that names it and the shapes; page and twin."""
    for version in (PAGE, TWIN):
        with running(version), pytest.raises(error) as caught:
            OPS[name](*inputs)
        assert_teaches(name, str(caught.value), parts)


OPTION_ERRORS = [  # the op, its inputs, its options, what the error must name besides the op
    ("cross_entropy", [zeros(2, V), [1, 2]], {"reduction": "median"}, ["'median'", "'none'"]),
    ("cross_entropy", [zeros(2, V), [1, 2]], {"label_smoothing": 1.5}, ["from 0 to 1", "1.5"]),
    ("cross_entropy", [zeros(2, V), [1, 2]], {"label_smoothing": -0.1}, ["from 0 to 1", "-0.1"]),
    ("var", [zeros(3, 1)], {"axis": 1, "correction": 1}, ["(3, 1)", "n = 1"]),
    ("attention", [zeros(B, H, T, D)] * 3, {"mask": np.ones(T)}, ["booleans"]),
    ("attention", [zeros(B, H, T, D)] * 3, {"mask": np.ones(4, bool)}, ["(4,)", "(2, 4, 3, 3)"]),
    ("attention", [zeros(B, H, T, D)] * 3, {"mask": np.ones((1,) * 5, bool)}, ["(1, 1, 1, 1, 1)"]),
]  # fmt: skip


@pytest.mark.parametrize("name, inputs, options, parts", OPTION_ERRORS)
def test_errors_of_options_teach(name, inputs, options, parts):
    """The same for options with values that make no sense."""
    with pytest.raises(ValueError) as caught:
        OPS[name](*inputs, **options)
    assert_teaches(name, str(caught.value), parts)


def assert_teaches(name, message, parts):
    """Assert that an error message is one line that begins with the op and has these parts."""
    assert "\n" not in message and message.startswith(f"{name}: ")
    assert message.count(f"{name}: ") == 1
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_dropout_refuses_a_share(p):
    """A share below 0 or of 1 and more makes no sense; at 1, 1/(1 − p) would divide by zero."""
    with pytest.raises(ValueError, match=rf"dropout .* not {p}"):
        F.dropout(zeros(B, C), p, training=True)
    for version in (contextlib.nullcontext, mg.plain):
        with version(), pytest.raises(ValueError, match=rf"dropout .* not {p}"):
            F.attention(*[zeros(*shape) for shape in QKV], dropout=p, training=True)


@pytest.mark.parametrize("ignore_index", [None, 4])
def test_the_targets_of_the_forward_pass_count(ignore_index):
    """Also where their memory is overwritten through another view, which is not read-only."""
    grads = []
    for refill in (False, True):
        logits, buffer = Tensor(np.eye(4, V), True), np.array([1, 2, 0, 3])
        loss = F.cross_entropy(logits, buffer[:], ignore_index=ignore_index)
        if refill:
            buffer[:] = 5
        loss.backward()
        grads.append(logits.grad)
    np.testing.assert_array_equal(*grads)


def test_all_ignored_is_an_error():
    """The mean over no rows is not a number: an error at once, and not NaN in the weights."""
    with pytest.raises(ValueError, match="cross_entropy: no row"):
        F.cross_entropy(zeros(2, V), np.array([-1, -1]), ignore_index=-1)


# ---- nothing is left out -------------------------------------------------------------------------


def test_no_op_is_unchecked():
    """Every op in the registry has cases, also one that nobody imports, and F offers all."""
    for module in pkgutil.iter_modules(F.__path__):
        importlib.import_module(f"minigrad.ops.{module.name}")
    assert set(CASES) == set(OPS) | set(MODULES) == set(REFERENCES)
    assert set(F.__all__) == set(OPS)
    assert all(getattr(F, name) is OPS[name] for name in OPS)


def untried_arguments(name, cases, monkeypatch):
    """Return the arguments of an op or a module that no case gives, or that every case gives."""
    signature = inspect.signature(MODULES.get(name) or OPS[name])
    tried = {}

    def note(*positional, **named):
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        for argument, value in bound.arguments.items():
            tried.setdefault(argument, set()).add(repr(value))

    if name in MODULES:
        start = MODULES[name].__init__

        def init(self, *positional, **named):
            note(*positional, **named)
            start(self, *positional, **named)

        monkeypatch.setattr(MODULES[name], "__init__", init)
    for case in cases:
        if name in MODULES:
            prepare(name, case)
        else:
            note(*case.inputs, **case.options)

    return [
        argument
        for argument, parameter in signature.parameters.items()
        if argument not in tried
        or parameter.default is not parameter.empty
        and (len(tried[argument]) == 1 or repr(parameter.default) not in tried[argument])
    ]


@pytest.mark.parametrize("name", CASES)
def test_no_argument_is_untried(name, monkeypatch):
    """Every argument is given; one that may be left out is left out in another case."""
    assert untried_arguments(name, CASES[name], monkeypatch) == []


@pytest.mark.parametrize(
    "name, argument",
    [
        (name, option)
        for name in CASES
        for option in sorted({o for c in CASES[name] for o in c.options})
    ],
)
def test_an_untried_argument_is_noticed(name, argument, monkeypatch):
    """Without the cases that give it, an option counts as untried."""
    cases = [case for case in CASES[name] if argument not in case.options]
    if MODULES.get(name) is nn.Dropout and argument == "training":
        return  # not an argument of the module, but its mode
    assert argument in untried_arguments(name, cases, monkeypatch)


def is_differentiable(x):
    return isinstance(x, tuple) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")


@pytest.mark.parametrize("name", OPS)
def test_no_input_goes_without_a_gradient(name):
    """Every input but integers, conditions, bounds and p is differentiated in some case."""
    tried = {i for case in CASES[name] for i, x in enumerate(case.inputs) if is_differentiable(x)}
    constants = {"embedding": {0}, "cross_entropy": {1}, "where": {0}, "dropout": {1}}
    constants["clip"] = {1, 2}
    n_inputs = max(len(case.inputs) for case in CASES[name])
    assert tried == set(range(n_inputs)) - constants.get(name, set())


@pytest.mark.parametrize(
    "name, absent, version",
    [
        ("linear", [2], PAGE),
        ("linear", [2], TWIN),
        ("layer_norm", [1], PAGE),
        ("layer_norm", [2], PAGE),
        ("layer_norm", [2], TWIN),  # which declines without a weight
        ("layer_norm", [1, 2], PAGE),
    ],
)
def test_what_is_not_given_gets_no_gradient(name, absent, version):
    """backward() of arrays returns an entry for each input, which is None for one that is None."""
    shapes = {"linear": [(3, 4), (2, 4), (2,)], "layer_norm": [(3, 4), (4,), (4,)]}[name]
    draw = np.random.default_rng(0).standard_normal
    inputs = [None if i in absent else draw(shape) for i, shape in enumerate(shapes)]
    function = OPS[name].__wrapped__ if version == PAGE else TWINS[name, "cpu"]
    out, backward = function(*inputs)
    gradients = backward(np.ones_like(out))
    assert [i for i, gradient in enumerate(gradients) if gradient is None] == absent


SECTIONS = ["Shapes", "Source", "Derivation", "In words", "Numerics"]


def lacks_sections(doc):
    """Return the sections that a docstring lacks; "order" if they are not in their order."""
    found = re.findall(rf"^({'|'.join(SECTIONS)})\s", doc, re.MULTILINE)
    missing = [] if doc.startswith("out = ") else ["formula"]
    missing += [section for section in SECTIONS[:3] if section not in found]
    return missing + (["order"] if found != sorted(found, key=SECTIONS.index) else [])


@pytest.mark.parametrize("name", OPS)
def test_every_op_teaches(name):
    """The same form everywhere; a docstring without one of its sections does not pass."""
    doc = inspect.getdoc(OPS[name])
    assert lacks_sections(doc) == []
    for section in SECTIONS[:3]:
        assert lacks_sections(doc.replace(section, "Elsewhere")) == [section]
    assert lacks_sections(doc.removeprefix("out")) == ["formula"]
    swapped = doc.replace("Shapes", "*").replace("Source", "Shapes").replace("*", "Source")
    assert lacks_sections(swapped) == ["order"]


def imported(source):
    """Yield the top-level packages that a piece of Python imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


FILES = sorted(pathlib.Path(*F.__path__).glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ops_follow_their_input(path):
    """An op that names an array library is wrong on the other device."""
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


# ---- the checks, checked -------------------------------------------------------------------------


def plant(monkeypatch, name, version, spoil_out=lambda out: out, spoil=lambda i, d: d):
    """Replace a page or a twin by one whose output, and gradient of input i, are spoiled."""
    right = OPS[name].__wrapped__ if version == PAGE else TWINS[name, "cpu"]

    @functools.wraps(right)  # its name and, for @op, its signature
    def wrong(*inputs, **options):
        result = right(*inputs, **options)
        if result is NotImplemented:
            return result
        out, backward = result
        return spoil_out(out), lambda dout: tuple(
            None if d is None else spoil(i, d) for i, d in enumerate(backward(dout))
        )

    if version == TWIN:
        monkeypatch.setitem(TWINS, (name, "cpu"), wrong)
        return
    monkeypatch.setitem(OPS, name, OPS[name])  # to be put back
    OPS[name] = op(wrong)
    monkeypatch.setattr(F, name, OPS[name])  # what modules call


OP_VERSIONS = versions(OPS)
GRADIENTS = [
    pytest.param(name, version, i, leaf, id=f"{name}-{version}-d{i}")
    for name, version in OP_VERSIONS
    for leaf, i in enumerate(i for i, x in enumerate(CASES[name][0].inputs) if is_differentiable(x))
]
CHECKS = [by_pytorch, by_finite_differences]


@pytest.mark.parametrize("name, version, i, leaf", GRADIENTS)
def test_a_wrong_gradient_is_caught(name, version, i, leaf, monkeypatch):
    """Every check fails for a backward that is off by a thousandth, in one input of any op."""
    plant(monkeypatch, name, version, spoil=lambda j, d: d * 1.001 if i == j else d)
    with running(version):
        for check in CHECKS + [by_page] * (version == TWIN):
            with pytest.raises(AssertionError, match=rf"^{name}: d{leaf}: "):
                check(name, CASES[name][0])


@pytest.mark.parametrize("name, version", OP_VERSIONS)
def test_a_wrong_output_is_caught(name, version, monkeypatch):
    """PyTorch checks the forward pass too, and so does a twin's page."""
    plant(monkeypatch, name, version, spoil_out=lambda out: out * 1.001)
    with running(version):
        for check in [by_pytorch] + [by_page] * (version == TWIN):
            with pytest.raises(AssertionError, match=rf"^{name}: out: off by"):
                check(name, CASES[name][0])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("version", [PAGE, TWIN])
@pytest.mark.parametrize(
    "name, op_name",
    [
        ("Linear", "linear"),
        ("Embedding", "embedding"),
        ("LayerNorm", "layer_norm"),
        ("Dropout", "dropout"),
        ("ModuleList", "linear"),
        ("Sequential", "layer_norm"),
    ],
)
def test_a_wrong_module_is_caught(name, op_name, version, check, monkeypatch):
    """An error in the op that a module calls is an error of the module."""
    planted = version if op_name in HAVE_TWINS else PAGE
    plant(monkeypatch, op_name, planted, spoil=lambda i, d: d * 1.001)
    with running(version), pytest.raises(AssertionError, match=rf"^{name}: d\d: "):
        check(name, CASES[name][0])


def off(x):
    """Return x off by a thousandth where it is float32: three of its seven digits are right."""
    x = np.asarray(x)
    return x * np.float32(1.001) if x.dtype == np.float32 else x


@pytest.mark.parametrize("spoiled", ["spoil_out", "spoil"])
@pytest.mark.parametrize("name, version", OP_VERSIONS)
def test_lost_digits_are_caught(name, version, spoiled, monkeypatch):
    """An op that is right in float64 and has lost digits in float32 is off by more than n·u."""
    spoil = off if spoiled == "spoil_out" else lambda i, d: off(d)
    plant(monkeypatch, name, version, **{spoiled: spoil})
    what = "out" if spoiled == "spoil_out" else r"d\d"
    with (
        running(version),
        pytest.raises(AssertionError, match=rf"{name}: {what} is off by .* in float32"),
    ):
        check_rounding(name, CASES[name][0], "contiguous", np.float32, monkeypatch)


def wide(x):
    return np.asarray(x).astype(np.float64)


@pytest.mark.parametrize("name, version", OP_VERSIONS)
def test_a_wider_dtype_is_caught(name, version, monkeypatch):
    """In an output (where there are ids beside the weights, by the tape) as in a gradient."""
    seen = []
    for spoil in ({"spoil_out": wide}, {"spoil": lambda i, d: wide(d)}):
        with monkeypatch.context() as patch, running(version):
            plant(patch, name, version, **spoil)
            try:
                seen.append(dtypes(name, CASES[name][0], "contiguous", np.float32, monkeypatch))
            except TypeError as error:
                seen.append(re.findall(r"would give (float64)", str(error)))
    assert "float64" in seen[0] and seen[1] == {"float32", "float64"}


IS_LAID = {  # the layout -> whether an array is in memory like that
    "contiguous": lambda x: x.flags.c_contiguous,
    "transposed": lambda x: x.flags.f_contiguous and not x.flags.c_contiguous,
    "strided": lambda x: not x.flags.c_contiguous and not x.flags.f_contiguous,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_error_in_one_layout_is_caught(layout, monkeypatch):
    """A backward that is wrong only where dout has one of the three layouts."""
    right = OPS["tanh"].__wrapped__

    def tanh(x):
        out, backward = right(x)
        return out, lambda dout: (backward(dout)[0] * (1.01 if IS_LAID[layout](dout) else 1),)

    monkeypatch.setitem(OPS, "tanh", OPS["tanh"])  # to be put back
    OPS["tanh"] = op(tanh)
    failures = check_op("tanh", CASES["tanh"][:1]).failures
    assert len(failures) == 2  # of both checks
    assert all(failure.startswith(f"tanh, page, {layout} case 0") for failure in failures)


def test_an_error_of_float32_alone_is_caught(monkeypatch):
    """A backward that is wrong only with fewer digits, and only in one layout."""
    right = OPS["tanh"].__wrapped__

    def tanh(x):
        out, backward = right(x)
        wrong = x.dtype == np.float32 and IS_LAID["strided"](x)
        return out, lambda dout: (backward(dout)[0] * (1.01 if wrong else 1),)

    monkeypatch.setitem(OPS, "tanh", OPS["tanh"])  # to be put back
    OPS["tanh"] = op(tanh)
    check_rounding("tanh", CASES["tanh"][0], "contiguous", np.float32, monkeypatch)
    with pytest.raises(AssertionError, match="tanh: d0 is off"):
        check_rounding("tanh", CASES["tanh"][0], "strided", np.float32, monkeypatch)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "backward, failure",
    [
        (lambda dout: (dout * np.nan,), "d0: "),
        (lambda dout: (None,), "no derivative"),
    ],
)
def test_nan_and_nothing_are_caught(check, backward, failure, monkeypatch):
    """NaN is not small, and a gradient that does not arrive is not zero."""

    def neg(x):
        return -x, backward

    monkeypatch.setitem(OPS, "neg", OPS["neg"])  # to be put back
    OPS["neg"] = op(neg)
    with pytest.raises((AssertionError, RuntimeError), match=failure):
        check("neg", CASES["neg"][0])


@pytest.mark.parametrize("check", CHECKS)
def test_an_output_that_is_not_finite_is_caught(check, monkeypatch):
    """The failure says so."""
    plant(monkeypatch, "neg", PAGE, spoil_out=lambda out: out * np.inf)
    with pytest.raises(AssertionError, match="neg: out is not finite"):
        check("neg", CASES["neg"][0])


@pytest.mark.parametrize("check", CHECKS)
def test_a_gradient_that_does_not_arrive_is_caught(check):
    """A module that detaches its weight."""

    class Detached(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.detach(), self.bias)

    with pytest.raises(AssertionError, match="Linear: d1: no gradient arrives"):
        check("Linear", Case([(T, C)], build=lambda: Detached(C, V)))


@pytest.mark.parametrize("check", CHECKS)
def test_a_zero_gradient_is_caught(check):
    """Softmax over an axis of length 1 is 1 whatever x: such a case would check nothing."""
    with pytest.raises(AssertionError, match="softmax: d0 is zero"):
        check("softmax", Case([(T, 1)]))


def test_an_op_that_writes_into_its_input_is_caught(monkeypatch):
    """Inputs and dout are read-only in the check."""

    def neg(x):
        x *= -1
        return x, lambda dout: (-dout,)

    monkeypatch.setitem(OPS, "neg", OPS["neg"])  # to be put back
    OPS["neg"] = op(neg)
    with pytest.raises(ValueError, match="read-only"):
        by_pytorch("neg", CASES["neg"][0])
