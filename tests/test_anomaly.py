"""detect_anomaly names the first op that makes a NaN or an infinity, and where it is."""

import inspect
import re
import threading

import numpy as np
import pytest

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from minigrad import nn
from minigrad.internals.hooks import this_thread
from minigrad.tensor import OPS, Tensor, op

MODEL_PY = r"gpt_numpy/model\.py"


def model(**options):
    mg.manual_seed(0)
    shape = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 2, "n_embd": 12}
    return GPT(GPTConfig(**shape | options, bias=False))


IDS = np.arange(16).reshape(2, 8) % 11


def anomaly(run):
    """Return the message that detect_anomaly() raises in `run()`."""
    with pytest.raises(FloatingPointError) as caught, mg.detect_anomaly():
        run()
    return str(caught.value)


def this_line():
    """Return the number of the line from which it is called."""
    return inspect.currentframe().f_back.f_lineno


def test_the_first_op_going_forward():
    """Op, module path, inputs with shapes and ranges, the result, and the line of the model."""
    gpt = model()
    gpt.h[2].mlp.fc.weight.data[:] = 0
    gpt.h[2].mlp.fc.weight.data[:, 0] = 3e38
    message = anomaly(lambda: gpt(IDS))
    head, x, weight, out, line = message.split("\n")
    assert head == "linear, forward, in h.2.mlp.fc: Inf in out"
    assert re.fullmatch(r"    x       \(2, 8, 12\) float32, from -\d\S* to \d\S*", x)
    assert weight == "    weight  (48, 12) float32, from 0 to 3e+38"
    assert re.fullmatch(r"    out     \(2, 8, 48\) float32, .*\d+ Inf.*", out)
    assert re.fullmatch(rf"in {MODEL_PY}, line \d+: return .*self\.fc\(x\).*", line)


def test_the_first_op_going_backward():
    """The derivative of √x at 0 is infinite: dout, dx, and the line of the call."""
    x = Tensor([4.0, 0.0], requires_grad=True)

    def run():
        nonlocal line
        line = this_line() + 1
        y = F.sqrt(x)
        (y * 2.0).sum().backward()

    line = 0
    assert anomaly(run).split("\n") == [
        "sqrt, backward: Inf in dx",
        "    x     (2,) float32, from 0 to 4",
        "    dout  (2,) float32, from 2 to 2",
        "    dx    (2,) float32, from 0.5 to 0.5, 1 Inf",
        f"in tests/test_anomaly.py, line {line}: y = F.sqrt(x)",
    ]


def test_backward_of_a_module():
    """The path is that of the module that called the op in the forward pass."""
    gpt = model()
    gpt.h[1].attn.value.weight.data *= 1e-30
    gpt.h[1].attn.proj.weight.data *= 1e35

    def run():
        F.cross_entropy(gpt(IDS), IDS).backward(np.float32(1e9))

    message = anomaly(run)
    assert re.match(r"linear, backward, in h\.1\.attn\.\w+: .* dweight", message)
    assert "self.value(x)" in message or "self.proj(y)" in message


def test_a_gradient_whose_square_overflows(monkeypatch):
    """It is finite, but AdamW's mean of squares is not."""
    w = Tensor(np.full((2, 3), 1e10, np.float32), requires_grad=True)
    x = Tensor(np.full((4, 3), 1e20, np.float32))
    message = anomaly(lambda: F.linear(x, w).backward(np.ones((4, 2))))
    assert message.startswith(
        "linear, backward: the square of an entry of dweight overflows float32\n"
    )
    assert "    dweight  (2, 3) float32, from 4e+20 to 4e+20" in message


@pytest.mark.parametrize(
    "size, n, dtype", [(300, 1, np.float16), (1, 70_000, np.float16), (1e17, 10**6, np.float32)]
)
def test_a_gradient_that_clipping_and_adamw_can_square(size, n, dtype):
    """They compute with float16 in float32, and clipping adds squares up in float64."""
    w = Tensor(np.ones(n, dtype), requires_grad=True)
    with mg.detect_anomaly():
        (w * dtype(1)).backward(np.full(n, size, dtype))
    # float32 rounds 1e17 by 2⁻²⁴ of it at most; the other numbers are exact.
    norm = mg.optim.clip_grad_norm([w], 1.0).item()
    assert norm == pytest.approx(size * n**0.5, rel=2.0**-23)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_weight_is_named_where_it_is_met(bad):
    """No op made it, so the op that received it is named."""
    gpt = model()
    gpt.h[1].ln_2.weight.data[3] = bad
    head, *_ = anomaly(lambda: gpt(IDS)).split("\n")
    kind = "NaN" if np.isnan(bad) else "Inf"
    assert head == f"layer_norm, forward, in h.1.ln_2: received {kind} in weight"


def test_a_bad_input_is_named_where_it_is_met():
    """A NaN in the data, or in the gradient that backward() is called with."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert anomaly(lambda: x * Tensor([np.nan, 1.0])).startswith("mul, forward: received NaN in ")
    message = anomaly(lambda: (x * 2.0).backward(np.array([np.nan, 1.0])))
    assert message.startswith("mul, backward: received NaN in dout\n")


def test_a_mask_of_infinities_is_no_anomaly():
    """A −∞ that the user put in is allowed as long as no NaN comes of it."""
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    with mg.detect_anomaly():
        y = F.softmax(x + np.array([[0.0, -np.inf], [0.0, 0.0]]))
        y.sum().backward()
    np.testing.assert_array_equal(y.data[0], [1, 0])
    with mg.detect_anomaly():
        seen = np.array([[True, False], [True, True]])
        F.softmax(F.where(seen, x, -np.inf)).sum().backward()
        assert (x - np.inf).data.max() == -np.inf
    message = anomaly(lambda: F.softmax(x + np.full((2, 2), -np.inf)))
    assert message.startswith("softmax, forward: NaN in out\n")


def test_several_gradients_that_overflow_together():
    """Each gradient is finite, their sum is not."""
    x = Tensor([3e38], requires_grad=True)

    def run():
        y = x * 1.0
        F.concat([y, y, y]).backward(np.full(3, 2e38))

    assert anomaly(run).startswith("mul, backward: received Inf in dout\n")


def test_a_node_recorded_before_has_its_op_alone():
    """Inputs and line are unknown; the message says to watch the forward pass too."""
    x = Tensor([0.0], requires_grad=True)
    y = F.sqrt(x)
    message = anomaly(lambda: y.backward())
    assert message.split("\n")[0] == "sqrt, backward: Inf in the gradient of input 0"
    assert "detect_anomaly() around the forward pass" in message.split("\n")[-1]


def test_it_can_be_off_and_nested():
    """Off, nothing is checked.  After an inner block, with an error or without, the outer is on."""
    bad = Tensor([0.0], requires_grad=True)

    def infinite():
        with np.errstate(divide="ignore"):
            return F.log(bad)

    assert np.isinf(infinite().data)
    with mg.detect_anomaly():
        with pytest.raises(FloatingPointError), mg.detect_anomaly():
            infinite()
        with pytest.raises(FloatingPointError):
            infinite()
        other = threading.Thread(target=infinite)
        other.start()
        other.join()
    assert np.isinf(infinite().data) and this_thread.hook is None


def test_modules_that_a_parent_does_not_know():
    """A module that is in no attribute of its caller has no path, so its class is named."""

    class Odd(nn.Module):
        def forward(self, x):
            return linear(x)

    linear, x = nn.Linear(2, 2), np.full((1, 2), 9, np.float32)
    linear.weight.data[:] = 3e38
    odd = Odd()
    assert "in Odd, Linear: Inf in out" in anomaly(lambda: odd(x))
    assert "in Linear: Inf in out" in anomaly(lambda: linear(x))
    odd.hidden = [linear]
    assert "in hidden.0: Inf in out" in anomaly(lambda: odd(x))


def test_numbers_and_lists_are_described():
    """A plain number has its value, an array of a list its index."""
    x = Tensor([1e38, 1.0], requires_grad=True)
    assert "    y    1000.0\n" in anomaly(lambda: x * 1000.0)
    with pytest.raises(FloatingPointError) as caught, mg.detect_anomaly():
        F.stack([x, np.array([np.nan, 1], np.float32)])
    assert "stack, forward: received NaN in arrays[1]" in str(caught.value)


def test_the_line_of_an_op_of_ones_own(monkeypatch):
    """An op outside minigrad is user code, but the line is the one that calls it."""
    monkeypatch.setitem(OPS, "wrong", None)

    @op
    def wrong(x):
        return x + np.float32(np.inf), lambda dout: (dout,)

    line = this_line() + 1
    message = anomaly(lambda: wrong(Tensor([1.0])))
    assert f"in tests/test_anomaly.py, line {line}: message = anomaly(lambda: wrong" in message


def test_on_a_gpu(gpu):
    """The message is the same for arrays on a GPU."""
    x = Tensor(np.array([4.0, 0.0])).to("gpu")
    x.requires_grad = True
    message = anomaly(lambda: F.sqrt(x).sum().backward())
    assert message.startswith("sqrt, backward: Inf in dx\n")
    assert "    x     (2,) float64, from 0 to 4\n" in message
