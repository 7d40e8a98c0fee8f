"""Two judges, independent of each other: finite differences, and PyTorch where it is installed.

Both take a case in float64 under a random cotangent `dout`.  Never under ones: the gradient of
softmax(x).sum() is exactly zero, and a broken backward would pass.  For the same reason a case
whose gradient should be zero is refused: it proves nothing.

A judge returns the worst relative error that it saw, and raises AssertionError above its tolerance.
What both take on trust is dropout's mask, with its factor 1/(1 − p), which is test_random.py's
subject; and PyTorch's verdict on getitem leaves it to NumPy which entry goes where.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minigrad import random
from minigrad.device import CPU, array_module, to_device, to_host
from minigrad.gradcheck import slope
from minigrad.proof.cases import ROW, SEED, STEP, Case, Positive, Same
from minigrad.tensor import OPS, Tensor, no_grad


def strided(array):
    """The same entries, with gaps between them."""
    wide = array_module(array).zeros([2 * n for n in array.shape], array.dtype)
    every_other: tuple = (..., *[slice(None, None, 2)] * array.ndim)
    view = wide[every_other]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable] = {
    "contiguous": lambda array: array_module(array).ascontiguousarray(array),
    "transposed": lambda array: array_module(array).asfortranarray(array),
    "strided": strided,
}


class Trial(NamedTuple):
    """A case made concrete, in one memory layout and one dtype."""

    inputs: list  # what the op, or the module, is called with
    parameters: list[Tensor]  # of the module
    leaves: list[Tensor]  # who is owed a gradient: some of the inputs, and the parameters
    run: Callable[[], Tensor]  # the output, from the leaves as they then are
    draw: Callable  # a shape -> a random array, in the layout and dtype


def prepare(
    name: str, case: Case, layout="contiguous", dtype=np.float64, held=np.float32, device=CPU
) -> Trial:
    """Draw what a case leaves open: numbers in `dtype`, rounded to what `held` can hold."""
    rng = np.random.default_rng([*LAYOUTS].index(layout))

    def lay(array):
        array = to_device(array, device)
        array = LAYOUTS[layout](array).reshape(array.shape)  # which had made (1,) of ()
        if device == CPU:
            array.flags.writeable = False  # an op that writes into its input, or into dout, fails
        return array

    def exact(array):
        return lay(np.asarray(array, held).astype(dtype))

    def draw(shape):
        positive = isinstance(shape, Positive)
        return exact(rng.uniform(0.5, 2, shape) if positive else rng.standard_normal(shape))

    inputs: list = []
    leaves = []
    for x in case.inputs:
        if isinstance(x, Same):
            x = inputs[x]
        elif isinstance(x, tuple) or (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
            x = Tensor(draw(x) if isinstance(x, tuple) else exact(x), requires_grad=True)
            leaves.append(x)
        elif isinstance(x, np.ndarray):
            x = lay(x)
        inputs.append(x)

    if case.build is None:
        function, options, parameters = OPS[name], case.options, []
    else:
        function, options = case.build(**case.options), {}
        parameters = function.parameters()
        for parameter in parameters:
            parameter.data = draw(parameter.shape)

    def run():
        with random.at(SEED, STEP, ROW):  # the same dropout mask every time
            if name in ("concat", "stack"):
                return function(inputs, **options)
            return function(*inputs, **options)

    return Trial(inputs, parameters, leaves + parameters, run, draw)


def require(holds, objection):
    """`assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(objection)


def gradients(name, trial):
    """(out, dout, the gradient of every leaf) of a trial, as NumPy arrays."""
    out = trial.run()
    dout = trial.draw(out.shape)
    require(np.isfinite(out.numpy()).all(), f"{name}: out is not finite")
    out.backward(dout)
    for i, x in enumerate(trial.leaves):
        require(x.grad is not None, f"{name}: d{i}: no gradient arrives")
    return out.numpy(), to_host(dout), [to_host(x.grad) for x in trial.leaves]


def by_finite_differences(name, case, layout="contiguous", tolerance=1e-7):
    """Each leaf moves along a random direction: does the loss Σ dout ⊙ out move as foretold?

    It foretells the slope Σ dx ⊙ d.  Over directions d of standard normal entries this spreads
    about 0 by ‖dx‖, so the error is relative to ‖dx‖.  The tolerance is some 20 times the worst
    that the table shows; what limits it is said in gradcheck.slope.
    """
    trial = prepare(name, case, layout)
    out, dout, grads = gradients(name, trial)

    @no_grad()
    def loss():
        return float((dout * trial.run().data).sum())

    worst = 0.0
    for i, (x, dx) in enumerate(zip(trial.leaves, grads, strict=True)):
        if 0 in (dx.size, out.size):
            continue  # nothing moves
        direction = trial.draw(x.shape)
        foretold, seen = float((dx * direction).sum()), slope(loss, x, direction)
        require(not abs(seen) < 1e-6, f"{name}: d{i} is zero, which checks nothing")
        error = abs(foretold - seen) / np.linalg.norm(dx)
        require(
            error <= tolerance,
            f"{name}: d{i}: along a random direction backward foretells a slope of {foretold:.9g}, "
            f"finite differences see {seen:.9g}",
        )
        worst = max(worst, error)
    return worst


def by_pytorch(name, case, layout="contiguous", tolerance=1e-12, zero_is_fine=False):
    """The output and every gradient are PyTorch's, relative to the largest entry of each.

    Both round at 10⁻¹⁶, in another order; the tolerance leaves room for long sums.
    """
    import torch

    from minigrad.proof.pytorch import REFERENCES

    trial = prepare(name, case, layout)
    twins = {x: torch.tensor(x.data, requires_grad=True) for x in trial.leaves}

    def theirs(x):
        if isinstance(x, Tensor):
            return twins[x]
        return torch.tensor(x) if isinstance(x, np.ndarray) else x

    out, dout, ours = gradients(name, trial)
    reference = REFERENCES[name](*map(theirs, trial.inputs + trial.parameters), **case.options)
    right = torch.autograd.grad(reference, list(twins.values()), torch.tensor(dout))

    def compare(ours, theirs, what):
        theirs = theirs.detach().numpy()
        require(ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch's {theirs.shape}")
        size = abs(theirs).max(initial=0)
        error = float(abs(ours - theirs).max(initial=0) / (size or 1))
        require(error <= tolerance, f"{what}: off by {error:.3g} of PyTorch's largest entry")
        return error

    worst = compare(out, reference, f"{name}: out")
    for i, (dx, right_dx) in enumerate(zip(ours, right, strict=True)):
        if not zero_is_fine and 0 not in (dx.size, dout.size):
            zero = float(abs(right_dx).max()) < 1e-3
            require(not zero, f"{name}: d{i} is zero, which checks nothing")
        worst = max(worst, compare(dx, right_dx, f"{name}: d{i}"))
    return worst
