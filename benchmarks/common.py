"""What the benchmarks share: processes that take turns, and the two files of a result.

A machine's speed drifts, and other work on it comes and goes.  So sides that are to be compared run
in the same minutes, A B A B, each time in a fresh process, and what counts is their ratio: its
median over the rounds, with the smallest and the largest.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil

from gpt_numpy.config import physical_cores

HERE = Path(__file__).parent
IGNORED = ("OPENBLAS_", "OMP_", "MKL_", "MINIGRAD_", "PYTHONDONTWRITEBYTECODE")
CLEAN = {  # an environment may choose BLAS kernels, a number of threads or the pages without their
    # twins, or have Python compile every module again in every process: measure without
    name: value
    for name, value in os.environ.items()
    if not name.startswith(IGNORED)
}


def parser(doc, rounds, steps=None):
    """The flags that benchmarks have in common."""
    flags = argparse.ArgumentParser(description=doc.partition("\n")[0])
    flags.add_argument("--rounds", type=int, default=rounds, help="processes of each side")
    if steps:
        flags.add_argument("--steps", type=int, default=steps, help="timed steps of a process")
    return flags


def steps_of(name, steps):
    """How many steps to time: the larger model makes do with a quarter."""
    return steps if name == "laptop" else max(5, steps // 4)


def python(*arguments, **environment):
    """What a Python program prints as JSON, run in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=CLEAN | environment)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return json.loads(done.stdout.splitlines()[-1])


class Failed(Exception):
    """One side of a comparison gave no result; the message is why, in a few words."""


def python_within(seconds, *arguments, **environment):
    """Return what python() returns; raise Failed after so many seconds, or if the program fails."""
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # pipes would stay open
        process = psutil.Popen(command, stdout=out, stderr=err, env=CLEAN | environment)
        try:
            status = process.wait(seconds)
        except psutil.TimeoutExpired:
            raise Failed(f"over {seconds:g} s") from None
        finally:
            for each in [*children(process), process]:  # torch.compile starts processes too
                with contextlib.suppress(psutil.Error):
                    each.kill()
            process.wait()
        results, errors = (lines_of(file) for file in (out, err))
    if status or not results:
        print(*errors[-20:], sep="\n", file=sys.stderr)
        raise Failed(": ".join([f"status {status}", *errors[-1:]]))
    return json.loads(results[-1])


def lines_of(file):
    """Return the lines of a binary file that a process has written."""
    file.seek(0)
    return file.read().decode(errors="replace").splitlines()


def children(process):
    """Return all processes that a psutil.Process has started; none if it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def milliseconds(side, options, steps, without=(), **environment):
    """Return the median time of a training step of one side (side.py)."""
    task = {"side": side, "options": options, "steps": steps, "without": list(without)}
    return python(HERE / "side.py", json.dumps(task), **environment)


def take_turns(sides, rounds):
    """{name: its results} of functions without arguments, called in turn, `rounds` times each."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            results[name].append(measure())
        print(
            "   ".join(f"{name} {values[-1]:.4g}" for name, values in results.items()), flush=True
        )
    return results


def ratio(ours, theirs):
    """(median, smallest, largest) of the quotients of two sides, round by round."""
    quotients = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(quotients), min(quotients), max(quotients)


def shown(quotient):
    return "**{:.2f}** ({:.2f} to {:.2f})".format(*quotient)


def number(value):
    """With three digits, or as a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@functools.cache  # a benchmark that is interrupted may report many times
def machine():
    """What the numbers depend on: processor, system, versions, BLAS and thread counts."""
    code = (
        "import json, numpy, threadpoolctl;"
        "found = threadpoolctl.threadpool_info();"
        "import torch;"
        "names = [b['internal_api'] + ' for ' + b.get('architecture', '?') for b in found];"
        "print(json.dumps([torch.get_num_threads(), ' and '.join(names)]))"
    )
    n_threads, blas = python("-c", code)
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        family = f"family {facts.get('cpu family')}, model {facts.get('model')}"
        name = f"{facts.get('model name', name)} ({family})"
    return {
        "processor": name,
        "cores": physical_cores(),
        "system": platform.system(),
        "Python": platform.python_version(),
        **{library: version(library) for library in ("numpy", "torch")},
        "BLAS of NumPy": blas,
        "threads of PyTorch": n_threads,
    }


def table(columns, rows):
    """Return the lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(map(str, row)) + " |" for row in lines]


def report(title, columns, rows, raw, notes=(), complete=True):
    """Print the table; if it is complete, write it to results/<the program>.md, and a JSON file."""
    text = page(title, [*table(columns, rows), "", *(f"{note}\n" for note in notes)])
    print("\n" + text)
    if complete:
        write(Path(sys.argv[0]).stem, text, raw)


def page(title, lines):
    """Return a result in Markdown: these lines, the command, and the machine."""
    facts = "; ".join(f"{key} {value}" for key, value in machine().items())
    return "\n".join([f"# {title}", "", *lines, f"`{command()}`", "", facts + "."])


def command():
    """Return the command that this program was started by."""
    return "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write(name, text, raw):
    """Write results/<name>.md, and results/<name>.json with all that was measured."""
    file = HERE / "results" / name
    file.parent.mkdir(exist_ok=True)
    Path(f"{file}.md").write_text(text + "\n", encoding="utf-8")
    content = {"command": command(), "machine": machine(), "raw": raw}
    Path(f"{file}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
