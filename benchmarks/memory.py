"""How much memory does training take, all its processes together, beside PyTorch's?  (Linux)

    python benchmarks/memory.py [--rounds 3] [--steps 20]

The memory of a page that several processes share counts once (PSS, the proportional set size of
/proc/PID/smaps_rollup); it is read every few hundredths of a second, and the peak is kept.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from functools import partial

import psutil
from common import CLEAN, HERE, number, parser, ratio, report, shown, steps_of, take_turns
from step_time import BABY

from gpt_numpy.app.memory import memory_in_use

SETTINGS = {"laptop": {}, "baby, batch 8": BABY}
INTERVAL = 0.02  # seconds


def peak(side, options, steps):
    """The most MB that a training process and its children memory_in_use at once."""
    task = json.dumps({"side": side, "options": options, "steps": steps})
    command = [sys.executable, str(HERE / "side.py"), task]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, env=CLEAN)
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            most = max(most, memory_in_use(process))
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"failed: {command}")
    return most / 1e6


def main():
    args = parser(__doc__, rounds=3, steps=20).parse_args()
    rows, raw = [], {}
    for name, options in SETTINGS.items():
        steps = steps_of(name, args.steps)
        sides = {side: partial(peak, side, options, steps) for side in ("ours", "eager")}
        raw[name] = results = take_turns(sides, args.rounds)
        middle = [number(statistics.median(r)) for r in results.values()]
        rows.append([name, *middle, shown(ratio(*results.values()))])
    report(
        "Peak memory of a training run",
        ["setting", "gpt_numpy, MB", "PyTorch eager, MB", "ratio"],
        rows,
        raw,
    )


if __name__ == "__main__":
    main()
