# %% [markdown]
# # 5. The training loop
#
# Guess, measure, find out which way is better, take a step. That is all of training, and it fits
# into a dozen lines. They are written for PyTorch, the library that most models are trained with,
# and run here on minigrad: only the two imports are different. So `torch` in this notebook is
# minigrad.

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

import minigrad as torch
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.data import DataLoader
from gpt_numpy.tokenizer import CharTokenizer

# %% [markdown]
# ## Text, batches, model
#
# The loader cuts the text into windows of 32 characters and returns 32 of them at a time. So a
# batch `x` has shape (B, T) = (32, 32), and `y[b, t]` is the character that follows `x[b, t]`. One
# pass through the whole text is an **epoch**.

# %%
text = grammar.generate(50_000)
tokenizer = CharTokenizer.from_text(text)
train_loader = DataLoader(tokenizer.encode(text), batch_size=32, block_size=32)
torch.manual_seed(1)
model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=32, n_layer=1, n_embd=64))
model.to(dtype=np.float64)  # 16 digits, so that every machine prints the same numbers
epochs = 4

V = tokenizer.vocab_size
# Look at one batch of a second loader: a loader draws a new order every time it is used.
x, y = next(iter(DataLoader(tokenizer.encode(text), batch_size=32, block_size=32)))
print("x", x.shape, " y", y.shape, " scores", model(x).shape)
print(f"{sum(p.size for p in model.parameters()):,} weights")
untrained = F.cross_entropy(model(x), y).item()
print(f"Untrained: loss {untrained:.2f}.  A uniform guess among {V}: ln {V} = {math.log(V):.2f}")

# %% [markdown]
# ## The loop

# %%
# fmt: off
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
for epoch in range(epochs):
    for x, y in train_loader:
        logits = model(x)
        B, T, C = logits.shape
        logits = logits.view(B*T, C)
        targets = y.view(B*T)
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"Epoch {epoch} | Loss: {loss.item():.4f}")
# fmt: on

# %% [markdown]
# The loss falls from 4.08 to about 2.5. The bigram model of notebook 3 had 2.19, so after these 196
# steps our GPT is still worse than counting pairs of characters. It needs more steps and a larger
# learning rate. Notebook 6 gives it both, and more layers, and it reaches 0.97.
#
# ## Line by line
#
# | line | what it does |
# |---|---|
# | `AdamW(..., lr=3e-4)` | the optimizer, which updates the weights; `lr` is the learning rate |
# | `logits = model(x)` | **forward**: a score for every token at every position, (B, T, V) |
# | `logits.view(B*T, C)` | the same scores as a list of B·T questions; here C is V |
# | `F.cross_entropy(...)` | one number: how surprised the model was, on average |
# | `optimizer.zero_grad()` | forget the gradients of the last step |
# | `loss.backward()` | **backward**: the slope of the loss for every weight |
# | `optimizer.step()` | move every weight a little against its slope |
#
# PyTorch's `cross_entropy` wants the list of questions. minigrad's also takes (B, T, V) and (B, T),
# so later cells leave `view` out.
#
# Why must the old gradients be forgotten? Because `backward()` **adds** to them. Notebook 8 makes
# good use of that. Here it would be a mistake: every step would use the gradients of all earlier
# steps again. (The loop prints the loss of the last batch of each epoch.)
#
# The next cell calls `backward()` twice without `zero_grad()`. The **length** of a gradient is the
# root of the sum of its squared entries. `wte` is the table with a vector for each token
# (notebook 9).

# %%
x, y = next(iter(train_loader))
optimizer.zero_grad()
F.cross_entropy(model(x), y).backward()
once = model.wte.weight.grad.copy()
F.cross_entropy(model(x), y).backward()
ratio = np.linalg.norm(model.wte.weight.grad) / np.linalg.norm(once)
print(f"after two backward() without zero_grad() the gradient is {ratio:.4f} times as long")

# %% [markdown]
# ## AdamW, written out
#
# The plain step is $w \leftarrow w - \text{rate} \cdot g$, with $g$ the gradient. AdamW keeps two
# running means for every weight: $m$ of its gradients and $v$ of their squares. In each step $m$
# keeps 90 % ($\beta_1 = 0.9$) of its old value and adds 10 % of the new gradient. $v$ keeps 99.9 %
# ($\beta_2 = 0.999$), so it changes more slowly. AdamW divides $m$ by the
# square root of $v$. So a weight moves about as far as the rate says when its gradients agree in
# sign, and very little when their signs keep changing. Weight decay, the W, also pulls every weight
# a little towards zero, so that a weight stays large only if its gradients keep it there. $\lambda$
# is its strength. $\epsilon$ keeps us from dividing by 0.
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1) g \qquad
# v \leftarrow \beta_2 v + (1 - \beta_2) g^2$$
# $$w \leftarrow w - \text{rate} \cdot \left(
# \lambda w + \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \right)$$
#
# The means start at zero, which makes them too small at first. Dividing by $1 - \beta^t$ in step
# $t$ corrects that.


# %%
def adamw_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - lr * (weight_decay * w + m_hat / (np.sqrt(v_hat) + eps)), m, v


generator = np.random.default_rng(0)
ours = generator.standard_normal(5)
theirs = torch.Tensor(ours.copy(), requires_grad=True)
optimizer = torch.optim.AdamW([theirs], lr=3e-4)
m = v = np.zeros(5)
for t in range(1, 101):
    g = generator.standard_normal(5)
    ours, m, v = adamw_step(ours, g, m, v, t, lr=3e-4)
    theirs.grad = g
    optimizer.step()
print("100 steps, largest difference below 1e-14:", abs(ours - theirs.data).max() < 1e-14)

# %% [markdown]
# ## The loop of `gpt_numpy`
#
# `gpt_numpy/train.py` is this loop with what later notebooks add. A step draws its windows at
# random, so there are no epochs. It may read several batches and add up their gradients, so
# `zero_grad()` comes before the first of them (notebook 8). The rate follows a schedule
# (notebook 7). And before `optimizer.step()` a very long gradient is shortened (`clip_grad_norm`),
# so that one unusual batch cannot throw the weights far.

# %% [markdown]
# ## Try it
#
# * Delete `optimizer.zero_grad()` from the loop. How does the loss end with AdamW? Use
#   `torch.optim.SGD(model.parameters(), lr=0.5)` instead, the plain step of notebook 1, with and
#   without the line.
# * Evaluate the model on a text that it has not seen, `grammar.generate(10_000, seed=1)`: the mean
#   of `F.cross_entropy(model(x), y).item()` over a loader, under `with torch.no_grad():`.

# %% [markdown]
# ## Answers
#
# * With AdamW the loss ends at 3.16 instead of 2.51. SGD reaches 2.87 with the line. Without it the
#   gradients grow with every step, and so do the steps: the loss becomes NaN, with warnings.
# * 2.53, and 2.51 on the text that the model was trained on. The gap is small, so the model has
#   memorized almost nothing. What it still has to learn is in both texts.
#
# Next: [6. The training curve](06_training_curve.ipynb).
