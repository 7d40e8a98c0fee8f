"""What does each twin bring?  A training step without it, as a multiple of the step with all twins.

    python benchmarks/twins.py [--all] [--rounds 5] [--steps 40]

A twin is a faster function for an op on the CPU (minigrad/fast/cpu/).  Without it the page of the
op runs; with MINIGRAD_PLAIN=1 every page does.  These are whole steps of gpt_numpy, in all of its
processes, with AdamW over one flat vector, which the processes share.  AdamW(..., fused=True) is
therefore compared in the loop of the lesson, in one process with all twins of ops.  --all measures
the larger preset too: baby, with 8 sequences a batch.
"""

from functools import partial
from statistics import median

from common import milliseconds, number, parser, ratio, report, shown, steps_of, take_turns
from step_time import BABY

import minigrad  # noqa: F401 - attaches the twins
from minigrad.tensor import TWINS

SETTINGS = {"laptop": {}, "baby, batch 8": BABY}
NAMES = [name for name, device in TWINS if device == "cpu"]
PLAIN, FUSED = "MINIGRAD_PLAIN=1", "AdamW, one process"


def sides_of(options, steps):
    """Return {what is removed: the measurement without it}, and those of the two loops."""
    measure = partial(milliseconds, "ours", options, steps)
    without = {name: partial(measure, without=[name]) for name in NAMES}
    loops = {name: partial(milliseconds, name, options, steps) for name in ("fused", "loop")}
    return {"all": measure, **without, PLAIN: partial(measure, MINIGRAD_PLAIN="1"), **loops}


def rows_of(setting, results):
    """Return the rows of a setting: what is removed, the times with and without it, the ratio."""
    pairs = [(name, "all", name) for name in [*NAMES, PLAIN]] + [(FUSED, "fused", "loop")]
    return [
        [
            *(setting, label, number(median(results[full])), number(median(results[less]))),
            shown(ratio(results[less], results[full])),
        ]
        for label, full, less in pairs
    ]


def main():
    flags = parser(__doc__, rounds=5, steps=40)
    flags.add_argument("--all", action="store_true", help="also baby, with 8 sequences a batch")
    args = flags.parse_args()
    rows, raw = [], {}
    for name, options in SETTINGS.items() if args.all else [("laptop", {})]:
        steps = steps_of(name, args.steps)
        print(f"{name}: median step of {steps} in ms, a process each")
        raw[name] = take_turns(sides_of(options, steps), args.rounds)
        rows += rows_of(name, raw[name])
    report(
        "A training step without a twin",
        ["setting", "without", "with all twins, ms", "without it, ms", "without / with"],
        rows,
        raw,
        complete=args.all,
    )


if __name__ == "__main__":
    main()
