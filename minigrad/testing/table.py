"""`python -m minigrad.gradcheck`: what the checks found for every op and module, one line each."""

import contextlib
import os
import sys
import time

import numpy as np

from minigrad.backend import CPU
from minigrad.fast import plain
from minigrad.internals.hooks import this_thread
from minigrad.tensor import TWINS
from minigrad.testing.cases import CASES
from minigrad.testing.checks import (
    LAYOUTS,
    compare,
    finite_differences,
    gradients,
    prepare,
    pytorch_results,
    record_twins,
)

HEAD = """\
Every gradient in minigrad, in float64: compared with finite differences along random directions,
which resolve no more than about 1e-9, and with {pytorch}.
A page is an op in plain NumPy; a twin computes the same faster, and is compared with its page too.
A trial is one way to call an op, in one of {n_layouts} memory layouts.  NumPy {numpy}.{note}

                              largest relative error
                      page                     twin                trials
             finite diff.  PyTorch  finite diff.  PyTorch     page  page  twin  seconds"""

PLAIN = "\nMINIGRAD_PLAIN is set: no twin runs."

PAGE, TWIN, FINITE, PYTORCH = "page", "twin", "finite differences", "PyTorch"
COLUMNS = {  # (what is checked, what it is compared with) -> the width of the column
    (PAGE, FINITE): 11,
    (PAGE, PYTORCH): 9,
    (TWIN, FINITE): 14,
    (TWIN, PYTORCH): 9,
    (TWIN, PAGE): 9,
}


# ---- one op --------------------------------------------------------------------------------------


class Checked:
    """What the checks of one op or module found."""

    def __init__(self):
        self.errors = {}  # column -> the largest error; no entry where nothing was compared
        self.n_trials = {PAGE: 0, TWIN: 0}
        self.failures = []

    @contextlib.contextmanager
    def failing(self, where, *columns):
        """Note what is raised inside as a failure in these columns."""
        try:
            yield
        except Exception as error:  # an op that fails is no reason to skip the others
            name, version, layout, i, case = where
            self.failures.append(f"{name}, {version}, {layout} case {i}: {error!r}\n    {case}")
            self.errors |= dict.fromkeys(columns, np.inf)

    def measure(self, where, column, check, *arguments):
        """Note the error that check(*arguments) returns."""
        with self.failing(where, column):
            self.errors[column] = max(self.errors.get(column, 0), check(*arguments))


def check_op(name, cases, with_pytorch=True):
    """Return what is Checked of an op or a module: every case in every layout, page and twin."""
    found = Checked()
    for i, case in enumerate(cases):
        for layout in LAYOUTS:
            check_trial(found, name, layout, i, case, with_pytorch)
    return found


def check_trial(found, name, layout, i, case, with_pytorch):
    """Check the page in one case and layout, and then the twin, unless it declines."""
    page = reference = None
    where = (name, PAGE, layout, i, case)
    found.n_trials[PAGE] += 1
    with plain(), found.failing(where, (PAGE, FINITE), (PAGE, PYTORCH)):
        trial = prepare(name, case, layout)
        page = gradients(name, trial)
        if case.smooth:
            found.measure(where, (PAGE, FINITE), finite_differences, name, trial, page)
        if with_pytorch:
            with found.failing(where, (PAGE, PYTORCH)):
                reference = pytorch_results(name, case, trial, page.dout)
    if reference:
        found.measure(where, (PAGE, PYTORCH), compare, name, page, reference, "PyTorch's")

    if this_thread.plain or (case.build is None and (name, CPU) not in TWINS):
        return
    twin = None
    where = (name, TWIN, layout, i, case)
    columns = (TWIN, FINITE), (TWIN, PYTORCH), (TWIN, PAGE)
    with record_twins() as ran, found.failing(where, *columns):
        trial = prepare(name, case, layout)
        twin = gradients(name, trial)
    if not ran:  # all declined
        return
    found.n_trials[TWIN] += 1
    if twin and case.smooth:
        found.measure(where, (TWIN, FINITE), finite_differences, name, trial, twin)
    if twin and reference:
        found.measure(where, (TWIN, PYTORCH), compare, name, twin, reference, "PyTorch's")
    if twin and page:
        found.measure(where, (TWIN, PAGE), compare, name, twin, page, "the page's")


def declined(name, found):
    """Return a failure if an op has a twin that declined all of its cases."""
    if this_thread.plain or (name, CPU) not in TWINS or found.n_trials[TWIN]:
        return []
    return [f"{name}: its twin declined every case, so it was not checked"]


# ---- the table -----------------------------------------------------------------------------------


def find_pytorch():
    """Return (whether PyTorch works here, what to say of it)."""
    try:
        import torch
    except ImportError:
        return False, "PyTorch, which is not installed here"
    except Exception as error:  # installed, but a library or a driver that it needs is not
        return False, f"PyTorch, which does not start here ({error})"
    torch.set_num_threads(1)  # for arrays as small as these, more of them only wait
    return True, f"PyTorch {torch.__version__}"


def row(label, errors, n_trials, start):
    """Return a line of the table; `start` is when its trials began."""
    columns = [f"{as_text(errors.get(column)):>{width}}" for column, width in COLUMNS.items()]
    seconds = time.perf_counter() - start
    return f"{label:14}{''.join(columns)}{n_trials[PAGE]:6}{n_trials[TWIN]:6}{seconds:9.2f}"


def as_text(error):
    """Return an error as the table shows it; None means that nothing was compared."""
    if error is None:
        return "-"
    return "wrong" if error == np.inf else f"{error:.1e}" if error else "0"


def print_table():
    """Print the table; return the failures."""
    with_pytorch, pytorch = find_pytorch()
    note = PLAIN if this_thread.plain else ""
    head = HEAD.format(pytorch=pytorch, n_layouts=len(LAYOUTS), numpy=np.__version__, note=note)
    print(head, flush=True)

    begin, n_trials = time.perf_counter(), {PAGE: 0, TWIN: 0}
    failures: list[str] = []
    for name, cases in CASES.items():
        start = time.perf_counter()
        found = check_op(name, cases, with_pytorch)
        failures += found.failures + declined(name, found)
        n_trials = {version: n + found.n_trials[version] for version, n in n_trials.items()}
        label = f"nn.{name}" if name[0].isupper() else name
        print(row(label, found.errors, found.n_trials, start), flush=True)
    print(row("all", {}, n_trials, begin).replace("-", " ") + "\n")
    print("\n".join(failures) or f"All {len(CASES)} ops and modules agree.")
    return failures


def main():
    """Print the table; the exit status is 0 if all agree, else 1."""
    try:
        status = 1 if print_table() else 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe is gone, as `head` is after ten lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 1
