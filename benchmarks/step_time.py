"""How long does a training step take, beside PyTorch's?

    python benchmarks/step_time.py [--preset laptop] [--batch-size B] [--rounds 6] [--steps 40]

Fresh processes take turns, ours and PyTorch's, A B A B; each warms up and then times the whole step
(batch, forward, loss, backward, clip, AdamW), and reports its median.  A machine's speed drifts, so
believe the ratio, not the milliseconds.  PyTorch runs eagerly with all its threads, the fused
attention, tanh GELU and the fused AdamW.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # twin.py

WARM_UP = 8
VOCAB_SIZE = 65


def settings(preset, batch_size):
    from gpt_numpy.config import PRESETS, TrainConfig

    options = PRESETS[preset] | ({"batch_size": batch_size} if batch_size else {})
    ids = np.random.default_rng(0).integers(VOCAB_SIZE, size=100_000)
    return TrainConfig(**options | {"steps": 10**6}), ids


def steps_of_ours(config, ids):
    """Yield after every training step of gpt_numpy."""
    from gpt_numpy import GPT
    from gpt_numpy.train import train

    yield from train(GPT(config.model(VOCAB_SIZE)), ids, config)


def steps_of_torch(config, ids):
    """Yield after every training step of the PyTorch twin."""
    import torch
    import torch.nn.functional as F
    from twin import Twin

    model = Twin(config.model(VOCAB_SIZE))
    optimizer = torch.optim.AdamW(
        model.parameter_groups(config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    ids = torch.from_numpy(ids)
    while True:
        starts = torch.randint(len(ids) - config.block_size, (config.batch_size,))
        x = torch.stack([ids[i : i + config.block_size] for i in starts])
        y = torch.stack([ids[i + 1 : i + 1 + config.block_size] for i in starts])
        loss = F.cross_entropy(model(x).view(-1, VOCAB_SIZE), y.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def worker(side, preset, batch_size, n_steps):
    """Print the median time of a step in milliseconds."""
    steps = (steps_of_ours if side == "ours" else steps_of_torch)(*settings(preset, batch_size))
    for _ in range(WARM_UP):
        next(steps)
    times = []
    for _ in range(n_steps):
        start = time.perf_counter()
        next(steps)
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps(statistics.median(times)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("laptop", "baby", "gpt2"), default="laptop")
    parser.add_argument("--batch-size", type=int, help="instead of the preset's")
    parser.add_argument("--rounds", type=int, default=6, help="processes of each side")
    parser.add_argument("--steps", type=int, default=40, help="timed steps in a process")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return worker(args.side, args.preset, args.batch_size, args.steps)

    def measure(side):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    pairs = []
    print(f"preset {args.preset}, median step of {args.steps} in ms, a pair of processes a line")
    for i in range(args.rounds):
        pairs.append((measure("ours"), measure("torch")))
        ours, theirs = pairs[-1]
        print(f"{i + 1:3}   gpt_numpy {ours:8.1f}   PyTorch {theirs:8.1f}   {ours / theirs:.2f}")
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    print(f"median   {ours:10.1f}           {theirs:8.1f}   {ours / theirs:.2f}")
    print(f"ratio of medians {ours / theirs:.2f}, of pairs {ratios[0]:.2f} to {ratios[-1]:.2f}")
    import torch

    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__} "
        f"with {torch.get_num_threads()} threads, {platform.machine()} {platform.system()}"
    )


if __name__ == "__main__":
    main()
