# %% [markdown]
# # 6. The training curve
#
# Now we train a small GPT until it speaks, and watch three things: what it writes before, during
# and after training; the curve of its loss; and how far that curve is from the lowest loss that any
# model can have. The last one is usually unknown. Here we can compute it.

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
from gpt_numpy import GPT
from gpt_numpy.config import TrainConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.lesson.figures import BLUE, GREEN, GREY, ORANGE, curve, dashed, new
from gpt_numpy.tokenizer import CharTokenizer
from gpt_numpy.train import evaluate, train

# %% [markdown]
# ## The text, and its entropy
#
# A grammar writes the play by rolling dice: who speaks, which kind of sentence, which words. Even a
# reader who knows the grammar by heart cannot predict the dice. How surprised such a reader is, on
# average and for each character, is called the **entropy** of the text. No model can have a lower
# loss on average, whatever its size. We wrote the grammar, so we can compute its entropy exactly.
#
# The last tenth of the play is held out. The model never trains on it, so its loss there shows
# whether it has learned the language or only memorized the text.

# %%
play = grammar.generate(300_000)
tokenizer = CharTokenizer.from_text(play)
ids = tokenizer.encode(play)
cut = len(ids) * 9 // 10
training_ids, held_out = ids[:cut], ids[cut:]

V = tokenizer.vocab_size
entropy = grammar.entropy_per_character()
print(play[:176], "...\n")
print(f"a uniform guess among {V} characters: ln {V} = {math.log(V):.3f}")
print(f"the entropy of the grammar:           {entropy:.3f}")

# %% [markdown]
# ## The model, and what it writes before training

# %%
config = TrainConfig(
    n_layer=2, n_head=4, n_embd=64, block_size=64, batch_size=12, steps=1000,
    lr=5e-3, min_lr=5e-4, warmup_steps=50, workers=1,
)  # fmt: skip
mg.manual_seed(1)
model = GPT(config.model(V))
model.to(dtype=np.float64)  # 16 digits, so that every machine writes the same text
print(f"{sum(p.size for p in model.parameters()):,} weights")


def write(model, n=180):
    prompt = tokenizer.encode("\n\n")[None]  # ids (1, 2): a new speech begins
    # A temperature below 1 prefers likely characters (notebook 10).
    new_ids = model.generate(prompt, n, temperature=0.7, seed=1).numpy()[0]
    return tokenizer.decode(new_ids).strip()


print("\nBefore training:\n")
print(write(model))

# %% [markdown]
# ## Training
#
# `train` is the loop of notebook 5 with the schedule of notebook 7 and with **clipping**: if the
# gradient of all weights together is longer than 1, it is scaled down to length 1, so that one bad
# batch cannot throw the weights far. `train` is a generator that yields after every step. Every 100
# steps we measure the loss on held-out text.

# %%
losses, evaluations, samples = [], {}, {}
evaluations[0] = evaluate(model, held_out, max_tokens=8192)
for result in train(model, training_ids, config):
    losses.append(result.loss.item())
    if result.step in (100, 400):
        samples[result.step] = write(model)
    if result.step % 100 == 0:
        evaluations[result.step] = evaluate(model, held_out, max_tokens=8192)
        loss = evaluations[result.step]
        print(
            f"step {result.step:4}   held-out loss {loss:.2f}   perplexity {math.exp(loss):4.1f}   "
            f"{loss / math.log(2):.2f} bits per character"
        )

# %% [markdown]
# ## During training

# %%
for step, text in samples.items():
    print(f"--- after {step} steps, loss {evaluations[step]:.2f}\n{text}\n")

# %% [markdown]
# ## And after

# %%
print(write(model, 400))

# %% [markdown]
# Names in capitals, a colon, lines of about equal length, nearly all words spelled right, and now
# and then a sentence with a meaning. Nobody told the model what a word is. All of this lowers the
# loss, and nothing else was asked of it.
#
# ## The curve

# %%
figure, axes = new("A healthy training curve", xlabel="step", ylabel="loss (nats per character)")
curve(axes, losses, BLUE, "training")
axes.plot([*evaluations], [*evaluations.values()], "o", color=ORANGE, ms=9, label="held-out text")
axes.set_xlim(0, len(losses))
axes.set_ylim(0, 4.6)
dashed(axes, math.log(V), f"uniform guess: ln {V} = {math.log(V):.2f}", GREY)
dashed(axes, entropy, f"entropy, the theoretical minimum: {entropy:.2f}", GREEN)
axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
perplexities = [1, 2, 3, 5, 10, 20, 50]
right = axes.secondary_yaxis("right")
right.set_yticks([math.log(p) for p in perplexities], perplexities)
right.set_ylabel("perplexity")
figure

# %% [markdown]
# This is what a healthy curve looks like, from left to right:
#
# 1. **It starts at the uniform guess.** If it starts higher, the initial weights are too large: the
#    model is sure of something before it has seen anything.
# 2. **It falls steeply.** In the first steps the model learns which characters are frequent.
# 3. **It slows down at a shoulder**, a little above 2. The bigram model of notebook 3 had 2.19. It
#    knows pairs of characters and nothing else.
# 4. **It falls again.** The model now uses more than one character of context, and learns words.
# 5. **It levels off above the dashed line.** Two things leave a gap. The model is small and trained
#    briefly; "Try it" tests that. And it sees at most 64 characters, almost none at the start of a
#    window, while the entropy assumes a reader who sees everything. On held-out text no model gets
#    below the line on average. On text that it has memorized, the blue line can.
#
# The curve is jagged, because every batch is a different piece of text. The thick line is the mean
# of the last steps, so it comes late where the curve falls steeply. The orange points lie on it. If
# they rose while the blue line fell, the model would be memorizing its text.
#
# ## How far from perfect?
#
# The entropy above is that of an endless play. We can also compute the loss that a reader who knows
# the grammar has on exactly this held-out text. It is a little lower than the entropy, because
# chance made this piece slightly more predictable. Over an endless play the two are equal. The
# share in the last line is measured to the entropy.

# %%
nats, n_characters = grammar.negative_log_likelihood(play[cut:])
final = evaluate(model, held_out)
print(f"loss of a reader who knows the grammar: {nats / n_characters:.3f}")
print(f"loss of the model:                      {final:.2f}, on all of the held-out text")
share = (math.log(V) - final) / (math.log(V) - entropy)
print(f"of the way from ln {V} to the entropy:   {share:.0%}")

# %% [markdown]
# ## Try it
#
# * Train on the first 5,000 characters only. What do the orange points do?
# * Set `n_layer` to 4, or train for 2,000 steps. Which helps more?
# * `python examples/train_shakespeare.py --open` trains a larger model on all processor cores and
#   shows the same curve in a page that updates as it learns.

# %% [markdown]
# ## Answers
#
# * They fall to about 1.8 at step 500, and then they rise, to 2.4 at the end. The model memorizes
#   its text: it writes pieces of it, such as "His purple snail hath charmed".
# * Longer training. On all of the held-out text the loss is about 0.74 after 2,000 steps, and 0.96
#   after 1,000. Two more layers bring it to about 0.95 in 1,000 steps.
#
# Next: [7. The learning-rate schedule](07_schedule.ipynb).
