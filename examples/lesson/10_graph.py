"""The graph of a step: what backward() goes through, and how long the gradients are on the way.

    python examples/lesson/10_graph.py

A gradient reaches a weight by way of all ops between it and the loss.  In a chain of many layers
each may shorten it or lengthen it, and then the first layers learn nothing, or the step blows up.
In a GPT every block adds to a stream that runs from input to loss.  The gradient of x + f(x)
reaches x unchanged, and what comes back through f is added to it.  Open the pictures in a browser:
along the stream the lines stay wide; within a block, those from query and key are thin.
"""

from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig

folder = Path("runs/lesson")
folder.mkdir(parents=True, exist_ok=True)

x = mg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
w = mg.Tensor([0.5, -1.0, 2.0], requires_grad=True)
b = mg.Tensor(0.25, requires_grad=True)
loss = ((x * w).sum() + b) ** 2
print(f"one line: {mg.draw(loss, folder / 'expression.svg')}; to the right of mul stand x and w")

mg.manual_seed(1)
model = GPT(GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128))
ids = np.random.default_rng(1).integers(65, size=(12, 65))
loss = F.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
print(f"a GPT:    {mg.draw(loss, folder / 'gpt.svg')}; click a block to see what is inside")
for name in ("query", "value"):
    norms = [np.linalg.norm(getattr(block.attn, name).weight.grad) for block in model.h]
    print(f"          ‖gradient‖ of {name}.weight, by block:", *(f"{n:.3g}" for n in norms))
