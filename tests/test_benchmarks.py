"""The benchmarks still run: every side trains a tiny model, and the arithmetic of the tables."""

import collections
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import FAKE_PATH
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import generate  # noqa: E402
import gpu  # noqa: E402
import matmul_share  # noqa: E402
import roofline  # noqa: E402
import side  # noqa: E402
import twins  # noqa: E402
from side import VOCAB_SIZE  # noqa: E402
from twin import Twin  # noqa: E402

import minigrad.tensor  # noqa: E402
from gpt_numpy import GPT, TrainConfig  # noqa: E402
from gpt_numpy.config import PRESETS  # noqa: E402
from minigrad import manual_seed  # noqa: E402
from minigrad.internals.hooks import this_thread  # noqa: E402
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
    """Where there is none, PyTorch's half of the measurement is played; ours trains on the fake.

    No step that is timed waits for the GPU.
    """
    options = {"n_layer": 1, "n_embd": 16, "block_size": 8, "batch_size": 3, "dropout": 0.1}
    task = {"side": "ours", "options": options, "steps": 2, "device": "gpu", "vocab_size": 600}
    code = f"""
import contextlib, sys, torch
from types import SimpleNamespace

def event(name, device, ms, is_user_annotation=False):
    time = SimpleNamespace(elapsed_us=lambda: 1000 * ms)
    return SimpleNamespace(
        name=name, device_type=device, time_range=time, is_user_annotation=is_user_annotation
    )

CPU, CUDA = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
EVENTS = [
    event("gemm", CUDA, 6.0),
    event("gemm", CUDA, 2.0),
    event("Memcpy HtoD", CUDA, 1.0),
    event("cudaLaunchKernel", CPU, 10.0),
    event("Optimizer.step#AdamW.step", CUDA, 9.0, is_user_annotation=True),
]
downloads = []
torch.cuda.synchronize = lambda: downloads.append(fake_cupy.ledger.downloads)
torch.cuda.mem_get_info = lambda: (10**9, 3 * 10**9)
import fake_cupy
profile = SimpleNamespace(events=lambda: EVENTS)
torch.profiler.profile = lambda activities: contextlib.nullcontext(profile)
import side
sys.argv = ["side.py", {json.dumps(task)!r}]
side.main()
assert len(downloads) == 3 and len({{*downloads}}) == 1, downloads
"""
    found = common.python("-c", code, PYTHONPATH=os.pathsep.join([*FAKE_PATH, str(BENCHMARKS)]))
    n = side.PROFILED
    kernels = [["gemm", 2 / n, 8.0 / n], ["Memcpy HtoD", 1 / n, 1.0 / n]]
    assert found == {"ms": found["ms"], "kernels": kernels, "memory": 2000} and found["ms"] > 0


@pytest.mark.parametrize(
    "precision, products, dtype",
    [
        ("float32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "high", torch.bfloat16),
    ],
)
def test_the_precision_of_pytorch(precision, products, dtype, monkeypatch):
    """Of its products and of what a linear layer returns; the loss stays float32."""
    seen = []
    forward = Twin.forward
    monkeypatch.setattr(Twin, "forward", lambda *args: seen.append(forward(*args)) or seen[-1])
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional, "cross_entropy", lambda *args: seen.append(loss(*args)) or seen[-1]
    )
    config = TrainConfig(n_layer=1, n_embd=16, block_size=8, batch_size=3)
    before = torch.get_float32_matmul_precision()
    try:
        next(side.eager(config, np.arange(50) % VOCAB_SIZE, precision=precision))
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision(before)
    assert [tensor.dtype for tensor in seen] == [dtype, torch.float32]


def test_the_precision_of_ours():
    """It holds while a step is computed; one that gpt_numpy does not have is an error."""
    config = TrainConfig(n_layer=1, n_embd=16, block_size=8, batch_size=3, workers=1)
    for precision in ("tf32", "float32"):
        steps = side.ours(config, np.arange(50) % VOCAB_SIZE, precision=precision)
        next(steps)
        assert this_thread.precision == precision
        steps.close()
        assert this_thread.precision == "float32"
    with pytest.raises(ValueError, match="precision"):
        next(side.ours(config, np.arange(50) % VOCAB_SIZE, precision="float8"))


# ---- the benchmark of a GPU ----------------------------------------------------------------------

SMALL = "import sys, time; print('a line'); "


def test_a_program_has_a_time_limit(tmp_path):
    """One that exceeds it ends, with the processes that it has started; its result is why."""
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(late)!r}).touch()"
    start = f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); "
    with pytest.raises(common.Failed, match="^over 1 s$"):
        common.python_within(1, "-c", SMALL + start + "time.sleep(60)")
    time.sleep(2.5)
    assert not late.exists()
    assert common.python_within(60, "-c", SMALL + "print('[1, 2]')") == [1, 2]


@pytest.mark.parametrize(
    "code, why",
    [
        ("raise MemoryError('no room')", "^status 1: MemoryError: no room$"),
        ("sys.exit('not yet')", "^status 1: not yet$"),
        ("import os; os._exit(3)", "^status 3$"),
    ],
)
def test_a_program_that_fails(code, why, capfd):
    """The last line that it wrote to standard error is its result."""
    with pytest.raises(common.Failed, match=why):
        common.python_within(60, "-c", SMALL + code)
    assert ("no room" in capfd.readouterr().err) == ("no room" in code)


H100 = "NVIDIA H100 80GB HBM3, 79 GiB, CuPy 14.2.0"
KERNELS = {  # what each side starts: [name, launches, ms]
    "ours": [["sgemm_128x64_nt", 40, 20.0], ["cupy_multiply", 60, 5.0], ["Memcpy HtoD", 2, 0.5]],
    "eager": [["sm90_xmma_gemm_f32", 30, 10.0], ["layer_norm_grad_input_kernel", 13, 2.0]],
}


@pytest.fixture
def gpu_benchmark(monkeypatch, tmp_path, capsys):
    """Run benchmarks/gpu.py on a card that is played; return (status, tables, JSON, tasks)."""

    def run(*flags, played=lambda side, n: {}):
        tasks = []

        def python_within(limit, program, task, **environment):
            task = json.loads(task) | {"limit": limit, "environment": environment}
            tasks.append(task)
            name = "plain" if "MINIGRAD_PLAIN" in environment else task["side"]
            name = "no-graph" if task["options"].get("graph") is False else name
            n = sum(1 for other in tasks if other["side"] == task["side"])
            kernels = KERNELS.get(name, [])
            ms = {"ours": 30.0, "no-graph": 40.0, "plain": 60.0, "eager": 20.0, "compile": 10.0}
            return {"ms": ms[name], "kernels": kernels, "memory": 1500.0} | played(name, n)

        monkeypatch.setattr(gpu, "python_within", python_within)
        monkeypatch.setattr(gpu, "select_device", lambda device: ("gpu", H100))
        monkeypatch.setattr(common, "HERE", tmp_path)
        monkeypatch.setattr(common, "machine", lambda: {"cores": 2})
        monkeypatch.setattr(sys, "argv", ["benchmarks/gpu.py", *flags])
        status = gpu.main()
        (page,) = (tmp_path / "results").glob("*.md")
        raw = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["raw"]
        text = page.read_text(encoding="utf-8")
        assert text in capsys.readouterr().out
        rows = [line[2:-2].split(" | ") for line in text.splitlines() if line[:2] == "| "]
        return status, page.stem, rows, raw, tasks

    return run


def test_the_table_of_a_gpu(gpu_benchmark):
    """Every side in the same precision; ratios; what the card did; the file is named after it."""
    flags = "--only baby --rounds 2 --steps 7 --precision tf32 --limit 50".split()
    status, name, rows, raw, tasks = gpu_benchmark(*flags)
    assert (status, name) == (0, "gpu-tf32-baby")
    assert [row[0] for row in rows[2:7]] == ["baby, batch 64"] * 5
    assert [row[1:] for row in rows[2:7]] == [
        ["gpt_numpy", "30", "", "25.5", "100", "1,500"],
        ["gpt_numpy, launch by launch", "40", "**0.75** (0.75 to 0.75)", "0", "0", "1,500"],
        ["gpt_numpy, pages alone", "60", "**0.50** (0.50 to 0.50)", "0", "0", "1,500"],
        ["PyTorch eager", "20", "**1.50** (1.50 to 1.50)", "12", "43", "1,500"],
        ["torch.compile", "10", "**3.00** (3.00 to 3.00)", "0", "0", "1,500"],
    ]
    assert [len(results) for results in raw["baby, batch 64"].values()] == [2] * 5
    assert [task["side"] for task in tasks] == 2 * ["ours", "ours", "ours", "eager", "compile"]
    assert {task["precision"] for task in tasks} == {"tf32"}
    assert {(task["limit"], task["steps"], task["device"]) for task in tasks} == {(50, 7, "gpu")}
    caches = {task["environment"]["TORCHINDUCTOR_CACHE_DIR"] for task in tasks}
    assert len(caches) == 1 and "NVIDIA_TF32_OVERRIDE" not in tasks[0]["environment"]
    assert [task["environment"].get("MINIGRAD_PLAIN") for task in tasks[:4]] == [
        None,
        None,
        "1",
        None,
    ]


def test_kernels_beside_their_least_time(gpu_benchmark):
    """By kind, with the factor; by name, the longest first."""
    _, _, rows, _, tasks = gpu_benchmark("--only", "baby", "--rounds", "1")
    assert tasks[0]["environment"]["NVIDIA_TF32_OVERRIDE"] == "0"
    least = roofline.work(TrainConfig(**PRESETS["baby"]), 65)["matrix products"]
    seconds, why = least.seconds(roofline.CARDS["H100 80GB HBM3"], "float32")
    (row,) = (row for row in rows if row[1] == "matrix products")
    assert row[2:4] == [common.number(1000 * seconds), why] and why == "arithmetic"
    assert row[4] == f"20 in 40, {0.020 / seconds:.1f} ×"
    assert row[7] == f"10 in 30, {0.010 / seconds:.1f} ×"
    others = {row[1]: row[2:] for row in rows if row[1] in ("others", "copies")}
    assert others["others"][:3] == ["", "", "5 in 60"]
    assert others["copies"][:3] == ["", "", "0.5 in 2"]
    names = [row[2:] for row in rows if row[1] == "gpt_numpy" and row[2][0] == "`"]
    assert names == [
        ["`sgemm_128x64_nt`", "matrix products", "40", "20"],
        ["`cupy_multiply`", "others", "60", "5"],
        ["`Memcpy HtoD`", "copies", "2", "0.5"],
    ]


def test_a_side_that_fails_is_a_cell(gpu_benchmark):
    """The others go on; a round that fails is counted, and leaves no ratio; the status is 1."""

    def played(name, n):
        if name == "compile" or name == "eager" and n == 1:
            raise common.Failed("over 9 s")
        return {}

    status, _, rows, raw, _ = gpu_benchmark("--only", "baby", "--rounds", "2", played=played)
    assert status == 1
    assert rows[5][1:4] == ["PyTorch eager", "20 (1 failed)", "**1.50** (1.50 to 1.50)"]
    assert rows[6][1:] == ["torch.compile", "over 9 s", "", "", "", ""]
    assert raw["baby, batch 64"]["compile"] == 2 * [{"failed": "over 9 s"}]


def test_an_interrupted_run_leaves_its_table(gpu_benchmark, tmp_path):
    """What was measured before Ctrl-C has been written."""

    def played(name, n):
        if name == "eager":
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        gpu_benchmark("--sides", "ours", "eager", "--batch-size", "3", played=played)
    text = (tmp_path / "results/gpu-float32-batch3.md").read_text(encoding="utf-8")
    assert "| baby, batch 3 | gpt_numpy | 30 |" in text
    assert "| baby, batch 3 | PyTorch eager |  |" in text and "torch.compile" not in text


def test_a_card_without_figures(gpu_benchmark, monkeypatch):
    """It is measured all the same, without a least time."""
    monkeypatch.setattr(roofline, "CARDS", {})
    _, _, rows, _, _ = gpu_benchmark("--only", "baby", "--rounds", "1")
    (row,) = (row for row in rows if row[1] == "matrix products")
    assert row[2:5] == ["", "", "20 in 40"]


class Traffic(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of the float tensors that every op of PyTorch reads and returns."""

    def __init__(self):
        super().__init__()
        self.bytes = collections.Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        tensors = torch.utils._pytree.tree_leaves([args, kwargs, out])
        self.bytes[op.overloadpacket.__name__] += sum(
            x.nbytes for x in tensors if isinstance(x, torch.Tensor) and x.is_floating_point()
        )
        return out


def test_the_least_work_is_what_pytorch_reads_and_writes():
    """Its ops counted one by one, in float32: matrix products, layer norm and GELU."""
    config = TrainConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, batch_size=3)
    model = Twin(config.model(VOCAB_SIZE))
    ids = torch.randint(VOCAB_SIZE, (3, 16))
    with Traffic() as traffic, FlopCounterMode(display=False) as flops:
        with sdpa_kernel(SDPBackend.MATH):
            model(ids).backward(torch.ones(3, 16, VOCAB_SIZE))
    counted, least = traffic.bytes, roofline.work(config, VOCAB_SIZE)
    assert least["matrix products"].bytes == counted["mm"]
    per_op = flops.get_flop_counts()["Global"]
    assert least["matrix products"].operations == per_op[torch.ops.aten.mm]
    # of attention, all of the square: the causal half is what is needed, and flash adds a product
    products = least["attention, forward"].operations + least["attention, backward"].operations
    assert products == per_op[torch.ops.aten.bmm] * 7 / 6 * (16 + 1) / 2 / 16
    N, C = config.tokens_per_step, config.n_embd
    weights, statistics = 4 * C, 4 * 2 * N  # which the model leaves out
    for name, kind, left_out in [
        ("native_layer_norm", "layer norm, forward", weights + statistics),
        ("native_layer_norm_backward", "layer norm, backward", 2 * weights + statistics),
        ("gelu", "GELU, forward", 0),
        ("gelu_backward", "GELU, backward", 0),
    ]:
        n = 5 if left_out else 2
        assert counted[name] == least[kind].bytes + n * left_out, kind


def test_the_least_work_in_half_the_bytes():
    """bf16 halves activations, not the optimizer's vectors; biases and dropout add bytes."""
    config = TrainConfig(n_layer=2, n_embd=32, block_size=16, batch_size=3)
    least, half = (roofline.work(config, VOCAB_SIZE, p) for p in ("float32", "bf16"))
    more = roofline.work(replace(config, dropout=0.1, bias=True), VOCAB_SIZE)
    for kind, (n_bytes, operations) in least.items():
        assert half[kind].operations == operations == more[kind].operations
        assert half[kind].bytes == (n_bytes if kind == "optimizer" else n_bytes / 2)
        grows = kind.startswith(("residual", "bias", "optimizer"))
        assert (more[kind].bytes > n_bytes) == grows, kind


@pytest.mark.parametrize(
    "kernel, kind",
    [
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32", "matrix products"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x128>(Params)", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80(Params)", "attention, forward"),
        ("fmha_cutlassB_f32_aligned_64x64_k64_dropout_sm80(Params)", "attention, backward"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", "attention, forward"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention, backward"),
        ("void vectorized_layer_norm_kernel<float, float>(int)", "layer norm, forward"),
        ("void layer_norm_grad_input_kernel_vectorized<float>", "layer norm, backward"),
        ("GammaBetaBackwardCUDAKernelTemplate<float, 64>", "layer norm, backward"),
        ("vectorized_elementwise_kernel<4, GeluCUDAKernelImpl(at::Tensor)>", "GELU, forward"),
        ("vectorized_elementwise_kernel<4, GeluBackwardCUDAKernelImpl>", "GELU, backward"),
        ("void fused_dropout_kernel_vec<float, float, unsigned>", "residual and dropout, forward"),
        ("dropout_keep", "residual and dropout, forward"),
        ("void cunn_SoftMaxForward<4, float, float>", "cross-entropy"),
        ("nll_loss_forward_reduce_cuda_kernel_2d", "cross-entropy"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor<float>>", "optimizer"),
        ("embedding_backward_feature_kernel<float>", "embedding"),
        ("column_sum_parts", "bias gradients"),
        ("flash_forward", "attention, forward"),
        ("flash_backward_key", "attention, backward"),
        ("layer_norm_forward", "layer norm, forward"),
        ("layer_norm_backward", "layer norm, backward"),
        ("gelu_backward", "GELU, backward"),
        ("dropout_backward", "residual and dropout, backward"),
        ("cross_entropy_reduce", "cross-entropy"),
        ("embedding_backward", "embedding"),
        ("square_sums", "optimizer"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("Memset (Device)", "copies"),
        ("cupy_multiply__float32_float32_float32", "others"),
        ("vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>", "others"),
    ],
)
def test_kernels_have_a_kind(kernel, kind):
    """By the names that cuBLAS, PyTorch and ours have; all kinds but two have a least time."""
    assert roofline.kind_of(kernel) == kind
    least = roofline.work(TrainConfig(), VOCAB_SIZE)
    assert (kind in least) == (kind not in ("copies", "others"))


def test_our_kernels_have_a_kind():
    """Each of them: one whose name says nothing would be among the others."""
    folder = Path(minigrad.tensor.__file__).parent / "fast/gpu"
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.cu"))
    declared = r"__global__ void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)\("
    kernels = re.findall(declared, source)
    assert len(kernels) == source.count("__global__ void") > 3
    assert [kernel for kernel in kernels if roofline.kind_of(kernel) == roofline.OTHERS] == []


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
    if program.stem in ("common", "roofline", "side"):
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
