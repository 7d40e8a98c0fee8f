"""`python -m minigrad.gradcheck`: the verdicts on every op and module, one line each."""

import time

import numpy as np

from minigrad.proof.cases import CASES
from minigrad.proof.judges import LAYOUTS, by_finite_differences, by_pytorch

HEAD = """\
Every gradient in minigrad, in float64, before two judges: finite differences along random
directions, which cannot tell more than some 1e-9, and {pytorch}.
A trial is one way to call an op, in one of {n_layouts} memory layouts.  NumPy {numpy}.

                    worst relative error
               finite diff.      PyTorch   trials   seconds"""


def verdict(name, judges, cases):
    """(worst error of each judge, number of trials, what the judges objected to) for one op."""
    worst, n_trials = {judge: -1.0 for judge in judges}, 0
    objections: list[str] = []
    for i, case in enumerate(cases):
        for layout in LAYOUTS:
            n_trials += 1
            for judge in judges:
                if judge is by_finite_differences and not case.smooth:
                    continue
                try:
                    worst[judge] = max(worst[judge], judge(name, case, layout))
                except Exception as error:  # an op that fails is no reason to skip the others
                    worst[judge] = np.inf
                    objections.append(f"{name}, {layout} case {i}: {error!r}\n    {case}")
    return [*worst.values()], n_trials, objections


def written(error):
    """An error as the table shows it."""
    if error < 0:
        return "-"  # never asked
    return "wrong" if error == np.inf else f"{error:.1e}" if error else "0"


def find_pytorch():
    """(the judges that there are, what to say of PyTorch)."""
    try:
        import torch
    except ImportError:
        return [by_finite_differences], "PyTorch, which is not installed here"
    except Exception as error:  # installed, but a library or a driver that it needs is not
        return [by_finite_differences], f"PyTorch, which does not start here ({error})"
    torch.set_num_threads(1)  # for arrays as small as these, more of them only wait
    return [by_finite_differences, by_pytorch], f"PyTorch {torch.__version__}"


def main():
    """Print the table; the exit status is 0 if all agree, else 1."""
    judges, pytorch = find_pytorch()
    print(HEAD.format(pytorch=pytorch, n_layouts=len(LAYOUTS), numpy=np.__version__), flush=True)

    begin, total = time.perf_counter(), 0
    objections: list[str] = []
    for name, cases in CASES.items():
        start = time.perf_counter()
        worst, n_trials, found = verdict(name, judges, cases)
        errors = [written(error) for error in (*worst, -1.0)]
        label = f"nn.{name}" if name[0].isupper() else name
        seconds = time.perf_counter() - start
        print(f"{label:14}{errors[0]:>13}{errors[1]:>13}{n_trials:9}{seconds:10.2f}", flush=True)
        total, objections = total + n_trials, objections + found
    print(f"{'all':40}{total:9}{time.perf_counter() - begin:10.2f}\n")
    print("\n".join(objections) or f"All {len(CASES)} ops and modules agree.")
    return 1 if objections else 0
