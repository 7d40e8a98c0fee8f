"""Ranks that mpirun starts: the same steps as one process alone, and no hang when one of them dies.

Two cores are enough for four ranks, if they are patient.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from gpt_numpy import GPT, TrainConfig
from gpt_numpy.app.resume import BEFORE, FILE, load_state
from gpt_numpy.folder import Folder
from gpt_numpy.hf.tensors import checksum, write_arrays
from gpt_numpy.scale.ranks import SIZES, Ranks
from gpt_numpy.scale.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
V = 11
IDS = np.random.default_rng(0).integers(V, size=500)
MPIRUN = shutil.which("mpirun", path=sysconfig.get_path("scripts")) or shutil.which("mpirun")
needs_mpi = pytest.mark.skipif(sys.platform == "win32", reason="MPICH has no wheel for Windows")


def config(**options):
    return TrainConfig(
        **{"steps": 5, "batch_size": 4, "accumulate": 2, "block_size": 8, "n_layer": 2} | options,
        n_head=2, n_embd=12, dropout=0.2, warmup_steps=2,
    )  # fmt: skip


def make():
    mg.manual_seed(0)
    return GPT(config().model(V)).to(dtype=np.float64)


@pytest.fixture(autouse=True)
def clean_shared_memory():
    """Ranks that are ended by force leave files of MPICH there, which would fill it in time."""
    folder = Path("/dev/shm")
    before = set(folder.glob("mpich*"))
    yield
    for path in set(folder.glob("mpich*")) - before:
        path.unlink(missing_ok=True)


def mpirun(n, *command):
    """Run Python on n ranks; the finished process, which has ended within a minute."""
    assert MPIRUN, "the extra `test` brings mpirun: without it nothing here would be tested"
    return subprocess.run(
        [MPIRUN, "-n", str(n), sys.executable, *map(str, command)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
    )


# ---- the same steps ------------------------------------------------------------------------------


def write_run(folder, workers):
    """Train, and write what this rank saw to a file of its own."""
    with Ranks.of_mpirun() as ranks:
        model = make()
        steps = [
            [r.loss.item(), r.grad_norm.item()]
            for r in train(model, IDS, config(workers=workers), ranks)
        ]
        weights = np.concatenate([p.data.ravel() for p in model.parameters()])
        content = {"size": ranks.world_size, "steps": steps, "weights": weights.tolist()}
        Path(folder, f"{ranks.rank}.json").write_text(json.dumps(content))


@needs_mpi
@pytest.mark.parametrize("n, workers", [(1, 1), (2, 1), (4, 1), (2, 2), (3, 1)])
def test_ranks_compute_what_one_computes(n, workers, tmp_path):
    """Losses, norms and weights in float64, dropout and accumulation on, at 1e-12."""
    code = f"import test_ranks; test_ranks.write_run({str(tmp_path)!r}, {workers})"
    result = mpirun(n, "-c", code)
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(n)]
    assert [rank["size"] for rank in ranks] == [n] * n
    assert all(rank == ranks[0] for rank in ranks), "all ranks end with the very same weights"

    model = make()
    alone = [[r.loss.item(), r.grad_norm.item()] for r in train(model, IDS, config(workers=1))]
    np.testing.assert_allclose(ranks[0]["steps"], alone, rtol=0, atol=1e-12)
    weights = np.concatenate([p.data.ravel() for p in model.parameters()])
    moved = abs(weights - np.concatenate([p.data.ravel() for p in make().parameters()])).max()
    assert moved > 1e-3
    np.testing.assert_allclose(ranks[0]["weights"], weights, rtol=0, atol=1e-12)


# ---- the command ---------------------------------------------------------------------------------


def command(tmp_path, out, *flags):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat that sat on a mat.\n" * 40)
    return [
        ROOT / "examples/train_shakespeare.py", "--out", tmp_path / out,
        *([] if "--data" in flags else ["--data", text]),
        *"--steps 6 --n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --eval-every 3".split(),
        *"--log-every 2 --warmup-steps 2".split(), *flags,
    ]  # fmt: skip


@needs_mpi
def test_the_command_leaves_the_same_files(tmp_path):
    """Names, columns and rows do not tell how many ranks there were; one of them prints."""
    one = subprocess.run(
        [sys.executable, *map(str, command(tmp_path, "one", "--workers", "1"))],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    two = mpirun(2, *command(tmp_path, "two"))
    assert two.returncode == 0, two.stderr
    assert "in one process on each of 2 ranks" in two.stdout
    assert one.stdout.splitlines()[-1] == two.stdout.splitlines()[-1]
    assert two.stdout.count("final val_loss") == 1 and len(two.stdout) < len(one.stdout) + 100
    names = [sorted(p.name for p in (tmp_path / out).iterdir()) for out in ("one", "two")]
    assert names[0] == names[1]
    assert not [p for p in tmp_path.iterdir() if p.name not in ("one", "two", "text.txt")]
    configs = [json.loads((tmp_path / o / "train_config.json").read_text()) for o in ("one", "two")]
    assert configs[0] | {"ranks": 2} == configs[1] and configs[0]["ranks"] == 1
    rows = []
    for out in ("one", "two"):
        with open(tmp_path / out / "metrics.csv", encoding="utf-8") as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == len(rows[1])
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys() and a["step"] == b["step"]
        for column in ("train_loss", "val_loss", "grad_norm"):  # written with six digits
            assert a[column] == b[column] or abs(float(a[column]) - float(b[column])) < 1e-4


@needs_mpi
@pytest.mark.parametrize(
    "flags, part",
    [
        (["--batch-size", "1"], "a step of 1 sequences cannot be shared by 2 ranks"),
        (["--data", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--lr", "-1"], "lr must be above 0"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_input_is_refused_once(flags, part, tmp_path):
    """By the first rank, with exit status 2, and the others end too."""
    result = mpirun(2, *command(tmp_path, "run", *flags))
    assert result.returncode == 2 and result.stderr.count(part) == 1
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


@needs_mpi
def test_a_run_that_diverges_ends_on_every_rank(tmp_path):
    """With one line of the first rank and its exit status, not with a hang."""
    result = mpirun(2, *command(tmp_path, "run", "--lr", "1e30", "--min-lr", "0", "--quiet"))
    assert result.returncode == 1
    assert result.stderr.count("the loss or its gradient is not finite") == 1


# ---- a rank that fails ---------------------------------------------------------------------------


def break_down(how):
    """Train; in the second step rank 1 raises an error, or is gone."""
    with Ranks.of_mpirun() as ranks:
        for result in train(make(), IDS, config(workers=1, steps=1000), ranks):
            if ranks.rank == 1 and result.step == 2:
                if how == "error":
                    raise MemoryError("no room")
                if how == "exit":
                    sys.exit("enough")
                os.kill(os.getpid(), 9)


@needs_mpi
@pytest.mark.parametrize(
    "how, parts",
    [
        ("error", ["MemoryError: no room", "rank 1 of 3 failed"]),
        ("exit", ["SystemExit: enough", "rank 1 of 3 failed"]),
        ("kill", ["Killed (signal 9)"]),  # MPICH's words
    ],
)
def test_a_rank_that_dies_ends_the_run(how, parts):
    """With its error, or with what mpirun says of a process that was killed; not with a hang."""
    result = mpirun(3, "-c", f"import test_ranks; test_ranks.break_down({how!r})")
    assert result.returncode != 0
    assert all(part in result.stdout + result.stderr for part in parts)


@needs_mpi
def test_ctrl_c_ends_every_rank(tmp_path):
    """mpirun hands it to all of them; the first one says what is left, and no other matters."""
    program = map(str, command(tmp_path, "run", "--steps", "10000"))
    run = subprocess.Popen(
        [MPIRUN, "-n", "2", sys.executable, *program],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("step 30:"):
            break
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert re.search(r"stopped; step \d+ is saved in .*--resume", out) and "Traceback" not in out
    assert run.returncode != 0


def resumed(folder, n, *flags):
    """The finished `--resume` of the run in a folder on n ranks."""
    return mpirun(n, ROOT / "examples/train_shakespeare.py", "--resume", "--out", folder, *flags)


@needs_mpi
def test_ranks_go_on_and_others_too(tmp_path):
    """What two ranks began goes on on two, and on one with a line; they differ by rounding."""
    begun = mpirun(2, *command(tmp_path, "run", "--dropout", "0.2"))
    assert begun.returncode == 0, begun.stderr
    losses = []
    for n in (2, 1):
        folder = tmp_path / f"on{n}"
        shutil.copytree(tmp_path / "run", folder)
        run = resumed(folder, n, "--steps", "12")
        assert (run.returncode, run.stderr) == (0, ""), run.stderr
        assert ("ranks changes from 2 to 1" in run.stdout) == (n == 1)
        with open(folder / "metrics.csv", encoding="utf-8") as file:
            losses.append([float(row["train_loss"] or 0) for row in csv.DictReader(file)])
    np.testing.assert_allclose(*losses, rtol=2e-5)
    assert len(losses[0]) > 6


@needs_mpi
def test_a_spoiled_run_is_refused_once(tmp_path):
    """By the first rank, when all have been made ready, and none waits; so is a warning."""
    out = tmp_path / "run"
    assert mpirun(2, *command(tmp_path, "run")).returncode == 0
    (out / "samples.txt").write_text("something else")
    state, before = (out / FILE).read_bytes(), (out / BEFORE).read_bytes()
    (out / BEFORE).unlink()  # to which a run would go back
    progress, arrays = load_state(out)
    arrays["weight.ln_g.weight"] = arrays.pop("weight.ln_f.weight")
    about = json.dumps(vars(progress))
    with Folder(out) as folder:
        write_arrays(folder, FILE, arrays, {"about": about, "checksum": checksum(about, arrays)})
    run = resumed(out, 2, "--steps", "12")
    assert run.returncode == 2 and run.stderr.count("lacks 'weight.ln_f.weight'") == 1
    (out / FILE).write_bytes(state)
    (out / BEFORE).write_bytes(before)
    run = resumed(out, 2, "--steps", "12")
    assert run.returncode == 0 and run.stderr.count("samples.txt has changed since") == 1


@needs_mpi
def test_a_rank_that_cannot_write_ends_them_all(tmp_path):
    """The first says why; the others do not wait for it for ever."""
    assert mpirun(2, *command(tmp_path, "run")).returncode == 0
    model = tmp_path / "run" / "model.safetensors"
    code = f"""
import os, runpy, sys, gpt_numpy.app.run_folder as run_folder
log = run_folder.RunFolder.log
def full(self, **row):
    if row["step"] == 9:
        raise OSError(28, "No space left on device")
    log(self, **row)
run_folder.RunFolder.log = full
sys.argv = ["train_shakespeare.py", "--resume", "--out", {str(model.parent)!r}, "--steps", "12"]
runpy.run_path({str(ROOT / "examples/train_shakespeare.py")!r}, run_name="__main__")
"""
    run = mpirun(2, "-c", code)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert f"cannot write to {model.parent}: No space left on device. step " in run.stderr


# ---- without MPI ---------------------------------------------------------------------------------


def test_without_mpirun_there_is_one_rank(monkeypatch):
    """Nothing is imported and nothing sent; all rows are its own."""
    for name in SIZES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # importing it would raise an error
    with Ranks.of_mpirun() as ranks:
        assert (ranks.rank, ranks.world_size, ranks.sequences(12)) == (0, 1, (0, 12))
        assert ranks.broadcast(lambda: "made") == "made"
        loss, gradient = mg.Tensor(2.0), np.ones(3)
        assert ranks.all_reduce(gradient, loss) is loss and (gradient == 1).all()
        ranks.end_all(1)  # there is nobody else


def test_mpirun_without_mpi4py(tmp_path):
    """One line that says what to install, and exit status 2: not n runs into one folder."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError")
    result = subprocess.run(
        [sys.executable, *map(str, command(tmp_path, "run"))],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PMI_SIZE": "2", "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert 'pip install "gpt-numpy[mpi]"' in result.stderr
