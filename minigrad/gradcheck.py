"""Is a derivative right?  Move each input a little: does the output move as predicted?

`gradcheck` checks an op of your own; `python -m minigrad.gradcheck` every op in minigrad.
"""

import numpy as np

from minigrad.tensor import Tensor, no_grad


def directional_derivative(loss, x, direction, step=1e-6):
    """Return how fast the number loss() grows as the Tensor x moves along `direction`, like x.

    A central difference, with d the direction and h the step:

        (loss(x + h d) − loss(x − h d)) / 2h  =  loss' + h² loss''' / 6 + ...

    The formula itself is off by h² loss''' / 6, about 10⁻¹³ loss'''.  Rounding costs 10⁻¹⁶ / h,
    about 10⁻¹⁰ times the size of loss, and limits the accuracy of the check.
    """
    start = x.data
    x.data = start + step * direction
    above = loss()
    x.data = start - step * direction
    below = loss()
    x.data = start
    return (above - below) / (2 * step)


def gradcheck(fn, inputs, step=1e-6, tolerance=1e-6):
    """Return the largest relative error of the gradients of fn(*inputs); raise above tolerance.

    fn          a function of Tensors that returns a Tensor and gives the same for the same input
    inputs      Tensors, arrays or numbers.  Floats are checked as float64 copies; integers are
                passed on.  Other Tensors that fn uses, such as a module's weights, are not checked:
                pass them here.

    With a random dout, loss = Σ dout ⊙ fn(x) is one number.  Each entry of each input is moved by
    itself, and the slope of the loss is compared with the entry of the gradient that backward()
    computes.  The error is relative to the largest entry of that input's gradient, or to 10⁻⁶ where
    even that is smaller.  So a small entry beside a very large one is not checked: an entry of 1
    beside one of 10⁶.  The AssertionError shows the first entry that disagrees: its index and the
    two values.
    """
    arrays = [x.numpy() if isinstance(x, Tensor) else np.asarray(x) for x in inputs]
    arrays = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    tensors = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    out = fn(*tensors)
    dout = np.asarray(np.random.default_rng(0).standard_normal(out.shape))
    dout.flags.writeable = False  # the loss below needs it as it is
    if not out.requires_grad:
        raise AssertionError("gradcheck: the result does not depend on any floating-point input")
    if not any(x.requires_grad and x.data.size for x in tensors):
        raise AssertionError("gradcheck: the inputs have no entries, so nothing can be checked")
    out.backward(dout)

    @no_grad()
    def loss():
        return float((dout * fn(*tensors).numpy()).sum())

    worst = 0.0
    for i, x in enumerate(tensors):
        if not x.requires_grad:
            continue
        analytic = np.zeros(x.shape) if x.grad is None else x.grad
        numeric = np.empty(x.shape)
        for index in np.ndindex(x.shape):
            direction = np.zeros(x.shape)
            direction[index] = 1
            numeric[index] = directional_derivative(loss, x, direction, step)
        both = abs(np.stack([analytic, numeric]))
        size = both.max(initial=1e-6, where=np.isfinite(both))
        error = abs(analytic - numeric) / size
        wrong = np.argwhere(~(error <= tolerance))  # so that NaN counts as wrong
        if len(wrong):
            index = tuple(map(int, wrong[0]))
            raise AssertionError(
                f"gradcheck: input {i}, entry {index}: backward gives {analytic[index]:.9g}, "
                f"finite differences {numeric[index]:.9g}"
            )
        worst = max(worst, error.max(initial=0))
    return float(worst)


if __name__ == "__main__":
    from minigrad.testing.table import main

    raise SystemExit(main())
