"""Training: START HERE.  One step reads straight through, from the batch to the updated weights:

    learning rate → zero_grad → batches → model → cross-entropy → backward → clip → AdamW

It is the loop of examples/lesson/05_training_loop.py with what later notebooks add: the schedule,
the accumulation of several batches, clipping, and a check that the numbers are finite.

The loss, in nats per token, is the mean of −ln p, where p is the probability that the model gave to
the token that came next.  The gradient is the derivative of the loss with respect to each weight.

`train` is a generator, which runs while you loop over it: `for result in train(...):`.  After every
step the caller may print, evaluate, save or stop.  scale/train.py divides each step among processes
and machines.  The training command in app/ calls that one, and tests/test_scale.py checks that it
gives the same weights as this one.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import minigrad.ops as F
from gpt_numpy.config import TrainConfig
from gpt_numpy.data import Batch, all_windows, random_batch
from gpt_numpy.model import GPT
from gpt_numpy.scale.gradients import not_finite
from minigrad import Tensor, random
from minigrad.ops.embedding import check_ids
from minigrad.optim import AdamW, clip_grad_norm
from minigrad.schedule import warmup_cosine


class StepResult(NamedTuple):
    """What a training step reports."""

    step: int  # counted from 1
    loss: Tensor  # mean over all tokens of the step, in nats, before the update
    lr: float
    grad_norm: Tensor  # before clipping


def train(
    model: GPT,
    ids: np.ndarray,
    config: TrainConfig,
    optimizer: AdamW | None = None,
    start_step: int = 0,
) -> Iterator[StepResult]:
    """Train `model` on the text `ids` (N,) until step config.steps; yield a StepResult after each.

    With several workers scale/train.py takes over, and some systems then need the script to have
    the line `if __name__ == "__main__":`.

    optimizer   that of adamw() by default; to continue a run, the one used so far
    start_step  how many steps were made before.  Batches and dropout masks depend on config.seed,
                the step and the sequence alone, so the run continues exactly.

    Errors      FloatingPointError if a loss or a gradient is not finite; that step is not made
    """
    if config.workers > 1 and model.device == "cpu":
        from gpt_numpy.scale.train import train as train_in_processes

        yield from train_in_processes(model, ids, config, None, optimizer, start_step)
        return

    optimizer = optimizer or adamw(model, config)
    check_ids("train", ids, model.config.vocab_size)
    model.train()  # with dropout
    for step in range(start_step + 1, config.steps + 1):
        lr = warmup_cosine(step, config.warmup_steps, config.steps, config.lr, config.min_lr)
        for group in optimizer.param_groups:  # the weights with decay, and those without
            group["lr"] = lr

        optimizer.zero_grad()
        mean_loss: Any = 0.0  # of the step: the sum of the losses below; later a Tensor
        for first in range(0, config.sequences_per_step, config.batch_size):  # accumulation
            shape = config.batch_size, config.block_size  # (B, T); `first` is its first sequence
            x, y = random_batch(ids, *shape, config.seed, step, first)
            # Dropout masks depend on these three numbers.  The check below finds overflows.
            with random.rng_scope(config.seed, step, first), np.errstate(all="ignore"):
                logits = model(x)  # (B, T, V)
                loss = F.cross_entropy(logits, y.to(model.device)) / config.accumulate
                loss.backward()  # adds to the gradients
            mean_loss += loss.detach()  # without its graph; item() would wait for a GPU

        grad_norm = clip_grad_norm(model.parameters(), config.grad_clip)
        if not math.isfinite(mean_loss.item() + grad_norm.item()):  # one of them is not
            raise not_finite(model, ids, config, step)
        optimizer.step()
        optimizer.zero_grad()  # the caller's own backward() starts from none
        yield StepResult(step, mean_loss, lr, grad_norm)


def adamw(model: GPT, config: TrainConfig) -> AdamW:
    """Return the optimizer of a run.  Its moments (running means) are part of the run's state."""
    groups = model.parameter_groups(config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def evaluate(
    model: GPT,
    ids: np.ndarray,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    progress: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
) -> float:
    """Return the mean loss over `ids` (N,), in nats per token, without dropout or graph.

    batch_size  how many windows are read at once; see all_windows()
    max_tokens  read only evenly spaced windows, of about this many tokens in all
    progress    a function of the batches that yields the same; it may show progress, or raise
    """
    total, n = 0.0, 0
    with model.eval_mode(), np.errstate(all="ignore"):  # the loss of a broken model is NaN
        for x, y in progress(all_windows(ids, model.config, batch_size, max_tokens)):
            loss = F.cross_entropy(model(x), y.to(model.device), reduction="sum")
            total += loss.item()
            n += y.size
    return total / n
