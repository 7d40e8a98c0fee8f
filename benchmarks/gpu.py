"""How long does a training step take on a GPU, beside PyTorch's on the same card?

    python benchmarks/gpu.py [--precision tf32] [--only baby] [--rounds 5] [--steps 20]
                             [--sides ours compile] [--limit 300] [--batch-size 4]

All sides compute their matrix products in one precision: float32; tf32, whose products round their
inputs to 10 bits; or bf16, in which activations have 7 bits (PyTorch's autocast).  Steps follow
each other without a pause, and the loss is not read.

PyTorch's profiler lists the kernels of a step on all sides.  Their times are shown beside the least
time that their bytes and operations take on the card (roofline.py).

A side that fails, or takes longer than --limit seconds with its compilation, is reported as such.
The result is written after every process, so an interrupted run leaves what it has measured.
--batch-size is for a card on which a preset does not fit.
"""

import json
import os
import statistics
import sys
import tempfile
import textwrap
from typing import Any, NamedTuple

import roofline
from common import HERE, Failed, number, page, parser, python_within, ratio, shown, table, write

from gpt_numpy.config import PRESETS, TrainConfig
from minigrad.internals.gpu import GPUUnavailable, select_device

SETTINGS = {"baby": 65, "gpt2": 50_257}  # preset -> how many tokens its vocabulary has
PRECISIONS = ("float32", "tf32", "bf16")
INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"  # where torch.compile keeps what it has compiled
LONGEST = 12  # kernels of each side that are listed by name


class Side(NamedTuple):
    """One side of the comparison; a further one is a further line of SIDES."""

    label: str
    name: str  # in side.py
    environment: dict[str, str] = {}
    options: dict[str, Any] = {}  # of TrainConfig, in which it differs from the preset


SIDES = {
    "ours": Side("gpt_numpy", "ours"),
    "no-graph": Side("gpt_numpy, launch by launch", "ours", options={"graph": False}),
    "plain": Side("gpt_numpy, pages alone", "ours", {"MINIGRAD_PLAIN": "1"}),
    "eager": Side("PyTorch eager", "eager"),
    "compile": Side("torch.compile", "compile"),
}


class Setting(NamedTuple):
    """A preset in one precision, and what each side's processes have printed."""

    label: str
    vocab_size: int
    options: dict[str, Any]
    found: dict[str, list[dict]]  # side -> a dict of side.on_the_gpu(), or {"failed": why}, a round

    def config(self):
        return TrainConfig(**self.options)


def measure(side, setting, args, cache):
    """Return what side.py prints, or {"failed": why}."""
    task = {
        "side": side.name,
        "options": setting.options | side.options,
        "vocab_size": setting.vocab_size,
        "steps": args.steps,
        "device": "gpu",
        "precision": args.precision,
    }
    environment = side.environment | {INDUCTOR_CACHE: cache}
    if args.precision == "float32":
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # for libraries that would choose TF32 themselves
    try:
        return python_within(args.limit, HERE / "side.py", json.dumps(task), **environment)
    except Failed as reason:
        return {"failed": textwrap.shorten(str(reason), 80, placeholder=" ...")}


def succeeded(results):
    return [result for result in results if "failed" not in result]


def step_rows(setting):
    """Return a row for each side: its step beside ours, and what the card did meanwhile."""
    ours = setting.found.get("ours", [])
    for name, results in setting.found.items():
        row = [setting.label, SIDES[name].label]
        right = succeeded(results)
        if not right:
            yield [*row, results[-1]["failed"] if results else "", *[""] * 4]
            continue
        both = zip(ours, results, strict=False)  # in the middle of a round ours is one ahead
        pairs = [(a["ms"], b["ms"]) for a, b in both if "ms" in a and "ms" in b and a is not b]
        failures = f" ({len(results) - len(right)} failed)" * (len(right) < len(results))
        kernels = right[-1]["kernels"]
        n_launches = sum(n for name, n, _ in kernels if roofline.kind_of(name) != "copies")
        yield [
            *row,
            number(statistics.median(result["ms"] for result in right)) + failures,
            shown(ratio(*zip(*pairs, strict=True))) if pairs else "",
            number(sum(ms for _, _, ms in kernels)),
            number(n_launches),
            number(right[-1]["memory"]),
        ]


def kernels_by_kind(results):
    """Return {kind: (launches, ms)} of the last process that succeeded; {} if none did."""
    kinds: dict[str, tuple[float, float]] = {}
    for result in succeeded(results)[-1:]:
        for name, n, ms in result["kernels"]:
            kind = roofline.kind_of(name)
            n_before, ms_before = kinds.get(kind, (0, 0.0))
            kinds[kind] = n_before + n, ms_before + ms
    return kinds


def kind_rows(setting, card, precision):
    """Return a row for each kind of kernel: the least time, and that of every side."""
    works = roofline.work(setting.config(), setting.vocab_size, precision)
    sides = [kernels_by_kind(results) for results in setting.found.values()]
    for kind in [*works, "copies", roofline.OTHERS]:
        least, why = 0.0, ""  # in milliseconds
        if card and kind in works and works[kind].bytes:
            seconds, why = works[kind].seconds(card, precision)
            least = 1000 * seconds
        cells = [time_and_factor(side[kind], least) if kind in side else "" for side in sides]
        if least or any(cells):
            yield [setting.label, kind, number(least) if least else "", why, *cells]


def time_and_factor(launches_and_ms, least):
    """Return, for example, "3 in 12, 1.5 ×": 3 ms in 12 launches, 1.5 times the least time."""
    n_launches, ms = launches_and_ms
    text = f"{number(ms)} in {number(n_launches)}"
    return f"{text}, {ms / least:.1f} ×" if least else text


def name_rows(setting):
    """Return a row for each of the longest kernels of every side."""
    for side, results in setting.found.items():
        for result in succeeded(results)[-1:]:
            for name, n, ms in sorted(result["kernels"], key=lambda kernel: -kernel[2])[:LONGEST]:
                shortened = textwrap.shorten(name.replace("|", "/"), 70, placeholder="...")
                yield [
                    setting.label, SIDES[side].label, f"`{shortened[:70]}`",
                    roofline.kind_of(name), number(n), number(ms),
                ]  # fmt: skip


def result_page(gpu, settings, args):
    """Return the three tables in Markdown."""
    card = roofline.card_named(gpu)
    labels = [SIDES[side].label for side in args.sides]
    steps = [row for setting in settings for row in step_rows(setting)]
    kinds = [row for setting in settings for row in kind_rows(setting, card, args.precision)]
    names = [row for setting in settings for row in name_rows(setting)]
    columns = [
        "setting",
        "side",
        "step, ms",
        "ours / side",
        "GPU busy, ms",
        "kernels",
        "memory, MB",
    ]
    least = (
        f"The least time is that of {card.bandwidth / 1e12:.3g} TB/s and "
        f"{card.peaks[args.precision] / 1e12:.3g} TFLOP/s: benchmarks/roofline.py."
        if card
        else "benchmarks/roofline.py does not know this card, so there is no least time."
    )
    lines = [
        *table(columns, steps),
        "",
        f"{args.precision}; medians over up to {args.rounds} rounds of fresh processes, of "
        f"{args.steps} steps in a row each. Ratios are taken round by round, with the extremes in "
        "brackets. The last three columns, and the tables below, are of the last round. The GPU is "
        "busy for the sum of the times of its kernels and copies. Memory is all that is taken on "
        "the card, with what CUDA itself needs.",
        "",
        "## Kinds of kernels",
        "",
        *table(["setting", "kind", "least, ms", "set by", *(f"{x}, ms" for x in labels)], kinds),
        "",
        f"{least} Attention by plain matrix products counts as these.",
        "",
        "## The longest kernels of a step",
        "",
        *table(["setting", "side", "kernel", "kind", "launches", "ms"], names),
        "",
    ]
    return page(f"A training step on a GPU: {gpu}", lines)


def file_name(args):
    """Return the name of the result: one for each precision, preset and batch size."""
    parts = ["gpu", args.precision, args.only, args.batch_size and f"batch{args.batch_size}"]
    return "-".join(filter(None, parts))


def arguments():
    flags = parser(__doc__, rounds=5, steps=20)
    flags.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all sides")
    flags.add_argument("--only", choices=SETTINGS, help="this setting alone")
    flags.add_argument("--sides", choices=SIDES, nargs="+", default=[*SIDES], help="these alone")
    flags.add_argument("--limit", type=float, default=300, help="seconds for a process")
    flags.add_argument("--batch-size", type=int, help="instead of the preset's")
    return flags.parse_args()


def main():
    args = arguments()
    try:
        _, gpu = select_device("gpu")
    except GPUUnavailable as error:
        sys.exit(f"gpu: {error}")
    settings = []
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ.get(INDUCTOR_CACHE, folder)  # one for all rounds
        for name in [args.only] if args.only else SETTINGS:
            options = PRESETS[name] | ({"batch_size": args.batch_size} if args.batch_size else {})
            label = f"{name}, batch {options['batch_size']}"
            found: dict[str, list[dict]] = {side: [] for side in args.sides}
            settings.append(Setting(label, SETTINGS[name], options, found))
            for i in range(args.rounds):
                for side in args.sides:
                    result = measure(SIDES[side], settings[-1], args, cache)
                    found[side].append(result)
                    step = result.get("failed") or f"{number(result['ms'])} ms"
                    print(f"{label}, round {i + 1}, {SIDES[side].label}: {step}", flush=True)
                    text = result_page(gpu, settings, args)
                    write(file_name(args), text, {each.label: each.found for each in settings})
    print("\n" + text)
    sides = [results for setting in settings for results in setting.found.values()]
    return 0 if all(map(succeeded, sides)) else 1


if __name__ == "__main__":
    sys.exit(main())
