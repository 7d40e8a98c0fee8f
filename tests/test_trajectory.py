"""Whole training runs beside PyTorch: the same weights, batches and masks, and the same course.

A gradient that is right proves one step.  Here everything that a step does is at work, over and
over, and any error feeds on itself: accumulation, clipping, warm-up and cosine, decay of matrices
alone, the tied table, Adam's corrections.  `pytest -m slow` goes on to 20 steps and
`pytest -m whole` to 300.

The runs are made twice: by train(), with every twin; and by a loop over the pages alone.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from twin import Twin, in_our_names

import minigrad as mg
from gpt_numpy import GPT, TrainConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.data import random_batch
from gpt_numpy.scale.gradients import gradients_of_sequences
from gpt_numpy.tokenizer import CharTokenizer
from gpt_numpy.train import StepResult, train
from minigrad import random
from minigrad.optim import AdamW, clip_grad_norm
from minigrad.schedule import warmup_cosine

torch.set_num_threads(1)  # more of them would wait by spinning, on the cores of our workers
TEXT = grammar.generate(50_000)
TOKENIZER = CharTokenizer.from_text(TEXT)
IDS = TOKENIZER.encode(TEXT)


def pytorchs_run(twin, config):
    """Yield (loss, gradient norm before clipping) of every step, as one writes it in PyTorch."""
    optimizer = torch.optim.AdamW(
        twin.parameter_groups(config.weight_decay), lr=1.0, betas=(config.beta1, config.beta2)
    )
    rates = (config.warmup_steps, config.steps, config.lr, config.min_lr)
    for step in range(1, config.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, *rates)
        optimizer.zero_grad()
        total = 0.0
        for i in range(config.accumulate):
            row = i * config.batch_size
            batch = random_batch(IDS, config.batch_size, config.block_size, config.seed, step, row)
            x, y = (torch.from_numpy(ids.numpy()) for ids in batch)
            with random.rng_scope(config.seed, step, row):  # where the masks are drawn
                loss = TF.cross_entropy(twin(x).flatten(0, 1), y.flatten()) / config.accumulate
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), config.grad_clip).item()
        optimizer.step()
        yield total, norm


@mg.plain()
def pages(model, ids, config):
    """Yield what train() does, computed by the pages alone: ops, AdamW and clipping."""
    groups = model.parameter_groups(config.weight_decay)
    optimizer = AdamW(groups, lr=1.0, betas=(config.beta1, config.beta2))
    model.train()
    for step in range(1, config.steps + 1):
        lr = warmup_cosine(step, config.warmup_steps, config.steps, config.lr, config.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = gradients_of_sequences(
            model, step, 0, config.sequences_per_step, ids, config, n_parts=1
        )
        norm = clip_grad_norm(model.parameters(), config.grad_clip)
        optimizer.step()
        yield StepResult(step, loss, lr, norm)


def compare(config, their_config, dtype, step_tolerance, weight_tolerance, train=train):
    """Train both side by side, from the same weights, on the same batches, with the same masks."""

    def mask(shape, p):
        return torch.from_numpy(random.dropout_mask(np.empty(shape, dtype), p))

    mg.manual_seed(config.seed)
    model = GPT(config.model(TOKENIZER.vocab_size)).to(dtype=dtype)
    twin = Twin(model.config, mask).to(torch.from_numpy(np.empty(0, dtype)).dtype)
    twin.load_ours(model.state_dict())

    clipped = 0
    runs = zip(train(model, IDS, config), pytorchs_run(twin, their_config), strict=True)
    for ours, (loss, norm) in runs:
        assert abs(ours.loss.item() - loss) <= step_tolerance, f"loss of step {ours.step}"
        assert abs(ours.grad_norm.item() - norm) <= step_tolerance, f"gradient of step {ours.step}"
        clipped += norm > config.grad_clip
    assert 0 < clipped < config.steps, "the test must see steps with and without clipping"
    theirs = in_our_names(twin, dict(twin.named_parameters()))
    for name, p in model.named_parameters():
        # A key's bias adds the same to all scores of a row: no gradient but rounding, which Adam,
        # dividing by √v̂, scales up to a step.
        if name.endswith("key.bias"):
            continue
        assert abs(p.data - theirs[name].detach().numpy()).max() <= weight_tolerance, name


WAYS = {"train": (train, 1, 0.0), "two workers": (train, 2, 0.2), "pages": (pages, 1, 0.2)}


@pytest.mark.parametrize(
    "dtype, steps, train, workers, dropout",
    [
        pytest.param(dtype, steps, *way, marks=marks, id=f"{dtype.__name__}, {steps} steps, {name}")
        for dtype, steps, names, marks in [
            (np.float64, 5, ["train"], ()),
            (np.float32, 10, ["train"], pytest.mark.slow),
            (np.float64, 20, WAYS, pytest.mark.slow),
            (np.float64, 300, WAYS, pytest.mark.whole),
        ]
        for name, way in WAYS.items()
        if name in names
    ],
)
def test_a_run_follows_pytorchs(dtype, steps, train, workers, dropout):
    """The preset `laptop`, two batches a step, in one process and in two.

    float64: the loss at 1e-10 at every step, every parameter at 1e-9 after the last one.
    float32: the loss within 1e-3 at every step, every weight in the end within one step of Adam.
    """
    config = TrainConfig(
        steps=steps, warmup_steps=steps // 5, accumulate=2, dropout=dropout, workers=workers,
        grad_clip=1.8,  # which some of the first 5 norms are above, some below
    )  # fmt: skip
    tolerances = (1e-10, 1e-9) if dtype == np.float64 else (1e-3, config.lr)
    compare(config, config, dtype, *tolerances, train)


@pytest.mark.slow
@pytest.mark.parametrize("train, workers", [(train, 1), (train, 2), (train, 3), (pages, 1)])
def test_a_run_with_biases_follows_pytorchs(train, workers):
    """A small model with all the biases of GPT-2, in float64."""
    config = TrainConfig(
        steps=60, warmup_steps=10, n_layer=2, n_head=2, n_embd=16, block_size=8, batch_size=3,
        accumulate=2, lr=1e-2, bias=True, dropout=0.1, workers=workers,
    )  # fmt: skip
    compare(config, config, np.float64, 1e-10, 1e-9, train)


@pytest.mark.parametrize("train", [train, pages])
@pytest.mark.parametrize(
    "difference",
    [
        {"weight_decay": 0.1001},
        {"beta1": 0.9001},
        {"beta2": 0.9901},
        {"grad_clip": 1.1999},
        {"lr": 1.001e-3},
        {"min_lr": 1.01e-4},
        {"warmup_steps": 3},
    ],
)
def test_a_difference_is_noticed(difference, train):
    """A setting that is off by a hundredth or less, or one step more of warm-up, shows at once."""
    config = TrainConfig(
        steps=6, warmup_steps=2, n_layer=1, n_embd=16, block_size=8, batch_size=2, accumulate=2,
        grad_clip=1.2,
    )  # fmt: skip
    theirs = dataclasses.replace(config, **difference)
    with pytest.raises(AssertionError, match="loss of step"):
        compare(config, theirs, np.float64, 1e-10, 1e-9, train)
