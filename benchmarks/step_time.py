"""How long does a training step take, beside PyTorch's?

    python benchmarks/step_time.py [--only laptop] [--rounds 5] [--steps 40] [--unlock-mkl]

On processors of AMD the matrix library in PyTorch's packages, Intel's MKL, leaves out its kernels
for AVX-512.  --unlock-mkl makes it use them (Linux; it needs a C compiler): PyTorch as it would be
on a processor of Intel.
"""

import statistics
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from common import milliseconds, number, parser, ratio, report, shown, steps_of, take_turns

from gpt_numpy.config import PRESETS

BABY = PRESETS["baby"] | {"batch_size": 8}
SETTINGS = {
    "laptop": {},
    "baby, batch 8": BABY,
    "baby, batch 8, no dropout": BABY | {"dropout": 0.0},  # where PyTorch's attention is fused
}
IS_INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }"  # what MKL asks about the processor


def unlocked_mkl(folder):
    """The environment in which MKL takes any processor for one of Intel's."""
    source, library = Path(folder, "intel.c"), Path(folder, "intel.so")
    source.write_text(IS_INTEL)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def main():
    flags = parser(__doc__, rounds=5, steps=40)
    flags.add_argument("--only", default="", help="those settings whose name has this")
    flags.add_argument("--unlock-mkl", action="store_true", help="see above")
    args = flags.parse_args()
    if not any(args.only in name for name in SETTINGS):
        flags.error(f"there are {', '.join(SETTINGS)}")
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in SETTINGS.items():
            if args.only not in name:
                continue
            steps = steps_of(name, args.steps)
            for unlocked in (False, True)[: 1 + args.unlock_mkl]:
                environment = unlocked_mkl(folder) if unlocked else {}
                sides = {
                    side: partial(milliseconds, side, options, steps, **environment)
                    for side in ("ours", "eager", "compile")
                }
                label = name + (", MKL unlocked" if unlocked else "")
                print(f"{label}: median step of {steps} in ms, a process each")
                raw[label] = results = take_turns(sides, args.rounds)
                middle = {side: statistics.median(r) for side, r in results.items()}
                quotients = [ratio(results["ours"], results[s]) for s in ("eager", "compile")]
                rows.append([label, *map(number, middle.values()), *map(shown, quotients)])
    columns = ["setting", "gpt_numpy, ms", "PyTorch eager, ms", "torch.compile, ms"]
    report(
        "A training step beside PyTorch's",
        [*columns, "ours / eager", "ours / compile"],
        rows,
        raw,
        [
            f"Medians over {args.rounds} rounds of fresh processes; of the ratios, which are taken "
            "round by round, with the extremes in brackets."
        ],
        complete=not args.only,
    )


if __name__ == "__main__":
    main()
