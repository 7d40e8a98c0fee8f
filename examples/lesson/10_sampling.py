# %% [markdown]
# # 10. Sampling: from scores to text
#
# A trained model gives probabilities for the next token. To write, we must choose one, append it,
# and ask again. Always taking the likeliest token makes dull text that repeats itself. Choosing
# exactly by the probabilities sometimes picks a token that makes no sense. Three options shape the
# choice:
# **temperature**, **top-k** and **top-p**.

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
import re

import numpy as np

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig, sample
from gpt_numpy.corpus import grammar
from gpt_numpy.data import random_batch
from gpt_numpy.lesson.figures import BLUE, GREY, ORANGE, PALE, new
from gpt_numpy.tokenizer import CharTokenizer
from minigrad.schedule import warmup_cosine

# %% [markdown]
# ## Temperature
#
# Divide the scores by a number before the softmax. Below 1 it **sharpens** the distribution: likely
# tokens become likelier. Above 1 it **flattens** it. At 1 nothing changes.


# %%
def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


scores = np.array([2.0, 1.0, 0.1, -1.0])
by_temperature = {t: softmax(scores / t) for t in (0.5, 1.0, 1.5)}
print("scores          ", *(f"{score:6.2f}" for score in scores))
for temperature, p in by_temperature.items():
    print(f"temperature {temperature}:", *(f"{share:6.2f}" for share in p))

# %% [markdown]
# ## Top-k
#
# Keep the k likeliest tokens and scale their probabilities up so that they sum to 1 again. The many
# unlikely tokens have small probabilities, but together they would be chosen quite often.


# %%
def top_k(p, k):
    keep = np.argsort(-p, kind="stable")[:k]
    kept = np.zeros_like(p)
    kept[keep] = p[keep]
    return kept / kept.sum()


p = np.array([0.40, 0.30, 0.20, 0.05, 0.03, 0.02])
print("before      ", *(f"{share:5.2f}" for share in p))
print("top-k, k = 2", *(f"{share:5.2f}" for share in top_k(p, 2)))

# %% [markdown]
# ## Top-p
#
# How many tokens make sense differs from place to place. After "Good morrow, my" there are few, and
# at the start of a line there are many. So top-p keeps **the smallest set of likeliest tokens whose
# probabilities add up to at least p**.
#
# With $p = 0.9$ these are the first three here, because $0.40 + 0.30 + 0.20 = 0.90$. For a computer
# the sum is not quite 0.9, and a careless program would keep four:

# %%
print("0.40 + 0.30 + 0.20 =", 0.40 + 0.30 + 0.20, "  at least 0.9?", 0.40 + 0.30 + 0.20 >= 0.9)

# %%
ROUNDING = 1e-6  # probabilities are not known more precisely than that


def top_p(p, threshold):
    order = np.argsort(-p, kind="stable")  # likeliest first
    before = np.cumsum(p[order]) - p[order]  # the probability of all likelier tokens
    keep = order[(before < threshold - ROUNDING) | (before == 0)]  # the likeliest one stays
    kept = np.zeros_like(p)
    kept[keep] = p[keep]
    return kept / kept.sum()


print("before        ", *(f"{share:5.2f}" for share in p))
print("top-p, p = 0.9", *(f"{share:5.2f}" for share in top_p(p, 0.9)))

# %%
figure, panels = new(
    "Temperature sharpens or flattens",
    "Top-k keeps the k likeliest",
    "Top-p keeps the fewest that reach p",
    height=15,
    ylabel="probability",
)
place = np.arange(4)
for i, (temperature, row) in enumerate(by_temperature.items()):
    colour = (BLUE, GREY, ORANGE)[i]
    bars = panels[0].bar(place + 0.27 * (i - 1), row, 0.25, color=colour)
    bars.set_label(f"temperature {temperature}")
panels[0].set_xticks(place, [f"{score:g}" for score in scores])
panels[0].set_xlabel("the token's score")
for axes, kept, name in (
    (panels[1], top_k(p, 2), "top-k, k = 2"),
    (panels[2], top_p(p, 0.9), "top-p, p = 0.9"),
):
    axes.bar(np.arange(6) - 0.2, p, 0.37, color=PALE, edgecolor=GREY, label="before")
    axes.bar(np.arange(6) + 0.2, kept, 0.37, color=BLUE, label=name)
    axes.set_xticks(np.arange(6), [f"{share:.2f}" for share in p])
    axes.set_xlabel("the token's probability before")
for axes in panels:
    axes.set_ylim(0, 1)
    axes.legend()
figure

# %% [markdown]
# `gpt_numpy/sample.py` does the same for many rows at once. Temperature comes first, then top-k,
# then top-p.

# %%
options = [{"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.9}, {"temperature": 1.5, "top_k": 4}]
row = np.log(p)  # scores whose softmax is p
for chosen in options:
    ours = softmax(row / chosen.get("temperature", 1))
    ours = top_k(ours, chosen.get("top_k", len(p)))
    ours = top_p(ours, chosen.get("top_p", 1.0))
    theirs = sample.probabilities(row[None], **chosen)[0]
    print(chosen, "the same:", np.allclose(ours, theirs, rtol=0, atol=1e-15))

# %% [markdown]
# ## A model to write with
#
# Notebook 6 trains one properly. This one is smaller and is trained for a shorter time.

# %%
play = grammar.generate(200_000)
tokenizer = CharTokenizer.from_text(play)
ids, V = tokenizer.encode(play), tokenizer.vocab_size
mg.manual_seed(1)
model = GPT(GPTConfig(vocab_size=V, block_size=48, n_layer=2, n_head=4, n_embd=64))
model.to(dtype=np.float64)  # 16 digits, so that every machine writes the same text
# fused: all weights in one array, which is faster.  0.99 suits small batches.
optimizer = mg.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.99), fused=True)
steps = 700
for step in range(1, steps + 1):
    optimizer.param_groups[0]["lr"] = warmup_cosine(step, 20, steps, 8e-3, 8e-4)
    x, y = random_batch(ids, 12, 48, seed=1, step=step)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.2f} after {steps} steps")

# %% [markdown]
# ## The generating loop
#
# Ask the model, choose a token, append it, ask again. The model reads at most `block_size` tokens,
# so the text is cut to the last ones. To choose a token with probability $p_i$, take a random
# number between 0 and 1 and see into which token's share it falls.


# %%
def generate(model, ids, n_new, temperature=1.0, k=None, threshold=1.0, seed=1):
    """Return ids (T,) with n_new sampled ones behind them."""
    generator = np.random.default_rng(seed)
    for _ in range(n_new):
        with mg.no_grad():
            logits = model(ids[None, -model.config.block_size :])  # (1, T, V)
        p = softmax(logits.numpy()[0, -1] / temperature)  # at the last position
        p = top_k(p, k or len(p))
        p = top_p(p, threshold)
        u = generator.random()
        chosen = min((np.cumsum(p) <= u).sum(), len(p) - 1)
        ids = np.append(ids, chosen)
    return ids


prompt = tokenizer.encode("BRIDGET:\n")
for temperature in (0.2, 1.0, 2.0):
    written = tokenizer.decode(generate(model, prompt, 110, temperature))
    print(f"--- temperature {temperature}\n{written}\n")

# %% [markdown]
# At 0.2 it repeats what is most common. At 2.0 it spells badly. Top-k and top-p never choose the
# least likely tokens:

# %%
for name, chosen in (("top-k, k = 5", {"k": 5}), ("top-p, p = 0.8", {"threshold": 0.8})):
    print(f"--- {name}\n{tokenizer.decode(generate(model, prompt, 110, **chosen))}\n")

# %% [markdown]
# These are 110 characters each, too few to compare. So let us write 2,048 characters with every
# option, and count the words that do not occur in the play, and the different ones that do.
#
# The loop above would take too long for that, because it reads the last `block_size` tokens again
# for every new one. `model.generate` keeps the keys and values of what it has read (the **KV
# cache**), which gives the same scores faster as long as the text fits into one window. Beyond that
# it starts again from the last half. It also writes several texts at once, here 16 of 128
# characters. (The last word of each is left out, because it may be cut off.)

# %%
known = set(re.findall(r"[a-z']+", play.lower()))
print("                 wrong words   different right words")
for name, chosen in (
    ("temperature 0.2", {"temperature": 0.2}),
    ("temperature 1.0", {}),
    ("temperature 2.0", {"temperature": 2.0}),
    ("top-k, k = 5", {"top_k": 5}),
    ("top-p, p = 0.8", {"top_p": 0.8}),
):
    texts = model.generate(np.tile(prompt, (16, 1)), 128, seed=1, **chosen).numpy()
    words = []
    for row in texts[:, len(prompt) :]:
        words += re.findall(r"[a-z']+", tokenizer.decode(row).lower())[:-1]
    right = [word for word in words if word in known]
    print(f"{name:16} {1 - len(right) / len(words):10.0%} {len(set(right)):16}")

# %% [markdown]
# At 0.2 few words are wrong, and few are different. At 2.0 most are wrong. Top-k and top-p write
# fewer wrong words than a temperature of 1.0 alone, and nearly as many different ones. This model
# is small, so even its likely tokens are sometimes wrong.
#
# With a temperature near 0 the loop above and `model.generate` always take the likeliest token:

# %%
short = len(prompt) + 35  # within one block, where the cache needs no restart
ours = generate(model, prompt, 35, temperature=1e-6)
theirs = model.generate(prompt[None], 35, temperature=0).numpy()[0]
print("the same", short, "tokens:", np.array_equal(ours, theirs))

# %% [markdown]
# ## Try it
#
# * Combine a temperature of 1.5 with top-p 0.8.
# * What does top-p with p = 0.3 keep of the six probabilities above? And top-k with k = 1?

# %% [markdown]
# ## Answers
#
# * Of 2,000 characters about 30 % of the words are wrong, and about 60 % without top-p. The
#   temperature makes unlikely tokens likelier, and top-p leaves most of them out.
# * Both keep only the first token, and scale its 0.40 up to 1. That is what a temperature near 0
#   does as well.
#
# Next: [11. What goes wrong](11_what_goes_wrong.ipynb).
