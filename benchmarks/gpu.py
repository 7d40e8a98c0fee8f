"""How long does a training step take on a GPU, beside PyTorch's on the same card?

    python benchmarks/gpu.py [--only baby] [--rounds 5] [--steps 20] [--batch-size 4]

All sides compute in float32; TF32, which rounds more, is off.  Steps follow each other without a
pause, and without a look at the loss.  A kernel is a piece of work that a step starts on the GPU;
PyTorch's profiler counts them on all sides.  --batch-size is for a card on which a preset does not
fit.
"""

import json
import statistics
import sys
from functools import partial

from common import HERE, number, parser, python, ratio, report, shown, take_turns

from gpt_numpy.config import PRESETS
from minigrad.internals.gpu import GPUUnavailable, select_device

SETTINGS = {"baby": 65, "gpt2": 50_257}  # preset -> how many tokens its vocabulary has
SIDES = ("ours", "eager", "compile")


def measure(side, name, options, steps, seen):
    """The milliseconds of a step; all that side.py tells is added to the list `seen`."""
    task = {"side": side, "options": options, "steps": steps, "device": "gpu"}
    task["vocab_size"] = SETTINGS[name]
    seen.append(python(HERE / "side.py", json.dumps(task), NVIDIA_TF32_OVERRIDE="0"))
    return seen[-1]["ms"]


def main():
    flags = parser(__doc__, rounds=5, steps=20)
    flags.add_argument("--only", choices=SETTINGS, help="this setting alone")
    flags.add_argument("--batch-size", type=int, help="instead of the preset's")
    args = flags.parse_args()
    try:
        _, card = select_device("gpu")
    except GPUUnavailable as error:
        sys.exit(f"gpu: {error}")
    rows, raw = [], {}
    for name in [args.only] if args.only else SETTINGS:
        options = PRESETS[name] | ({"batch_size": args.batch_size} if args.batch_size else {})
        label = f"{name}, batch {options['batch_size']}"
        print(f"{label}: milliseconds of a step, {args.steps} in a row, a process each")
        seen: dict[str, list[dict]] = {side: [] for side in SIDES}
        sides = {s: partial(measure, s, name, options, args.steps, seen[s]) for s in SIDES}
        results = take_turns(sides, args.rounds)
        raw[label] = seen
        middle = [number(statistics.median(values)) for values in results.values()]
        quotients = [ratio(results["ours"], results[s]) for s in ("eager", "compile")]
        last = [found[-1] for found in seen.values()]
        kernels = " / ".join(str(found["kernels"]) for found in last)
        memory = " / ".join(number(found["memory"]) for found in last)
        rows.append([label, *middle, *map(shown, quotients), kernels, memory])
    columns = ["setting", "gpt_numpy, ms", "PyTorch eager, ms", "torch.compile, ms"]
    columns += ["ours / eager", "ours / compile", "kernels of a step", "GPU memory, MB"]
    report(
        f"A training step on a GPU: {card}",
        columns,
        rows,
        raw,
        [
            f"Medians over {args.rounds} rounds of fresh processes; of the ratios, which are taken "
            "round by round, with the extremes in brackets. Kernels and memory: gpt_numpy / eager "
            "/ compile."
        ],
        complete=not args.only and not args.batch_size,
    )


if __name__ == "__main__":
    main()
