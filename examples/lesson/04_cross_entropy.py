# %% [markdown]
# # 4. Cross-entropy: how surprised was the model?
#
# To train a model we need one number that says how badly it guessed. This notebook builds that
# number, **cross-entropy**, from its parts. It then translates a loss into words: perplexity, bits
# per character, and a ladder from "untrained" to "excellent".

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

import numpy as np

import minigrad as mg
import minigrad.ops as F
from gpt_numpy.lesson.figures import BLUE, GREEN, GREY, ORANGE, dashed, new

# %% [markdown]
# ## From scores to probabilities
#
# For every token of its vocabulary the model computes a score, which may be any number. Scores are
# also called **logits**. **Softmax** turns them into probabilities: raise $e$ to each score, which
# makes it positive, and divide by the sum.
#
# $$p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$

# %%
names = ["mat", "sofa", "moon"]
scores = np.array([2.0, 1.0, -1.0])
p = np.exp(scores) / np.exp(scores).sum()
for name, score, probability in zip(names, scores, p, strict=True):
    print(f"The cat sat on the {name:5}  score {score:4.1f}   probability {probability:.3f}")

# %% [markdown]
# ## From a probability to a loss
#
# Only one entry matters: the probability that the model gave to the token that really came next.
# The loss is minus its logarithm.
#
# $$\text{loss} = -\ln p_\text{right}$$
#
# Why the logarithm? The probability of a whole text is the product of the probabilities of its
# tokens. The logarithm turns that product into a sum, so every token adds its own loss. And it
# punishes a model that is sure of the wrong answer: the loss grows without bound.

# %%
cases = {
    "confident and right": [6, 0, 0],
    "leaning to mat": [2, 0, 0],
    "undecided": [0, 0, 0],
    "leaning to the moon": [0, 0, 2],
    "confident and wrong": [0, 0, 6],
    "certain and wrong": [0, 0, 12],
}
points = []
print("right answer: mat     scores     p(mat)     loss")
for meaning, scores in cases.items():
    p = np.exp(scores) / np.exp(scores).sum()
    loss = -math.log(p[0])  # mat is token 0
    points.append((p[0], loss))
    print(f"{meaning:20} {scores!s:>11} {p[0]:9.6f} {loss:8.4f}")

# %%
figure, axes = new(
    "What a guess costs", xlabel="p, the probability given to the right token", ylabel="-ln p"
)
line = np.geomspace(5e-4, 1, 500)
axes.plot(line, -np.log(line), color=BLUE)
for text, point, offset, align, colour in (
    ("confident and right", points[0], (-4, 22), "right", GREEN),
    ("undecided", points[2], (12, 4), "left", GREY),
    ("confident and wrong", points[4], (14, -2), "left", ORANGE),
):
    axes.plot(*point, "o", color=colour, ms=12, clip_on=False, zorder=3)
    axes.annotate(text, point, offset, textcoords="offset points", ha=align, color=colour)
axes.set_xlim(0, 1)
axes.set_ylim(0, 7)
figure

# %% [markdown]
# ## The operation, and its gradient
#
# A batch has many positions. Cross-entropy is the mean of their losses. One trick is needed in
# practice. $e^{1000}$ is too large for a computer, so the largest score is subtracted from all of
# them first. Softmax does not change, because numerator and denominator shrink by the same factor.


# %%
def cross_entropy(logits, targets):
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -log_p[np.arange(len(targets)), targets].mean()


logits = np.array([[2.0, 1.0, -1.0], [0.5, 0.0, 3.0], [1000.0, 0.0, 0.0]])
targets = np.array([0, 2, 0])
print(f"ours     {cross_entropy(logits, targets):.6f}")
print(f"minigrad {F.cross_entropy(logits, targets).item():.6f}")

# %% [markdown]
# Its gradient is remarkably simple. For one position, with $x$ the scores and $t$ the right token,
#
# $$-\ln p_t = -x_t + \ln \sum_j e^{x_j}
# \qquad\text{so}\qquad
# \frac{\partial \text{loss}}{\partial x_i} = p_i - [i = t]$$
#
# where $[i = t]$ is 1 for the right token and 0 for the others. (The slope of $\ln s$ is $1/s$ and
# that of $e^x$ is $e^x$. So by the chain rule the slope of $\ln \sum_j e^{x_j}$ along $x_i$ is
# $e^{x_i} / \sum_j e^{x_j}$, which is $p_i$.) Training moves against the
# gradient. So every score is pushed down by its probability, and the right one is also pushed up
# by 1. The mean over $n$ positions divides all of it by $n$.

# %%
x = mg.Tensor(logits, requires_grad=True)
F.cross_entropy(x, targets).backward()
p = F.softmax(logits).numpy()
one_hot = np.eye(3)[targets]  # a row for each target: 1 at the target, 0 elsewhere
by_formula = (p - one_hot) / len(targets)
print(np.round(x.grad, 4))
print("equal to the formula:", np.allclose(x.grad, by_formula, rtol=0, atol=1e-15))

# %% [markdown]
# ## What a loss means: perplexity
#
# A loss of 2.0 says little to most people. $e^\text{loss}$, the **perplexity**, says more. A
# perplexity of 7 means that guessing is as hard as picking one of 7 equally likely tokens.


# %%
def perplexity(loss):
    return math.exp(loss)


print(f"loss 0      perplexity {perplexity(0):.0f}: perfection, every token was certain")
print(f"loss 2.0    perplexity {perplexity(2.0):.2f}: as if undecided between 7 or 8 tokens")
for n in (50_000, 65):
    print(f"loss {math.log(n):5.2f}  perplexity {n:,}: a uniform guess over {n:,} tokens")

# %% [markdown]
# ## The ladder
#
# These landmarks are a rule of thumb for models whose tokens are pieces of words, about 50,000 of
# them. How far down a model can get depends on the text: some texts are easier to predict.

# %%
ladder = [
    (math.log(50_000), "untrained"),
    (6.0, "early"),
    (3.0, "learning patterns"),
    (2.0, "decent"),
    (1.5, "good"),
    (1.0, "excellent"),
]
print("  loss  perplexity  what it means")
for loss, meaning in ladder:
    among = perplexity(loss)
    print(f"{loss:6.2f} {among:11,.{0 if among > 20 else 1}f}  {meaning}")

# %%
figure, axes = new("The ladder of losses", height=10, xlabel="perplexity = e^loss", ylabel="loss")
line = np.linspace(0, 11.5, 100)
axes.semilogx(np.exp(line), line, color=GREY, lw=2)
for loss, meaning in ladder:
    axes.plot(math.exp(loss), loss, "o", color=BLUE, ms=12)
    right = loss < 9
    axes.annotate(
        f"{loss:.2f}  {meaning}" if right else f"{meaning}  {loss:.2f}",
        (math.exp(loss), loss),
        (14 if right else -14, -12 if right else 0),
        textcoords="offset points",
        ha="left" if right else "right",
        color=BLUE,
    )
dashed(axes, 0, "perfection: loss 0, perplexity 1", GREEN)
axes.set_ylim(-0.3, 11.7)
axes.set_xticks([1, 10, 100, 1000, 10_000, 100_000], ["1", "10", "100", "1000", "10⁴", "10⁵"])
figure

# %% [markdown]
# ## Another vocabulary is another ladder
#
# A model of characters chooses among perhaps 65 tokens, so it starts at $\ln 65$, well below
# 10.82, without having learned anything. A loss of 1.5 means something else to it. To compare
# models with different tokens, convert the loss into **bits per character**: divide by $\ln 2$,
# because a bit is a choice between two, and by the number of characters in a token. (A loss with
# $\ln$ is measured in **nats**; 1 nat is 1.44 bits.)
#
# $$\text{bits per character} = \frac{\text{loss}}{\ln 2 \cdot \text{characters per token}}$$


# %%
def bits_per_character(loss, characters_per_token=1.0):
    return loss / math.log(2) / characters_per_token


for kind, loss, characters in (
    ("characters, untrained", math.log(65), 1.0),
    ("characters, loss 1.5", 1.5, 1.0),
    ("word pieces, loss 3.0", 3.0, 4.0),
):
    bits = bits_per_character(loss, characters)
    print(f"{kind:22} perplexity {perplexity(loss):5.1f}   {bits:.2f} bits per character")

# %% [markdown]
# If both read the same text, with four characters per token, the word-piece model of the last line
# knows it better than the character model above it, although its loss is twice as high.
#
# ## Try it
#
# * What loss does a model have that always gives the right token a probability of one half? Its
#   perplexity?
# * Change one target to the least likely token. Which entry of the gradient is largest in size now,
#   and which sign does it have?

# %% [markdown]
# ## Answers
#
# * $-\ln 0.5 = 0.693$. Its perplexity is 2, as in a choice between two equally likely tokens. In
#   bits it is exactly 1.
# * The entry of the target, with a negative sign: $(p_t - 1) / 3$ is close to $-1/3$, because $p_t$
#   is close to 0. So training pushes this score up. (In the last row the entry of the likeliest
#   token is as large, with a positive sign, because its probability is 1.)
#
# Next: [5. The training loop](05_training_loop.ipynb).
