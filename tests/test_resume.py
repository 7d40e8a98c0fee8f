"""A run that is stopped, in whatever way, and goes on: the same run to the last bit."""

import ctypes
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
from command import (
    EXAMPLES,
    FILES,
    TINY,
    assert_refused,
    example,
    metrics_of,
    snapshot,
    without_times,
)

import gpt_numpy.app.cli
import gpt_numpy.app.memory
import gpt_numpy.app.run_folder
import gpt_numpy.scale.train
from gpt_numpy import GPT
from gpt_numpy.app import trainer
from gpt_numpy.app.resume import ASIDE, BEFORE, FILE, load_state
from gpt_numpy.folder import Folder, Lock
from gpt_numpy.hf.tensors import checksum
from gpt_numpy.tokenizer import CharTokenizer
from minigrad import backend
from minigrad.internals.gpu import init_gpu

pytestmark = pytest.mark.slow

train_shakespeare = example("train_shakespeare")
HARD = "--dropout 0.2 --accumulate 2 --batch-size 3 --steps 11 --eval-every 4 --log-every 3".split()


def assert_same_run(ours, right):
    """Weights, moments, loss curve, samples and best model: all bits; each step stands once."""
    for name in ("model.safetensors", "samples.txt", "config.json", "tokenizer.json"):
        assert (ours / name).read_bytes() == (right / name).read_bytes(), name
    (a, arrays), (b, expected) = load_state(ours), load_state(right)
    assert (a.step, a.best, a.val_loss) == (b.step, b.best, b.val_loss)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, name)
    metrics = metrics_of(ours)
    assert without_times(metrics) == without_times(metrics_of(right))
    assert metrics["step"] == sorted(set(metrics["step"]))
    assert metrics["seconds"] == sorted(metrics["seconds"])


# ---- the same run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(text_file, tmp_path_factory):
    """undisturbed(workers): the folder of the run HARD that nobody stopped."""
    folders = {}

    def undisturbed(workers):
        if workers not in folders:
            folders[workers] = tmp_path_factory.mktemp("whole") / "run"
            flags = [*TINY, *HARD, "--workers", workers, "--quiet", "--out", folders[workers]]
            assert train_shakespeare.main([*map(str, ["--data", text_file, *flags])]) == 0
        return folders[workers]

    return undisturbed


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("steps", [[1], [3, 4], [5, 6, 10]])
def test_a_stopped_run_ends_as_if_it_had_not_been(steps, workers, train, stop_at, undisturbed):
    """Dropout and accumulation on, stopped at any step and more than once."""
    flags = [*HARD, "--workers", str(workers)]
    for step in steps:
        stop_at(step, signal.SIGINT)
        run = train("run", *flags)
        assert run.status == 130 and f"step {step} is saved" in run.lines[-1]
        assert load_state(run.folder)[0].step == step
        flags = ["--resume"]
    run = train("run", "--resume")
    assert (run.status, run.err) == (0, "")
    assert any(line.startswith(f"resuming: from step {steps[-1]}, val_loss ") for line in run.lines)
    assert_same_run(run.folder, undisturbed(workers))
    assert {p.name for p in run.folder.iterdir()} == FILES


@pytest.mark.parametrize("save_at, later", [(4, 8), (0, 11), (8, 8)])
def test_what_was_written_after_the_save_is_cut_off(
    save_at, later, train, monkeypatch, tmp_path, undisturbed
):
    """The state of an earlier save beside later metrics, samples and model, as after a crash."""
    kept = tmp_path / "kept"
    save = gpt_numpy.app.run_folder.RunFolder.save

    def keeping(self, model, optimizer, step, **facts):
        save(self, model, optimizer, step, **facts)
        if step == save_at:
            shutil.copy(self.path / FILE, kept)
        if step == later:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gpt_numpy.app.run_folder.RunFolder, "save", keeping)
        run = train("run", *HARD, "--workers", "1")
    assert run.status == 130 and "stopped at once" in run.err
    shutil.copy(kept, run.folder / FILE)
    with open(run.folder / "metrics.csv", "a") as file:
        file.write("99,1.2")  # a row that was not finished
    (run.folder / "training_state.safetensors.0123456789abcdef.tmp").write_bytes(b"half")
    (run.folder / "mine.tmp").write_bytes(b"the user's")
    assert train("run", "--resume").status == 0
    assert_same_run(run.folder, undisturbed(1))
    assert {p.name for p in run.folder.iterdir()} == FILES | {"mine.tmp"}


def test_a_run_goes_on_on_a_gpu(gpu, train, stop_at):
    """The same, all bits, on the device."""
    flags = [*HARD, "--device", "gpu", "--preset", "laptop"]
    whole = train("whole", *flags)
    assert whole.status == 0 and "device: gpu" in "\n".join(whole.lines)
    for step in (2, 6):
        stop_at(step, signal.SIGTERM)
        stopped = train("run", *flags)
        assert stopped.status == 143
        flags = ["--resume"]
    resumed = train("run", "--resume")
    assert resumed.status == 0 and "device: gpu" in "\n".join(resumed.lines)
    assert_same_run(resumed.folder, whole.folder)


def test_a_finished_run_ends_again(train):
    """Nothing is computed again, the last line is the same, and the files are."""
    first = train("run")
    before = snapshot(first.folder)
    again = train("run", "--resume")
    assert (again.status, again.lines[-1]) == (0, first.lines[-1])
    assert snapshot(first.folder) == before


WORSE = (
    "--lr 5 --warmup-steps 1 --steps 40 --eval-every 2 --log-every 1 --workers 1 --seed 3"
).split()


def test_a_run_that_waited_long_enough_is_over(train):
    """After so many evaluations that were not the best; the last line says so; the best is kept."""
    run = train("run", *WORSE, "--patience", "3")
    losses = [v for v in metrics_of(run.folder)["val_loss"] if v is not None]
    best = losses.index(min(losses))
    assert best == len(losses) - 4 and len(losses) < 21
    last = 2 * (len(losses) - 1)
    assert run.status == 0 and run.lines[-1].endswith(
        f"after {last} steps; stopped early: 3 evaluations without a better val_loss than "
        f"{losses[best]:.4f}"
    )
    assert '"state": "finished"' in (run.folder / "report.html").read_text(encoding="utf-8")
    before = snapshot(run.folder)
    again = train("run", "--resume")
    assert (again.status, again.lines[-1], snapshot(run.folder)) == (0, run.lines[-1], before)


def test_patience_goes_on_where_it_was(train, stop_at):
    """Stopped while it waits, at an evaluation and between two; more patience lets it go on."""
    whole = train("whole", *WORSE, "--patience", "3")
    last = load_state(whole.folder)[0].step
    flags = [*WORSE, "--patience", "3"]
    for step in (last - 3, last - 2):
        stop_at(step, signal.SIGINT)
        assert train("run", *flags).status == 130
        flags = ["--resume"]
    resumed = train("run", "--resume")
    assert (resumed.status, resumed.lines[-1]) == (0, whole.lines[-1])
    assert_same_run(resumed.folder, whole.folder)
    more = train("run", "--resume", "--patience", "4")
    assert more.status == 0 and load_state(more.folder)[0].step > last
    assert any("patience changes from 3 to 4" in line for line in more.lines)


# ---- how it is stopped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_lets_the_step_finish(number, status, train, stop_at):
    """One line says where it is saved and how to go on, also with --quiet; nothing on stderr."""
    stop_at(2, number)
    run = train("run", "--quiet")
    assert (run.status, run.err) == (status, "")
    command = f"python examples/train_shakespeare.py --resume --out {run.folder}"
    assert run.lines == [f"stopped; step 2 is saved in {run.folder}; to resume: {command}"]


def test_a_second_ctrl_c_stops_at_once(train, stop_at):
    """What was saved before stays; nothing is half written."""
    stop_at(5, signal.SIGINT, signal.SIGINT)
    run = train("run")
    assert run.status == 130 and run.err.startswith("train_shakespeare: stopped at once")
    assert load_state(run.folder)[0].step == 3
    assert train("run", "--resume").status == 0


def test_a_signal_in_the_last_step_changes_nothing(train, stop_at):
    """The run is done."""
    stop_at(6, signal.SIGTERM)
    run = train("run")
    assert run.status == 0 and run.lines[-1].startswith("final val_loss")


@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_a_run_does_not_need_readers(number, text_file, tmp_path):
    """`| tee log` dies of the same Ctrl-C, `| head` of having read enough: the run goes on, and is
    saved."""
    out = tmp_path / "run"
    flags = [*TINY, "--steps", "400", "--eval-every", "40", "--log-every", "1", "--out", out]
    run = process("--data", text_file, *flags)
    assert run.stdout.readline().startswith("text: ")
    run.stdout.close()
    if number:
        while not (out / FILE).exists():
            time.sleep(0.02)
        run.send_signal(number)
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait(60) == (130 if number else 0)
    assert number or load_state(out)[0].step == 400


def test_handlers_are_put_back(train):
    """After a run Ctrl-C means what it meant before."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train("run")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_long_run_is_saved_between_evaluations(train, stop_at, monkeypatch):
    """When SAVE_EVERY seconds have gone by, at the end of the step under way."""
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0)
    steps = []
    save = gpt_numpy.app.run_folder.RunFolder.save

    def noting(self, model, optimizer, step, **facts):
        steps.append(step)
        save(self, model, optimizer, step, **facts)

    monkeypatch.setattr(gpt_numpy.app.run_folder.RunFolder, "save", noting)
    train("run")
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5, 6]


# ---- what may be otherwise -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--lr", "1e-2"], "--lr"),
        (["--dropout", "0.1"], "--dropout"),
        (["--n-layer", "2"], "--n-layer"),
        (["--seed", "2", "--beta2", "0.9"], "--beta2 and --seed"),
        (["--preset", "baby"], "--preset"),
        (["--batch-size", "5"], "--batch-size"),
        (["--steps", "2"], "--steps must be above 3"),
        (["--steps", "0"], "steps must be at least 1"),
    ],
)
def test_what_would_alter_the_past_is_refused(train, stop_at, flags, named):
    """In a line that names the flag; nothing is touched."""
    stop_at(3, signal.SIGINT)
    folder = train("run").folder
    before = snapshot(folder)
    run = train("run", "--resume", *flags)
    assert run.status == 2 and named in run.err and run.err.count("\n") == 1
    assert snapshot(folder) == before


def test_flags_that_say_the_same_are_welcome(train, stop_at, text_file):
    """Only those that differ are held against the run."""
    stop_at(3, signal.SIGINT)
    train("run", "--lr", "1e-2")
    flags = ["--lr", "0.01", "--n-layer", "1", "--data", str(text_file), "--device", "cpu"]
    assert train("run", "--resume", *flags).status == 0


def test_a_run_can_be_made_longer(train):
    """The past stays as it is; the rate follows the longer cosine from there, with a line."""
    first = train("run", "--warmup-steps", "2")
    past = metrics_of(first.folder)
    run = train("run", "--resume", "--steps", "12", "--eval-every", "6")
    assert run.status == 0 and any("steps changes from 6 to 12" in x for x in run.lines)
    metrics = metrics_of(run.folder)
    for name, values in past.items():
        assert metrics[name][: len(values)] == values
    assert metrics["step"] == [0, 2, 3, 4, 6, 8, 10, 12]
    rates = dict(zip(metrics["step"], metrics["lr"], strict=True))
    assert rates[6] == 1e-4 < rates[8] > rates[10] > rates[12] == 1e-4
    settings = json.loads((run.folder / "train_config.json").read_text())
    assert (settings["steps"], settings["eval_every"]) == (12, 6)
    assert train("run", "--resume").lines[-1] == run.lines[-1]


def test_a_longer_run_stays_longer(train, stop_at):
    """It is killed before the next save: the new number of steps is saved before the first step."""
    train("run")
    stop_at(7, signal.SIGINT, signal.SIGINT)
    assert train("run", "--resume", "--steps", "12").status == 130
    run = train("run", "--resume")
    assert run.status == 0 and run.lines[-1].endswith("after 12 steps")
    assert json.loads((run.folder / "train_config.json").read_text())["steps"] == 12


def test_the_saved_settings_count(train, stop_at):
    """A kill between the state and train_config.json leaves an older one, which is put right."""
    stop_at(3, signal.SIGINT)
    folder = train("run").folder
    rewritten("train_config.json", {"eval_every": 1, "steps": 100})(folder)
    run = train("run", "--resume")
    assert run.status == 0 and run.lines[-1].endswith("after 6 steps")
    assert json.loads((folder / "train_config.json").read_text())["steps"] == 6


def test_memory_that_is_missing_on_the_way(train, stop_at, monkeypatch):
    """The advice names no flag that --resume would refuse."""
    stop_at(3, signal.SIGINT)
    train("run")
    monkeypatch.setattr(gpt_numpy.app.memory, "machine_memory", lambda device: 10**6)
    run = train("run", "--resume")
    assert run.status == 2 and run.err.endswith("the machine has 1 MB: lower --workers\n")


def test_the_way_to_go_on_can_be_pasted(train, stop_at):
    """A folder with a space in its name is quoted."""
    stop_at(3, signal.SIGINT)
    run = train("my run", "--quiet")
    assert shlex.split(run.lines[-1])[-2:] == ["--out", str(run.folder)]


def test_a_run_may_move(train, stop_at, text_file, tmp_path):
    """To another folder, with its text elsewhere: then --data says where."""
    text = tmp_path / "text.txt"
    text.write_bytes(text_file.read_bytes())
    stop_at(3, signal.SIGINT)
    run = train("run", "--data", str(text))
    run.folder.rename(tmp_path / "moved")
    text.unlink()
    run = train("moved", "--resume")
    assert run.status == 2 and f"cannot read {text}" in run.err
    assert train("moved", "--resume", "--data", str(text_file)).status == 0


@pytest.mark.parametrize("flags", [["--workers", "2"], ["--device", "gpu"]])
def test_workers_and_device_may_change(train, stop_at, flags, fake_gpu):
    """With lines that say so; the curve is the same but for rounding."""
    whole = train("whole", "--workers", "1")
    stop_at(3, signal.SIGINT)
    train("run", "--workers", "1")
    run = train("run", "--resume", *flags)
    assert run.status == 0
    name, before, now = flags[0][2:], "1" if "2" in flags else "cpu", flags[1]
    assert any(f"{name} changes from {before} to {now}" in line for line in run.lines)
    assert any("last digits may differ" in line for line in run.lines)
    ours, right = metrics_of(run.folder), metrics_of(whole.folder)
    assert ours["step"] == right["step"]
    np.testing.assert_allclose(ours["val_loss"][-1], right["val_loss"][-1], rtol=2e-5)


def test_a_run_on_a_gpu_that_is_gone(train, stop_at, fake_gpu, monkeypatch):
    """It is refused, with the flag that goes on without one."""
    stop_at(3, signal.SIGINT)
    train("run", "--device", "gpu", "--preset", "laptop")
    monkeypatch.setattr(backend, "cupy", None)
    init_gpu.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    run = train("run", "--resume")
    assert run.status == 2 and run.err.endswith("; to resume without a GPU: --device cpu\n")
    assert train("run", "--resume", "--device", "cpu").status == 0


# ---- what is refused -----------------------------------------------------------------------------


def test_without_a_run_there_is_nothing_to_resume(tmp_path, capsys):
    """In a folder that is not there, or holds something else; status 2, and nothing is made."""
    for folder in (tmp_path / "none", tmp_path):
        parts = ["no run to resume in", str(folder)]
        assert_refused(capsys, train_shakespeare.main, ["--resume", "--out", str(folder)], parts)
    assert snapshot(tmp_path) == {}


def rewritten(name, change):
    def spoil(folder):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | change))

    return spoil


def cut_short(name):
    return lambda folder: os.truncate(folder / name, 20)


def of_another_run(folder):
    """The same in all but the seed."""
    model = GPT.from_pretrained(folder)
    model.save_pretrained(folder, tokenizer="as it was", run="another")


def made_up(**facts):
    """A state that says something else of itself, with a checksum that fits."""

    def spoil(folder):
        progress, arrays = load_state(folder)
        about = json.dumps(vars(progress) | facts)
        metadata = {"about": about, "checksum": checksum(about, arrays)}
        (folder / FILE).write_bytes(safetensors.numpy.save(arrays, metadata))

    return spoil


def with_settings(**changes):
    """A state with other settings, and a checksum that fits."""

    def spoil(folder):
        progress, _ = load_state(folder)
        made_up(settings=progress.settings | changes)(folder)

    return spoil


def flipped(folder):
    """One bit of the last number is another one."""
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)


def foreign(folder):
    (folder / FILE).write_bytes((folder / "model.safetensors").read_bytes())


def of_another_vocabulary(folder):
    CharTokenizer("abc").save(folder / "tokenizer.json")


def with_arrays(change):
    """A state whose arrays are changed, with a checksum that fits."""

    def spoil(folder):
        progress, arrays = load_state(folder)
        arrays = change(dict(arrays))
        about = json.dumps(vars(progress))
        metadata = {"about": about, "checksum": checksum(about, arrays)}
        (folder / FILE).write_bytes(safetensors.numpy.save(arrays, metadata))

    return spoil


def renamed(arrays):
    arrays["weight.ln_g.weight"] = arrays.pop("weight.ln_f.weight")
    return arrays


def with_rows(arrays):
    """One row more in the table of tokens, and in its moments."""
    rows = {n: np.pad(a, ((0, 1), (0, 0))) for n, a in arrays.items() if ".wte." in n}
    return arrays | rows


def with_header(old, new):
    """A state in whose header some text is another."""

    def spoil(folder):
        content = (folder / FILE).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = content[8:start].replace(old, new)
        assert header != content[8:start]
        (folder / FILE).write_bytes(len(header).to_bytes(8, "little") + header + content[start:])

    return spoil


WTE = "exp_avg.wte.weight"
ONE = np.ones(1, np.float32)
STATES = {  # what is done to the state of a run, and what is said of it
    "cut off": (cut_short(FILE), "cannot be read"),
    "missing": (lambda folder: (folder / FILE).unlink(), ""),
    "of something else": (foreign, "not the state of a run"),
    "a bit": (flipped, "is damaged: its checksum is wrong"),
    "a step in words": (made_up(step="x"), "its step is 'x'"),
    "half a step": (made_up(step=2.5), "its step is 2.5"),
    "a step before the first": (made_up(step=-5), "its step is -5, but the run has 6 steps"),
    "a step after the last": (made_up(step=7), "its step is 7, but the run has 6 steps"),
    "a loss in words": (made_up(val_loss="x"), "its val_loss is"),
    "no best": (made_up(best=None), "its best is None"),
    "no settings": (made_up(settings=None), "its settings"),
    "no settings at all": (made_up(settings={}), "ranks"),
    "another width": (with_settings(n_embd=4), "by the settings it must be"),
    "words for a width": (with_settings(n_embd=""), "n_embd must be a whole number"),
    "no text": (with_settings(text=None), "its settings are"),
    "lengths in words": (made_up(files={"metrics.csv": ["0", ""]}), "its files are"),
    "half logged": (made_up(logged=False), "the numbers of its step"),
    "numbers in words": (made_up(numbers={"lr": "1"}), "the numbers of its step"),
    "one thing more": (made_up(more=1), "unexpected keyword"),
    "a parameter renamed": (with_arrays(renamed), "lacks 'weight.ln_f.weight'"),
    "a parameter more": (with_arrays(lambda arrays: arrays | {"zz": ONE}), "an unknown 'zz'"),
    "half a character for a name": (with_header(b"weight.ln_f.weight", rb"\ud800"), "it lacks"),
    "a moment of another shape": (
        with_arrays(lambda arrays: arrays | {WTE: arrays[WTE].T.copy()}), WTE,
    ),
    "a moment of another dtype": (
        with_arrays(lambda arrays: arrays | {WTE: arrays[WTE].astype(np.float64)}), "float64",
    ),
    "more layers than tensors": (with_settings(n_layer=2**60), "tensors for 11529215046068469"),
    "half a character": (with_header(b"mat.txt", rb"\ud800"), "its checksum is wrong"),
}  # fmt: skip
SPOILED = {  # what is done to a run's folder, which file is named, what else is said
    "settings edited": (rewritten("train_config.json", {"lr": 0.5}), "train_config.json", "lr"),
    "settings are words": (rewritten("train_config.json", {"lr": "x"}), "train_config.json", "lr"),
    "another tokenizer": (of_another_vocabulary, "tokenizer.json", "not the one"),
    "rows of no token": (with_arrays(with_rows), FILE, "does not fit the tokenizer"),
}


MENDED = {  # the same of what a run does not need to go on
    "settings cut off": (cut_short("train_config.json"), "train_config.json", "not JSON"),
    "no settings": (
        lambda folder: (folder / "train_config.json").unlink(), "train_config.json", "cannot read",
    ),
    "another run's model": (of_another_run, "model.safetensors", "not of this run"),
    "a model cut off": (cut_short("model.safetensors"), "model.safetensors", "safetensors"),
    "no model": (
        lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors", "cannot read",
    ),
    "no shape of the model": (
        lambda folder: (folder / "config.json").unlink(), "config.json", "cannot read",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(text_file, tmp_path_factory):
    """The folder of a run that was made longer at its third step, saved there and at its start."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    flags = ["--data", text_file, *TINY, "--steps", "3", "--workers", "1", "--quiet", "--out", out]
    assert train_shakespeare.main([*map(str, flags)]) == 0
    assert train_shakespeare.main(["--resume", "--steps", "6", "--quiet", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_run_is_refused(case, stopped, tmp_path, capsys):
    """One line with file and fault, status 2, and nothing is written."""
    spoil, file, part = SPOILED[case]
    folder = shutil.copytree(stopped, tmp_path / "run")
    spoil(folder)
    before = snapshot(folder)
    arguments = ["--resume", "--out", str(folder)]
    assert_refused(capsys, train_shakespeare.main, arguments, [str(folder / file), part])
    assert snapshot(folder) == before


@pytest.mark.parametrize("steps", [6, 8])
@pytest.mark.parametrize("case", MENDED)
def test_a_run_mends_what_it_has_saved(case, steps, stopped, tmp_path, capsys):
    """With a line that names file and fault; a model that was there is put aside."""
    spoil, file, part = MENDED[case]
    folder = shutil.copytree(stopped, tmp_path / "run")
    spoil(folder)
    spoiled = (folder / file).read_bytes() if (folder / file).exists() else None
    flags = ["--resume", "--quiet", "--out", str(folder), "--steps", str(steps)]
    assert train_shakespeare.main(flags) == 0
    said, err = capsys.readouterr()
    assert err.count("\n") == 1 and str(folder / file) in err and part in err, err
    assert said.startswith("final val_loss ")
    assert json.loads((folder / "train_config.json").read_text())["steps"] == steps
    if file == "model.safetensors" and spoiled:
        assert (folder / "model-1.safetensors").read_bytes() == spoiled
    model = GPT.from_pretrained(folder)
    assert model.config.n_embd == 8
    assert train_shakespeare.main(flags) == 0  # and once more, without a word
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_damaged(case, stopped, tmp_path, capsys):
    """The one before is taken, with a line that says so; without that one the run is refused."""
    spoil, part = STATES[case]
    folder = shutil.copytree(stopped, tmp_path / "run")
    spoil(folder)
    spoiled = (folder / FILE).read_bytes() if (folder / FILE).exists() else None
    before = snapshot(folder)
    arguments = ["--resume", "--out", str(folder), "--quiet"]
    older = (folder / BEFORE).read_bytes()
    (folder / BEFORE).unlink()
    refused = [str(folder / FILE), part] if spoiled else ["no run to resume"]
    assert_refused(capsys, train_shakespeare.main, arguments, refused)
    (folder / BEFORE).write_bytes(older)
    assert snapshot(folder) == before
    assert train_shakespeare.main(arguments) == 0
    err = capsys.readouterr().err
    if spoiled:
        assert err.count("\n") == 1 and str(folder / FILE) in err and part in err
        assert err.endswith("; resuming from the previous save, step 3\n")
    else:  # as after a power cut between two renames, where nothing is lost
        assert err == ""
    assert_same_run(folder, stopped)
    aside = folder / ASIDE
    assert (aside.read_bytes() if aside.exists() else None) == spoiled


ODD = ["x", "\x1b]0;", None, [], {}, True, -1, 1e999, 10**30, 2.5, ["a", 3]]


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_settings_that_cannot_be(part, stopped, tmp_path, capsys):
    """In a state with a right checksum: one line, or they make no difference; a part at a time."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / BEFORE).unlink()
    settings = load_state(folder)[0].settings
    cases = [(name, value) for name in settings for value in ODD]
    for name, value in cases[part::40] if part == 0 else cases[part::4]:
        with_settings(**{name: value})(folder)
        status = train_shakespeare.main(["--resume", "--quiet", "--out", str(folder)])
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1) or (status, err) == (0, ""), err
        assert "Traceback" not in err and "\x1b" not in err and len(err) < 1100
        shutil.rmtree(folder)
        shutil.copytree(stopped, folder)
        (folder / BEFORE).unlink()


@pytest.mark.parametrize("name", ["data", "val_data", "init_from"])
@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_path_that_cannot_be(name, path, stopped, tmp_path, capsys):
    """In the settings of a state: one line that names the state."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    with_settings(**{name: path})(folder)
    (folder / "train_config.json").unlink()
    arguments = ["--resume", "--out", str(folder)]
    parts = [f"{folder / FILE} has invalid settings: ", r"\x00b" if "a" in path else r"\ud800"]
    assert_refused(capsys, train_shakespeare.main, arguments, parts)


def test_a_file_that_may_not_be_written_to(stopped, tmp_path, capsys, monkeypatch):
    """As one that is immutable: the line names the folder and the file."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    ours = Folder.open

    def opening(self, name, flags):
        if name == "metrics.csv":
            raise PermissionError(errno.EPERM, "Operation not permitted", name)
        return ours(self, name, flags)

    monkeypatch.setattr(Folder, "open", opening)
    line = f"cannot write to {folder}: metrics.csv: Operation not permitted"
    assert_refused(capsys, train_shakespeare.main, ["--resume", "--out", str(folder)], [line])


def test_another_text_is_refused(train, stop_at, text_file, tmp_path):
    """The file has changed, or --data names another."""
    stop_at(3, signal.SIGINT)
    train("run")
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    run = train("run", "--resume", "--data", str(other))
    assert run.status == 2
    assert "trains on: that was mat.txt, this is other.txt" in run.err


# ---- two processes, a full disk, a folder that cannot be written to ------------------------------


def process(*arguments, **options):
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, EXAMPLES / "train_shakespeare.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **options,
    )


def test_two_runs_in_one_folder(text_file, tmp_path, capsys):
    """The second is refused, also one that would go on; when the first is killed it may."""
    out = tmp_path / "run"
    flags = ["--data", text_file, *TINY, "--steps", "100000", "--workers", "2", "--out", out]
    first = process(*flags)
    try:
        while not (out / FILE).exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        for more in ([], ["--resume"]):
            arguments = [*map(str, flags), *more]
            parts = ["another process is writing", str(out)]
            assert_refused(capsys, train_shakespeare.main, arguments, parts)
    finally:
        first.kill()
        first.communicate()
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    step = load_state(out)[0].step
    arguments = ["--resume", "--steps", str(step + 1), "--eval-every", "1000000", "--out", str(out)]
    assert train_shakespeare.main(arguments) == 0


def test_a_lock_can_be_taken_again(tmp_path):
    """After close(), or when its owner is forgotten."""
    for _ in range(3):
        lock = None
        lock = Lock(Folder(tmp_path))
    lock.close()
    lock.close()


def finished(*arguments, **options):
    """(status, stdout, stderr) of the command as a process."""
    run = process(*arguments, **options)
    stdout, stderr = run.communicate(timeout=60)
    return run.returncode, stdout, stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for a file's length")
def test_a_full_disk_loses_nothing(text_file, tmp_path):
    """A file's length is limited, which stands in for it: one line, and the last save is whole."""
    import resource

    out = tmp_path / "run"
    assert finished("--data", text_file, *TINY, "--out", out, "--quiet")[0] == 0
    before = snapshot(out)
    limit = (out / FILE).stat().st_size // 2

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    more = ["--resume", "--steps", "12", "--out", out, "--quiet"]
    status, stdout, stderr = finished(*more, preexec_fn=full)
    assert (status, stdout) == (1, "")
    line = rf"train_shakespeare: cannot write to {out}: File too large\. step 6 is saved .*\n"
    assert re.fullmatch(line, stderr)
    assert (out / FILE).read_bytes() == before[out / FILE]
    assert {p.name for p in out.iterdir()} == FILES
    assert finished(*more)[0] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gives up a right of Linux")
@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_folder_that_cannot_be_written_to(flags, text_file, tmp_path):
    """One line, status 2, for a new run and for one that would go on."""
    out = tmp_path / "run"
    assert finished("--data", text_file, *TINY, "--out", out, "--quiet")[0] == 0
    (out / ".lock").unlink()
    out.chmod(0o500)

    def without_roots_rights():  # with CAP_DAC_OVERRIDE root may write anywhere
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP

    arguments = ["--data", text_file, *TINY, "--steps", "12", "--out", out, *flags]
    if flags:
        arguments = ["--resume", "--steps", "12", "--out", out]
    status, stdout, stderr = finished(*arguments, preexec_fn=without_roots_rights)
    out.chmod(0o700)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert f"cannot write a run to {out}: Permission denied" in stderr


def test_a_run_from_before_there_was_a_sample(train, monkeypatch):
    """A state without --eval-tokens and --val-data goes on, and evaluates all of the text."""
    whole = train("whole")
    settings = gpt_numpy.app.cli.Command.settings

    def as_before(self, *arguments):
        now = settings(self, *arguments)
        return {name: now[name] for name in now if name not in ("eval_tokens", "val_data")}

    with monkeypatch.context() as patch:
        patch.setattr(gpt_numpy.app.cli.Command, "settings", as_before)
        train("run", "--steps", "3")
    assert load_state(whole.folder)[0].run == load_state(train("run", "--resume").folder)[0].run
    run = train("run", "--resume", "--steps", "6", "--eval-tokens", "40")
    assert (run.status, run.err) == (0, "")
    assert any("eval_tokens changes from 0 to 40" in line for line in run.lines)


METRICS = {
    "another header": b"a,b,c\r\n1,2,3\r\n",
    "no number": b"step\r\ninf,1,1,1,1,1,1\r\n1e400,,,,,,\r\n3,x,,,,,\r\n",
    "a long field": b"0,," + b"4" * 200_000 + b",,,,\r\n0,," + b"9" * 400 + b",,,,\r\n",
    "noise": bytes(range(256)) * 9 + b"\xff\n\x00,\n",
    "nothing": b"",
    "no seconds": b"step,,,,,,\r\n1,1,1,1,1,1,inf\r\n2,1,1,1,1,nan,1\r\n3,1,1,1,1,1,-1\r\n",
    "steps that go back": b"2,1,1,1,1,1,1\r\n1,,1,,,,\r\n99,,1,,,,\r\n",
}


@pytest.mark.parametrize("is_right", [True, False])
def test_a_curve_of_any_form(is_right, stopped, tmp_path, capsys):
    """metrics.csv as nobody would write it, with and without a checksum that fits: no matter."""
    for name, content in METRICS.items():
        folder = shutil.copytree(stopped, tmp_path / name)
        (folder / "metrics.csv").write_bytes(content)
        extent = [len(content), hashlib.sha256(content).hexdigest()]
        files = load_state(folder)[0].files
        made_up(files=files | {"metrics.csv": extent} if is_right else files)(folder)
        status = train_shakespeare.main(["--resume", "--steps", "8", "--out", str(folder)])
        out, err = capsys.readouterr()
        assert (status, err.count("\n")) == (0, 0 if is_right else 1), err
        assert train_shakespeare.main(["--resume", "--quiet", "--out", str(folder)]) == 0
        assert capsys.readouterr().err == ""
        steps = metrics_of(folder)["step"] if not is_right else [0]
        assert steps == sorted(steps) and max(steps) < 9
        kept = (folder / "metrics-1.csv").read_bytes() if not is_right else content
        assert kept == content and (folder / "metrics.csv").read_bytes().endswith(b"\r\n")


def test_files_that_an_editor_has_saved(stopped, tmp_path, capsys):
    """With other line ends: both are put aside with a line each, and all in them is kept."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    for name, old, new in (("metrics.csv", b"\r\n", b"\n"), ("samples.txt", b"\n", b"\r\n")):
        (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))
    assert train_shakespeare.main(["--resume", "--quiet", "--out", str(folder)]) == 0
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "metrics.csv has changed" in err[0] and "samples-1.txt" in err[1]
    for name in ("metrics.csv", "samples.txt"):
        assert (folder / name).read_bytes() == (stopped / name).read_bytes()
    assert train_shakespeare.main(["--resume", "--quiet", "--out", str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_of_an_older_version_goes_on(train, stop_at):
    """A state without what was added since, alone; the model beside it is written as it was."""
    right = train("right")
    stop_at(5, signal.SIGINT)
    run = train("run")
    progress, arrays = load_state(run.folder)
    text = json.dumps({k: v for k, v in vars(progress).items() if k not in ("logged", "numbers")})
    metadata = {"about": text, "checksum": checksum(text, arrays)}
    (run.folder / FILE).write_bytes(safetensors.numpy.save(arrays, metadata))
    (run.folder / BEFORE).unlink()
    assert train("run", "--resume").status == 0
    assert_same_run(run.folder, right.folder)
