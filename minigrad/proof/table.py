"""`python -m minigrad.gradcheck`: the verdicts on every op and module, one line each."""

import importlib.util
import time

import numpy as np

from minigrad.proof.cases import CASES
from minigrad.proof.judges import LAYOUTS, by_finite_differences, by_pytorch

HEAD = """\
Every gradient in minigrad, in float64, before judges who know nothing of each other: finite
differences along random directions, which cannot tell more than some 1e-9, and {pytorch}.
Every case is tried in {n_layouts} memory layouts.  NumPy {numpy}.

                    worst relative error
               finite diff.      PyTorch    cases   seconds"""


def verdict(name, judges, cases):
    """(worst error of each judge, number of trials, what the judges objected to) for one op."""
    worst, trials = dict.fromkeys(judges, 0.0), 0
    objections: list[str] = []
    for i, case in enumerate(cases):
        for layout in LAYOUTS:
            for judge in judges:
                if judge is by_finite_differences and not case.smooth:
                    continue
                try:
                    worst[judge] = max(worst[judge], judge(name, case, layout))
                except Exception as error:  # an op that fails is no reason to skip the others
                    worst[judge] = np.inf
                    objections.append(f"{name}, {layout} case {i}: {error!r}\n    {case}")
            trials += 1
    return [*worst.values()], trials, objections


def main():
    """Print the table; the exit status is 0 if all agree, else 1."""
    judges, pytorch = [by_finite_differences], "PyTorch, which is not installed here"
    if importlib.util.find_spec("torch"):
        import torch

        judges, pytorch = [*judges, by_pytorch], f"PyTorch {torch.__version__}"
    print(HEAD.format(pytorch=pytorch, n_layouts=len(LAYOUTS), numpy=np.__version__), flush=True)

    begin, total, objections = time.perf_counter(), 0, []
    for name, cases in CASES.items():
        start = time.perf_counter()
        worst, trials, found = verdict(name, judges, cases)
        errors = ["wrong" if e == np.inf else f"{e:.1e}" if e else "0" for e in worst]
        errors += ["-"] * (2 - len(errors))
        label = f"nn.{name}" if name[0].isupper() else name
        seconds = time.perf_counter() - start
        print(f"{label:14}{errors[0]:>13}{errors[1]:>13}{trials:9}{seconds:10.2f}", flush=True)
        total, objections = total + trials, objections + found
    print(f"{'all':40}{total:9}{time.perf_counter() - begin:10.2f}\n")
    print("\n".join(objections) or f"All {len(CASES)} ops and modules agree.")
    return 1 if objections else 0
