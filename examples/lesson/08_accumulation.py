# %% [markdown]
# # 8. Gradient accumulation
#
# Large batches give steadier gradients. Suppose you want 512 sequences in a step and the memory
# holds only 8. Gradients add up, so you can compute them for 64 small batches, one after another,
# and step once. The result is the same as with the large batch. It only takes longer.

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
import copy

import numpy as np

import minigrad as torch
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig

# %% [markdown]
# ## Why each loss is divided by 64
#
# The loss of a batch is a mean. The mean of 512 losses is not the sum of 64 means of 8. It is a
# 64th of that sum:
#
# $$\frac{1}{512} \sum_{i=1}^{512} \text{loss}_i
# = \sum_{j=1}^{64} \frac{1}{64} \left( \frac{1}{8} \sum_{i \text{ in batch } j} \text{loss}_i
# \right)$$
#
# Derivatives of sums are sums of derivatives, so the same holds for the gradients. Here are 512
# random sequences, as one batch and as 64 small ones, and an untrained model in float64.

# %%
accumulation_steps, vocab_size = 64, 50
ids = np.random.default_rng(0).integers(vocab_size, size=(512, 17))
all_x, all_y = torch.Tensor(ids[:, :-1]), torch.Tensor(ids[:, 1:])  # (512, 16)
train_loader = [(all_x[i : i + 8], all_y[i : i + 8]) for i in range(0, 512, 8)]

torch.manual_seed(1)
# bias=False: the layers add no row (notebook 2).  TrainConfig in notebook 6 has the same default.
untrained = GPT(GPTConfig(vocab_size=vocab_size, block_size=16, n_layer=1, n_embd=32, bias=False))
untrained.to(dtype=np.float64)
print("small batches:", len(train_loader), "of", train_loader[0][0].shape)

# %% [markdown]
# ## The loop
#
# It is written for PyTorch, and only the imports are different. The optimizer steps once the
# gradients of `accumulation_steps` batches have been added up.

# %%
model = copy.deepcopy(untrained)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

optimizer.zero_grad()
for i, (x, y) in enumerate(train_loader):
    logits = model(x)
    loss = F.cross_entropy(logits.view(-1, vocab_size), y.view(-1))
    loss = loss / accumulation_steps
    loss.backward()

    if (i + 1) % accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()

# %% [markdown]
# And now one step on all 512 sequences at once.

# %%
large = copy.deepcopy(untrained)
optimizer = torch.optim.AdamW(large.parameters(), lr=3e-4)
F.cross_entropy(large(all_x), all_y).backward()
optimizer.step()


def weights(model):
    return np.concatenate([p.data.ravel() for p in model.parameters()])


moved = abs(weights(model) - weights(untrained)).max()
off = abs(weights(model) - weights(large)).max()
print(f"in this step a weight moved by at most {moved:.0e}")
print("the two models differ by less than 1e-12:", off < 1e-12)

# %% [markdown]
# ## What if the division is forgotten?


# %%
def gradient(batches, divisor):
    """Return the sum of the gradients of loss / divisor, for all weights as one vector."""
    model = copy.deepcopy(untrained)
    for x, y in batches:
        (F.cross_entropy(model(x), y) / divisor).backward()
    return np.concatenate([p.grad.ravel() for p in model.parameters()])


whole = gradient([(all_x, all_y)], divisor=1)
divided = gradient(train_loader, divisor=64)
undivided = gradient(train_loader, divisor=1)
print(f"length of the gradient of one batch of 512:  {np.linalg.norm(whole):8.4f}")
print(f"64 batches of 8, each loss divided by 64:    {np.linalg.norm(divided):8.4f}")
print(f"64 batches of 8, not divided:                {np.linalg.norm(undivided):8.4f}")

# %% [markdown]
# It is 64 times too long. AdamW divides by the size of the gradients and would hide the mistake.
# With clipping it shows: a length of 6.7 is cut down to 1, while the right gradient of 0.1 would
# not have been cut. Plain gradient descent would step 64 times too far.
#
# ## The last group
#
# Real texts rarely come in multiples of 64 batches. Suppose there are 70 small batches, and the
# last one has only 3 sequences. The loop above steps after batch 64. The gradients of the other six
# batches are added up, and then the text is over: **they are lost**, or they leak into the next
# epoch. Stepping once more at the end is not enough, because their losses were divided by 64, and
# there are only 6 of them.
#
# The fix: divide by what is really in the group. A batch of $n$ sequences out of $N$ in its
# group counts $n / N$. Then a short group is weighted correctly, and so is a short batch.


# %%
def groups(batches, size):
    """Yield lists of `size` batches; the last list may be shorter."""
    for i in range(0, len(batches), size):
        yield batches[i : i + size]


def train(model, batches, accumulation_steps):
    """Take one step for each group of batches, however many there are; return the step count."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    n_steps = 0
    for group in groups(batches, accumulation_steps):
        N = sum(len(x) for x, _ in group)
        for x, y in group:
            (F.cross_entropy(model(x), y) * (len(x) / N)).backward()
        optimizer.step()
        optimizer.zero_grad()
        n_steps += 1
    return n_steps


more = np.random.default_rng(1).integers(vocab_size, size=(43, 17))
batches = train_loader + [
    (torch.Tensor(more[i : i + 8, :-1]), torch.Tensor(more[i : i + 8, 1:])) for i in range(0, 43, 8)
]
print(len(batches), "batches; sequences in the last six:", [len(x) for x, _ in batches[64:]])

model = copy.deepcopy(untrained)
print("steps with 64 batches per group:", train(model, batches, 64))
large = copy.deepcopy(untrained)
two = [(all_x, all_y), (torch.Tensor(more[:, :-1]), torch.Tensor(more[:, 1:]))]
print("steps with the same sequences as two large batches:", train(large, two, 1))
off = abs(weights(model) - weights(large)).max()
print("the two models differ by less than 1e-12:", off < 1e-12)

# %% [markdown]
# In `gpt_numpy/train.py` the question does not arise: its batches are random windows of the text,
# all of the same size, and every step has exactly `accumulate` of them.
#
# ## Try it
#
# * Divide by 64 in the last group as well. How far apart are the two models after the second step?
# * What would change if the rows had different lengths, filled up with a token that does not count
#   (**padding**)? By what should a batch be weighted then?

# %% [markdown]
# ## Answers
#
# * By up to 5e-04, more than the first step moved any weight. The weights of the six losses sum to
#   6/64 and not to 1, so this gradient is about a tenth of what it should be.
# * By its number of tokens that count, divided by that number in the whole group. A mean over
#   sequences would give a token in a short row more weight than a token in a long one.
#
# Next: [9. Attention](09_attention.ipynb).
