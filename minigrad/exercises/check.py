"""Check the exercises in a folder: done, wrong or open; and where and by how much it is wrong."""

import contextlib
import functools
import math
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad.exercises.hints import FORWARD, HINTS
from minigrad.exercises.make import gradients as names_of_gradients
from minigrad.fast import plain
from minigrad.internals.arguments import Arguments
from minigrad.optim import AdamW
from minigrad.schedule import warmup_cosine
from minigrad.tensor import OPS, Tensor, op
from minigrad.testing.cases import CASES
from minigrad.testing.checks import finite_differences, gradients, prepare

DONE, WRONG, OPEN = "done", "wrong", "open"
TOLERANCE = 1e-12  # of the largest entry, as in the comparison of a twin with its page


class Wrong(Exception):
    """What is wrong, in words."""


class Verdict(NamedTuple):
    """What became of one exercise."""

    state: str
    remark: str = ""


def check(folder: Path, name: str) -> Verdict:
    """Return the Verdict of the exercise `name` in a folder."""
    path = folder / f"{name}.py"
    try:
        function = load(path, name.removesuffix("_forward"))
        with np.errstate(all="ignore"), plain():
            if name in HINTS:
                check_backward(name, function)
            elif name.endswith("_forward"):
                check_forward(name.removesuffix("_forward"), function)
            else:
                {"adamw": check_adamw, "warmup_cosine": check_schedule, "top_p": check_top_p}[name](
                    function
                )
    except NotImplementedError:
        return Verdict(OPEN, f"--hint {name}")
    except FileNotFoundError:
        return Verdict(OPEN, f"there is no {path.name}")
    except Wrong as wrong:
        return Verdict(WRONG, str(wrong))
    except Exception as error:  # whatever the reader's code may raise
        return Verdict(WRONG, explained(error, path))
    return Verdict(DONE)


def load(path, name):
    """Return the function `name` that a file defines."""
    names: dict = {"__name__": f"exercise_{name}"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    if name not in names:
        raise Wrong(f"{path.name} defines no {name}")
    return names[name]


def explained(error, path):
    """Return an error in one line, with the last line of the reader's file that led to it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    where = f"{path.name}, line {line}: " if line else ""
    first = (str(error) or "no message").splitlines()[0]
    called_with = "".join(f", {note}" for note in getattr(error, "__notes__", []))
    return f"{where}{type(error).__name__}: {first}{called_with}"


# ---- ops -----------------------------------------------------------------------------------------


def check_backward(name, page):
    """Check a page as the proof checks those of minigrad: every case, under a random dout."""
    inputs = Arguments(page).names
    for case in CASES[name]:
        right = gradients(name, prepare(name, case))
        before, where = OPS[name], shown(case, inputs)
        try:
            OPS[name] = op(returning_gradients(page, where))  # where prepare() finds it
            trial = prepare(name, case)
            try:
                with called(where):
                    ours = gradients(name, trial)
            except (AssertionError, RuntimeError) as error:  # of the tape, or of gradients()
                if isinstance(error, NotImplementedError):
                    raise
                message = str(error).removeprefix(f"exercise_{name}.")  # @op's name for it
                raise Wrong(f"{message}, {where}") from error
            differ("out", ours.out, right.out, where)
            for i, (dx, expected) in enumerate(zip(ours.grads, right.grads, strict=True)):
                x = next((n for n, y in enumerate(trial.inputs) if y is trial.leaves[i]), i)
                differ(label_of(x, inputs), dx, expected, where)
            if case.smooth:
                try:
                    finite_differences(name, trial, ours)
                except AssertionError as error:
                    raise Wrong(str(error)) from error
        finally:
            OPS[name] = before


def label_of(i, names):
    """Return what messages call input i."""
    return f"input {i}" + (f" ({names[i]})" if i < len(names) else "")


def returning_gradients(page, where):
    """Return the page; its backward raises Wrong unless it returns a gradient for each input."""
    inputs = Arguments(page).names
    expected = names_of_gradients(page)
    if len(inputs) > 1:
        expected = f"({expected})"

    @functools.wraps(page)
    def checked(*arrays, **options):
        out, backward = page(*arrays, **options)

        def checked_backward(dout):
            grads = backward(dout)
            if not isinstance(grads, tuple | list):
                kind = "nothing" if grads is None else "one array"
                raise Wrong(f"backward returned {kind}, not a tuple of gradients: {expected}")
            n, right = len(grads), len(arrays)
            if n != right:
                raise Wrong(
                    f"backward returned a tuple of {n}, not of {right}: {expected}, {where}"
                )
            for i, (x, dx) in enumerate(zip(arrays, grads, strict=True)):
                check_shape(label_of(i, inputs), x, dx, where)
            return grads

        return out, checked_backward

    return checked


def check_shape(label, x, dx, where):
    """Raise Wrong if an array of floats has no gradient, or one of another shape."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return
    if dx is None:
        raise Wrong(f"{label}: its gradient is None, {where}")
    if isinstance(dx, np.ndarray) and dx.shape != x.shape:
        raise Wrong(f"{label}: its gradient has shape {dx.shape}, not {x.shape}, {where}")


@contextlib.contextmanager
def called(where):
    """Note on an error of the reader's code how it was called."""
    try:
        yield
    except (Wrong, NotImplementedError, AssertionError, RuntimeError):
        raise
    except Exception as error:
        error.add_note(where)
        raise


def check_forward(name, function):
    """Check a forward pass against the page, in the cases whose options it has."""
    inputs = Arguments(function)
    allowed = FORWARD[name][0]
    for case in CASES[name]:
        if not all(option in allowed for option in case.options):
            continue
        trial = prepare(name, case)
        arrays = [x.data if isinstance(x, Tensor) else x for x in trial.inputs]
        right, where = trial.run().numpy(), shown(case, inputs.names)
        with called(where):
            out = np.asarray(function(*arrays, **case.options))
        differ("out", out, right, where)


def differ(label, ours, right, where):
    """Raise Wrong, with the entry that is furthest off, unless two arrays agree."""
    if ours.shape != right.shape:
        raise Wrong(f"{label} has shape {ours.shape}, not {right.shape}, {where}")
    if not right.size:
        return
    size = abs(right).max() or 1
    error = np.nan_to_num(abs(ours - right), nan=np.inf)
    index = np.unravel_index(error.argmax(), error.shape)
    if error[index] > TOLERANCE * size:
        entry = f", entry {tuple(map(int, index))}" if index else ""
        raise Wrong(
            f"{label}{entry}: yours {ours[index]:.6g}, right {right[index]:.6g}, off by "
            f"{error[index]:.2g}, {where}"
        )


def shown(case, names):
    """Return a case in words: the shapes and values that the op was called with; dout is random."""

    def value(x):
        if isinstance(x, np.ndarray):
            return str(x.shape)
        return str(tuple(x)) if isinstance(x, tuple) else repr(x)

    labels = [*names, *[""] * len(case.inputs)]
    parts = [f"{n} {value(x)}".strip() for n, x in zip(labels, case.inputs, strict=False)]
    options = [f"{name}={value(x)}" for name, x in case.options.items()]
    return f"called with {', '.join(parts + options)}"


# ---- functions -----------------------------------------------------------------------------------


def check_adamw(function):
    """20 steps with changing gradients, beside the page in optim.py."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 3))
    page = AdamW([Tensor(w, requires_grad=True)], lr=0)
    m, v = np.zeros((2, 3)), np.zeros((2, 3))
    state: dict = dict(page.initial_state)
    options = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.3}
    for t in range(1, 21):
        g = rng.standard_normal((2, 3)) + 1
        expected = page.update(w, g, state, betas=(0.8, 0.95), **options)
        result = function(w, g.copy(), m, v, t, beta1=0.8, beta2=0.95, **options)
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise Wrong("adamw returns three arrays: w, m, v")
        rights = {"w": expected, "m": state["exp_avg"], "v": state["exp_avg_sq"]}
        for label, ours in [*zip(rights, result, strict=True)][1:] + [("w", result[0])]:
            differ(label, np.asarray(ours), rights[label], f"in step t = {t}")
        w, m, v = (right.copy() for right in rights.values())


def check_schedule(function):
    """Every step of some schedules, past the end, with and without warm-up."""
    for warmup, end, peak, floor in ((4, 20, 6e-4, 6e-5), (0, 10, 1e-3, 0.0), (5, 5, 1.0, 0.5)):
        for step in range(1, end + 3):
            right = warmup_cosine(step, warmup, end, peak, floor)
            ours = function(step, warmup, end, peak, floor)
            if not math.isclose(ours, right, rel_tol=1e-12):
                where = f"warmup_steps {warmup}, max_steps {end}, max_lr {peak}, min_lr {floor}"
                raise Wrong(f"step {step}: yours {ours:.6g}, right {right:.6g}, with {where}")


def check_top_p(function):
    """By the definition: add up the likeliest tokens until they reach p."""
    rng = np.random.default_rng(0)
    rows = [np.array([0.40, 0.30, 0.20, 0.05, 0.03, 0.02]), np.full(40, 1 / 40), np.array([1.0])]
    rows += [rng.dirichlet(np.full(9, 0.5)) for _ in range(20)]
    for row in rows:
        for p in (0.05, 0.5, 0.75, 0.9, 1.0):
            right, total = np.zeros_like(row), 0.0
            for i in sorted(range(len(row)), key=lambda i: -row[i]):
                right[i] = row[i]
                total += row[i]
                if total >= p - 1e-6:
                    break
            listed = " ".join(f"{x:.2f}" for x in row)
            ours = np.asarray(function(row.copy(), p))
            differ("out", ours, right / right.sum(), f"with p = {p}, probabilities {listed}")
