"""Several GPUs, a rank for each: the same steps as one process on one GPU, in all ways of summing.

The ranks are those of mpirun, and their GPUs the fake: NumPy computes, and MPI plays NCCL.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FAKE_PATH
from test_ranks import IDS, MPIRUN, ROOT, clean_shared_memory, command, config, make, needs_mpi

import minigrad as mg
from gpt_numpy import TrainConfig
from gpt_numpy.app.memory import estimate
from gpt_numpy.scale import gpus
from gpt_numpy.scale.gpus import open_gpus
from gpt_numpy.scale.ranks import Ranks
from gpt_numpy.scale.train import train
from minigrad.backend import to_device, to_numpy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures(clean_shared_memory.__name__)]


def mpirun(n, *arguments, n_gpus=1, **environment):
    """Run Python on n ranks of a machine that has n_gpus fake GPUs; return the finished process."""
    environment |= {"FAKE_CUPY_DEVICES": str(n_gpus)}
    return subprocess.run(
        [MPIRUN, "-n", str(n), sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*FAKE_PATH, str(ROOT)])} | environment,
    )


def steps_of(ranks):
    """Train on the GPU; return what a run comes to, and the copies that each step makes."""
    model, ledger = make().to("gpu"), sys.modules["cupy"].ledger
    steps = train(model, IDS, config(workers=1, log_every=10**6), ranks)
    results, copies = [], []
    for _ in range(config().steps):
        before = ledger.uploads, ledger.downloads
        result = next(steps)
        copies.append([ledger.uploads - before[0], ledger.downloads - before[1]])
        results.append([result.loss.item(), result.grad_norm.item()])
    weights = np.concatenate([array.ravel() for array in model.state_dict().values()])
    found = {"steps": results, "weights": weights.tolist()}
    return found | {"copies": copies[1:-1]}  # in the last step the program reads what went wrong


def write_run(folder):
    """Train on this rank's GPU, and write what it saw to a file of its own."""
    with Ranks.of_mpirun() as ranks:
        open_gpus(ranks)
        found = steps_of(ranks) | {"gpu": sys.modules["cupy"].cuda.runtime.getDevice()}
        found |= {"note": ranks.gpu_note, "on_this_gpu": ranks.on_this_gpu}
        Path(folder, f"{ranks.rank}.json").write_text(json.dumps(found))


CODE = "import test_gpus; test_gpus.write_run({!r})"
SUMMED = {
    "nccl": "by NCCL",
    "mpi": "by MPI, which reads the memory of the GPUs",
    "host": "on the CPU",
}


@needs_mpi
@pytest.mark.parametrize(
    "n, n_gpus, asked, way",
    [
        (1, 1, "", None),
        (2, 2, "", "nccl"),
        pytest.param(3, 4, "", "nccl", marks=pytest.mark.whole),
        (2, 2, "host", "host"),
        (2, 2, "mpi", "mpi"),
        (3, 2, "", "host"),  # two ranks share a GPU, which NCCL does not take
        pytest.param(2, 1, "mpi", "mpi", marks=pytest.mark.whole),
    ],
)
def test_gpus_compute_what_one_computes(n, n_gpus, asked, way, tmp_path, fake_gpu):
    """Losses, norms and weights in float64, dropout and accumulation on, at 1e-12."""
    result = mpirun(n, "-c", CODE.format(str(tmp_path)), n_gpus=n_gpus, GPT_NUMPY_SUM=asked)
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(n)]
    assert [rank.pop("gpu") for rank in ranks] == [i % n_gpus for i in range(n)]
    copies = [rank.pop("copies") for rank in ranks]
    assert all(rank == ranks[0] for rank in ranks), "all ranks end with the very same weights"

    whose = f"{n} ranks share {n_gpus} GPU" + "s" * (n_gpus > 1)
    whose = f"a GPU for each of {n} ranks" if n <= n_gpus else whose
    assert ranks[0]["note"] == (f"{whose}; gradients are summed {SUMMED[way]}" if way else "")
    assert ranks[0]["on_this_gpu"] == -(-n // n_gpus)
    alone = steps_of(Ranks())
    through_the_host = 2 * (way == "host")  # the gradient, and the loss
    for step in itertools.chain(*copies):  # whose batches are no more than those of one process
        uploads, downloads = (n_copies - through_the_host for n_copies in step)
        assert downloads == 0 < uploads <= max(alone["copies"])[0]
    np.testing.assert_allclose(ranks[0]["steps"], alone["steps"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ranks[0]["weights"], alone["weights"], rtol=0, atol=1e-12)


@needs_mpi
def test_ranks_that_see_one_gpu_each(tmp_path):
    """A cluster may show each rank its own GPU alone, as number 0: they are not one GPU."""
    code = f"""
import os, test_gpus
os.environ["FAKE_CUPY_ADDRESS"] = "0000:0" + os.environ["PMI_RANK"] + ":00.0"
test_gpus.write_run({str(tmp_path)!r})"""
    result = mpirun(2, "-c", code)
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    assert [(rank["gpu"], rank["on_this_gpu"]) for rank in ranks] == [(0, 1), (0, 1)]
    assert ranks[0]["note"] == "a GPU for each of 2 ranks; gradients are summed by NCCL"


# ---- the command ---------------------------------------------------------------------------------


@needs_mpi
def test_the_command_on_two_gpus(tmp_path):
    """It trains as on one, names the GPUs and who sums, and goes on with --resume."""
    outs = []
    for n, name in ((1, "one"), (2, "two")):
        run = mpirun(n, *command(tmp_path, name, "--device", "gpu", "--preset", "laptop"), n_gpus=2)
        assert (run.returncode, run.stderr) == (0, ""), run.stderr
        outs.append(run.stdout.splitlines())
    assert outs[0][-1] == outs[1][-1] and "final val_loss" in outs[0][-1]
    new = [line.strip() for line in outs[1] if line not in outs[0]]
    assert "a GPU for each of 2 ranks; gradients are summed by NCCL" in new
    assert json.loads((tmp_path / "two/train_config.json").read_text())["ranks"] == 2
    flags = ["--resume", "--out", tmp_path / "two", "--steps", "12"]
    run = mpirun(2, ROOT / "examples/train_shakespeare.py", *flags, n_gpus=1)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    assert "2 ranks share 1 GPU; gradients are summed on the CPU" in run.stdout
    assert "after 12 steps" in run.stdout


PLANTED = """
import os, runpy, sys
import cupy
if os.environ["PMI_RANK"] == "1":
    {fault}
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@needs_mpi
@pytest.mark.parametrize(
    "fault, asked, part",
    [
        ("cupy.cuda.runtime.getDeviceCount = lambda: 0", "", "rank 1 on "),
        (
            "cupy.cuda.nccl.available = False",
            "nccl",
            "NCCL is not installed: pip install nvidia-nc",
        ),
        ("pass", "post", "GPT_NUMPY_SUM must be one of nccl, mpi, host; it is post"),
    ],
)
def test_what_a_rank_lacks_is_refused_once(fault, asked, part, tmp_path):
    """In one line, with status 2, before anything is written; and all ranks end."""
    argv = [*map(str, command(tmp_path, "run", "--device", "gpu", "--preset", "laptop"))]
    code = PLANTED.format(fault=fault, argv=argv)
    result = mpirun(2, "-c", code, n_gpus=2, GPT_NUMPY_SUM=asked)
    assert result.returncode == 2 and result.stderr.count(part) == 1
    assert result.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


@needs_mpi
def test_nccl_gives_no_two_ranks_one_gpu(tmp_path):
    """Where it is asked for all the same, one line says why not."""
    result = mpirun(2, *command(tmp_path, "run", "--device", "gpu"), GPT_NUMPY_SUM="nccl")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "NCCL needs a GPU for each rank, and 2 ranks share 1 GPU" in result.stderr


@needs_mpi
def test_without_nccl_the_cpu_sums(tmp_path):
    """If one rank does not have it, no rank uses it."""
    argv = [*map(str, command(tmp_path, "run", "--device", "gpu", "--preset", "laptop"))]
    code = PLANTED.format(fault="cupy.cuda.nccl.available = False", argv=argv)
    result = mpirun(2, "-c", code, n_gpus=2)
    assert (result.returncode, result.stderr) == (0, "")
    assert "a GPU for each of 2 ranks; gradients are summed on the CPU" in result.stdout


@needs_mpi
def test_a_run_on_gpus_that_diverges_ends_on_every_rank(tmp_path):
    """All GPUs decide the same, so no rank waits for another."""
    flags = "--device gpu --preset laptop --lr 1e30 --min-lr 0 --quiet".split()
    result = mpirun(2, *command(tmp_path, "run", *flags), n_gpus=2)
    assert result.returncode == 1
    assert result.stderr.count("the loss or its gradient is not finite") == 1


# ---- parts ---------------------------------------------------------------------------------------


def test_one_process_opens_nothing(monkeypatch):
    """It needs no GPU for it."""
    monkeypatch.setattr(gpus, "use_gpu", None)
    ranks = Ranks()
    open_gpus(ranks)
    assert ranks.gpu_note == "" and ranks.on_this_gpu == 1


def test_gpus_that_were_not_opened(fake_gpu):
    """The error says what to call."""
    ranks = Ranks()
    ranks.comm, ranks.world_size = object(), 2
    with pytest.raises(RuntimeError, match=r"call open_gpus\(ranks\) before the model moves"):
        ranks.all_reduce(to_device(np.ones(3), "gpu"), mg.Tensor(1.0).to("gpu"))


def test_the_host_sums_in_place(fake_gpu):
    """One download and one upload for an array, which stays the same."""

    class Twice:
        def Allreduce(self, in_place, array):
            assert in_place == "in place"
            array += array

    ranks = Ranks()
    ranks.comm, ranks.in_place = Twice(), "in place"
    array = to_device(np.arange(3.0), "gpu")
    before = fake_gpu.ledger.uploads, fake_gpu.ledger.downloads
    gpus.sum_on_host(ranks, array)
    after = fake_gpu.ledger.uploads, fake_gpu.ledger.downloads
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    np.testing.assert_array_equal(to_numpy(array), [0, 2, 4])


def test_mpi_is_called_when_the_gpu_has_finished(fake_gpu, monkeypatch):
    """It reads the array itself, and knows nothing of what the GPU still has to do."""
    calls = []

    class Recorder:
        def Allreduce(self, in_place, array):
            calls.append(array)

    monkeypatch.setattr(fake_gpu.cuda.runtime, "deviceSynchronize", lambda: calls.append("waited"))
    ranks = Ranks()
    ranks.comm = Recorder()
    array = to_device(np.arange(3.0), "gpu")
    gpus.sum_with_mpi(ranks, array)
    assert calls[0] == "waited" and calls[1] is array and len(calls) == 2


def test_ranks_on_one_gpu_add_up():
    """The memory of a GPU is shared by the ranks that compute on it, not by all of the machine."""
    config = TrainConfig(batch_size=16)
    alone, ranks = Ranks(), Ranks()
    ranks.world_size = ranks.on_this_machine = 4
    parts = {n: estimate(config, 65, 1, ranks, "gpu") for ranks.on_this_gpu, n in ((1, 1), (2, 2))}
    assert parts[1].state == estimate(config, 65, 1, alone, "gpu").state
    assert parts[2].state == 2 * parts[1].state
    assert parts[2].activations == 2 * parts[1].activations
