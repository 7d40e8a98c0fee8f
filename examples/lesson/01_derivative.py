# %% [markdown]
# # 1. A derivative is a slope
#
# A language model has many **weights**, numbers inside it that training may change, and a **loss**,
# one number that grows when the model guesses worse. To improve the model we must know, for every
# weight, whether the loss rises or falls when that weight grows, and how fast. That number is a
# **derivative**. This notebook measures some, compares them with those that `backward()` computes,
# and takes the first steps downhill.
#
# You need Python, a little NumPy and school mathematics. Run the cells from top to bottom. The
# first one only installs the package if it is missing.

# %%
# In Colab, or wherever minigrad is missing, this installs it. If the install fails, run
#     pip install -e ".[lesson]"
# in a terminal, in your clone of the repository. Then start Jupyter again in the same environment.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("minigrad") is None:
    command = [sys.executable, "-m", "pip", "install", "-q", "gpt-numpy[lesson]"]
    subprocess.run(command, check=True)

# %%
import numpy as np

import minigrad as mg
from gpt_numpy.lesson.figures import BLUE, GREY, ORANGE, new

# %% [markdown]
# ## Move x a little and see how much f changes
#
# Take $f(x) = x^3$ at $x = 2$. Move $x$ by a small step $h$ in each direction, and divide the
# change in $f$ by the change in $x$. This quotient is called a **finite difference**:
#
# $$\text{slope} = \frac{f(2 + h) - f(2 - h)}{2h}$$
#
# `backward()` gets the same number from rules, without moving anything. You may know the rule for
# $x^3$ from school: $3x^2$, which is 12 here. Notebook 2 shows how the machine gets there from two
# multiplications. A `Tensor` is an array that remembers how it was computed, and that is all that
# `backward()` needs. `requires_grad=True` asks for a slope, `backward()` adds it to `.grad`, and
# `.item()` returns it as a Python number.


# %%
def f(x):
    return x * x * x


x = mg.Tensor(np.array(2.0), requires_grad=True)  # float64: about 16 digits
f(x).backward()
derivative = x.grad.item()
print("backward() says", derivative)

# %% [markdown]
# How small should $h$ be? Try steps from 1 down to $10^{-16}$.

# %%
steps = [10.0**-n for n in range(0, 17, 2)]
slopes = [(f(2 + h) - f(2 - h)) / (2 * h) for h in steps]
errors = [abs(slope - derivative) for slope in slopes]

print("step h       slope     error")
for h, slope, error in zip(steps, slopes, errors, strict=True):
    print(f"{h:6.0e} {slope:11.8f} {error:9.0e}")

# %% [markdown]
# The error falls at first, and then it rises again. There are two causes.
#
# * **While h is large, f is curved.** For this $f$ the formula gives
#   $((2 + h)^3 - (2 - h)^3) / 2h = 12 + h^2$, so a step that is 100 times smaller has an
#   error that is 10,000 times smaller.
# * **When h is tiny, the computer rounds.** Both values of $f$ are rounded in their 16th digit. The
#   digits before it cancel in the subtraction, and the rounding error is divided by a tiny $2h$.
#   At $h = 10^{-16}$ the number $2 + h$ is rounded to 2, and the slope comes out as 0.
#
# The figure shows the error for many more steps. (`new` makes an empty figure with Matplotlib.
# BLUE, GREY and ORANGE are colours.)

# %%
fine = 10.0 ** -np.arange(0, 16.1, 0.1)
fine_errors = [abs((f(2 + h) - f(2 - h)) / (2 * h) - derivative) for h in fine]
figure, axes = new("A step can be too large or too small", xlabel="step h", ylabel="error")
axes.loglog(fine, np.maximum(fine_errors, 1e-15), color=BLUE, lw=2)
axes.loglog(fine, fine**2, color=GREY, lw=2, ls="--")
axes.annotate("h²", (0.7, 1e-10), ha="right", color=GREY)
axes.annotate("rounding", (1e-12, 3e-1), color=ORANGE)
axes.set_xlim(1e-16, 1)
axes.set_ylim(1e-13, 100)
figure

# %% [markdown]
# In between, at about $h = 10^{-5}$ or $10^{-6}$, the slope agrees with `backward()` in ten digits.
# `minigrad.gradcheck` uses $h = 10^{-6}$ to check every derivative in this project.
#
# ## One weight at a time is too slow
#
# A function of many weights has one slope for each of them, and together they are called the
# **gradient**. To measure it you move each weight by itself, which costs two evaluations per
# weight. `backward()` finds all slopes at once, in one pass. That pass computes a few times
# as much as one evaluation, however many weights there are. That is why it exists.

# %%
weights = np.random.default_rng(0).standard_normal(1000)
n_evaluations = 0


def loss(w):
    global n_evaluations
    n_evaluations += 1
    return (w * w * w).mean()


measured = np.empty_like(weights)
for i in range(len(weights)):
    moved = np.zeros_like(weights)
    moved[i] = 1e-6
    measured[i] = (loss(weights + moved) - loss(weights - moved)) / 2e-6
print("finite differences:", n_evaluations, "evaluations")

n_evaluations = 0
w = mg.Tensor(weights, requires_grad=True)
loss(w).backward()
print("backward():        ", n_evaluations, "evaluation and one pass backwards")
print("they agree within", "1e-9" if abs(measured - w.grad).max() < 1e-9 else "more than 1e-9")

# %% [markdown]
# ## Downhill
#
# A positive slope means that the loss rises with the weight, so the weight should shrink. A
# negative slope means the opposite. In both cases we move **against** the slope:
#
# $$w \leftarrow w - \text{rate} \cdot \text{slope}$$
#
# The **rate** (learning rate) is a small number that we choose. It sets how long a step is. Before
# each `backward()` we set `.grad` to None, because `backward()` adds to what is there. `.data` is
# the plain NumPy array. What we compute with it is no part of what `backward()` follows.
#
# Here is a loss with its lowest point at $w = 3$. Its slope is $2 (w - 3)$, and the rate is 0.1, so
# each step removes a fifth of the distance that is left. A line shows the loss and the slope before
# the step, and $w$ after it. This is all that training is. The rest of the lesson is about a better
# loss, a better function, and better steps.

# %%
w = mg.Tensor(np.array(0.0), requires_grad=True)
path = [w.item()]
for step in range(1, 11):
    w.grad = None
    bowl = (w - 3) ** 2
    bowl.backward()
    w.data = w.data - 0.1 * w.grad
    path.append(w.item())
    print(f"step {step:2}   loss {bowl.item():.4f}   slope {w.grad.item():7.4f}   w {w.item():.4f}")

# %%
figure, axes = new("Ten steps against the slope", xlabel="w", ylabel="loss")
line = np.linspace(-0.5, 6, 200)
axes.plot(line, (line - 3) ** 2, color=GREY)
axes.plot(path, (np.array(path) - 3) ** 2, "o-", color=ORANGE, ms=11, lw=2)
figure

# %% [markdown]
# ## Try it
#
# * Change the rate from 0.1 to 0.9, and then to 1.1. What happens to $w$, and why?
# * Replace $x^3$ by `1 / x`. Its error is about $h^2/16$, so the dashed line no longer fits. At
#   which $h$ is the slope best now?

# %% [markdown]
# ## Answers
#
# * The slope is $2 (w - 3)$, so a step multiplies the distance to 3 by $1 - 2 \cdot \text{rate}$.
#   With 0.9 that is −0.8: $w$ jumps over 3 in every step, and still comes closer. With 1.1 it is
#   −1.2: each jump is longer than the last, and $w$ moves away from 3 for ever.
# * At the same $h$, between $10^{-6}$ and $10^{-5}$. Both errors are about 16 times smaller now:
#   the one that comes from the curve, and rounding, because $1/x$ is 0.5 where $x^3$ is 8.
#
# Next: [2. Build a tape](02_build_a_tape.ipynb), which shows how `backward()` works.
