"""The folder that a run leaves, and its clock."""

import csv
import json
import types

import pytest

from gpt_numpy.app import run_folder
from gpt_numpy.app.run_folder import (
    Clock,
    RunFolder,
    evaluation_seconds,
    rows_in,
    samples_in,
)
from gpt_numpy.tokenizer import CharTokenizer, load

COLUMNS = ["step", "train_loss", "val_loss", "lr", "grad_norm", "tokens_per_second", "seconds"]
TOKENIZER = CharTokenizer("ab")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: `clock.now += 3` and three seconds have gone by."""
    clock = types.SimpleNamespace(now=1000.0)
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(run_folder, "time", fake)
    return clock


def rows_of(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# ---- the folder ----------------------------------------------------------------------------------


def test_a_new_folder_says_how_the_run_was_set_up(tmp_path):
    """It is made with its parents; settings and tokenizer are in it, metrics.csv has its head."""
    path = tmp_path / "runs" / "first"
    folder = RunFolder(path, {"steps": 6, "text": "a naïve text"}, TOKENIZER)
    assert folder.path == path and folder.moved is None
    settings = json.loads((path / "train_config.json").read_text(encoding="utf-8"))
    assert settings == {"steps": 6, "text": "a naïve text"}
    assert load(path / "tokenizer.json").characters == "ab"
    assert rows_of(path) == [COLUMNS]
    names = {"train_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {p.name for p in path.iterdir()} == names | {"metrics.csv", "samples.txt", ".lock"}


def test_metrics_are_rows_with_gaps(tmp_path):
    """Six digits; what is not given stays empty; a row is in the file as soon as it is logged."""
    folder = RunFolder(tmp_path / "run", {}, TOKENIZER)
    folder.log(step=0, val_loss=4.174387, seconds=0.5)
    assert len(rows_of(folder.path)) == 2
    folder.log(step=10, train_loss=1 / 3, lr=1e-5, grad_norm=2.0, tokens_per_second=123456.7)
    assert rows_of(folder.path) == [
        COLUMNS,
        ["0", "", "4.17439", "", "", "", "0.5"],
        ["10", "0.333333", "", "1e-05", "2", "123457", ""],
    ]
    assert [row["step"] for row in folder.rows] == [0, 10]
    assert folder.rows[1]["train_loss"] == 1 / 3 and folder.rows[1]["val_loss"] is None


def test_samples_are_appended_with_their_heads(tmp_path):
    """Step and loss above every text, a blank line between them; any character can be written."""
    folder = RunFolder(tmp_path / "run", {}, TOKENIZER)
    folder.sample(0, 4.17438, 6.02236, "dl\nlan")
    folder.sample(250, 2.5, 1.75, "thé → ☃")
    text = (folder.path / "samples.txt").read_text(encoding="utf-8")
    assert text == (
        "--- step 0, val_loss 4.1744, 6.0224 bits per character ---\ndl\nlan\n\n"
        "--- step 250, val_loss 2.5000, 1.7500 bits per character ---\nthé → ☃\n\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n",
        "a\n--- step ---\nb",
        "--- step 1, val_loss x, y bits per character ---\n",
        "--- step 500, val_loss 2.0000, 1.0000 bits per character ---\n",
        "--- step 250, val_loss 2.5000, 1.7500 bits per character ---\n",
        f"--- step {'9' * 5000}, val_loss 2.5000, 1.7500 bits per character ---\n",
    ],
)
def test_samples_are_read_back(tmp_path, text):
    """Whatever the model wrote, as it was written, also what looks like a head."""
    folder = RunFolder(tmp_path / "run", {}, TOKENIZER)
    samples = [
        (0, 4.50004, 6.25, "dl\r\nlan"),
        (250, 2.5, 1.75, text),
        (500, float("inf"), 1.0, "x"),
        (750, float("nan"), 1.0, "y"),
    ]
    for step, loss, bits, sample in samples:
        folder.log(step=step, val_loss=loss)
        folder.log(step=step + 10, train_loss=1.0)
        folder.sample(step, loss, bits, sample)
    rows = rows_in((folder.path / "metrics.csv").read_bytes(), 760)
    found = samples_in((folder.path / "samples.txt").read_bytes(), rows)
    assert [(s["step"], s["text"]) for s in found] == [(step, t) for step, _, _, t in samples]
    assert str([s["val_loss"] for s in found]) == "[4.5, 2.5, inf, nan]"
    assert [s["bits"] for s in found] == [6.25, 1.75, 1.0, 1.0]


def test_what_an_evaluation_took(tmp_path):
    """Two of 3 s and 5 s: all of the time that is not in the rate."""
    rows = [
        {"step": 0, "val_loss": 4.0, "tokens_per_second": None, "seconds": 3.0},
        {"step": 10, "val_loss": None, "tokens_per_second": 50.0, "seconds": 23.0},
        {"step": 20, "val_loss": 3.0, "tokens_per_second": 100.0, "seconds": 38.0},
    ]
    assert evaluation_seconds(rows, tokens_per_step=100) == 4.0
    assert evaluation_seconds([], 100) == 0.0


def test_a_run_that_is_there_is_renamed_aside(tmp_path):
    """Whole, and again and again, under the first number that is free."""
    path = tmp_path / "run"
    for i, moved in enumerate([None, path.with_name("run-1"), path.with_name("run-2")]):
        folder = RunFolder(path, {"i": i}, TOKENIZER)
        assert folder.moved == moved
        folder.sample(i, 1.0, 1.4, "text")
        folder.close()
    for i, name in enumerate(["run-1", "run-2", "run"]):
        kept = tmp_path / name
        assert json.loads((kept / "train_config.json").read_text()) == {"i": i}
        assert (kept / "samples.txt").read_text().startswith(f"--- step {i},")
    assert {p.name for p in tmp_path.iterdir()} == {"run", "run-1", "run-2"}


def test_a_name_that_cannot_be_longer(tmp_path):
    """A second run in a folder whose name has 255 characters: the line says what is too long."""
    path = tmp_path / ("x" * 255)
    RunFolder(path, {}, TOKENIZER).close()
    with pytest.raises(OSError, match="x-1: File name too long; choose another --out") as error:
        RunFolder(path, {}, TOKENIZER)
    assert "the run in it cannot be renamed to x" in str(error.value)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_folder_without_a_run_is_used_as_it_is(tmp_path):
    """The user's own files in it stay where they are; what a dead run had begun does not."""
    mine = {"notes.txt", "mine.tmp", "samples.txt.mine.tmp", "tokenizer.json.0123.tmp"}
    for name in (*mine, "tokenizer.json.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("mine")
    folder = RunFolder(tmp_path, {}, TOKENIZER)
    assert folder.moved is None
    assert {path.name for path in tmp_path.iterdir() if path.read_text() == "mine"} == mine


def test_a_tokenizer_that_cannot_be_written(tmp_path):
    """Is found before an earlier run is renamed: half of a surrogate pair is not UTF-8."""
    RunFolder(tmp_path / "run", {}, TOKENIZER).close()
    with pytest.raises(ValueError, match="surrogate"):
        RunFolder(tmp_path / "run", {}, CharTokenizer("a\ud800"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_in_the_current_folder_is_renamed_aside(tmp_path, monkeypatch):
    """`--out .` twice: a path without a name of its own still has one in the file system."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    RunFolder(".", {"i": 0}, TOKENIZER).close()
    folder = RunFolder(".", {"i": 1}, TOKENIZER)
    assert folder.moved is not None
    assert json.loads((folder.moved / "train_config.json").read_text()) == {"i": 0}
    assert json.loads((folder.path / "train_config.json").read_text()) == {"i": 1}


def test_a_folder_that_is_no_runs_is_left_alone(tmp_path):
    """A project may have a config.json too: nothing is renamed and no other file is written."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        OSError, match="already has a file config.json and is not the folder.*; choose"
    ):
        RunFolder(tmp_path, {}, TOKENIZER)
    assert {path.name for path in tmp_path.iterdir()} <= {"config.json", ".lock"}


# ---- the clock -----------------------------------------------------------------------------------


def test_rate_is_tokens_by_seconds_since_the_last_call(clock):
    """Both begin again with every call."""
    watch = Clock()
    for seconds, tokens in ((2, 600), (4, 100)):
        clock.now += seconds
        watch.tokens += tokens
        assert watch.rate() == tokens / seconds
    assert watch.seconds() == 6


def test_a_clock_may_stand_still(clock):
    """No time has gone by, so there is no rate, and nobody knows what is left."""
    watch = Clock()
    watch.tokens += 300
    assert (watch.rate(), watch.left(100), watch.since_save()) == (0, 0, 0)


def test_pauses_do_not_count_as_training(clock):
    """3 s of training around two pauses of 10 s: the rate is over 3 s, `seconds` over all 23."""
    watch = Clock()
    for training in (1, 2):
        clock.now += training
        watch.tokens += 300
        with watch.paused():
            clock.now += 10
    assert watch.rate() == 600 / 3
    assert watch.seconds() == 23


def test_a_pause_right_after_a_rate_counts_for_the_next(clock):
    """As the command has it: rate, evaluation, then training again."""
    watch = Clock()
    clock.now += 1
    watch.tokens += 300
    assert watch.rate() == 300
    with watch.paused():
        clock.now += 10
    clock.now += 2
    watch.tokens += 300
    assert watch.rate() == 150


def test_what_is_left_goes_by_all_that_was_trained(clock):
    """600 tokens in 3 s, pauses left out, then 1000 are 5 s; before a rate nothing is known."""
    watch = Clock()
    assert watch.left(1000) == 0
    for seconds, tokens in ((1, 500), (2, 100)):
        clock.now += seconds
        watch.tokens += tokens
        with watch.paused():
            clock.now += 10
        assert watch.pause == 10
        watch.rate()
    assert watch.left(1000) == 5
