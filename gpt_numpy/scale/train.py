"""The loop of train.py for several processes, several machines, and a GPU.

It differs from train.py in five points:

    workers.py   each process computes the gradients of a part of the step's sequences
    ranks.py     MPI ranks sum their gradients
    workers.py   each process updates a part of the weights
    on a GPU     Python does not wait for the loss
    graph.py     on a GPU, it replays a recorded step

With one worker the weights are those of train.py, bit for bit.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from gpt_numpy.config import TrainConfig
from gpt_numpy.model import GPT
from gpt_numpy.scale.gradients import find_anomaly, gradients_of_sequences, not_finite
from gpt_numpy.scale.graph import StepGraph, why_no_graph
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.scale.workers import Workers
from gpt_numpy.train import StepResult, adamw
from minigrad.backend import CPU, device_of
from minigrad.fast.adamw import FusedAdamW
from minigrad.internals.malloc import tune_malloc
from minigrad.ops.embedding import check_ids
from minigrad.optim import AdamW, clip_grad_norm
from minigrad.schedule import warmup_cosine


def train(
    model: GPT,
    ids: np.ndarray,
    config: TrainConfig,
    ranks: Ranks | None = None,
    optimizer: AdamW | None = None,
    start_step: int = 0,
) -> Iterator[StepResult]:
    """Do what train.train() does, in config.workers processes on each of the ranks.

    ranks       Ranks.of_mpirun() if mpirun started several: each calls this with the same model,
                text and config, and all of them stop at the same step
    optimizer   an AdamW with fused=True

    Until the end, change the weights in place only, because processes share their memory.  On
    macOS and Windows, and everywhere from Python 3.14 on, put the call under
    `if __name__ == "__main__":`.

    On a GPU nothing is read back between steps, so Python runs ahead; loss.item() and
    grad_norm.item() wait for the GPU.  There FloatingPointError is raised when a step is logged
    or evaluated, and at the last step.  No weight has changed since the step that it names.
    """
    ranks = ranks or Ranks()
    optimizer = optimizer or adamw(model, config)
    if not isinstance(optimizer, FusedAdamW):
        raise TypeError(
            f"train: the optimizer must be AdamW(..., fused=True), not {type(optimizer).__name__}: "
            "processes share its vectors"
        )
    check_ids("train", ids, model.config.vocab_size)
    model.train()
    tune_malloc()  # a step allocates what the last one freed
    sequences = ranks.sequences(config.sequences_per_step)
    n = config.workers if model.device == CPU else 1
    # grad_fn(model, step, first, stop)
    grad_fn = partial(gradients_of_sequences, ids=ids, config=config, n_parts=ranks.world_size * n)
    recorded = not why_no_graph(config, model.device, len(ids), ranks.world_size)
    with (
        Workers(model, optimizer, grad_fn, sequences, n, ranks.on_this_machine) as workers,
        StepGraph(model, ids, config, optimizer) if recorded else contextlib.nullcontext() as graph,
    ):
        for step in range(start_step + 1, config.steps + 1):
            lr = warmup_cosine(step, config.warmup_steps, config.steps, config.lr, config.min_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            replayed = graph.step(step) if graph else None  # with the update of the weights
            if replayed:
                loss, grad_norm = replayed
            else:
                with np.errstate(all="ignore"):  # the check below finds overflows
                    loss = workers.gradients(step)
                    loss = ranks.all_reduce(optimizer.flat.grad, loss)
                    grad_norm = clip_grad_norm(model.parameters(), config.grad_clip)
                if model.device != CPU:  # the GPU decides, so Python need not wait for it
                    optimizer.stop_unless_finite(step, loss, grad_norm)
            if bad_step := step_not_finite(step, loss, grad_norm, optimizer, config):
                optimizer.zero_grad()
                found = find_anomaly(partial(grad_fn, model, bad_step, *sequences))
                raise not_finite(model, ids, config, bad_step, ranks.first(found))
            if not replayed:
                workers.update(optimizer.plan_step(), optimizer.skips())
            optimizer.zero_grad()
            yield StepResult(step, loss, lr, grad_norm)


def step_not_finite(step, loss, grad_norm, optimizer, config):
    """Return the first step whose loss or gradient is not finite, or 0.

    On a GPU only steps that are logged or evaluated are checked.
    """
    if device_of(loss.data) == CPU:
        return 0 if math.isfinite(loss.item() + grad_norm.item()) else step
    logged = step % config.log_every == 0 or step % config.eval_every == 0
    return optimizer.stopped_at() if logged or step == config.steps else 0
