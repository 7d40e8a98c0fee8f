"""The benchmarks still run: every side trains a tiny model, and the arithmetic of the tables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import FAKE_PATH

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import generate  # noqa: E402
import matmul_share  # noqa: E402
import side  # noqa: E402
import twins  # noqa: E402
from side import VOCAB_SIZE  # noqa: E402
from twin import Twin  # noqa: E402

import minigrad.tensor  # noqa: E402
from gpt_numpy import GPT, TrainConfig  # noqa: E402
from minigrad import manual_seed  # noqa: E402
from minigrad.tensor import TWINS  # noqa: E402


@pytest.mark.parametrize(
    "side", ["ours", "threads", "loop", "fused", "eager"]
)  # compiling takes too long
def test_every_side_trains(side):
    """It prints the milliseconds of a step."""
    options = {"n_layer": 1, "n_embd": 16, "block_size": 8, "batch_size": 3, "workers": 2}
    milliseconds = common.milliseconds(side, options, 2)
    assert 0 < milliseconds < 1000


def test_a_step_without_a_twin(monkeypatch):
    """It is removed in this process, of which workers are forks, and the page is what runs."""
    task = {"side": "ours", "steps": 2, "without": ["gelu"]}
    task["options"] = {"n_layer": 1, "n_embd": 16, "block_size": 8, "batch_size": 3, "workers": 2}
    linear, gelu = (Mock(wraps=TWINS[name, "cpu"]) for name in ("linear", "gelu"))
    watched = {("linear", "cpu"): linear, ("gelu", "cpu"): gelu}
    monkeypatch.setattr(minigrad.tensor, "TWINS", {**TWINS, **watched})
    monkeypatch.setattr(sys, "argv", ["side.py", json.dumps(task)])
    side.main()
    assert linear.called and not gelu.called


def test_the_table_of_twins(monkeypatch, capsys):
    """A row for every twin on the CPU, for all of them, and for AdamW over one vector."""
    twins_of_ops = [name for name, device in TWINS if device == "cpu"]
    measured = []

    def milliseconds(side, options, steps, without=(), **environment):
        measured.append((side, [*without], environment))
        return 2.0 if without or environment or side == "loop" else 1.0

    monkeypatch.setattr(twins, "milliseconds", milliseconds)
    monkeypatch.setattr(common, "machine", dict)
    monkeypatch.setattr(sys, "argv", ["twins.py", "--rounds", "2"])
    twins.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert [row[1] for row in rows[2:]] == [*twins_of_ops, twins.PLAIN, twins.FUSED]
    assert {row[4] for row in rows[2:]} == {"**2.00** (2.00 to 2.00) |"}
    once = [("ours", [], {}), *(("ours", [name], {}) for name in twins_of_ops)]
    once += [("ours", [], {"MINIGRAD_PLAIN": "1"}), ("fused", [], {}), ("loop", [], {})]
    assert measured == 2 * once


def test_the_side_of_a_gpu():
    """Where there is none, PyTorch's half of the measurement is played; ours trains on the fake."""
    options = {"n_layer": 1, "n_embd": 16, "block_size": 8, "batch_size": 3, "dropout": 0.1}
    task = {"side": "ours", "options": options, "steps": 2, "device": "gpu", "vocab_size": 600}
    code = f"""
import contextlib, sys, torch
from types import SimpleNamespace as Event

CPU, CUDA = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
EVENTS = [
    Event(name="gemm", device_type=CUDA),
    Event(name="Memcpy HtoD", device_type=CUDA),
    Event(name="cupy_exp", device_type=CUDA),
    Event(name="cudaLaunchKernel", device_type=CPU),
]
torch.cuda.synchronize = lambda: None
torch.cuda.max_memory_reserved = lambda: 10**9
import fake_cupy
fake_cupy.get_default_memory_pool = lambda: Event(total_bytes=lambda: 10**9)
torch.profiler.profile = lambda activities: contextlib.nullcontext(Event(events=lambda: EVENTS))
import side
sys.argv = ["side.py", {json.dumps(task)!r}]
side.main()
"""
    found = common.python("-c", code, PYTHONPATH=os.pathsep.join([*FAKE_PATH, str(BENCHMARKS)]))
    assert found == {"ms": found["ms"], "kernels": 2, "memory": 2000} and found["ms"] > 0


def test_without_a_gpu_there_is_nothing_to_measure(tmp_path):
    """One line says why."""
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('', name='cupy')")
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py"],
        env=common.CLEAN | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("gpu: CuPy is not installed") and done.stderr.count("\n") == 1


def test_operations_are_counted_as_pytorch_counts_them():
    """PyTorch counts attention's products in full; the causal half is all that is needed."""
    config = TrainConfig(n_layer=2, n_embd=32, block_size=16, batch_size=3)
    model = Twin(config.model(VOCAB_SIZE))
    ids = torch.randint(VOCAB_SIZE, (3, 16))
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        model(ids).sum().backward()
    attention = 3 * 2 * config.tokens_per_step * config.n_layer * 2 * config.n_embd
    unneeded = attention * (16 - (16 + 1) / 2)
    assert counter.get_total_flops() == 1e9 * matmul_share.work(config) + unneeded


def test_ratios_are_of_pairs():
    """Their median is not the ratio of the medians: a slow minute slows both of a pair."""
    assert common.ratio([1, 20, 3], [2, 20, 12]) == (0.5, 0.25, 1)
    assert common.take_turns({"a": iter([1, 2]).__next__, "b": iter([3, 4]).__next__}, 2) == {
        "a": [1, 2],
        "b": [3, 4],
    }


def test_a_failing_side_ends_the_benchmark():
    """No table of what did not run."""
    with pytest.raises(SystemExit, match="failed"):
        common.milliseconds("ours", {"n_head": 5}, 1)


@pytest.mark.parametrize("program", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_the_commands_explain_themselves(program):
    """`--help` works, and the docstring names the command."""
    if program.stem in ("common", "side"):
        return
    assert f"python benchmarks/{program.name}" in program.read_text(encoding="utf-8")
    help_text = subprocess.run(
        [sys.executable, program, "--help"], check=True, capture_output=True, encoding="utf-8"
    ).stdout
    assert "--rounds" in help_text


def test_a_report_is_two_files(tmp_path, monkeypatch, capsys):
    """The table as Markdown and what it was made of as JSON; none for a part of the settings."""
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(common, "machine", lambda: {"cores": 2})
    monkeypatch.setattr(sys, "argv", ["benchmarks/some.py", "--rounds", "1"])
    table = ("Some", ["a", "b"], [[1, 2]], {"raw": [1]})
    common.report(*table, complete=False)
    assert not (tmp_path / "results").exists()
    common.report(*table, ["A note."])
    text = (tmp_path / "results/some.md").read_text(encoding="utf-8")
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |\n" in text and "A note." in text
    assert capsys.readouterr().out.count("| 1 | 2 |") == 2
    content = json.loads((tmp_path / "results/some.json").read_text(encoding="utf-8"))
    assert content == {
        "command": "python benchmarks/some.py --rounds 1",
        "machine": {"cores": 2},
        "raw": {"raw": [1]},
    }


@pytest.mark.parametrize("n_layer", [1, 2])
def test_all_sides_write_the_same_text(n_layer):
    """Greedily, in float64, with the weights of one model: what is timed is the same work.

    Far past the window; only there does the side without a cache slide otherwise.
    """
    config = TrainConfig(n_layer=n_layer, n_embd=16, block_size=12).model(VOCAB_SIZE)
    manual_seed(0)
    model = GPT(config).to(dtype=np.float64)
    for p in model.parameters():
        p.data = p.data * (15 if p.ndim == 2 else 1)
    twin = Twin(config).double()
    twin.load_ours(model.state_dict())
    text = generate.ours(config, 0, model)(50)
    np.testing.assert_array_equal(generate.cached(config, 0, twin)(50), text)
    np.testing.assert_array_equal(generate.uncached(config, 0, twin)(12), text[:13])
    assert len(set(text[13:].tolist())) > 3


@pytest.mark.parametrize("side", ["ours", "uncached", "cached"])
def test_every_side_writes(side):
    """It prints tokens per second."""
    program = [BENCHMARKS / "generate.py", "--only", "laptop", "--side", side, "--tokens", 8]
    assert 1 < common.python(*program) < 1e6


def test_the_parts_of_a_token():
    """They sum to what a token takes, and each but the rest takes some of it."""
    config = TrainConfig(n_layer=1, n_embd=16, block_size=12).model(VOCAB_SIZE)
    found = generate.parts(config, 30)
    *parts, _ = found.values()
    assert len(parts) == 3 and all(part > 0 for part in parts)
