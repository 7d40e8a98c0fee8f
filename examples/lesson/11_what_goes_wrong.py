# %% [markdown]
# # 11. What goes wrong
#
# A wrong derivative does not crash. The model trains, a little worse than it should, and nobody
# knows why. The first half of this notebook breaks six backward rules in ways that happen often,
# and shows how a check finds each. The second half breaks four training runs and shows what each
# curve looks like.

# %%
# In Colab, or wherever minigrad is missing, this installs it.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("minigrad") is None:
    command = [sys.executable, "-m", "pip", "install", "-q", "gpt-numpy[lesson]"]
    subprocess.run(command, check=True)

# %%
import re
from functools import partial
from unittest.mock import patch

import numpy as np

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.data import random_batch
from gpt_numpy.lesson.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    dashed,
    new,
    running_mean,
)
from gpt_numpy.tokenizer import CharTokenizer
from minigrad.gradcheck import gradcheck
from minigrad.schedule import warmup_cosine
from minigrad.tensor import op

# %% [markdown]
# ## Six broken backward rules
#
# `gradcheck` measures what notebook 1 measured: it moves every entry of every input a little, sees
# how far the output moves, and compares that with `backward()`. It weights the entries of the
# output with random numbers, so that errors do not cancel by chance. The forward pass of all six
# operations below is right.

# %%
x = np.array([[2.0, 1.0, 0.1], [-1.0, 0.5, 0.3]])
row = np.array([1.0, -1.0, 0.5])


def check(broken, *inputs):
    """Print what gradcheck, or the tape itself, says of a broken operation."""
    try:
        print(f"not found: the worst error is {gradcheck(broken, inputs):.0e}")
    except (AssertionError, RuntimeError) as error:
        verdict = str(error).removeprefix("gradcheck: ")
        print(re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.6f}", verdict))


# %% [markdown]
# **1. A factor is missing**, in $x \cdot x$.


# %%
@op
def square(x):
    def backward(dout):
        return (dout * x,)  # right: dout * 2 * x

    return x * x, backward


check(square, x)

# %% [markdown]
# **2. What was broadcast is not summed**, in a matrix plus a row. This is the only one of the six
# that the tape itself notices, because the gradient has the wrong shape.


# %%
@op
def add_row(x, row):
    def backward(dout):
        return dout, dout  # right: dout, dout.sum(0), since all rows of x share this one

    return x + row, backward


check(add_row, x, row)

# %% [markdown]
# **3. A gradient is assigned, not added up**, in `x[[0, 1, 0]]`, which uses row 0 twice.


# %%
@op
def rows_0_1_0(x):
    def backward(dout):
        dx = np.zeros_like(x)
        dx[[0, 1, 0]] = dout  # right: np.add.at(dx, [0, 1, 0], dout), adds twice
        return (dx,)

    return x[[0, 1, 0]], backward


check(rows_0_1_0, x)

# %% [markdown]
# **4. The mean is treated as a constant**, in layer norm. But when an entry moves, its row's mean
# moves too.


# %%
@op
def normalize(x):
    r = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    out = (x - x.mean(-1, keepdims=True)) * r

    def backward(dout):
        along_out = out * (dout * out).mean(-1, keepdims=True)
        return (r * (dout - along_out),)  # right: r * (dout - dout.mean(...) - along_out)

    return out, backward


check(normalize, x)

# %% [markdown]
# **5. Every entry is treated by itself**, in softmax. But a score moves all probabilities of its
# row, because they sum to 1.


# %%
@op
def softmax_by_entry(x):
    e = np.exp(x)
    out = e / e.sum(-1, keepdims=True)

    def backward(dout):
        return (dout * out * (1 - out),)  # this is the derivative of 1 / (1 + e⁻ˣ)

    return out, backward


check(softmax_by_entry, x)

# %% [markdown]
# **6. A sign is wrong**, in softmax.


# %%
@op
def softmax_upside_down(x):
    e = np.exp(x)
    out = e / e.sum(-1, keepdims=True)

    def backward(dout):
        average = (dout * out).sum(-1, keepdims=True)
        return (out * (average - dout),)  # right: out * (dout - average)

    return out, backward


check(softmax_upside_down, x)

# %% [markdown]
# ## A test that checks nothing
#
# Many tests use `out.sum()` as their loss. Try it on mistake 6:

# %%
for name, softmax in (("this rule ", softmax_upside_down), ("right rule", F.softmax)):
    scores = mg.Tensor(x, requires_grad=True)
    softmax(scores).sum().backward()
    print(name, *(f"{abs(entry):.10f}" for entry in scores.grad[0]))

# %% [markdown]
# The probabilities sum to 1 whatever the scores are. So the gradient of their sum is 0, and a wrong
# sign or factor leaves it 0. The gradient of `out.sum()` checks nothing here; random weights do.
#
# ## Four broken training runs
#
# The derivatives are right now, and something else is not. All runs use the same small model, the
# same text, 320 steps, and a rate that peaks at 0.02, unless something else is said. The rate is
# high for a GPT, which makes the benefit of warm-up visible within so few steps. (`patch.object`
# with `partial` replaces `F.attention` while a run lasts.)

# %%
play = grammar.generate(100_000)
tokenizer = CharTokenizer.from_text(play)
ids = tokenizer.encode(play)
V, T, steps = tokenizer.vocab_size, 16, 320
entropy = grammar.entropy_per_character()


def train(peak=0.02, warmup=25, shifted=True, masked=True):
    """Return (losses, a sample) of a training run."""
    mg.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=2, n_head=2, n_embd=32))
    model.to(dtype=np.float64)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.99), fused=True)
    losses = []
    with patch.object(F, "attention", partial(F.attention, causal=masked)):
        for step in range(1, steps + 1):
            rate = warmup_cosine(step, warmup, steps, peak, peak / 10)
            optimizer.param_groups[0]["lr"] = rate
            x, y = random_batch(ids, 16, T, seed=1, step=step)
            loss = F.cross_entropy(model(x), y if shifted else x)
            optimizer.zero_grad()
            loss.backward()
            mg.optim.clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    prompt = tokenizer.encode("The")[None]
    written = model.generate(prompt, 60, temperature=0.7, seed=2).numpy()[0]
    return losses, tokenizer.decode(written)


runs = {
    "healthy": train(),
    "rate too high": train(peak=1.0),
    "no warm-up": train(warmup=0),
    "targets not shifted": train(shifted=False),
    "mask forgotten": train(masked=False),
}
chaotic = ("rate too high", "no warm-up")
for name, (losses, written) in runs.items():
    last = running_mean(losses)[-1]
    if name in chaotic:
        print(f"{name:20} last loss about {last:.0f}")
    else:
        print(f"{name:20} last loss {last:5.2f}   writes {written!r}")
healthy, high, hasty, *_ = (running_mean(losses)[-1] for losses, _ in runs.values())
print(f"without warm-up it ends more than 0.15 above the healthy run: {hasty > healthy + 0.15}")
print(f"with a rate too high, more than 0.5 above that: {high > hasty + 0.5}")

# %% [markdown]
# Two of the runs are chaotic: the steps are so large that they amplify every rounding error, and
# another machine gets other weights. So their losses are rounded, and what they write is in the
# figure.

# %%
figure, axes = new("Five runs, four of them broken", height=7.5, xlabel="step", ylabel="loss")
styles = ((INK, "-"), (ORANGE, "-"), (PURPLE, "--"), (BLUE, ":"), (GREEN, "-."))
for (name, (losses, _)), (colour, style) in zip(runs.items(), styles, strict=True):
    axes.plot(range(1, steps + 1), running_mean(losses), color=colour, ls=style, label=name)
axes.set_xlim(1, steps)
axes.set_ylim(0, 8)
dashed(axes, np.log(V), "uniform guess", GREY)
dashed(axes, entropy, "entropy", GREY)
for i, name in enumerate(chaotic):
    text = f"{name}: {runs[name][1][:22]!r}"
    axes.text(steps - 2, 1.6 - 0.45 * i, text, ha="right", size="small", color=INK)
axes.legend(loc="upper right")
figure

# %% [markdown]
# **Rate too high.** With a peak of 1.0 the loss jumps far above a uniform guess and does not come
# down far below it again. The weights were thrown so far that the model is confidently wrong. What
# helps: divide the rate by 10, and again if that is not enough.
#
# **No warm-up.** The curve is ahead of the healthy one for the first steps, then falls behind and
# stays above it to the end. The first steps at full rate put the weights in a bad place. At a low
# rate the difference would be too small to see: warm-up buys you a higher rate.
#
# **Targets not shifted.** The loss rushes to zero, far below the entropy. A loss that is too good
# to be true is not true. The model was asked for the token that it reads, and it copies. (It starts
# a little below the uniform guess, because scores are products with the token's own vector: an
# untrained GPT favours the token that it reads.) When it writes, it repeats its last character.
#
# **Mask forgotten.** For a while all is normal. Then attention discovers that the answer is one
# position to the right, and the loss falls below the entropy. When the model writes, there is
# nothing to the right, and it fails.
#
# The last two would look like a triumph to somebody who does not know the lowest possible loss.
# Usually nobody does. So **look at what the model writes**, and be suspicious of a curve that looks
# too good.
#
# ## Try it
#
# * Remove the clipping from `train`, and double the rate.
# * Shift the targets by two, `y[:, 1:]` against `x[:, :-1]`: the model then guesses the token after
#   the next one. What does the curve look like, and what does it write?
#
# Next: [12. The graph of a step](12_graph.ipynb).
