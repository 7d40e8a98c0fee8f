"""What do two workers bring, and why are they processes and not threads?

python benchmarks/workers.py [--rounds 5] [--steps 40]
"""

import statistics
from functools import partial

from common import milliseconds, number, parser, ratio, report, shown, steps_of, take_turns
from step_time import BABY

SETTINGS = {"laptop": {}, "baby, batch 8": BABY}
SIDES = {
    "two processes": ("ours", {"workers": 2}),
    "one, two BLAS threads": ("ours", {"workers": 1}),
    "two threads": ("threads", {"workers": 2}),
}


def main():
    args = parser(__doc__, rounds=5, steps=40).parse_args()
    rows, raw = [], {}
    for name, options in SETTINGS.items():
        steps = steps_of(name, args.steps)
        sides = {
            label: partial(milliseconds, side, options | more, steps)
            for label, (side, more) in SIDES.items()
        }
        raw[name] = results = take_turns(sides, args.rounds)
        middle = [number(statistics.median(r)) for r in results.values()]
        two, *others = results.values()
        rows.append([name, *middle, *(shown(ratio(two, other)) for other in others)])
    columns = ["setting", *(f"{label}, ms" for label in SIDES)]
    report(
        "A step in two processes, in one, and in two threads",
        [*columns, "two processes / one", "two processes / two threads"],
        rows,
        raw,
    )


if __name__ == "__main__":
    main()
