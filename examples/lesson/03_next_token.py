# %% [markdown]
# # 3. Next-token prediction
#
# A language model with random weights writes gibberish. Training turns it into something that
# writes sentences, and it practises only one game: **guess what comes next.** This notebook
# shows the game, who supplies the right answers, and how well a very simple player does.

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
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.data import DataLoader
from gpt_numpy.tokenizer import CharTokenizer

# %% [markdown]
# ## The text is its own label
#
# Most machine learning needs people who label examples: this picture is a cat, that one is a dog.
# Text needs no labels. Cut it anywhere, and what comes before the cut is a question whose answer
# comes after the cut. This is called **self-supervision**. A model does not read letters or words
# but **tokens**, which are pieces of text with a number each. Here a token is a word or a full
# stop. The set of all tokens is the **vocabulary**, and V is their number.

# %%
text = "The cat sat on the mat."
tokens = text.replace(".", " .").split()
for t in range(1, len(tokens)):
    print(f"{'[' + ', '.join(tokens[:t]) + ']':29} -> {tokens[t]}")

# %% [markdown]
# ## All questions at once
#
# A sentence of T + 1 tokens holds T questions, and one pass of the model answers them all. The
# **causal mask** makes that fair: each position sees itself and the positions before it, and never
# the one that it has to guess (notebook 9 shows how). So the data loader returns two arrays, `x`
# and `y`. `y` is `x` moved by one, and position t of `y` is the right answer for position t of `x`.
#
# The loader cuts the text into windows of `block_size` tokens and returns several at a time. Such a
# group is a **batch**. Here a batch holds one window, so its shape is (1, T).

# %%
vocabulary = sorted(set(tokens))
ids = np.array([vocabulary.index(token) for token in tokens])
loader = DataLoader(ids, batch_size=1, block_size=len(ids) - 1)
[(x, y)] = loader  # the text has room for one window of this length, so there is one batch

for name, row in (("x", x.numpy()[0]), ("y", y.numpy()[0])):
    print(name, "  ", *(f"{vocabulary[i]:>5}" for i in row))
    print("    ", *(f"{i:5}" for i in row))

# %% [markdown]
# ## A play that never ends
#
# From here on the text is a play, and a token is a character. A small grammar writes the play, so
# no download is needed. We also know something about it that nobody knows about Shakespeare: how
# unpredictable it is, exactly. Notebook 6 uses that.

# %%
play = grammar.generate(200_000)
tokenizer = CharTokenizer.from_text(play)
V = tokenizer.vocab_size
print(play[:176])
print(f"... {len(play):,} characters, {V} different ones, and {len(play) - 1:,} questions")

# %% [markdown]
# ## What an untrained model writes
#
# A **GPT** is a function with many weights. Ids go in, and a score for every token of the
# vocabulary comes out, at every position. `block_size` is how many tokens it sees; `n_layer`,
# `n_head` and `n_embd` are its size (notebook 9). If its weights are random numbers, every
# character gets about the same chance.

# %%
mg.manual_seed(1)
model = GPT(GPTConfig(vocab_size=V, block_size=32, n_layer=2, n_head=4, n_embd=32))
model.to(dtype=np.float64)  # 16 digits, so that every machine draws the same characters
start = tokenizer.encode("\n")[None]  # ids (1, 1)
written = model.generate(start, 120, seed=1).numpy()[0]
print(tokenizer.decode(written).strip())

# %% [markdown]
# ## The simplest player
#
# A player needs no neural network. Count, for every character, which ones followed it in the first
# nine tenths of the play. Then guess in these proportions. Such a player sees one character of
# context, and is called a **bigram model**.

# %%
ids = tokenizer.encode(play)
cut = len(ids) * 9 // 10
train, held_out = ids[:cut], ids[cut:]

counts = np.ones((V, V))  # one of each, so that nothing is impossible
# counts[train[:-1], train[1:]] += 1 would count a pair that occurs twice only once.
np.add.at(counts, (train[:-1], train[1:]), 1)
probabilities = counts / counts.sum(1, keepdims=True)  # row: this character; column: the next one

h = tokenizer.encode("h")[0]
likely = np.argsort(-probabilities[h])[:5]
for i in likely:
    print(f"after 'h' comes {tokenizer.decode([i])!r} with probability {probabilities[h, i]:.2f}")

# %%
generator = np.random.default_rng(1)
written = [tokenizer.encode("\n")[0]]
for _ in range(120):
    written.append(generator.choice(V, p=probabilities[written[-1]]))
print(tokenizer.decode(np.array(written)).strip())

# %% [markdown]
# It has learned which letters go together, and nothing else. To score players we look at the
# probability that each gave to what really came next, in text that it has not seen. Notebook 4
# explains why we take the logarithm. A **uniform guess** gives each of the V tokens the probability
# 1/V, so its mean is $-\ln (1/V) = \ln V$.

# %%
given = probabilities[held_out[:-1], held_out[1:]]  # one probability for every pair (a, b)
bigram_loss = -np.log(given).mean()
print(f"mean of -ln p:  a uniform guess {np.log(V):.2f},  the bigram model {bigram_loss:.2f}")

# %% [markdown]
# ## Try it
#
# * Let the player see two characters instead of one. `counts` becomes an array (V, V, V). How much
#   lower is the loss? How many entries would five characters of context need?
# * Replace the grammar's play by a text of your own: `play = open("my.txt").read()`.

# %% [markdown]
# ## Answers
#
# * The loss falls from 2.19 to 1.47. Change three lines: `counts = np.ones((V, V, V))`, then
#   `np.add.at(counts, (train[:-2], train[1:-1], train[2:]), 1)`, and divide by
#   `counts.sum(2, keepdims=True)`. Five characters of context need $59^6$ entries, about 42
#   billion. Nearly all of them would never be counted, because the play has 200,000 characters.
# * The loss depends on your text, and so does V. Compare it with the $\ln V$ that is printed.
#
# Next: [4. Cross-entropy](04_cross_entropy.ipynb).
