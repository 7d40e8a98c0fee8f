"""How does the time of a step grow with layers, channels, block and batch?  Ours and PyTorch's.

    python benchmarks/scaling.py [--rounds 3] [--steps 20]

One number at a time is changed from the preset laptop.
"""

import statistics
from functools import partial

from common import milliseconds, number, parser, ratio, report, shown, take_turns

VALUES = {
    "n_layer": [2, 4, 8],
    "n_embd": [64, 128, 256, 512],
    "block_size": [32, 64, 128, 256],
    "batch_size": [4, 12, 36],
}


def main():
    args = parser(__doc__, rounds=3, steps=20).parse_args()
    rows, raw = [], {}
    for field, values in VALUES.items():
        for value in values:
            sides = {
                s: partial(milliseconds, s, {field: value}, args.steps) for s in ("ours", "eager")
            }
            print(f"{field} {value}")
            results = raw[f"{field} {value}"] = take_turns(sides, args.rounds)
            times = [number(statistics.median(r)) for r in results.values()]
            rows.append([f"`{field}` {value}", *times, shown(ratio(*results.values()))])
    columns = ["changed from the preset laptop", "gpt_numpy, ms", "PyTorch eager, ms", "ratio"]
    report("How the time of a step grows", columns, rows, raw)


if __name__ == "__main__":
    main()
