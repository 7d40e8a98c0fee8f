# %% [markdown]
# # 9. Attention
#
# To guess the next token, a position needs to know what came before it. **Attention** is how
# positions exchange information: each one takes a weighted average of what the others offer, and
# the shares depend on the content. It consists of five ordinary operations: product, scaling, mask,
# softmax, product. Below, B is the number of sequences in a batch, T of positions, C of channels
# (numbers per position), H of heads and V of tokens in the vocabulary. (A raised T, as in $k^T$, is
# the transpose.)

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
from IPython.display import SVG

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.lesson.figures import heat_map, new
from gpt_numpy.lesson.shapes import shapes_svg

# %% [markdown]
# ## Query, key, value
#
# Every position has C numbers that say what it knows so far. From these it computes three vectors
# of length $D$, each by a product with a matrix of weights (`attn.query.weight` and so on, printed
# below). Its **query** $q$ says what it is looking for. Its **key** $k$ says what it can be found
# by. Its **value** $v$ is what it passes on. How well a query fits a key is their dot product:
# multiply entry by entry and add. A softmax turns the products of a row into shares $P$:
#
# $$S = \frac{q k^T}{\sqrt{D}} \qquad P = \text{softmax}(S) \qquad \text{out} = P v$$
#
# Why divide by $\sqrt{D}$? A sum of $D$ independent products, each with standard deviation 1, has a
# standard deviation (spread) of $\sqrt{D}$.
# Without the division a softmax over scores so far apart would pick one position and ignore the
# others.

# %%
generator = np.random.default_rng(0)
for D in (4, 64, 1024):
    q, k = generator.standard_normal((2, 10_000, D))
    products = (q * k).sum(1)
    spread = products.std()
    print(f"D = {D:4}   spread of q·k {spread:5.1f}   divided by √D {spread / D**0.5:.1f}")

# %% [markdown]
# ## Five operations
#
# The line with `F.where` is the **causal mask**: a position must not see what comes after it,
# because that is what it has to guess. A score of $-\infty$ becomes a share of $e^{-\infty} = 0$.

# %%
words = "The cat sat on the mat".split()
T, D = len(words), 4
generator = np.random.default_rng(5)
arrays = generator.standard_normal((3, 1, 1, T, D))  # q, k, v: (B, H, T, D), here B = H = 1
dout = generator.standard_normal((1, 1, T, D))  # some gradient that comes back


def spelled_out(q, k, v):
    """Return (out, weights)."""
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(D)  # (B, H, T, T): query t, key s
    later = np.arange(T) > np.arange(T)[:, None]  # s > t
    scores = F.where(later, -math.inf, scores)
    weights = F.softmax(scores)  # every row sums to 1
    return weights @ v, weights


q, k, v = (mg.Tensor(array, requires_grad=True) for array in arrays)
out, weights = spelled_out(q, k, v)
out.backward(dout)

# %%
figure, axes = new("How much each word (row) looks at each word (column)", height=9)
heat_map(axes, weights.numpy()[0, 0], words)
figure

# %% [markdown]
# `q`, `k` and `v` are random numbers here, so the pattern means nothing yet. Two things hold for
# any numbers. The upper right triangle is empty, and every row sums to 1. The first word can only
# look at itself.
#
# ## One operation instead of five
#
# `F.attention` computes the same. Its `backward` was derived by hand, in
# `minigrad/ops/attention.py`. The tape finds the gradients of our five operations by itself, so
# each checks the other.

# %%
fused_q, fused_k, fused_v = (mg.Tensor(array, requires_grad=True) for array in arrays)
fused_out = F.attention(fused_q, fused_k, fused_v)
fused_out.backward(dout)
for name, ours, theirs in (
    ("out", out.data, fused_out.data),
    ("dq", q.grad, fused_q.grad),
    ("dk", k.grad, fused_k.grad),
    ("dv", v.grad, fused_v.grad),
):
    close = abs(ours - theirs).max() < 1e-14
    print(f"{name:4} largest entry {abs(ours).max():.2f}   they differ by less than 1e-14: {close}")

# %% [markdown]
# ## What the mask guarantees
#
# Change the last word, and nothing may change at the positions before it. That is why one pass can
# train all T positions at once: none of them has seen its answer.

# %%
changed = arrays.copy()
changed[..., -1, :] += 1  # q, k and v of the last position
masked = F.attention(*changed).numpy()
unmasked = F.attention(*changed, causal=False).numpy()
before = slice(0, T - 1)
same = np.array_equal(masked[..., before, :], F.attention(*arrays).numpy()[..., before, :])
print("with the mask, earlier positions stay the same to the last bit:", same)
same = np.array_equal(
    unmasked[..., before, :], F.attention(*arrays, causal=False).numpy()[..., before, :]
)
print("without it:", same)

# %% [markdown]
# ## Where attention sits
#
# A GPT is a stack of blocks. In each of them the positions first talk (attention), and then each
# thinks by itself (the MLP). Both add their result to a stream that runs from the ids at the top of
# the picture to the scores at the bottom, the **residual stream**. The picture shows the shapes and
# the number of weights, for the model that `examples/train_shakespeare.py` trains on a laptop. The
# parts that are new:
#
# | part | what it does |
# |---|---|
# | embedding | a table with one row of C numbers per token, and one per position |
# | layer norm | subtracts a row's mean, divides by its spread, and multiplies by a weight |
# | projection (`proj`) | a product with a matrix that mixes the channels, back to C numbers |
# | MLP | multi-layer perceptron: the network of notebook 2, 4 C numbers wide between its layers |
# | GELU | a smooth form of max(0, x), in place of tanh |
# | scores | the product with the token table again: a token scores high if its row fits |

# %%
config = GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False)
SVG(shapes_svg(config))

# %% [markdown]
# Attention runs in H **heads** side by side, each with $D = C / H$ channels, so that a position can
# look for several things at once. `transpose` and `view` cut the channels into heads:

# %%
B, T, H, C = 2, 6, 4, 128
x = mg.Tensor(np.zeros((B, T, C)))
print(x.shape, "→", x.view(B, T, H, C // H).transpose(0, 2, 1, 3).shape)

# %% [markdown]
# Finally, the weights of one block. A weight has shape (outputs, inputs), as in PyTorch, while
# notebook 2 had (inputs, outputs): `F.linear(x, weight)` computes `x @ weight.T`.

# %%
mg.manual_seed(1)
model = GPT(config)
print(f"{sum(p.size for p in model.parameters()):,} weights")
for name, p in model.h[0].named_parameters():
    print(f"   {name:18} {p.shape!s:12} {p.size:7,}")

# %% [markdown]
# ## Try it
#
# * Set `scores` to zero before the mask. What does each position return now?
# * Remove the mask from `spelled_out`, and compare with `F.attention(..., causal=False)`.
# * Put the positions of `arrays` in another order, `arrays[..., [2, 0, 1, 4, 3, 5], :]`, and call
#   `F.attention` with `causal=False`: the same rows come out, in the new order. So without the mask
#   attention has no sense of order. What in the picture above tells the model where a token is?

# %% [markdown]
# ## Answers
#
# * The mean of the values up to itself: equal scores become equal shares of what the mask leaves.
# * They are equal. (The test in the next cell compares with the mask. Pass `causal=False` there.)
# * The second table of the embedding, with a row per position. Its row is added to the token's.
#
# Next: [10. Sampling](10_sampling.ipynb).
