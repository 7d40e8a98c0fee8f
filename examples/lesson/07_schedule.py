# %% [markdown]
# # 7. The learning-rate schedule
#
# How long should a step be? At the beginning: short. The first gradients come from random weights,
# and AdamW's running means come from few samples. Then long, to make progress. At the end short
# again, so that the weights settle. The usual schedule rises in a straight line, which is called
# **warm-up**, and then falls along half a cosine to a floor.

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
import math

from gpt_numpy.lesson.figures import BLUE, GREEN, GREY, ORANGE, dashed, new
from minigrad.schedule import warmup_cosine

# %% [markdown]
# ## Written out
#
# A cosine falls from 1 to −1 while its angle goes from 0 to $\pi$. So $\frac{1}{2}(1 + \cos \pi z)$
# falls from 1 to 0 while $z$ goes from 0 to 1, slowly at both ends and fastest in the middle. Here
# $z$ is how much of the time after the warm-up has passed.
#
# $$\text{rate} = \begin{cases}
# \text{floor} & \text{if step} \geq \text{end} \\
# \text{peak} \cdot \text{step} / \text{warm-up} & \text{else, while step} < \text{warm-up} \\
# \text{floor} + \frac{1}{2} (1 + \cos \pi z) (\text{peak} - \text{floor}) & \text{after that}
# \end{cases}$$


# %%
def schedule(step, warmup, end, peak, floor):
    if step >= end:
        return floor
    if step < warmup:
        return peak * step / warmup
    z = (step - warmup) / (end - warmup)
    return floor + 0.5 * (1 + math.cos(math.pi * z)) * (peak - floor)


# %% [markdown]
# ## Typical numbers
#
# For a model of the size of the smallest GPT-2 a peak of $6 \cdot 10^{-4}$ is typical (the GPT-3
# paper uses it for its smallest model), with about 2,000 steps of warm-up and a floor of a tenth of
# the peak (as in nanoGPT). Larger models need smaller rates. (GPT-2 and GPT-3 are language
# models by OpenAI. nanoGPT is a small program that trains such models.) Here are 10,000 steps with
# 1,000 of warm-up. Steps count from 1, because a step with a rate of 0 would do nothing.

# %%
WARMUP, END = 1_000, 10_000
PEAK, FLOOR = 6e-4, 6e-5
steps = range(1, END + 1)
rates = [schedule(step, WARMUP, END, PEAK, FLOOR) for step in steps]
same = all(rates[s - 1] == warmup_cosine(s, WARMUP, END, PEAK, FLOOR) for s in steps)
print("equal to minigrad.schedule at every step:", same)

for step, remark in (
    (1, "a thousandth of the peak"),
    (WARMUP // 2, "half the peak"),
    (WARMUP, "the peak"),
    ((WARMUP + END) // 2, "half-way from the peak to the floor"),
    (END, "the floor, a tenth of the peak"),
):
    print(f"step {step:6,}   rate {rates[step - 1]:.1e}   {remark}")

# %%
figure, axes = new(
    "Warm-up, then cosine decay", width=12, height=6, xlabel="step", ylabel="learning rate"
)
axes.axvspan(0, WARMUP, color=ORANGE, alpha=0.15, lw=0)
axes.axvspan(WARMUP, END, color=BLUE, alpha=0.08, lw=0)
axes.plot(steps, rates, color=BLUE)
axes.set_xlim(0, END)
axes.set_ylim(0, 1.15 * PEAK)
dashed(axes, PEAK, "peak: 6e-04", GREY)
dashed(axes, FLOOR, "floor: 6e-05", GREEN, below=True)
axes.text(250, 4.4e-4, "warm-up", ha="center", va="center", rotation=90, color=ORANGE)
axes.text(4_000, 2e-4, "cosine decay", ha="center", va="center", color=BLUE)
axes.xaxis.set_major_formatter("{x:,.0f}")
axes.yaxis.set_major_formatter("{x:.0e}")
figure

# %% [markdown]
# ## In the loop
#
# A schedule costs two lines: before each step, compute the rate and give it to the optimizer.
#
# ```python
# for group in optimizer.param_groups:
#     group["lr"] = schedule(step, WARMUP, END, PEAK, FLOOR)
# ```
#
# A parameter group is a list of weights with settings of its own. An optimizer that was made with
# `model.parameters()` has one group. `train` in notebook 6 sets its rates in this way. Notebook 11
# shows a run with a rate that is too high, and one without warm-up.
#
# ## Try it
#
# * Draw a schedule that falls in a straight line from peak to floor. Where is it above the cosine,
#   and where below?
# * What is the rate at the last step? And at step 20,000?

# %% [markdown]
# ## Answers
#
# * Both have the same rate at the peak, half-way down and at the floor. In the first half of the
#   decay the line is below the cosine, and in the second half it is above.
# * It is the floor both times, 6e-05. From step 10,000 on, `schedule` returns the floor.
#
# Next: [8. Gradient accumulation](08_accumulation.ipynb).
