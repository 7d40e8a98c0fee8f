"""One side of a comparison, in a process of its own: train for a while and print what it took.

    python benchmarks/side.py '{"side": "ours", "options": {"n_layer": 4}, "steps": 40}'

side      ours      gpt_numpy, in `workers` processes: by default one for each core
          threads   gpt_numpy, in `workers` threads of one process
          loop      minigrad, in one process and without a flat vector: the loop of the lesson
          fused     the same loop with AdamW(..., fused=True)
          eager     PyTorch with all its threads
          compile   the same under torch.compile
options   of TrainConfig; the defaults are the preset laptop
steps     how many to time, after WARM_UP others
without   names of ops whose CPU twins are removed (none by default).  Worker processes inherit that
          where Python forks them: on Linux, before Python 3.14
device    cpu (the default) or gpu.  On a GPU steps follow each other without a pause: it prints the
          mean time of one, its kernels, and the MB taken on the card, as a dict: see on_the_gpu()
precision   of matrix products on a GPU: float32 (the default), tf32, or bf16 as under autocast
vocab_size  65 by default

PyTorch runs at its best: its attention in one op (which it has fused where there is no dropout),
tanh GELU as ours, fused AdamW, and the C library told to keep freed memory, as ours.  The step is
whole on all sides: batch, forward, loss, backward, clipping, AdamW (`threads`, `loop` and `fused`,
which serve to time a step, leave out the schedule and the betas).
"""

import collections
import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # twin.py

WARM_UP = 8
PROFILED = 4  # steps whose kernels are timed
VOCAB_SIZE = 65


def ours(config, ids, vocab_size=VOCAB_SIZE, device="cpu", precision="float32"):
    """Yield after every training step of gpt_numpy, in the loop of the training command."""
    import minigrad as mg
    from gpt_numpy import GPT
    from gpt_numpy.scale.train import train  # on a GPU, gpt_numpy/train.py waits for every loss

    mg.manual_seed(config.seed)
    model = GPT(config.model(vocab_size)).to(device)
    with mg.precision(precision):
        for _ in train(model, ids, config):
            yield model


def threads(config, ids, vocab_size=VOCAB_SIZE, device="cpu"):
    """The same in threads: each has a model of its own, whose weights are those of the first."""
    from threadpoolctl import threadpool_limits

    import minigrad as mg
    from gpt_numpy import GPT
    from gpt_numpy.scale.gradients import gradients_of_sequences
    from gpt_numpy.scale.workers import split_range
    from minigrad.fast.adamw import FusedAdamW, adamw_update
    from minigrad.internals.malloc import tune_malloc

    tune_malloc()
    n = min(config.workers, config.sequences_per_step)
    models = [GPT(config.model(vocab_size)).train() for _ in range(n)]
    groups = [model.parameter_groups(config.weight_decay) for model in models]
    optimizers = [FusedAdamW(own, config.lr) for own in groups]
    first = optimizers[0]
    for other in optimizers[1:]:
        other.flat.bind(first.flat.data, other.flat.grad)
    shares = [split_range((0, config.sequences_per_step), i, n) for i in range(n)]
    meeting = threading.Barrier(n)

    def gradients(i, step):
        begin, stop = shares[i]
        gradients_of_sequences(models[i], step, begin, stop, ids, config, n)
        meeting.wait()
        part = slice(*split_range((0, len(first.flat.grad)), i, n))
        for other in optimizers[1:]:
            first.flat.grad[part] += other.flat.grad[part]

    with ThreadPoolExecutor(n) as pool, threadpool_limits(1):
        for step in range(1, config.steps + 1):
            list(pool.map(gradients, range(n), [step] * n))
            mg.optim.clip_grad_norm(first.parameters, config.grad_clip)
            plan, vectors = first.plan_step(), first.vectors()
            list(pool.map(adamw_update, [vectors] * n, [plan] * n, [False] * n, range(n), [n] * n))
            for optimizer in optimizers:
                optimizer.zero_grad()
            yield models[0]


def loop(config, ids, vocab_size=VOCAB_SIZE, device="cpu", fused=False):
    """Yield after every training step of a loop over a plain AdamW, or over its twin."""
    import minigrad as mg
    import minigrad.ops as F
    from gpt_numpy import GPT
    from gpt_numpy.data import random_batch
    from minigrad.internals.malloc import tune_malloc

    tune_malloc()
    mg.manual_seed(config.seed)
    model = GPT(config.model(vocab_size)).to(device).train()
    groups = model.parameter_groups(config.weight_decay)
    optimizer = mg.optim.AdamW(groups, config.lr, fused=fused)
    for step in range(1, config.steps + 1):
        x, y = random_batch(ids, config.batch_size, config.block_size, config.seed, step)
        F.cross_entropy(model(x), y).backward()
        mg.optim.clip_grad_norm(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        yield model


def fused(config, ids, vocab_size=VOCAB_SIZE, device="cpu"):
    return loop(config, ids, vocab_size, device, fused=True)


def eager(config, ids, vocab_size=VOCAB_SIZE, device="cpu", precision="float32", compiled=False):
    """Yield after every training step of the PyTorch twin."""
    import torch
    import torch.nn.functional as F
    from twin import Twin

    from minigrad.internals.malloc import tune_malloc
    from minigrad.schedule import warmup_cosine

    torch.manual_seed(config.seed)
    tune_malloc()
    # "high" is TF32, also for the products that autocast leaves in float32
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    device = "cuda" if device == "gpu" else device
    model = Twin(config.model(vocab_size)).to(device)

    def loss_of(x, y):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return F.cross_entropy(model(x).view(-1, vocab_size), y.view(-1))

    loss_of = torch.compile(loss_of) if compiled else loss_of
    groups = model.parameter_groups(config.weight_decay)
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)
    ids, T = torch.from_numpy(ids), config.block_size
    for step in range(1, config.steps + 1):
        rates = (config.warmup_steps, config.steps, config.lr, config.min_lr)
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, *rates)
        starts = torch.randint(len(ids) - T, (config.batch_size,)).tolist()
        x = torch.stack([ids[i : i + T] for i in starts])
        y = torch.stack([ids[i + 1 : i + 1 + T] for i in starts])
        if device == "cuda":  # in pinned memory: else PyTorch would wait for the GPU here
            x, y = (part.pin_memory().to(device, non_blocking=True) for part in (x, y))
        loss = loss_of(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield model


def compile(config, ids, vocab_size=VOCAB_SIZE, device="cpu", precision="float32"):
    return eager(config, ids, vocab_size, device, precision, compiled=True)


SIDES = {side.__name__: side for side in (ours, threads, loop, fused, eager, compile)}


def remove_twins(names):
    """Let the pages of these ops run on the CPU; workers that are forked later inherit it."""
    if names:  # PyTorch's sides do without minigrad
        import minigrad  # noqa: F401 - attaches the twins
        from minigrad.tensor import TWINS

        for name in names:
            del TWINS[name, "cpu"]


def on_the_gpu(steps, n):
    """Return what a step takes on a GPU, from n in a row, as a dict.

    ms        milliseconds of a step
    kernels   [name, how many a step starts, their milliseconds together], of kernels and of copies
    memory    MB that are taken on the card in the end, by whatever library

    The profiler records all that the process starts on the GPU, by PyTorch and by CuPy.
    """
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        next(steps)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / n
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(PROFILED):
            next(steps)
        torch.cuda.synchronize()
    times = collections.defaultdict(list)  # of kernels, and of copies as "Memcpy ..."
    for event in profile.events():
        # An annotation, such as that of an optimizer, is the time of all kernels in it.
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            times[event.name].append(event.time_range.elapsed_us() / 1000)
    kernels = [[name, len(ms) / PROFILED, sum(ms) / PROFILED] for name, ms in times.items()]
    free, total = torch.cuda.mem_get_info()
    return {"ms": 1000 * seconds, "kernels": kernels, "memory": (total - free) / 1e6}


def main():
    from gpt_numpy.config import TrainConfig

    task: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "device": "cpu", "precision": "float32"}
    task |= {"without": []} | json.loads(sys.argv[1])
    remove_twins(task["without"])
    ids = np.random.default_rng(0).integers(task["vocab_size"], size=100_000)
    never = 10**6  # so many steps that the run neither ends nor logs, which would wait for a GPU
    config = TrainConfig(**{"steps": never, "log_every": never} | task["options"])
    on_gpu = {"precision": task["precision"]} if task["device"] == "gpu" else {}
    steps = SIDES[task["side"]](config, ids, task["vocab_size"], task["device"], **on_gpu)
    for _ in range(WARM_UP):
        next(steps)
    if task["device"] == "gpu":
        print(json.dumps(on_the_gpu(steps, task["steps"])))
        return
    times = []
    for _ in range(task["steps"]):
        start = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - start)
    print(json.dumps(1000 * statistics.median(times)))  # milliseconds


if __name__ == "__main__":
    main()
