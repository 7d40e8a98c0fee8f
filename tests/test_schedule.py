"""The learning rate at every corner of its course, and against nanoGPT's formula in between.

nanoGPT trained its first step at a rate of 0 for 22 months and nobody noticed: so the first step,
the last one and both sides of every corner are pinned here by number.
"""

import math

import pytest
import torch

from minigrad.schedule import warmup_cosine

GPT3 = (1_000, 10_000, 6e-4, 6e-5)  # warmup_steps, max_steps, max_lr, min_lr: the lesson's figure


def nanogpt(it, warmup_iters, lr_decay_iters, learning_rate, min_lr):
    """The rule as nanoGPT's train.py tells it, with its names."""
    if it < warmup_iters:
        return learning_rate * it / warmup_iters
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    assert 0 <= decay_ratio <= 1
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_lr + coeff * (learning_rate - min_lr)


CORNERS = [  # step, the rest, the rate
    (1, GPT3, 6e-7),  # a thousandth of the peak, and not 0
    (500, GPT3, 3e-4),
    (999, GPT3, 6e-4 * 0.999),
    (1_000, GPT3, 6e-4),  # the peak
    (5_500, GPT3, (6e-4 + 6e-5) / 2),  # half-way down in time is half-way down in rate
    (3_250, GPT3, 6e-5 + 5.4e-4 * (1 + math.sqrt(0.5)) / 2),  # cos 45°
    (10_000, GPT3, 6e-5),
    (10_001, GPT3, 6e-5),
    (10**9, GPT3, 6e-5),
    (0, (0, 10, 1.0, 0.1), 1.0),  # no warm-up: from the peak at once
    (1, (0, 10, 1.0, 0.1), 0.1 + 0.9 * (1 + math.cos(math.pi / 10)) / 2),
    (1, (1, 10, 1.0, 0.1), 1.0),
    (9, (10, 10, 1.0, 0.1), 0.9),  # no time for a cosine
    (10, (10, 10, 1.0, 0.1), 0.1),
    (10, (20, 10, 1.0, 0.1), 0.1),  # cut off within the warm-up
    (9, (20, 10, 1.0, 0.1), 0.45),
    (1, (0, 1, 1.0, 0.1), 0.1),
    (0, (0, 0, 1.0, 0.1), 0.1),
    (5, (0, 10, 0.3, 0.3), 0.3),  # peak = floor: constant
]


@pytest.mark.parametrize("step, rest, lr", CORNERS)
def test_corners(step, rest, lr):
    """Both sides of each corner, also where a phase has no length."""
    assert warmup_cosine(step, *rest) == pytest.approx(lr, rel=1e-13)


@pytest.mark.parametrize(
    "rest", [GPT3, (100, 2_000, 1e-3, 1e-4), (0, 50, 1.0, 0.0), (7, 8, 1.0, 0.5)]
)
def test_every_step_is_nanogpts(rest):
    """All steps and some past the end, against the rule written independently."""
    for step in range(rest[1] + 20):
        assert warmup_cosine(step, *rest) == pytest.approx(nanogpt(step, *rest), rel=1e-13)


def test_every_step_is_pytorchs():
    """The cosine part is torch.optim.lr_scheduler.CosineAnnealingLR, which implements SGDR."""
    warmup, end, high, low = 10, 110, 6e-4, 6e-5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=high)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, end - warmup, low)
    for step in range(warmup, end + 1):
        # PyTorch multiplies the last rate by a ratio, and so rounds 100 times on the way
        assert warmup_cosine(step, warmup, end, high, low) == pytest.approx(
            theirs.get_last_lr()[0], rel=1e-11
        )
        optimizer.step()
        theirs.step()


def test_the_shape_of_the_course():
    """Up to the peak, then down to the floor, never below it and never 0 from step 1 on."""
    rates = [warmup_cosine(step, *GPT3) for step in range(1, 10_001)]
    assert rates.index(max(rates)) == 999 and min(rates[999:]) == rates[-1] == 6e-5
    assert all(a < b for a, b in zip(rates[:1_000], rates[1:1_000], strict=False))
    assert all(a > b for a, b in zip(rates[999:], rates[1_000:], strict=False))
    assert min(rates) == rates[0] > 0
