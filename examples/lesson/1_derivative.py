"""A derivative is a slope: move x a little, and see how far f(x) moves.

The step must not be too large, for f is curved, nor too small, for a computer rounds.  In between,
the slope agrees in ten digits with the derivative that backward() computes.

    python examples/lesson/1_derivative.py
"""

import numpy as np

import minigrad as mg


def f(x):
    return x * x * x


x = mg.Tensor(np.array(2.0), requires_grad=True)  # float64: some 16 digits
f(x).backward()
derivative = x.grad.item()
print(f"f(x) = x * x * x at x = 2, where backward() says {derivative}\n")

steps = [10.0**-n for n in range(0, 17, 2)]
slopes = [(f(2 + h) - f(2 - h)) / (2 * h) for h in steps]  # seen from both sides of 2
errors = [abs(slope - derivative) for slope in slopes]
best = min(errors)

print("step h   (f(2 + h) - f(2 - h)) / 2h     error")
for h, slope, error in zip(steps, slopes, errors, strict=True):
    if error == best:
        remark = "just right"
    elif h > steps[errors.index(best)]:
        remark = "too large: f is curved"
    elif slope == 0:
        remark = f"much too small: 2 + h is {2 + h}"
    else:
        remark = "too small: rounding"
    print(f"{h:6.0e} {slope:22.15f} {error:15.0e}   {remark}")

print("""
While h is too large, the error, for this f, is h squared: 100 times smaller, 10,000
times better.  Once h is too small, the error grows again.  Both values of f are rounded
in their last digits, those before cancel, and what rounding did is divided by an ever
smaller 2h.""")
