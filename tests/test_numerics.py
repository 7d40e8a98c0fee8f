"""The limits of floating-point arithmetic: infinite slopes, long sums, large means, float16.

Each test has a value that is known exactly, or computed in float64.  All tests run twice, on the
pages alone and with the twins.  Tolerances are in units of u, half the distance from 1 to the next
number: an operation rounds by at most u.
"""

import contextlib

import numpy as np
import pytest
from rounding import unit

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor
from minigrad.fast.arrays import BLOCK
from minigrad.internals.hooks import this_thread
from minigrad.optim import clip_grad_norm

f16, f32 = np.float16, np.float32
INF = np.inf
MILLION = 1_000_000
TENTH = f32(0.1)  # the number that float32 has for 0.1


@pytest.fixture(params=["page", "twin"], autouse=True)
def version(request, monkeypatch):
    """Run pages alone, or twins where there are some."""
    monkeypatch.setattr(this_thread, "plain", request.param == "page")
    return request.param


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), requires_grad=True)


def repeated(x, n):
    """Return a constant as n rows, without the memory of n rows."""
    return np.broadcast_to(x, (n, *np.shape(x)))


# ---- an infinite gradient meets a slope of 0 -----------------------------------------------------

KEY = (0, 0, 0, 0)  # of dropout: a mask that keeps two of four entries

FLAT = {  # a function that is 0 where it is flat, an input, and the gradient of Σ √f(x)
    "relu": (F.relu, [-1, 4], [0, 0.25]),
    "where, first": (lambda x: F.where(x > 0, x, 0), [-1, 4], [0, 0.25]),
    "where, second": (lambda x: F.where(x > 0, 0, -x), [1, -4], [0, -0.25]),
    "where, both": (lambda x: F.where(x > 0, x, x * x), [-2, 4], [-1, 0.25]),
    "abs": (F.abs, [0, 4, -4], [0, 0.25, -0.25]),
    "maximum": (lambda x: F.maximum(x, 0), [-1, 4], [0, 0.25]),
    "maximum, second": (lambda x: F.maximum(np.zeros(2), x), [-1, 4], [0, 0.25]),
    "minimum": (lambda x: -F.minimum(x, 0), [1, -4], [0, -0.25]),
    "minimum, second": (lambda x: -F.minimum(np.zeros(2), x), [1, -4], [0, -0.25]),
    "clip from below": (lambda x: F.clip(x, 0, 9), [-1, 4], [0, 0.25]),
    "clip from above": (lambda x: 1 - F.clip(x, None, 1), [2, 0.75], [0, -1]),
    "max": (lambda x: F.max(x), [-1, 0], [0, INF]),
    "max of a row": (lambda x: F.max(x.reshape(2, 2), axis=1), [-1, 0, 4, 1], [0, INF, 0.25, 0]),
    "max, tied": (lambda x: F.max(x), [0, -1, 0], [INF, 0, INF]),
    "power of 0": (lambda x: x**0 - 1, [3, 0], [0, 0]),
    "0 to a power": (lambda x: F.pow(0.0, x), [1, 2.5], [0, 0]),
    "unread entries": (lambda x: x[::2], [0, -1, 4], [INF, 0, 0.25]),
    "unread vectors": (lambda x: F.embedding([2, 0], x.reshape(3, 1)), [0, -1, 4], [INF, 0, 0.25]),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_place_stays_flat(name):
    """√y has the slope ∞ at y = 0.  Behind it the code must select 0, and not multiply 0 · ∞."""
    function, values, right = FLAT[name]
    x = leaf(values)
    with np.errstate(divide="ignore"):  # the slope of √ at 0
        F.sqrt(function(x)).sum().backward()
    np.testing.assert_array_equal(x.grad, right)


NAN = {  # a function, an input with a NaN, and its gradient: that of the NaN is not lost
    "relu": (F.relu, [np.nan, 4, -1], [1, 1, 0]),
    "max": (lambda x: F.max(x), [2, np.nan, 1], [0, 1, 0]),
    "max, two": (lambda x: F.max(x), [np.nan, np.nan, 1], [0.5, 0.5, 0]),
    "max of rows": (lambda x: F.max(x.reshape(2, 2), axis=1), [2, 3, np.nan, 1], [0, 1, 1, 0]),
}


INTEGERS = {  # a call whose integers would wrap, and the value in real numbers
    "softmax": (lambda: F.softmax(np.uint32([0, 1])), [0.26894142, 0.73105858]),
    "log_softmax": (lambda: F.log_softmax(np.int16([30_000, -30_000])), [0, -60_000]),
    "log_softmax, wide": (lambda: F.log_softmax(np.int32([2**31 - 1, -(2**31)])), [0, 1 - 2.0**32]),
    "sigmoid": (lambda: F.sigmoid(np.uint32([5])), [0.99330715]),
    "softmax of bytes": (lambda: F.softmax(np.int8([100, -100])), [1, 0]),
    "softmax of booleans": (lambda: F.softmax(np.array([True, False])), [0.73105858, 0.26894142]),
    "cross_entropy": (
        lambda: F.cross_entropy(np.array([[1, 2, 3], [0, 5, 1]]), [0, 1], reduction="none"),
        [2.40760596, 0.02474520],
    ),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_do_not_wrap(name):
    """Differences of them are taken as real numbers."""
    call, right = INTEGERS[name]
    out = call()
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.data, right, rtol=1e-5, atol=1e-7)


SEEN = {  # keys of two positions -> what position 0, which sees key 0 alone, and 1 get
    "a later NaN": ([1, np.nan], [3, np.nan]),
    "a later infinity": ([1, np.inf], [3, np.nan]),
    "a score of minus infinity alone": ([-np.inf, 1], [0, 4]),
    "a score that overflows": ([-1e300, 1], [0, 4]),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_key_that_is_not_seen_does_no_harm(name):
    """Whatever number it is."""
    keys, right = SEEN[name]
    k, v = (np.array(values, float).reshape(1, 1, 2, 1) for values in (keys, [3, 4]))
    q = np.full((1, 1, 2, 1), 1e10)
    with np.errstate(invalid="ignore", over="ignore"):
        out = F.attention(q, k, v)
    np.testing.assert_array_equal(out.data.ravel(), right)


@pytest.mark.parametrize("f", [F.maximum, F.minimum])
def test_both_operands_of_a_nan(f):
    """Both may have made it, so both get the gradient, as in PyTorch."""
    x, y = leaf([np.nan, 1, np.nan]), leaf([1, np.nan, np.nan])
    f(x, y).sum().backward()
    np.testing.assert_array_equal([x.grad, y.grad], np.ones((2, 3)))


@pytest.mark.parametrize("name", NAN)
def test_a_gradient_reaches_nan(name):
    """A NaN in the forward pass is where the gradient comes from, so it gets it."""
    function, values, right = NAN[name]
    x = leaf(values)
    out = function(x)
    out.sum().backward()
    assert np.isnan(out.data).any()
    np.testing.assert_array_equal(x.grad, right)


def test_a_logarithm_behind_relu():
    """As √, with the slope 1/x."""
    x = leaf([-1, 4])
    with np.errstate(divide="ignore"):
        F.log(F.relu(x)).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25])


def test_both_operands_of_a_maximum():
    """The one that is larger gets the infinite gradient, and the other 0; halves if they tie."""
    x, y = leaf([-1, 4, 0]), leaf([0, 1, 0])
    with np.errstate(divide="ignore"):
        F.sqrt(F.maximum(x, y)).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25, INF])
    np.testing.assert_array_equal(y.grad, [INF, 0, INF])


def test_what_dropout_drops_gets_no_gradient():
    """Also where the gradient of its output, 0, is infinite."""
    x = leaf(np.full((4, 8), 4.0))
    out = F.dropout(x, 0.5, training=True, key=KEY)
    with np.errstate(divide="ignore"):
        F.sqrt(out).sum().backward()
    dropped = out.data == 0
    assert 0 < dropped.sum() < dropped.size
    assert not x.grad[dropped].any()
    kept = x.grad[~dropped]  # √(2x) has the slope 1/√(2x)
    np.testing.assert_allclose(kept, 1 / np.sqrt(8), rtol=4 * unit(np.float64))


def test_an_ignored_row_gets_no_gradient():
    """Its loss is 0, where √ has an infinite slope."""
    logits = leaf(np.eye(3))
    losses = F.cross_entropy(logits, [0, 1, 2], ignore_index=1, reduction="none")
    with np.errstate(divide="ignore"):
        F.sqrt(losses).sum().backward()
    assert not logits.grad[1].any() and np.isfinite(logits.grad).all() and logits.grad[0].all()


def test_zero_to_a_negative_power():
    """0ʸ is infinite for y < 0, and falls as y grows: its slopes are infinite, not NaN."""
    x, y = leaf([0.0]), leaf([-1.0])
    with np.errstate(divide="ignore"):
        (x**y).sum().backward()
    np.testing.assert_array_equal(x.grad, [-INF])
    np.testing.assert_array_equal(y.grad, [-INF])


# ---- a mean far larger than the spread around it -------------------------------------------------


@pytest.mark.parametrize("C", [1, 5, 768])
@pytest.mark.parametrize("value", [1e5 + 0.1, -3e4, 0.1, 12345.678])
def test_constant_rows_are_normalized_to_zero(value, C):
    """The variance of a constant is 0, and so is the row after layer norm, with a bias the bias.

    A mean of C numbers is off by at most C u times their size.  The mean of what is left after it
    was subtracted is off by C u of that; √ε divides the rest.
    """
    x = np.full((2, C), value, f32)
    ones, bias = np.ones(C, f32), np.full(C, 0.5, f32)
    left = (C * unit(f32)) ** 2 * abs(value) / np.sqrt(1e-5) + 16 * unit(f32)
    assert abs(F.layer_norm(x, ones).data).max() <= left
    assert abs(F.layer_norm(x).data).max() <= left
    assert abs(F.layer_norm(x, ones, bias).data - 0.5).max() <= left
    assert F.mean(x, axis=1).data == pytest.approx([f32(value)] * 2, rel=2 * unit(f32))
    np.testing.assert_array_equal(F.var(x, axis=1).data, 0)  # its sums are in float64


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_a_large_mean_costs_no_digits(mean):
    """mean(x²) − μ² would subtract 10¹² from 10¹² to find a variance of 1; float32 has 7 digits.

    The first mean μ is off by up to C u · 10⁶.  What it leaves has a mean that is off by C u of its
    size; so is x̂, whose standard deviation is 1.
    """
    C = 768
    x = (mean + np.random.default_rng(0).standard_normal((4, C))).astype(f32)
    exact = x.astype(np.float64)
    exact = exact - exact.mean(-1, keepdims=True)
    variance = exact.var(-1, keepdims=True)
    xhat = exact / np.sqrt(variance + 1e-5)
    largest = abs(exact).max() + C * unit(f32) * mean
    off = C * unit(f32) * largest + 16 * unit(f32) * abs(xhat).max()
    for out in (F.layer_norm(x, np.ones(C, f32)), F.layer_norm(x)):
        np.testing.assert_allclose(out.data, xhat, rtol=0, atol=off)
    # Its sums are in float64.  The squares of rounded differences are off by 3 u.
    np.testing.assert_allclose(F.var(x, axis=1).data, variance[:, 0], rtol=8 * unit(f32))
    right = x.astype(np.float64).mean(-1)
    np.testing.assert_allclose(F.mean(x, axis=-1).data, right, rtol=2 * unit(f32))


def test_a_large_mean_costs_the_gradient_no_digits():
    """dx of layer norm has the same accuracy as x̂."""
    C, rng = 768, np.random.default_rng(0)
    x = leaf(1e6 + rng.standard_normal((4, C)), f32)
    dout = rng.standard_normal((4, C)).astype(f32)
    exact = leaf(x.data.astype(np.float64))
    F.layer_norm(exact, np.ones(C)).backward(dout)
    F.layer_norm(x, np.ones(C, f32)).backward(dout)
    off = C * unit(f32) * (4 + C * unit(f32) * 1e6)  # as in the test above
    np.testing.assert_allclose(x.grad, exact.grad, rtol=0, atol=off * abs(dout).max())


# ---- long sums -----------------------------------------------------------------------------------

ONE_ROUNDING = 2 * unit(f32)  # of a total in float64, and of the number that it is divided by


def total(n):
    """Return the exact sum of n float32 tenths."""
    return n * float(TENTH)


@pytest.mark.parametrize("axis", [0, None])
def test_a_sum_of_many_numbers(axis):
    """18 million ones: a float32 that counts them one by one stops at 2²⁴ = 16,777,216."""
    x = repeated(np.ones(1, f32), 18_000_000)
    assert F.sum(x, axis=axis).data == 18_000_000
    assert F.mean(x, axis=axis).data == 1
    x = repeated(np.full(1, TENTH), MILLION)
    assert F.sum(x, axis=axis).data == pytest.approx(total(MILLION), rel=ONE_ROUNDING)
    assert F.mean(x, axis=axis).data == pytest.approx(float(TENTH), rel=ONE_ROUNDING)


@pytest.mark.parametrize("axis", [0, None])
def test_a_variance_of_many_numbers(axis):
    """Half of them 1000.1 below their mean, and half above."""
    x = np.repeat(f32([[-1000.1], [1000.1]]), MILLION // 2, axis=0)
    right = float(f32(1000.1)) ** 2
    assert F.var(x, axis=axis).data == pytest.approx(right, rel=2 * ONE_ROUNDING)


def test_a_broadcast_operand_of_many_rows():
    """Its gradient is a sum over all rows."""
    dout = repeated(np.full(2, TENTH), MILLION)
    for function, slope in ((F.add, 1), (F.sub, -1), (F.mul, 1), (F.div, -1), (F.maximum, 0.5)):
        y = leaf([1, 1], f32)
        function(repeated(np.ones(2, f32), MILLION), y).backward(dout)
        np.testing.assert_allclose(y.grad, slope * total(MILLION), rtol=ONE_ROUNDING)


@pytest.mark.parametrize("n", [65_536, MILLION])
def test_parameters_that_many_rows_share(n, version):
    """The bias of linear, weight and bias of layer norm: float64 totals, in twins of blocks."""
    rounding = ONE_ROUNDING + (BLOCK * unit(f32) if version == "twin" else 0)
    dout = np.full((n, 2), TENTH)
    weight, bias = leaf(np.ones((2, 1)), f32), leaf([0, 0], f32)
    F.linear(np.ones((n, 1), f32), weight, bias).backward(dout)
    np.testing.assert_allclose(bias.grad, total(n), rtol=rounding)
    weight, bias = leaf([1, 1], f32), leaf([0, 0], f32)
    F.layer_norm(np.tile(f32([-1, 1]), (n, 1)), weight, bias).backward(dout)
    np.testing.assert_allclose(bias.grad, total(n), rtol=rounding)
    xhat = 1 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(weight.grad, [-total(n) * xhat, total(n) * xhat],
                               rtol=rounding + 4 * unit(f32))  # fmt: skip


@pytest.mark.parametrize("V", [3, 600])
@pytest.mark.parametrize("n", [65_536, MILLION])
def test_one_vector_read_many_times(n, V):
    """One id, or one index, repeated a million times: all contributions count."""
    dout, ids = np.full((n, 2), TENTH), np.full(n, 1)
    for read in (F.embedding, lambda ids, weight: weight[ids]):
        weight = leaf(np.ones((V, 2)), f32)
        read(ids, weight).backward(dout)
        right = np.zeros((V, 2))
        right[1] = total(n)
        np.testing.assert_allclose(weight.grad, right, rtol=ONE_ROUNDING)


def test_one_entry_read_many_times():
    """An index into a vector, and one of two arrays."""
    x, dout = leaf(np.zeros((2, 3)), f32), np.full(MILLION, TENTH)
    x[np.full(MILLION, 1), np.full(MILLION, 2)].backward(dout)
    np.testing.assert_allclose(x.grad, [[0, 0, 0], [0, 0, total(MILLION)]], rtol=ONE_ROUNDING)


def test_probabilities_of_many_tokens():
    """One token at e⁰ and a million at a tenth of that: the sum has all digits, on any axis."""
    x = np.full((MILLION + 1, 1), np.log(TENTH), f32)
    x[0] = 0
    sum_of_e = 1 + MILLION * np.exp(float(x[1, 0]))
    rounding = 4 * unit(f32)  # of e, the sum, the quotient, and a little
    assert F.softmax(x, axis=0).data[0] == pytest.approx(1 / sum_of_e, rel=rounding)
    assert F.log_softmax(x, axis=0).data[0] == pytest.approx(-np.log(sum_of_e), rel=rounding)
    dout = np.full_like(x, TENTH)
    logits = leaf(x, f32)
    F.log_softmax(logits, axis=0).backward(dout)
    right = float(TENTH) - total(MILLION + 1) / sum_of_e
    assert logits.grad[0] == pytest.approx(right, abs=2 * rounding * total(MILLION) / sum_of_e)


def test_a_loss_of_many_rows():
    """The mean of equal losses is the loss, and their sum a million times it."""
    logits, targets = repeated(np.zeros(2, f32), MILLION), np.zeros(MILLION, int)
    loss = float(f32(np.log(2)))
    assert F.cross_entropy(logits, targets).item() == pytest.approx(loss, rel=ONE_ROUNDING)
    summed = F.cross_entropy(logits, targets, reduction="sum").item()
    assert summed == pytest.approx(MILLION * loss, rel=ONE_ROUNDING)


@pytest.mark.parametrize("dtype", [f32, np.float64])
@pytest.mark.parametrize("share", [0.9, 1e-3, 0.51])
def test_gelu_of_numbers_whose_square_overflows(dtype, share):
    """x² and x³ are infinite; the value is x or 0, the slope 1 or 0, and there is no warning."""
    big = np.finfo(dtype).max * dtype(share)
    x = leaf([big, -big, np.sqrt(big), -np.sqrt(big), 0], dtype)
    out = F.gelu(x)
    out.sum().backward()
    np.testing.assert_array_equal(out.data, [big, 0, np.sqrt(big), 0, 0])
    np.testing.assert_array_equal(x.grad, [1, 0, 1, 0, 0.5])


@pytest.mark.parametrize("dtype", [f32, np.float64])
def test_gelu_where_the_gate_is_nearly_shut(dtype):
    """1 + tanh u, as the page writes it, keeps a part of a unit; the twin keeps leading digits."""
    x = np.linspace(-1, -9, 1000).astype(dtype)
    exact = x.astype(np.longdouble)
    u = np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3)
    s = 1 / (1 + np.exp(-2 * u))
    seen = s > np.finfo(dtype).tiny
    # The exponent, up to 66, is rounded a few times, and its error is a relative one of s.
    rounding = {"atol": 9 * unit(dtype)} if this_thread.plain else {"rtol": 4 * 66 * unit(dtype)}
    np.testing.assert_allclose(F.gelu(x).data[seen], (x * s)[seen], **{"rtol": 0} | rounding)


@pytest.mark.parametrize("y", [2.0, 2.5])
def test_a_power_of_a_negative_number_has_no_slope_in_its_exponent(y):
    """ln x does not exist there: the gradient is NaN, without a warning."""
    x, exponent = leaf([-2, -0.5, 4]), leaf([2, 2, y])
    F.pow(x, exponent).sum().backward()
    np.testing.assert_array_equal(exponent.grad, [np.nan, np.nan, 4**y * np.log(4)])
    np.testing.assert_allclose(x.grad, [-4, -1, y * 4 ** (y - 1)], rtol=4 * unit(np.float64))


def test_the_mean_of_nothing_is_nan():
    """0 / 0, as in NumPy and PyTorch; NumPy also warns."""
    with np.errstate(invalid="ignore"):
        assert np.isnan(F.mean(np.zeros((0, 3)), axis=0).data).all()
    assert F.mean(np.zeros((0, 3)), axis=1).shape == (0,)  # no groups: nothing to divide


# ---- float16: computed in float32, and rounded once ----------------------------------------------


def once(x):
    """Return exact numbers rounded to float16."""
    return np.asarray(x).astype(f16)


def test_gelu_of_large_halves():
    """300³ is far above 65,504, the largest float16."""
    x = leaf([300, -300, 60_000, -60_000], f16)
    out = F.gelu(x)
    out.backward(np.ones(4, f16))
    np.testing.assert_array_equal(out.data, f16([300, 0, 60_000, 0]))
    np.testing.assert_array_equal(x.grad, [1, 0, 1, 0])
    assert out.dtype == x.grad.dtype == f16


@pytest.mark.parametrize("scale", [12, 250])
def test_layer_norm_of_halves(scale):
    """The sum of 768 squares of 12 is above 65,504 too."""
    x = once(scale * np.random.default_rng(0).standard_normal((4, 768)))
    exact = F.layer_norm(x.astype(np.float64), np.ones(768)).data
    out = F.layer_norm(x, np.ones(768, f16)).data
    np.testing.assert_allclose(out, exact, rtol=1.01 * unit(f16), atol=1e-4 * unit(f16))


def test_layer_norm_of_zeros_of_halves():
    """An ε of 10⁻⁸ is 0 in float16; as a float32 it prevents 0/0."""
    x = leaf(np.zeros((2, 5)), f16)
    out = F.layer_norm(x, np.ones(5, f16), eps=1e-8)
    np.testing.assert_array_equal(out.data, 0)
    out.backward(np.ones((2, 5), f16))
    np.testing.assert_array_equal(x.grad, 0)


def test_clipping_of_halves():
    """300² is above 65,504: the norm is 300, and clipping to 1 divides by it."""
    x = leaf([1], f16)
    x.grad = f16([300])
    assert clip_grad_norm([x], 1.0) == 300
    assert x.grad == pytest.approx(1, rel=2 * unit(f16))


@pytest.mark.parametrize("name", ["max", "mean"])
def test_shares_among_many_halves(name):
    """1/70,000 is 1.43·10⁻⁵, though 70,000 itself is not a float16."""
    x = leaf(np.ones(70_000), f16)
    out = getattr(x, name)()
    assert out.item() == 1
    out.backward()
    np.testing.assert_array_equal(x.grad, once(1 / 70_000))
    assert x.grad[0] > 0


def test_counting_with_halves():
    """A float16 that counts one by one stops at 2¹¹ = 2048."""
    x = np.ones((4096, 3), f16)
    np.testing.assert_array_equal(F.sum(x, axis=0).data, 4096)
    dout = np.ones((4096, 3), f16)
    bias = leaf(np.zeros(3), f16)
    F.linear(x, np.ones((3, 3), f16), bias).backward(dout)
    np.testing.assert_array_equal(bias.grad, 4096)
    added = leaf(np.zeros(3), f16)
    (x + added).backward(dout)
    np.testing.assert_array_equal(added.grad, 4096)
    for V in (2, 600):
        table = leaf(np.zeros((V, 3)), f16)
        F.embedding(np.zeros(4096, int), table).backward(dout)
        np.testing.assert_array_equal(table.grad[0], 4096)
    vector = leaf(np.zeros(3), f16)
    vector[np.zeros(4096, int)].backward(np.ones(4096, f16))
    np.testing.assert_array_equal(vector.grad, [4096, 0, 0])


def test_a_variance_of_halves():
    """300² is above 65,504; so is the sum of 4096 squares of 5."""
    assert F.var(f16([-200, 200])).item() == 40_000
    assert F.var(np.repeat(f16([-5, 5]), 2048)).item() == 25


def test_probabilities_of_many_halves():
    """70,000 equal scores: each token has a probability of 1/70,000, and costs ln 70,000."""
    x = np.zeros(70_000, f16)
    np.testing.assert_array_equal(F.softmax(x).data, once(1 / 70_000))
    np.testing.assert_array_equal(F.log_softmax(x).data, once(-np.log(70_000)))
    assert F.cross_entropy(x, 3).item() == once(np.log(70_000))


def test_attention_of_large_halves():
    """Scores of 300 · 300 · √D are above 65,504: the larger one takes all."""
    q = f16(np.full((1, 1, 1, 4), 300))
    k = f16(np.stack([np.full((1, 1, 4), 300), np.full((1, 1, 4), -300)], axis=2))
    v = f16(np.arange(8).reshape(1, 1, 2, 4))
    np.testing.assert_array_equal(F.attention(q, k, v, causal=False).data, v[:, :, :1])


# ---- what one row, or a block of none, does to others --------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_row_costs_the_others_no_digits(bad):
    """Rows of a layer norm are independent: constant rows give 0 beside one that is not finite."""
    x = np.full((3, 768), 1e5 + 0.1, np.float32)
    x[0] = bad
    with np.errstate(invalid="ignore"):
        out = F.layer_norm(x, np.ones(768, np.float32)).data
    np.testing.assert_array_equal(out[1:], np.zeros((2, 768)))


@pytest.mark.parametrize("value, width", [(1e6 + 0.3, 768), (9.6e6, 1600)])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_constant_rows_have_no_deviation(value, width, eps):
    """Whatever the constant, the width and ε: x − μ is 0."""
    x = np.full((2, width), value, np.float32)
    assert not F.layer_norm(x, np.ones(width, np.float32), eps=eps).data.any()


def test_many_rows_without_outputs():
    """A linear map to nothing has gradients of no entries, and dx = 0."""
    x = Tensor(np.ones((1200, 3)), requires_grad=True)
    weight, bias = Tensor(np.ones((0, 3)), True), Tensor(np.ones(0), True)
    F.linear(x, weight, bias).sum().backward()
    assert not x.grad.any() and weight.grad.shape == (0, 3) and bias.grad.shape == (0,)


@pytest.mark.parametrize("op", [F.linear, F.layer_norm])
@pytest.mark.parametrize("without_twins", [False, True])
def test_a_bias_of_integers_is_refused(op, without_twins):
    """By page and twin with the same words."""
    x, weight = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)
    weight = weight if op is F.linear else weight[0]
    with mg.plain() if without_twins else contextlib.nullcontext():
        with pytest.raises(TypeError, match=r"bias int64 would give float64"):
            op(x, weight, np.arange(3))


@pytest.mark.parametrize("causal", [False, True])
def test_scores_of_minus_infinity_hide_their_keys(causal):
    """As a mask does: the page and its twin give the other keys, or 0 where there is none."""
    rng = np.random.default_rng(1)
    q, k, v = abs(rng.standard_normal((3, 1, 2, 4, 3)))
    k[:, :, 1] = -np.inf
    mask = np.arange(4) != 1
    expected = F.attention(q, np.where(mask[:, None], k, 0), v, causal=causal, mask=mask).data
    np.testing.assert_allclose(F.attention(q, k, v, causal=causal).data, expected)
    nothing = F.attention(q, np.full_like(k, -np.inf), v, causal=causal).data
    np.testing.assert_array_equal(nothing, 0)
