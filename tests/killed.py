"""Run the training command, and die by SIGKILL at a file event of one's choice.

    python tests/killed.py N [flags of train_shakespeare.py]

The process kills itself as it is about to open, rename or remove a file of the run for the N-th
time: in the middle of a checkpoint as likely as not.  With N = 0 it does not.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def die_at(n, folder):
    """Watch what Python does with files whose path begins with `folder`; die at the n-th.

    The files of a run are named relative to its folder: by a name without a path.
    """

    def hook(event, arguments):
        nonlocal n
        if event in EVENTS:
            path = str(arguments[0])
            before = n
            n -= path.startswith(folder) or "/" not in path
            if n == 0 < before:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    flags = sys.argv[2:]
    die_at(int(sys.argv[1]), flags[flags.index("--out") + 1])
    command = Path(__file__).parents[1] / "examples" / "train_shakespeare.py"
    sys.argv = [str(command), *flags]
    runpy.run_path(str(command), run_name="__main__")
