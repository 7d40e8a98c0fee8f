"""The mechanism of twins, and what twins promise besides the results of their pages.

That they compute the same is in test_ops.py, test_properties.py and test_numerics.py.  Those on a
GPU are in test_gpu.py; what can be said of them without one is here too.
"""

import inspect
import os
import subprocess
import sys
import threading
from unittest.mock import Mock

import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor, nn
from minigrad.fast import twin
from minigrad.fast.arrays import BLOCK, CHUNK, FEW, sum_of_rows
from minigrad.fast.cpu.attention import in_blocks
from minigrad.fast.cpu.embedding import MANY, SMALL
from minigrad.internals.hooks import this_thread
from minigrad.random import dropout_mask
from minigrad.tensor import OPS, TWINS
from minigrad.testing.cases import CASES, Case
from minigrad.testing.checks import by_page, by_pytorch, record_twins
from minigrad.testing.table import check_op, declined

f32 = np.float32
ON_CPU = [name for name, device in TWINS if device == "cpu"]


@pytest.fixture(autouse=True)
def twins_on(monkeypatch):
    """Let twins run, also under MINIGRAD_PLAIN=1."""
    monkeypatch.setattr(this_thread, "plain", False)


@pytest.fixture
def planted(monkeypatch):
    """Return a function that makes another function the twin of an op on the CPU."""

    def plant(name, function):
        monkeypatch.setitem(TWINS, (name, "cpu"), function)

    return plant


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape)


# ---- the mechanism -------------------------------------------------------------------------------


def test_a_twin_runs_instead_of_its_page(monkeypatch):
    """On its devices alone; the decorator returns the function as it is."""
    monkeypatch.setattr("minigrad.fast.TWINS", twins := {})

    def tanh(x):
        return x * 0, None

    assert twin(F.tanh, "cpu", "gpu")(tanh) is tanh
    assert twins == {("tanh", "cpu"): tanh, ("tanh", "gpu"): tanh}


def test_only_an_op_has_a_twin():
    """A function that is no op, or that another op of the same name has replaced, is refused."""

    def tanh(x):
        return x, None

    with pytest.raises(ValueError, match="twin: tanh is no op"):
        twin(tanh, "cpu")(tanh)


def test_plain_runs_pages(planted):
    """Inside `with plain():` and in functions that it decorates; nested, and after an error."""
    planted("tanh", lambda x: (x * 0, None))
    x = np.ones(3)
    assert not F.tanh(x).data.any()
    with mg.plain():
        assert F.tanh(x).data.all()
        with mg.plain():
            pass
        assert F.tanh(x).data.all()
    with pytest.raises(ZeroDivisionError), mg.plain():
        raise ZeroDivisionError
    assert not F.tanh(x).data.any()
    assert mg.plain()(F.tanh)(x).data.all()


def test_plain_is_a_matter_of_one_thread(planted):
    """Another thread runs twins meanwhile."""
    planted("tanh", lambda x: (x * 0, None))
    seen = []
    with mg.plain():
        thread = threading.Thread(target=lambda: seen.append(F.tanh(np.ones(3)).data.any()))
        thread.start()
        thread.join()
    assert seen == [this_thread_starts_plain()]


def this_thread_starts_plain():
    """Return whether a new thread runs pages: only under MINIGRAD_PLAIN=1."""
    return type(this_thread).plain


def test_backward_belongs_to_its_forward():
    """A graph that a page has recorded is replayed by the page, and one of a twin by the twin."""
    x = Tensor(random(2, 3), requires_grad=True)
    with mg.plain():
        out = F.gelu(x)
    with record_twins() as ran:
        out.backward(np.ones((2, 3)))
    assert not ran and x.grad is not None


@pytest.mark.parametrize("value, plain", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_environment_can_switch_twins_off(value, plain):
    """MINIGRAD_PLAIN=1 is plain() for the whole program; 0 and nothing leave the twins on."""
    code = (
        "import numpy as np, minigrad.ops as F\n"
        "from minigrad.testing.checks import record_twins\n"
        "with record_twins() as ran:\n"
        "    F.gelu(np.ones(3))\n"
        "print(sorted(ran))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"MINIGRAD_PLAIN": value},
    ).stdout
    assert out == ("[]\n" if plain else "['gelu']\n")


def test_the_twins_that_ran_are_recorded(planted):
    """Also one that fails; not one that declines; and afterwards all is as it was."""
    before = dict(TWINS)
    with record_twins() as ran:
        F.gelu(np.ones(3))
        F.layer_norm(np.ones((2, 3)))  # declined
        F.tanh(np.ones(3))  # has none
        nn.Linear(2, 3)(np.ones((1, 2), f32))
    assert ran == {"gelu", "linear"} and before == TWINS
    planted("gelu", lambda x: 1 / 0)
    with record_twins() as ran, pytest.raises(ZeroDivisionError):
        F.gelu(np.ones(3))
    assert ran == {"gelu"}


# ---- every twin ----------------------------------------------------------------------------------


def unchecked_twins():
    """Return what is wrong with the cases of the twins on this device."""
    found = [f"{name} has no case" for name in ON_CPU if not CASES.get(name)]
    for name in {name for name, device in TWINS if device == "cpu"}:
        found += declined(name, check_op(name, CASES.get(name, ()), with_pytorch=False))
    return found


def test_every_twin_has_a_case():
    """Its op is in the table, with a case that the twin does not decline."""
    assert {name for name, _ in TWINS} <= set(CASES)
    assert unchecked_twins() == []


def test_a_twin_without_a_case_is_noticed(planted):
    """One that declines every case of its op, and one whose op has no case."""
    planted("exp", lambda x: NotImplemented)
    planted("nonsense", lambda x: (x, lambda dout: (dout,)))
    message = "its twin declined every case, so it was not checked"
    assert sorted(unchecked_twins()) == [f"exp: {message}", f"nonsense: {message}"]


@pytest.mark.parametrize("name, device", TWINS)
def test_a_twin_has_the_signature_of_its_page(name, device):
    """The same names, in the same order, with the same defaults."""

    def signature(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    assert signature(TWINS[name, device]) == signature(OPS[name].__wrapped__)


@pytest.mark.parametrize("name, device", TWINS)
def test_a_twin_says_what_differs(name, device):
    """And, if it may decline, when it does."""
    function = TWINS[name, device]
    doc = inspect.getdoc(function)
    assert doc.startswith("Differs  ")
    source = inspect.getsource(sys.modules[function.__module__])
    if "NotImplemented" in inspect.getsource(function):
        assert "\nDeclines  " in doc and "NotImplemented" in source


def test_a_twin_that_writes_into_its_input_is_caught(planted):
    """Inputs and dout are read-only in the checks."""

    def gelu(x):
        x *= 1
        return x, lambda dout: (dout,)

    planted("gelu", gelu)
    with pytest.raises(ValueError, match="read-only"):
        by_page("gelu", CASES["gelu"][0])


DECLINED = {  # an op, and what its twin leaves to the page
    "layer_norm": [
        ([random(2, 3)], {}),
        ([random(2, 3), None, random(3)], {}),
    ],
    "linear": [([np.ones((2, 3), int), np.ones((4, 3), int)], {})],
    "attention": [([random(1, 2, 3, 4)] * 3, {"mask": np.ones(3, bool)})],
}


@pytest.mark.parametrize("name", DECLINED)
def test_a_declined_input_goes_to_the_page(name):
    """With the result of the page."""
    for inputs, options in DECLINED[name]:
        with record_twins() as ran:
            out = OPS[name](*inputs, **options)
        assert not ran
        with mg.plain():
            np.testing.assert_array_equal(out.data, OPS[name](*inputs, **options).data)


# ---- single twins --------------------------------------------------------------------------------


def test_heads_can_be_joined_where_they_are():
    """In memory out has the order of q, the gradients that of q, k and v: no copy is needed."""
    qkv = [Tensor(random(2, 3, 4, 8), requires_grad=True) for _ in range(3)]
    heads = [x.transpose(0, 2, 1, 3) for x in qkv]
    out, backward = TWINS["attention", "cpu"](*[x.data for x in heads])
    for array in (out, *backward(out)):
        assert array.transpose(0, 2, 1, 3).flags.c_contiguous


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_gelu_in_chunks(n):
    """Every entry is computed, at the ends of chunks too."""
    by_page("gelu", Case([(n,)]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_of_very_large_numbers(dtype):
    """Their squares overflow, and only there the squares are limited."""
    largest = np.finfo(dtype).max
    x = Tensor(np.array([-largest, -30, 0, 30, largest], dtype), requires_grad=True)
    with np.errstate(over="ignore"):
        out = F.gelu(x)
    out.backward(np.ones(5, dtype))
    np.testing.assert_array_equal(out.data, np.array([0, 0, 0, 30, largest], dtype))
    np.testing.assert_array_equal(x.grad, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("n", [0, 1, BLOCK, FEW, FEW + 1, FEW + BLOCK, 5 * BLOCK - 1])
def test_sums_of_rows_in_blocks(n):
    """Whole numbers, whose sums are exact: no row is left out or counted twice."""
    x = np.arange(3 * n, dtype=f32).reshape(n, 3) % 7
    np.testing.assert_array_equal(sum_of_rows(x), x.sum(0, dtype=np.float64))
    assert sum_of_rows(x).dtype == f32


@pytest.mark.parametrize("n_tokens", [SMALL, SMALL + 1])
@pytest.mark.parametrize("n_ids", [1, MANY, MANY + 1])
def test_embedding_of_few_and_many(n_tokens, n_ids):
    """By a product, or by sorting the ids."""
    ids = np.random.default_rng(0).integers(0, n_tokens, n_ids)
    by_pytorch("embedding", Case([ids, (n_tokens, 2)]))
    by_page("embedding", Case([ids, (n_tokens, 2)]))


@pytest.mark.parametrize("T", [1, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("options", [{}, {"causal": False}])
def test_attention_at_the_ends_of_blocks(T, options):
    """As many queries as fill blocks, one more and one less; with as many keys, and with more."""
    for N in (T, T + 7):
        shapes = [(1, 2, T, 3), (1, 2, N, 3), (1, 2, N, 3)]
        by_page("attention", Case(shapes, options))


def test_layer_norm_of_a_large_mean_in_float64():
    """The second mean is subtracted, but only where it counts."""
    for mean in (0, 1e3, 1e9):
        x, ones = Tensor(mean + random(4, 50), requires_grad=True), np.ones(50)
        out = F.layer_norm(x, ones)
        exact = x.data - mean
        exact = exact - exact.mean(-1, keepdims=True)
        right = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5)
        u = np.finfo(float).eps / 2  # x − mean is exact, so only the means cost digits
        np.testing.assert_allclose(
            out.data, right, rtol=0, atol=50 * u * (5 + 50 * u * mean) + 20 * u
        )


# ---- what a twin takes, and what it leaves to its page -------------------------------------------


def heads(T, N=None, D=4, dtype=f32):
    """Return q (2, 3, T, D), k and v (2, 3, N, D)."""
    N = T if N is None else N
    shapes = (2, 3, T, D), (2, 3, N, D), (2, 3, N, D)
    return [np.ones(shape, dtype) for shape in shapes]


def mixed(arrays, i):
    """Return the arrays with the i-th as float64."""
    return [x.astype(np.float64) if j == i else x for j, x in enumerate(arrays)]


@pytest.mark.parametrize(
    "arrays, options",
    [
        (heads(5), {}),
        (heads(1), {}),
        (heads(70), {}),
        (heads(5), {"causal": False}),
        (heads(5, 8), {}),
        (heads(5, 8), {"causal": False}),
        (heads(5, 2), {"causal": False}),
        (heads(5, 1), {"causal": False}),
        (heads(5, D=1), {}),
        (heads(5, dtype=np.float64), {"dropout": 0.5, "training": True}),
    ],
)
def test_attention_is_not_declined(arrays, options):
    """A GPT's calls, evaluation with earlier keys, and attention to other texts."""
    assert TWINS["attention", "cpu"](*arrays, **options) is not NotImplemented


@pytest.mark.parametrize(
    "arrays, options",
    [
        (heads(5), {"mask": np.ones((5, 5), bool)}),
        (heads(5, 4), {}),
        (heads(5, 0), {"causal": False}),
        (heads(5, D=0), {}),
        (heads(5, dtype=int), {}),
        *[(mixed(heads(5), i), {}) for i in range(3)],
        ([x[0] for x in heads(5)], {}),
        ([heads(5)[0], *[x[0, 0] for x in heads(5)[1:]]], {}),
        ([heads(5)[0], *[x[:, :1] for x in heads(5)[1:]]], {}),
        ([heads(5)[0], *[x[:1] for x in heads(5)[1:]]], {}),
        ([heads(5)[0], *[x[..., :3] for x in heads(5)[1:]]], {}),
        ([heads(5)[0], heads(5, 6)[1], heads(5)[2]], {"causal": False}),
        ([heads(5)[0], heads(5)[1], heads(5, 6)[2]], {"causal": False}),
    ],
)
def test_attention_leaves_the_rest_to_its_page(arrays, options):
    """Masks, mixed dtypes, integers, and shapes that the page broadcasts or refuses."""
    assert TWINS["attention", "cpu"](*arrays, **options) is NotImplemented


def test_the_products_and_masks_of_attention():
    """It multiplies by what it is given, and draws a mask of the dtype of the scores."""
    used = Mock(wraps=np.matmul)
    drawn = Mock(wraps=dropout_mask)
    q, k, v = heads(5)
    arguments = True, None, 0.5, True, (1, 2, 3, 0), 32, drawn
    _, backward = in_blocks(q, k, v, *arguments, matmul=used)
    assert used.call_count == 2
    backward(np.ones_like(q))
    assert used.call_count == 6
    (scores, p, key), _ = drawn.call_args
    assert (scores.shape, scores.dtype, p, key) == ((2, 3, 5, 5), f32, 0.5, (1, 2, 3, 0))


X, W, B = np.linspace(-1, 1, 12, dtype=f32).reshape(3, 4), np.ones(4, f32), np.ones(4, f32)
IDS = np.array([[0, 1], [2, 0]])
ROW = np.arange(4, dtype=f32) - 1.5  # four standard deviations are √20 = 4.47


@pytest.mark.parametrize(
    "name, arrays, takes",
    [
        ("gelu", [X], True),
        ("gelu", [X[:0]], True),
        ("gelu", [np.arange(3)], False),
        ("layer_norm", [X, W], True),
        ("layer_norm", [X, W, B], True),
        ("layer_norm", [X[0], W, B], True),
        ("layer_norm", [X, None, B], False),
        ("layer_norm", [X, None], False),
        ("layer_norm", [X[:0], W, B], False),
        ("layer_norm", [X[0, 0], W, B], False),
        ("layer_norm", [X, W[:3], B[:3]], False),
        ("layer_norm", [X, W, B[:3]], False),
        ("layer_norm", [X, W[None]], False),
        *[("layer_norm", mixed([X, W, B], i), False) for i in range(3)],
        ("layer_norm", [np.ones((3, 4), int)] * 2, False),
        *[("layer_norm", [ROW + mean, W, B], abs(mean) < 4.47) for mean in (-4.5, -4.4, 4.4, 4.5)],
        ("layer_norm", [X * np.array([[1], [np.nan], [1]], f32), W, B], False),
        ("linear", [X, np.ones((2, 4), f32)], True),
        ("linear", [X, np.ones((2, 4), f32), np.ones(2, f32)], True),
        ("linear", [X[0], np.ones((2, 4), f32), np.ones(2, f32)], True),
        ("linear", [X[None], np.ones((0, 4), f32), np.ones(0, f32)], True),
        ("linear", [X, np.ones((2, 3), f32)], False),
        ("linear", [X, W], False),
        ("linear", [X, np.ones((2, 4), f32), np.ones(3, f32)], False),
        ("linear", [X, np.ones((2, 4), f32), np.ones((1, 2), f32)], False),
        *[
            ("linear", mixed([X, np.ones((2, 4), f32), np.ones(2, f32)], i), False)
            for i in range(3)
        ],
        ("linear", [np.ones((3, 4), int), np.ones((2, 4), int)], False),
        ("embedding", [IDS, X], True),
        ("embedding", [IDS, W], False),
        ("embedding", [IDS, X[None]], False),
    ],
)
def test_what_the_other_twins_take(name, arrays, takes):
    """And nothing else: what they decline, the page computes or refuses."""
    result = TWINS[name, "cpu"](*arrays)
    assert (result is not NotImplemented) == takes


@pytest.mark.parametrize(
    "x, p, training, takes",
    [
        (X, 0.5, True, True),
        (X.astype(np.float64), 0.5, True, True),
        (X[:0], 0.5, True, True),
        (X, 0.5, False, False),
        (X, 0.0, True, False),
        (X[0, 0], 0.5, True, False),
        (X.astype(np.float16), 0.5, True, False),
        (np.ones((2, 2), int), 0.5, True, False),
    ],
)
def test_what_the_twin_of_dropout_takes(x, p, training, takes):
    """Where nothing is dropped, the page returns x itself."""
    result = TWINS["dropout", "cpu"](np.asarray(x), p, training=training, key=(1, 2, 3, 0))
    assert (result is not NotImplemented) == takes
