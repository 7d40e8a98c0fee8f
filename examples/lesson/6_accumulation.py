"""Gradients add up: many small batches, then one step, are one large batch.

Wanted are 512 sequences at once, and the memory holds 8.  So the gradients of 64 small batches are
added up before a step, each loss divided by 64: the mean of 512 losses is 1/64 of the sum of 64
means of 8.

    python examples/lesson/6_accumulation.py
"""

import copy

import numpy as np

import minigrad as torch
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig

accumulation_steps, vocab_size = 64, 50
ids = np.random.default_rng(0).integers(vocab_size, size=(512, 17))
all_x, all_y = torch.Tensor(ids[:, :-1]), torch.Tensor(ids[:, 1:])  # (512, 16)
train_loader = [(all_x[i : i + 8], all_y[i : i + 8]) for i in range(0, 512, 8)]

torch.manual_seed(1)
untrained = GPT(GPTConfig(vocab_size=vocab_size, block_size=16, n_layer=1, n_embd=32, bias=False))
untrained.to(dtype=np.float64)

# One step on 64 batches of 8.
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

# One step on the 512.
large = copy.deepcopy(untrained)
optimizer = torch.optim.AdamW(large.parameters(), lr=3e-4)
F.cross_entropy(large(all_x), all_y).backward()
optimizer.step()


def weights(model):
    return np.concatenate([p.data.ravel() for p in model.parameters()])


moved = abs(weights(model) - weights(untrained)).max()
off = abs(weights(model) - weights(large)).max()
print(f"""After a step on 64 batches of 8,
a weight has moved by at most               {moved:.0e}
and differs from a step on 512 by at most   {off:.0e}""")


def gradient(batches, divisor):
    """What the gradients of the losses / divisor add up to, for all weights as one vector."""
    model = copy.deepcopy(untrained)
    for x, y in batches:
        (F.cross_entropy(model(x), y) / divisor).backward()
    return np.concatenate([p.grad.ravel() for p in model.parameters()])


print("\nthe gradient                         its length   off by")
whole = gradient([(all_x, all_y)], divisor=1)
for name, vector in (
    ("of one batch of 512", whole),
    ("of 64 of 8, each loss divided by 64", gradient(train_loader, divisor=64)),
    ("of 64 of 8, not divided", gradient(train_loader, divisor=1)),
):
    length, error = np.linalg.norm(vector), np.linalg.norm(vector - whole)
    print(f"{name:36} {length:10.4f} {error:8.0e}")

print("""
Not divided, it is 64 times too long.  AdamW divides by a gradient's own size, and would
hardly notice.  But clipping would, and plain descent would go 64 times too far.""")
