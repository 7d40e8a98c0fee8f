"""A run that is killed again and again, at any moment, ends as the one that nobody touched.

pytest -m kill tests/test_kill.py -s      60 kills; a few of them are in the default suite
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import assert_same_run

from gpt_numpy.app.resume import FILE

SETTINGS = (
    "--device cpu --n-layer 1 --n-embd 8 --n-head 2 --block-size 8 --batch-size 3 --accumulate 2 "
    "--dropout 0.2 --workers 2 --eval-every 5 --log-every 2 --quiet"
).split()
KILLED = Path(__file__).with_name("killed.py")


def command(out, text_file, steps, event=0):
    """The command as a process, from the beginning or from what was saved."""
    fresh = [*SETTINGS, "--steps", str(steps), "--data", str(text_file)]
    flags = ["--resume", "--quiet"] if (out / FILE).exists() else fresh
    return subprocess.Popen(
        [sys.executable, KILLED, str(event), *flags, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def live_and_die(moment, out, text_file, steps):
    """Start, and be killed at a moment: after so many seconds, or at so many-th file event.

    Returns whether it came to that; if not, the run has come to its end, and nothing was wrong.
    """
    process = command(out, text_file, steps, moment if isinstance(moment, int) else 0)
    try:
        _, stderr = process.communicate(timeout=moment if isinstance(moment, float) else 60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, stderr = process.communicate()
    assert stderr == "" and process.returncode in (0, -9)
    return process.returncode == -9


def killed_and_resumed(n_kills, steps, seed, text_file, folder):
    """Kill a run n_kills times, at seeded moments; where it ends before, begin another."""
    draw = random.Random(seed)
    whole = folder / "whole"
    start = time.monotonic()
    process = command(whole, text_file, steps)
    assert process.communicate()[1] == "" and process.returncode == 0
    seconds = time.monotonic() - start  # that a whole run takes here
    kills = {"clock": 0, "file event": 0}
    ended = 0
    while sum(kills.values()) < n_kills or not ended:
        out = folder / f"run{ended}"
        while True:
            kind = draw.choice(sorted(kills))
            moment = draw.uniform(0.3, 1) * seconds if kind == "clock" else draw.randint(1, 100)
            if sum(kills.values()) >= n_kills:
                moment = 0  # enough of it: let it come to its end
            if not live_and_die(moment, out, text_file, steps):
                break
            kills[kind] += 1
        assert_same_run(out, whole)
        ended += 1
    return kills, ended


@pytest.mark.slow
def test_a_run_survives_a_few_kills(text_file, tmp_path):
    """Of a few of them: weights, moments, curve and samples to the last bit."""
    kills, _ = killed_and_resumed(5, 20, 1, text_file, tmp_path)
    assert sum(kills.values()) >= 5 and min(kills.values()) >= 1


@pytest.mark.kill
def test_a_run_survives_many_kills(text_file, tmp_path, capsys):
    """Sixty."""
    kills, ended = killed_and_resumed(60, 150, 2, text_file, tmp_path)
    with capsys.disabled():
        print(
            f"\n{sum(kills.values())} kills, {kills['clock']} of them by the clock and "
            f"{kills['file event']} at a file event; {ended} runs came to their end, each of them "
            "equal to the undisturbed one to the last bit"
        )
    assert min(kills.values()) >= 15
