# %% [markdown]
# # 12. The graph of a step
#
# A forward pass leaves a tape behind: every operation with its inputs. This notebook looks at that
# tape, first of one line of code and then of a whole GPT. It ends with the reason why deep networks
# can be trained at all.

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
from pathlib import Path

import numpy as np
from IPython.display import SVG

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.lesson.figures import BLUE, ORANGE, new

# %% [markdown]
# ## The tape of one line
#
# Every result points to a node, and every node to the nodes that its inputs came from. Following
# these pointers from the loss finds all that `backward()` will go through, newest first.

# %%
x = mg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
w = mg.Tensor([0.5, -1.0, 2.0], requires_grad=True)
b = mg.Tensor(0.25, requires_grad=True)
leaves = {x: "x", w: "w", b: "b"}


def nodes_behind(loss):
    found, waiting = set(), [loss.node]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [parent for parent in node.parents if isinstance(parent, mg.tensor.Node)]
    return sorted(found, key=lambda node: node.time)


def show(nodes):
    number = {node: f"node {i}" for i, node in enumerate(nodes)}
    names = number | leaves | {None: "a number"}
    print("        op     shape   inputs")
    for node in reversed(nodes):
        inputs = ", ".join(names[parent] for parent in node.parents)
        print(f"{number[node]}  {node.op:5}  {node.shape!s:6}  {inputs}")


loss = ((x * w).sum() + b) ** 2
show(nodes_behind(loss))

# %% [markdown]
# `mg.draw` makes a picture of it, in place of `loss.backward()`. It computes the gradients too, and
# writes their lengths on the lines.

# %%
folder = Path("runs/lesson")
folder.mkdir(parents=True, exist_ok=True)
drawing = mg.draw(loss, folder / "expression.svg")
print("x.grad", x.grad, "  w.grad", w.grad, "  b.grad", b.grad)
SVG(drawing.read_text(encoding="utf-8"))

# %% [markdown]
# Time runs down in the picture, while the table above has the newest node on top. At every line are
# the shape and the length of its gradient. A short line to the right of a box is a leaf, a Tensor
# that no operation has made: `x` and then `w` at `mul`, and `b` at `add`.
#
# ## The tape of a GPT

# %%
mg.manual_seed(1)
model = GPT(GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128))
model.to(dtype=np.float64)
ids = np.random.default_rng(1).integers(65, size=(12, 65))
loss = F.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
nodes = nodes_behind(loss)
print(len(nodes), "operations in a forward pass, of", len({node.op for node in nodes}), "kinds:")
counts = {node.op: sum(other.op == node.op for other in nodes) for node in nodes}
for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
    print(f"   {n:3}  {name}")
print(mg.draw(loss, folder / "gpt.svg").as_posix(), "(click a block to see what is inside)")

# %% [markdown]
# ## How large the gradients are along the way
#
# A gradient reaches a weight through all operations between it and the loss. In a plain chain of
# layers, each one may shorten it or lengthen it. After many layers nothing is left, or the numbers
# explode. In a GPT every block **adds** to the residual stream. The derivative of $x + f(x)$ is
# $1 + f'(x)$, where $f'$ is the derivative of $f$, so a part of the gradient passes every block
# unchanged.
#
# To see the difference, take 24 layers of the same kind, with the small random weights that a GPT
# starts from, with and without the addition. Between the layers we add a `probe`, which is zero and
# changes nothing. Its gradient is the gradient that arrives there.


# %%
def gradient_lengths(n_layers, residual, width=64):
    generator = np.random.default_rng(0)
    x = mg.Tensor(generator.standard_normal((8, width)))
    probes = []
    for _ in range(n_layers):
        probes.append(mg.Tensor(np.zeros((8, width)), requires_grad=True))
        x = x + probes[-1]
        weight = mg.Tensor(0.02 * generator.standard_normal((width, width)))
        new_x = F.gelu(F.linear(x, weight))
        x = x + new_x if residual else new_x
    x.backward(generator.standard_normal((8, width)))
    return [float(np.linalg.norm(probe.grad)) for probe in probes]


chain, stream = gradient_lengths(24, residual=False), gradient_lengths(24, residual=True)
for name, lengths in (("plain chain", chain), ("residual stream", stream)):
    print(f"{name:16} at layer 24: {lengths[-1]:.1e}   at layer 1: {lengths[0]:.1e}")

# %%
figure, axes = new("The gradient that reaches each layer", xlabel="layer", ylabel="its length")
layers = np.arange(1, 25)
axes.semilogy(layers, stream, color=BLUE)
axes.semilogy(layers, chain, color=ORANGE, ls="--")
for name, i, lengths, colour in (
    ("residual stream", 2, stream, BLUE),
    ("plain chain", 12, chain, ORANGE),
):
    axes.annotate(name, (layers[i], lengths[i]), (14, -10), textcoords="offset points",
                  va="top", color=colour)  # fmt: skip
figure

# %% [markdown]
# And in the GPT above, block by block:

# %%
for name in ("query", "value"):
    lengths = [np.linalg.norm(getattr(block.attn, name).weight.grad) for block in model.h]
    print(f"gradient of {name}.weight, by block:", *(f"{length:.3g}" for length in lengths))

# %% [markdown]
# The value weights of all blocks get gradients of a similar size. Those of the queries are far
# shorter: before training every position looks everywhere about equally, and what it looks for
# makes little difference yet. (**Dropout**, in the table above, sets random entries to zero during
# training, so that no weight relies on a single one. It is off here and passes its input on.)
#
# ## The end of the lesson
#
# You have built the tape, the loss, the loop, the schedule and the sampler. What is left is to read
# the real ones: start with `gpt_numpy/train.py`, and follow one step down to `minigrad/tensor.py`.
# Then train a model of your own with `python examples/train_shakespeare.py`.
#
# ## Try it
#
# * Write `F.linear(F.layer_norm(x), weight)`. Layer norm keeps the numbers the same size. What does
#   it do to the gradients of the chain, and what with 200 layers?
# * Make the weights ten times as large. Where do the gradients go now?

# %% [markdown]
# ## Answers
#
# * The gradients of the chain arrive: at layer 1 the length is 4.3 instead of 8e-26, and with 200
#   layers it is still about 20. In every layer the norm divides by the small size of the numbers,
#   forwards and backwards, and so undoes what the small weights do.
# * They grow on the way. In the chain the length rises from about 30 at layer 24 to 300 at layer 1,
#   and in the stream to 4 million. A residual stream alone does not protect from large weights.
#   With layer norm in addition, the length in the stream is 170 at layer 1.
