"""The command as a user runs it, for the tests: call its main(), read what it leaves."""

import contextlib
import csv
import importlib.util
import os
import sys
import tracemalloc
from pathlib import Path

import pytest

DATA = os.environ.get("GPT_NUMPY_DATA")
needs_data = pytest.mark.skipif(
    not (DATA and (Path(DATA) / "gpt2/vocab.bpe").exists()),
    reason="needs gpt2/vocab.bpe and more in the folder that GPT_NUMPY_DATA names",
)
EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = (
    "--device cpu --steps 6 --n-layer 1 --n-embd 8 --n-head 2 --block-size 8 --eval-every 3 "
    "--log-every 2"
).split()
FILES = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    "train_config.json",
    *("metrics.csv", "samples.txt", "loss.png", "report.html"),
    *("training_state.safetensors", "training_state.before.safetensors", ".lock"),
}


def example(name):
    """The module of examples/`name`.py; dataclasses and tyro look it up among the loaded ones."""
    full_name = f"example_{name}"  # a benchmark may have the same name
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full_name] = module
        spec.loader.exec_module(module)
    return sys.modules[full_name]


def exit_status(main, *arguments):
    """What the shell would see, whether `main` returns it or exits with it."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def metrics_of(folder):
    """metrics.csv as {column: [number or None]}."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}


def without_times(metrics):
    return {k: v for k, v in metrics.items() if k not in ("tokens_per_second", "seconds")}


def snapshot(folder):
    """Every path below `folder`, and what is in the files."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def assert_refused(capsys, main, arguments, parts):
    """Status 2, nothing on stdout, one line on stderr that has all of `parts` and no errno."""
    status = exit_status(main, *arguments)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert all(part in err for part in parts), err
    assert "[Errno" not in err and "Traceback" not in err, err


@contextlib.contextmanager
def peak_below(n_bytes):
    """Fail if Python and NumPy have more memory than that at any time inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()
