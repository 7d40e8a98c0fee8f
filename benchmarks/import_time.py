"""How long do `import minigrad` and `train_shakespeare.py --help` take?

python benchmarks/import_time.py [--rounds 21]
"""

import statistics
import subprocess
import sys
import time
from functools import partial

from common import CLEAN, HERE, number, parser, python, ratio, report, shown, take_turns

TIMED = """
import json, time
start = time.perf_counter()
import {}
print(json.dumps(1000 * (time.perf_counter() - start)))
"""


def help_text():
    """Milliseconds of the whole process."""
    command = [sys.executable, str(HERE.parent / "examples/train_shakespeare.py"), "--help"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=CLEAN)
    return 1000 * (time.perf_counter() - start)


def main():
    args = parser(__doc__, rounds=21).parse_args()
    sides = {name: partial(python, "-c", TIMED.format(name)) for name in ("minigrad", "numpy")}
    results = take_turns(sides | {"help": help_text}, args.rounds)
    middle = [number(statistics.median(r)) for r in results.values()]
    columns = ["`import minigrad`, ms", "`import numpy`, ms", "`train_shakespeare.py --help`, ms"]
    row = [*middle, shown(ratio(results["minigrad"], results["numpy"]))]
    report("Import times", [*columns, "minigrad / numpy"], [row], results)


if __name__ == "__main__":
    main()
