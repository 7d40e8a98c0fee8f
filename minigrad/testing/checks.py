"""Three independent checks: finite differences, PyTorch where it is installed, and a twin's page.

Each takes a case in float64, with a random gradient `dout` of the output.  It is never all ones,
because the gradient of softmax(x).sum() is exactly zero, and a broken backward would pass.  For the
same reason a case whose gradient should be zero is refused: it proves nothing.

A check returns the largest relative error that it found, and raises AssertionError if that is above
its tolerance.  It runs what a user would get: the twin where there is one and it does not decline,
otherwise the page; inside `with mg.plain():` always the page.

PyTorch's side takes two things from here: the mask of dropout, with its factor 1/(1 − p), which
tests/test_random.py is about; and for getitem NumPy says which entry goes where.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minigrad import random
from minigrad.backend import CPU, array_module, to_device, to_numpy
from minigrad.fast import plain
from minigrad.gradcheck import directional_derivative
from minigrad.tensor import OPS, TWINS, Tensor, no_grad
from minigrad.testing.cases import ROW, SEED, STEP, Case, Positive, Same


def strided(array):
    """Return the same entries, with gaps between them in memory."""
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
    leaves: list[Tensor]  # those that get a gradient: some of the inputs, and the parameters
    run: Callable[[], Tensor]  # computes the output from the leaves as they are now
    draw: Callable  # a shape -> a random array, in the layout and dtype


def prepare(
    name: str, case: Case, layout="contiguous", dtype=np.float64, held=np.float32, device=CPU
) -> Trial:
    """Return a Trial, with random numbers in `dtype` that are exact in the dtype `held` too."""
    rng = np.random.default_rng([*LAYOUTS].index(layout))

    def lay(array):
        array = to_device(array, device)
        array = LAYOUTS[layout](array).reshape(array.shape)  # the layout makes (1,) of ()
        if device == CPU:
            array.flags.writeable = False  # an op that writes into its input or into dout fails
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
        function, options, parameters = OPS[name], dict(case.options), []
        if isinstance(mask := options.get("mask"), np.ndarray):
            options["mask"] = lay(mask)
    else:
        function, options = case.build(**case.options), {}
        parameters = function.parameters()
        for parameter in parameters:
            parameter.data = draw(parameter.shape)

    def run():
        with random.rng_scope(SEED, STEP, ROW):  # the same dropout mask every time
            if name in ("concat", "stack"):
                return function(inputs, **options)
            return function(*inputs, **options)

    return Trial(inputs, parameters, leaves + parameters, run, draw)


def require(holds, failure):
    """`assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(failure)


class Results(NamedTuple):
    """What a trial gives, as NumPy arrays."""

    out: np.ndarray
    dout: np.ndarray
    grads: list[np.ndarray]  # one per leaf


def gradients(name, trial):
    """Return the Results of a trial."""
    out = trial.run()
    dout = trial.draw(out.shape)
    require(np.isfinite(out.numpy()).all(), f"{name}: out is not finite")
    out.backward(dout)
    for i, x in enumerate(trial.leaves):
        require(x.grad is not None, f"{name}: d{i}: no gradient arrives")
    return Results(out.numpy(), to_numpy(dout), [to_numpy(x.grad) for x in trial.leaves])


# ---- finite differences --------------------------------------------------------------------------


def by_finite_differences(name, case, layout="contiguous", tolerance=1e-7):
    """Compare the gradient of every leaf with a finite difference along a random direction d.

    The loss is Σ dout ⊙ out, and backward predicts the slope Σ dx ⊙ d.  Over directions d of
    standard normal entries this has the standard deviation ‖dx‖, so the error is relative to ‖dx‖.
    The tolerance is about 10 times the largest error that the table shows; what limits the accuracy
    is said in gradcheck.directional_derivative.
    """
    trial = prepare(name, case, layout)
    return finite_differences(name, trial, gradients(name, trial), tolerance)


def finite_differences(name, trial, ours, tolerance=1e-7):
    """Return the largest error of the gradients in `ours`, which are the Results of the trial."""

    @no_grad()
    def loss():
        return float((ours.dout * trial.run().data).sum())

    worst = 0.0
    for i, (x, dx) in enumerate(zip(trial.leaves, ours.grads, strict=True)):
        if 0 in (dx.size, ours.out.size):
            continue  # nothing moves
        direction = trial.draw(x.shape)
        predicted = float((dx * direction).sum())
        measured = directional_derivative(loss, x, direction)
        require(not abs(measured) < 1e-6, f"{name}: d{i} is zero, which checks nothing")
        error = abs(predicted - measured) / np.linalg.norm(dx)
        require(
            error <= tolerance,
            f"{name}: d{i}: along a random direction backward predicts a slope of "
            f"{predicted:.9g}, finite differences measure {measured:.9g}",
        )
        worst = max(worst, error)
    return worst


# ---- PyTorch and pages ---------------------------------------------------------------------------


def by_pytorch(name, case, layout="contiguous", tolerance=1e-12, zero_is_fine=False):
    """Compare the output and every gradient with PyTorch's, relative to the largest entry of each.

    Both round at 10⁻¹⁶, in another order; the tolerance leaves room for long sums.
    """
    trial = prepare(name, case, layout)
    ours = gradients(name, trial)
    reference = pytorch_results(name, case, trial, ours.dout, zero_is_fine)
    return compare(name, ours, reference, "PyTorch's", tolerance)


def pytorch_results(name, case, trial, dout, zero_is_fine=False):
    """Return the Results of PyTorch, for the same inputs and the same gradient of the output."""
    import torch

    from minigrad.testing.pytorch import REFERENCES

    tensors = {x: torch.tensor(x.data, requires_grad=True) for x in trial.leaves}

    def theirs(x):
        if isinstance(x, Tensor):
            return tensors[x]
        return torch.tensor(x) if isinstance(x, np.ndarray) else x

    out = REFERENCES[name](*map(theirs, trial.inputs + trial.parameters), **case.options)
    grads = torch.autograd.grad(out, list(tensors.values()), torch.tensor(dout))
    for i, dx in enumerate(grads):
        if not zero_is_fine and dx.numel() and dout.size:
            zero = float(abs(dx).max()) < 1e-3
            require(not zero, f"{name}: d{i} is zero, which checks nothing")
    return Results(out.detach().numpy(), dout, [dx.numpy() for dx in grads])


def by_page(name, case, layout="contiguous", tolerance=1e-12):
    """Compare the output and every gradient of a twin with those of its page."""
    ours = gradients(name, prepare(name, case, layout))
    with plain():
        reference = gradients(name, prepare(name, case, layout))
    return compare(name, ours, reference, "the page's", tolerance)


def compare(name, ours, reference, whose, tolerance=1e-12):
    """Return the largest error of Results, relative to the largest entry of each array."""
    worst = 0.0
    names = ["out", *[f"d{i}" for i in range(len(ours.grads))]]
    pairs = zip([ours.out, *ours.grads], [reference.out, *reference.grads], strict=True)
    for what, (x, right) in zip(names, pairs, strict=True):
        what = f"{name}: {what}"
        require(x.shape == right.shape, f"{what}: shape {x.shape}, {whose} {right.shape}")
        size = abs(right).max(initial=0)
        error = float(abs(x - right).max(initial=0) / (size or 1))
        require(error <= tolerance, f"{what}: off by {error:.3g} of {whose} largest entry")
        worst = max(worst, error)
    return worst


# ---- which twins ran -----------------------------------------------------------------------------


@contextlib.contextmanager
def record_twins():
    """Collect the ops whose twin ran, and did not decline, inside the context."""
    names, before = set(), dict(TWINS)

    def recorder(name, twin):
        @functools.wraps(twin)
        def record(*arrays, **options):
            result = None
            try:
                result = twin(*arrays, **options)
                return result
            finally:  # also if it raised an error
                if result is not NotImplemented:
                    names.add(name)

        return record

    TWINS.update({key: recorder(key[0], twin) for key, twin in before.items()})
    try:
        yield names
    finally:
        TWINS.update(before)
