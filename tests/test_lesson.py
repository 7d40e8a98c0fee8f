"""The lesson's two training loops, verbatim but for their imports, do what PyTorch does."""

import contextlib
import io

import numpy as np
import torch as pytorch
import torch.nn.functional as TF
from twin import Twin, in_our_names

import minigrad
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.data import DataLoader

LOOP = """
import minigrad as torch
import minigrad.ops as F

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
"""

ACCUMULATION = """
import minigrad as torch
import minigrad.ops as F

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
"""

VOCAB_SIZE = 13
NAMES = {"epochs": 2, "accumulation_steps": 3, "vocab_size": VOCAB_SIZE}
IMPORTS = "import minigrad as torch\nimport minigrad.ops as F\n"


def run(loop):
    """Run a loop on minigrad and, its imports put back, on PyTorch: (prints, models) of both."""
    minigrad.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, block_size=5, n_layer=1, n_head=2, n_embd=8))
    model.to(dtype=np.float64)
    twin = Twin(model.config).double()
    twin.load_ours(model.state_dict())
    loader = DataLoader(np.random.default_rng(0).integers(VOCAB_SIZE, size=120), 4, 5, seed=1)

    class TorchLoader:
        def __iter__(self):
            return ((pytorch.tensor(x.numpy()), pytorch.tensor(y.numpy())) for x, y in loader)

    assert loop.count(IMPORTS) == 1
    prints = []
    for source, names in (
        (loop, {"model": model, "train_loader": loader}),
        (
            loop.replace(IMPORTS, ""),
            {"model": twin, "train_loader": TorchLoader(), "torch": pytorch, "F": TF},
        ),
    ):
        loader.epoch = 0
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, "<the lesson>", "exec"), NAMES | names)
        prints.append(out.getvalue())
    return prints, model, in_our_names(twin, dict(twin.named_parameters()))


def check_weights(model, theirs):
    for name, p in model.named_parameters():
        if "key.bias" not in name:  # no gradient but rounding, which Adam scales up to a step
            np.testing.assert_allclose(
                p.data, theirs[name].detach().numpy(), rtol=0, atol=1e-9, err_msg=name
            )


def test_the_training_loop_runs_verbatim():
    """The same prints and, at 1e-9, the same weights as in PyTorch."""
    (ours, theirs), model, weights = run(LOOP)
    assert ours == theirs and ours.startswith("Epoch 0 | Loss: ") and ours.count("\n") == 2
    check_weights(model, weights)


def test_the_accumulation_loop_runs_verbatim():
    """At 1e-9 the same weights as in PyTorch."""
    _, model, weights = run(ACCUMULATION)
    check_weights(model, weights)
