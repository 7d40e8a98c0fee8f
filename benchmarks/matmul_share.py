"""What share of the machine's rate of matrix products does a training step reach?

    python benchmarks/matmul_share.py [--rounds 5] [--steps 40]

The machine's rate is that of NumPy's products of 1024 × 1024 matrices with all its threads.  The
useful work of a step is its matrix products.  For a weight matrix (I, O) and N tokens these are
2·N·I·O floating-point operations forward and twice as many backward; likewise for attention's two,
in which a query sees half of the T positions on average.
"""

import statistics
from functools import partial

from common import milliseconds, number, parser, python, ratio, report, shown, steps_of, take_turns
from step_time import BABY

from gpt_numpy.config import TrainConfig

SETTINGS = {"laptop": {}, "baby, batch 8": BABY}
VOCAB_SIZE = 65
PRODUCTS = """
import json, statistics, time, numpy as np
x, y = np.ones((2, 1024, 1024), np.float32)
times = []
for _ in range(60):
    start = time.perf_counter()
    x @ y
    times.append(time.perf_counter() - start)
print(json.dumps(2 * 1024**3 / statistics.median(times) / 1e9))
"""


def work(config):
    """Floating-point operations of a step's matrix products, in units of 10⁹."""
    C, n_tokens = config.n_embd, config.tokens_per_step
    weights = config.n_layer * 12 * C**2 + VOCAB_SIZE * C  # q, k, v, proj, then C·4C twice
    attention = config.n_layer * 2 * C * (config.block_size + 1) / 2  # q kᵀ and P v, for a token
    return 3 * 2 * n_tokens * (weights + attention) / 1e9


def main():
    args = parser(__doc__, rounds=5, steps=40).parse_args()
    rows, raw = [], {}
    for name, options in SETTINGS.items():
        steps = steps_of(name, args.steps)
        flops = work(TrainConfig(**options))

        def rate(side, options=options, steps=steps, flops=flops):
            return 1000 * flops / milliseconds(side, options, steps)

        sides = {s: partial(rate, s) for s in ("ours", "eager")}
        sides["machine"] = partial(python, "-c", PRODUCTS)
        raw[name] = results = take_turns(sides, args.rounds)
        ours, eager, machine = results.values()
        rates = [number(statistics.median(r)) for r in results.values()]
        shares = [shown(ratio(side, machine)) for side in (ours, eager)]
        rows.append([name, number(flops), *rates, *shares])
    columns = ["setting", "10⁹ operations a step", "gpt_numpy, GFLOP/s", "PyTorch, GFLOP/s"]
    report(
        "The share of the machine's rate of matrix products",
        [*columns, "NumPy's products, GFLOP/s", "our share", "PyTorch's share"],
        rows,
        raw,
    )


if __name__ == "__main__":
    main()
