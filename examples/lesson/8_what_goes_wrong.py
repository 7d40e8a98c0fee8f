"""Six backward rules that are wrong, and what a check by finite differences says of each.

The forward pass of all six is right.  The shape of one gradient gives it away; with the other five
nothing looks amiss, and a model would only learn badly.  gradcheck weighs the
entries of the output at random, so that none hides another, moves every entry of every input a
little, and compares how the weighted sum moves with what backward() says.

    python examples/lesson/8_what_goes_wrong.py
"""

import numpy as np

import minigrad as mg
import minigrad.ops as F
from minigrad.gradcheck import gradcheck
from minigrad.tensor import op

x = np.array([[2.0, 1.0, 0.1], [-1.0, 0.5, 0.3]])
row = np.array([1.0, -1.0, 0.5])


def check(title, broken, *inputs):
    """Print what gradcheck, or the tape itself, says of a broken op."""
    try:
        verdict = f"not found: the worst error is {gradcheck(broken, inputs):.0e}"
    except (AssertionError, RuntimeError) as error:
        verdict = str(error).removeprefix("gradcheck: ")
    print(f"{title}\n   {verdict}\n")


@op
def square(x):
    def backward(dout):
        return (dout * x,)  # right: dout * 2 * x

    return x * x, backward


check("1. A factor is missing, in x * x", square, x)


@op
def add_row(x, row):
    def backward(dout):
        return dout, dout  # right: dout, dout.sum(0), since all rows of x share this one

    return x + row, backward


check("2. What was broadcast is not summed, in x + row", add_row, x, row)


@op
def rows_0_1_0(x):
    def backward(dout):
        dx = np.zeros_like(x)
        dx[[0, 1, 0]] = dout  # right: np.add.at(dx, [0, 1, 0], dout), since row 0 is used twice
        return (dx,)

    return x[[0, 1, 0]], backward


check("3. A gradient is assigned, not added up, in x[[0, 1, 0]]", rows_0_1_0, x)


@op
def normalize(x):
    r = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    out = (x - x.mean(-1, keepdims=True)) * r

    def backward(dout):
        stretch = out * (dout * out).mean(-1, keepdims=True)
        return (r * (dout - stretch),)  # right: r * (dout - dout.mean(-1, keepdims=True) - stretch)

    return out, backward


check("4. The mean is taken for a constant, in layer norm", normalize, x)


@op
def softmax_by_entry(x):
    e = np.exp(x)
    out = e / e.sum(-1, keepdims=True)

    def backward(dout):
        return (dout * out * (1 - out),)  # a score moves all entries of its row, not its own alone

    return out, backward


check("5. Every entry is taken for itself, in softmax", softmax_by_entry, x)


@op
def softmax_upside_down(x):
    e = np.exp(x)
    out = e / e.sum(-1, keepdims=True)

    def backward(dout):
        average = (dout * out).sum(-1, keepdims=True)
        return (out * (average - dout),)  # right: out * (dout - average)

    return out, backward


check("6. A sign is wrong, in softmax", softmax_upside_down, x)

print("The last mistake once more, where the loss is out.sum(), as in many a test:")
for name, softmax in (("this rule gives", softmax_upside_down), ("the right rule ", F.softmax)):
    scores = mg.Tensor(x, requires_grad=True)
    softmax(scores).sum().backward()
    print(f"   {name}", *(f"{abs(entry):.10f}" for entry in scores.grad[0]))
print("""
The entries of a softmax sum to 1, whatever the scores.  So the gradient of their sum
is 0, and a wrong sign or factor leaves it 0.  gradcheck weighs the entries at random,
and so finds it.""")
