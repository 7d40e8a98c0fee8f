"""A signal saves a run at once, whatever it is doing; and later the run goes on from there."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command import EXAMPLES, FILES, TINY, example, metrics_of
from test_resume import assert_same_run

import gpt_numpy.app.resume
import gpt_numpy.scale.gradients
import gpt_numpy.scale.train
import gpt_numpy.scale.workers
from gpt_numpy.app import report
from gpt_numpy.app.resume import FILE, load_state
from gpt_numpy.app.run_folder import RunFolder
from gpt_numpy.app.trainer import Run
from gpt_numpy.model import GPT

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has none but Ctrl-C"),
    pytest.mark.usefixtures("no_figures"),
]
train_shakespeare = example("train_shakespeare")
HARD = "--dropout 0.2 --accumulate 2 --batch-size 3 --steps 13 --eval-every 3 --log-every 2".split()
MOMENTS = {  # what is about to be called when the signal comes, and whether the run stops there
    "evaluation": (train_shakespeare, "evaluate", True),
    "sampling": (GPT, "generate", True),
    "figure": (report, "loss_figure", True),
    "page": (report, "page", True),
    "best model": (RunFolder, "save_model", True),
    "sample": (RunFolder, "sample", True),
    "row": (RunFolder, "log", True),
    "learning rate": (gpt_numpy.scale.train, "warmup_cosine", False),
    "gradient": (gpt_numpy.scale.gradients, "accumulate_gradients", False),
    "update": (gpt_numpy.scale.workers, "adamw_update", False),
    "state": (gpt_numpy.app.resume, "write_arrays", False),
}
SOME = ["evaluation", "sampling", "figure", "row", "gradient", "update", "state"]


@pytest.fixture(scope="module")
def undisturbed(text_file, tmp_path_factory):
    """The folder of the run HARD that gets no signal."""
    out = tmp_path_factory.mktemp("whole") / "run"
    flags = [*TINY, *HARD, "--workers", "1", "--quiet", "--out", out]
    assert train_shakespeare.main([*map(str, ["--data", text_file, *flags])]) == 0
    return out


def signalled(monkeypatch, moment, nth, number, then=lambda: None):
    """Send this process a signal when a function is called for the n-th time."""
    owner, name, stops = MOMENTS[moment]
    function, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(name)
        if len(calls) == nth:
            os.kill(os.getpid(), number)
            assert not stops or number == signal.SIGUSR1, "it went on after the signal"
            then()
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.slow
def test_a_run_is_stopped_anywhere(train, monkeypatch, undisturbed):
    """Again and again, in its first evaluation already; each time it goes on from there."""
    flags = [*HARD, "--workers", "1"]
    stops = [(moment, 1) for moment in SOME] + [("gradient", 2), ("evaluation", 2)]
    for moment, nth in stops:
        with monkeypatch.context() as patch:
            signalled(patch, moment, nth, signal.SIGTERM)
            run = train("run", *flags)
        assert (run.status, run.err) == (143, ""), moment
        flags = ["--resume"]
    assert train("run", *flags).status == 0
    assert_same_run(run.folder, undisturbed)
    assert {p.name for p in run.folder.iterdir()} == FILES


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment(moment, number, train, monkeypatch, undisturbed):
    """All of them, for the first and for the third time."""
    for nth in (1, 3):
        with monkeypatch.context() as patch:
            signalled(patch, moment, nth, number)
            run = train(f"run{nth}", *HARD, "--workers", "1")
        assert (run.status, run.err) in ((128 + number, ""), (0, "")), moment
        assert train(f"run{nth}", "--resume").status == 0
        assert_same_run(run.folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("moment, step", [("evaluation", 0), ("gradient", 4), ("update", 5)])
def test_a_signal_that_only_saves(moment, step, train, monkeypatch, undisturbed):
    """SIGUSR1: what is saved is the last step, and goes on to the same end, as does the run."""
    saved = []
    save = RunFolder.save

    def noting(self, model, optimizer, step, **facts):
        save(self, model, optimizer, step, **facts)
        saved.append((step, facts["logged"]))

    monkeypatch.setattr(RunFolder, "save", noting)
    signalled(monkeypatch, moment, 1 if step == 0 else 5, signal.SIGUSR1)
    run = train("run", *HARD, "--workers", "1")
    assert (run.status, run.err) == (0, "")
    evaluations = [(n, True) for n in (0, 3, 6, 9, 12, 13)]
    (between,) = [each for each in saved if each not in evaluations]
    assert between == ((0, False) if step == 0 else (step, between[1]))
    assert [each for each in saved if each in evaluations] == evaluations
    assert_same_run(run.folder, undisturbed)


def test_an_evaluation_is_made_again(train, monkeypatch):
    """What the state says of a step that was not logged, and the rest is cut off."""
    signalled(monkeypatch, "page", 2, signal.SIGTERM)
    run = train("run", *HARD, "--workers", "1")
    progress, _ = load_state(run.folder)
    assert (progress.step, progress.logged) == (3, False)
    assert progress.numbers.keys() == gpt_numpy.app.resume.NUMBERS
    metrics = metrics_of(run.folder)
    assert metrics["step"] == [0, 2, 3]
    row = [metrics[name][-1] for name in ("train_loss", "lr", "grad_norm")]
    numbers = [progress.numbers[name] for name in ("train_loss", "lr", "grad_norm")]
    np.testing.assert_allclose(row, numbers, rtol=5e-6)  # six digits
    assert "step 3 is saved" in run.lines[-1]


def test_a_signal_waits_for_an_update(monkeypatch):
    """While weights are half updated nothing is saved."""
    run = object.__new__(Run)
    run.command = type("C", (), {"device": "cpu"})
    flat = type("F", (), {"data": np.zeros(1)})
    run.optimizer = type("O", (), {"flat": flat, "steps": [3, 3]})
    run.point = {"step": 3}
    assert run.has_last_weights()
    run.optimizer.steps = [4, 3]
    assert not run.has_last_weights()
    run.optimizer.steps, run.command.device = [3, 3], "gpu"
    assert not run.has_last_weights()
    run.command.device, flat.data = "cpu", None
    assert not run.has_last_weights()


# ---- as processes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_evaluation_is_not_waited_for(tmp_path):
    """9 MB of text, all of it evaluated: a signal ends the run within 2 seconds, saved."""
    text = tmp_path / "long.txt"
    text.write_text("the cat sat on a mat and ran to see her old dog by day\n" * 160_000)
    flags = "--device cpu --workers 1 --eval-tokens 0 --steps 9 --quiet".split()
    run = subprocess.Popen(
        [sys.executable, EXAMPLES / "train_shakespeare.py", *flags]
        + ["--data", text, "--out", tmp_path / "run"],
    )
    while not (tmp_path / "run/metrics.csv").exists():
        time.sleep(0.1)
    time.sleep(3)
    assert run.poll() is None
    start = time.monotonic()
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 143 and time.monotonic() - start < 2
    progress, _ = load_state(tmp_path / "run")
    assert (progress.step, progress.logged) == (0, False)


@pytest.mark.kill
def test_signals_at_random_moments(text_file, tmp_path, undisturbed, capsys):
    """Sixty, by the clock, to a run that is begun again and again: the same run in the end."""
    draw, counts, ended = random.Random(3), {}, 0
    while sum(counts.values()) < 60:
        out = tmp_path / f"run{ended}"
        status = None
        while status != 0:
            flags = ["--data", text_file, *TINY, *HARD, "--workers", "1"]
            flags = ["--resume"] if (out / FILE).exists() else flags
            command = [sys.executable, EXAMPLES / "train_shakespeare.py", *flags, "--quiet"]
            run = subprocess.Popen([*map(str, command), "--out", str(out)])
            number = draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
            while not (out / ".lock").exists() and run.poll() is None:
                time.sleep(0.01)
            threading.Timer(draw.uniform(0, 3), run.send_signal, [number]).start()
            status = run.wait(60)
            assert status in (0, -number, 128 + number, 1, 130)
            name = signal.Signals(number).name
            counts[name] = counts.get(name, 0) + (status == 128 + number)
        assert_same_run(out, undisturbed)
        ended += 1
    with capsys.disabled():
        print(f"\n{counts} ended a run; {ended} runs came to their end, equal to the last bit")
