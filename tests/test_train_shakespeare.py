"""The command, run as a user runs it: what it prints, what it leaves, what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from command import (
    EXAMPLES,
    FILES,
    TINY,
    assert_refused,
    example,
    exit_status,
    metrics_of,
    needs_data,
    snapshot,
    without_times,
)

import gpt_numpy.scale.gradients
import gpt_numpy.scale.train
from gpt_numpy import GPT
from gpt_numpy.app import memory, report, run_folder, trainer
from gpt_numpy.app.resume import load_state
from gpt_numpy.app.run_folder import RunFolder
from gpt_numpy.corpus import grammar, reading, sources
from gpt_numpy.data import encoded, split
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, load
from gpt_numpy.train import evaluate

pytestmark = pytest.mark.slow

LAST_LINE = r"final val_loss (\d+\.\d{4}) \(perplexity (\d+\.\d{2})\) after 6 steps"

train_shakespeare = example("train_shakespeare")


def ids_of(text_file):
    """(tokenizer, validation ids) of the runs in this file."""
    text = text_file.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text(text)
    return tokenizer, encoded(tokenizer, text, 8)[1]


# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_ends_with_its_validation_loss(train, text_file):
    """Status 0, every file there, and the last line's numbers those of the last row."""
    run = train("run")
    assert (run.status, run.err) == (0, "")
    loss, perplexity = re.fullmatch(LAST_LINE, run.lines[-1]).groups()
    assert {p.name for p in run.folder.iterdir()} == FILES
    last = metrics_of(run.folder)["val_loss"][-1]
    assert float(loss) == pytest.approx(last, abs=6e-5)
    assert float(perplexity) == pytest.approx(np.exp(last), abs=6e-3)
    assert run.lines[0] == f"text: mat.txt, {len(text_file.read_text()):,} characters"
    assert not any("\x1b" in line for line in run.lines)


def test_metrics_have_a_row_when_one_is_due(train):
    """Every 2 steps and at each evaluation, which is at 0, every 3 steps and at the end."""
    run = train("run", "--steps", "8")
    metrics = metrics_of(run.folder)
    assert metrics["step"] == [0, 2, 3, 4, 6, 8]
    evaluated = [step for step, v in zip(metrics["step"], metrics["val_loss"], strict=True) if v]
    assert evaluated == [0, 3, 6, 8]
    for name in ("train_loss", "lr", "grad_norm", "tokens_per_second"):
        assert metrics[name][0] is None and all(v > 0 for v in metrics[name][1:]), name
    assert metrics["seconds"] == sorted(metrics["seconds"])
    assert metrics["lr"][1] == pytest.approx(1e-3 * 2 / 100)  # two of the 100 steps of warm-up
    samples = (run.folder / "samples.txt").read_text(encoding="utf-8")
    assert re.findall(r"^--- step (\d+), val_loss", samples, re.M) == ["0", "3", "6", "8"]


@pytest.mark.parametrize("flags, best_is_last", [([], True), (["--lr", "5"], False)])
def test_the_model_kept_is_the_best_one(train, text_file, flags, best_is_last):
    """Loaded and evaluated again it has the least loss logged, though later weights were worse."""
    run = train("run", "--warmup-steps", "1", *flags)
    losses = [v for v in metrics_of(run.folder)["val_loss"] if v is not None]
    assert (min(losses) == losses[-1]) == best_is_last
    tokenizer, val_ids = ids_of(text_file)
    assert load(run.folder / "tokenizer.json").characters == tokenizer.characters
    loss = evaluate(GPT.from_pretrained(run.folder), val_ids)
    assert loss == pytest.approx(min(losses), rel=1e-5)
    assert run.lines[-1].startswith(f"final val_loss {losses[-1]:.4f}")


def test_the_settings_are_kept(train, text_file):
    """train_config.json has every flag, those of the preset too, and the text's name."""
    run = train("run", "--dropout", "0.1", "--bias")
    settings = json.loads((run.folder / "train_config.json").read_text(encoding="utf-8"))
    expected = {"steps": 6, "n_embd": 8, "dropout": 0.1, "bias": True, "lr": 1e-3, "seed": 1}
    expected |= {"preset": "laptop", "data": str(text_file), "text": "mat.txt"}
    assert {name: settings[name] for name in expected} == expected
    assert GPT.from_pretrained(run.folder).config.bias


def test_training_lowers_the_loss(train):
    """Sixty steps at a high rate: far below where it began, and below the letters' frequencies."""
    run = train("run", "--steps", "60", "--lr", "3e-2", "--warmup-steps", "5", "--eval-every", "60")
    first, *_, last = metrics_of(run.folder)["val_loss"]
    assert last < 0.8 * first


def test_a_seed_repeats_the_run(train):
    """Metrics but for the times, samples and weights, to the bit; another seed, another run."""
    flags = ["--dropout", "0.2"]
    first, again = train("first", *flags), train("again", *flags)
    other = train("other", *flags, "--seed", "2")
    metrics = without_times(metrics_of(first.folder))
    assert metrics == without_times(metrics_of(again.folder))
    for name in ("samples.txt", "model.safetensors"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    different = without_times(metrics_of(other.folder))
    for name in ("train_loss", "val_loss", "grad_norm"):
        assert all(
            a != b for a, b in zip(metrics[name], different[name], strict=True) if a is not None
        )


@pytest.mark.parametrize("dropout", ["0", "0.2"])
def test_accumulated_batches_are_one_large_batch(train, dropout):
    """2 × 3 rows or 6 at once: the same windows, the same masks, the same curve to rounding.

    metrics.csv has six digits, and float32 rounds at 6·10⁻⁸ per operation.
    """
    flags = ["--dropout", dropout, "--lr", "1e-2", "--warmup-steps", "2", "--log-every", "1"]
    parts = train("parts", *flags, "--batch-size", "3", "--accumulate", "2")
    whole = train("whole", *flags, "--batch-size", "6")
    parts, whole = (without_times(metrics_of(run.folder)) for run in (parts, whole))
    assert parts["step"] == whole["step"] == [0, 1, 2, 3, 4, 5, 6]
    for name in ("train_loss", "val_loss", "grad_norm"):
        a, b = ([v for v in metrics[name] if v is not None] for metrics in (parts, whole))
        np.testing.assert_allclose(a, b, rtol=2e-5, err_msg=name)
        assert len(set(a)) > 1


def test_tokens_per_second_leave_out_all_but_training(train, monkeypatch):
    """A step takes 1 s, an evaluation 100, a save 30, the figure 1000: 12 · 8 tokens per s."""
    clock = types.SimpleNamespace(now=0.0)

    def taking(seconds, function):
        def call(*args, **kwargs):
            clock.now += seconds
            return function(*args, **kwargs)

        return call

    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(run_folder, "time", fake)
    clip = taking(1, gpt_numpy.scale.train.clip_grad_norm)  # once a step
    monkeypatch.setattr(gpt_numpy.scale.train, "clip_grad_norm", clip)
    monkeypatch.setattr(train_shakespeare, "evaluate", taking(100, evaluate))
    monkeypatch.setattr(trainer, "SAVE_EVERY", 0)
    save = taking(30, RunFolder.save)
    monkeypatch.setattr(RunFolder, "save", save)
    monkeypatch.setattr(report, "loss_figure", taking(1000, lambda *_, **__: None))
    rates = metrics_of(train("run").folder)["tokens_per_second"]
    assert rates == [None, 96, 96, 96, 96]


# ---- what it prints ------------------------------------------------------------------------------


def test_quiet_prints_one_line(train):
    """The last one."""
    run = train("run", "--quiet")
    assert (run.status, run.err) == (0, "")
    assert len(run.lines) == 1 and re.fullmatch(LAST_LINE, run.lines[0])


def test_a_second_run_renames_the_first(train, tmp_path):
    """With a line that says so, and nothing of the first is lost."""
    first = train("run")
    before = {p.name: p.read_bytes() for p in first.folder.iterdir()}
    assert not any("the earlier run" in line for line in first.lines)
    second = train("run", "--seed", "2")
    aside = tmp_path / "run-1"
    assert f"the earlier run in {first.folder} was renamed to {aside}" in second.lines
    assert {p.name: p.read_bytes() for p in aside.iterdir()} == before
    assert {p.name for p in second.folder.iterdir()} == FILES


@pytest.mark.parametrize(
    "preset, numbers",
    [
        ("laptop", {"n-embd": "128", "block-size": "64", "steps": "2000", "dropout": "0.0"}),
        ("baby", {"n-embd": "384", "block-size": "256", "steps": "5000", "dropout": "0.2"}),
        ("gpt2", {"n-embd": "768", "block-size": "1024", "lr": "0.0006", "no-bias": "True"}),
    ],
)
def test_help_shows_the_presets_numbers(capsys, monkeypatch, preset, numbers):
    """The defaults in --help are those that the run would have."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        train_shakespeare.main(["--preset", preset, "--help"])
    assert stop.value.code == 0
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for flag, number in numbers.items():
        assert re.search(rf"--{flag}\b((?! --).)*\(default: {number}\)", shown), flag


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "bpe", "--vocab-size", "300"]])
def test_the_verse_says_that_it_is_the_verse(tmp_path, capsys, monkeypatch, flags):
    """Without a network: on the first line, with the reason, its entropy, and the loss above it.

    The entropy is known per character, and told per token, as the loss is.
    """
    text, entropy = grammar.generate(30_000), grammar.entropy_per_character()

    def unreachable():
        raise OSError("no route to host")

    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(sources, "fetch_shakespeare", unreachable)
    monkeypatch.setattr(grammar, "generate", lambda: text)
    figures = []
    monkeypatch.setattr(
        report,
        "loss_figure",
        lambda *_, **options: figures.append(options),
    )
    assert exit_status(train_shakespeare.main, *TINY, "--out", tmp_path / "run", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"text: verse \(built in: .*\), 30,000 characters", lines[0])
    assert "no route to host" in lines[1]
    assert f"its entropy is {entropy:.4f} nats per character" in lines[2]
    final = float(re.fullmatch(LAST_LINE, lines[-1])[1])
    said = " ".join(lines[-6:])
    nats, characters = grammar.negative_log_likelihood(text[27_000:])
    tokenizer = load(tmp_path / "run/tokenizer.json")
    ids = tokenizer.encode(text[27_000:])
    assert (len(ids) < 0.8 * 3000) == bool(flags)
    length = 3000 / len(ids)  # of a token
    entropy, of_this_text = entropy * length, nats / characters * length
    assert f"entropy is {entropy:.3f} (of this validation text {of_this_text:.3f})" in said
    above = float(re.search(r"(\d+\.\d{3}) above it", said)[1])
    assert above == pytest.approx(final - entropy, abs=6e-4)
    assert figures[-1]["entropy"] == pytest.approx(entropy, rel=1e-12)
    assert "verse (built in" in figures[-1]["title"]


def test_piped_output_is_plain(text_file, tmp_path):
    """As a process, its output in a pipe: lines of plain text, the last one last, status 0."""
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    arguments = ["--data", text_file, "--out", tmp_path / "run", *TINY]
    run = subprocess.run(
        [sys.executable, EXAMPLES / "train_shakespeare.py", *map(str, arguments)],
        capture_output=True,
        env=environment | {"OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "\x1b" not in run.stdout and "\r" not in run.stdout
    lines = run.stdout.splitlines()
    assert lines[0].startswith("text: mat.txt") and re.fullmatch(LAST_LINE, lines[-1])
    assert any(line.startswith("step     6/6  loss ") for line in lines)


# ---- what it refuses -----------------------------------------------------------------------------


def write(name, content):
    """A recipe for --data: a file with this content."""

    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


BAD_DATA = {  # what --data names, what the line must say
    "missing": (lambda folder: folder / "none.txt", "No such file", "give"),
    "an empty folder": (lambda folder: folder, "has no file *.txt", "give"),
    "another encoding": (write("16.txt", "text".encode("utf-16-le")), "looks like UTF-16", "save"),
    "empty": (write("empty.txt", b""), "is empty", "give"),
    "binary": (write("binary.txt", b"text\0text"), "is binary: byte 4", "give"),
    "invalid UTF-8": (write("latin.txt", b"caf\xe9 au lait" * 99), "is not UTF-8", "save it"),
    "shorter than a block": (write("short.txt", b"abc" * 26), "too short", "smaller --block-size"),
}
BAD_FLAGS = {  # the flags, what the line must say
    "--block-size 0": ("block_size", "at least 1", "--block-size"),
    "--n-head 3": ("n_embd", "multiple of n_head", "--n-embd"),
    "--dropout 1": ("dropout", "below 1", "--dropout"),
    "--lr -1": ("lr", "above 0", "--lr"),
    "--lr inf": ("lr", "inf", "--lr"),
    "--steps 0": ("steps", "at least 1", "--steps"),
    "--min-lr 1": ("min_lr", "at most lr", "--min-lr"),
    "--seed -1": ("seed", "at least 0", "--seed"),
    f"--seed {2**64}": ("seed", "2^64 - 1"),
    "--vocab-size 300": ("--vocab-size needs --tokenizer bpe",),
    "--tokenizer bpe --vocab-size 255": ("at least 256", "255"),
    "--tokenizer bpe --vocab-size 5000": ("bpe can learn only", "smaller --vocab-size"),
    "--preset xl": ("xl", "laptop", "baby", "gpt2"),
}
BAD_OUT = {  # a path below the test's folder, where a regular file `file` lies; what must be said
    "a regular file": ("file", "file"),
    "below a regular file": ("file/run", "file"),
    "far below a regular file": ("file/runs/run", "file"),
    "where nothing can be made": ("/proc/none/run", "/proc/none"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_text_is_refused(tmp_path, capsys, case):
    """In one line that says what is wrong with it and what to give; nothing is written."""
    make, *parts = BAD_DATA[case]
    arguments = ["--data", make(tmp_path), *TINY, "--out", tmp_path / "run"]
    before = snapshot(tmp_path)
    assert_refused(capsys, train_shakespeare.main, arguments, parts)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_bad_flags_are_refused(text_file, tmp_path, capsys, flags):
    """In one line with field, rule and flag; nothing is written."""
    arguments = ["--data", text_file, *TINY, "--out", tmp_path / "run", *flags.split()]
    assert_refused(capsys, train_shakespeare.main, arguments, BAD_FLAGS[flags])
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("case", BAD_OUT)
def test_a_bad_out_is_refused(text_file, tmp_path, capsys, case):
    """In one line with the path and the flag to change; nothing is written."""
    out, part = BAD_OUT[case]
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    arguments = ["--data", text_file, *TINY, "--out", tmp_path / out]
    assert_refused(capsys, train_shakespeare.main, arguments, [part, "--out"])
    assert snapshot(tmp_path) == before


def test_a_refusal_leaves_the_run_that_is_there(train):
    """Not renamed aside, not touched, for a run that never begins."""
    folder = train("run").folder
    before = snapshot(folder.parent)
    for flags in (["--steps", "0"], ["--seed", str(2**64)], ["--data", folder / "none.txt"]):
        assert train("run", *flags).status == 2
    assert snapshot(folder.parent) == before


def test_what_does_not_fit_into_memory_is_refused(text_file, tmp_path, capsys, monkeypatch):
    """Before anything is written, with what it needs, what there is, and what to turn down."""
    monkeypatch.setattr(memory, "machine_memory", lambda device: 100_000_000)
    arguments = ["--data", text_file, *TINY, "--workers", "1", "--out", tmp_path / "run"]
    parts = ["this run needs about 11", " and the machine has 100 MB: lower --batch-size"]
    assert_refused(capsys, train_shakespeare.main, arguments, parts)
    assert snapshot(tmp_path) == {}


def test_memory_that_runs_out_in_a_worker(train, monkeypatch):
    """One line, status 1, and the same advice."""

    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 1. TiB")

    monkeypatch.setattr(gpt_numpy.scale.gradients, "accumulate_gradients", no_memory)
    run = train("run", "--workers", "2")
    assert run.status == 1 and run.err.count("\n") == 1
    assert "there is not enough memory" in run.err and "lower --batch-size" in run.err


@pytest.mark.parametrize("eval_every", [50, 3])
def test_a_rate_that_is_too_high_ends_in_a_name(train, eval_every):
    """Not in a curve of NaN: an op, a module, shapes, a line; and what was saved stays.

    An evaluation in between, of weights that are huge and finite still, does not end the run.
    """
    flags = ["--lr", "1e6", "--steps", "50", "--warmup-steps", "1", "--eval-every", eval_every]
    run = train("run", *flags)
    assert run.status == 1 and "Warning" not in run.err and "Traceback" not in run.err
    first, op, *shapes, line, advice, saved = run.err.splitlines()
    assert re.match(r"train_shakespeare: step \d+: the loss or its gradient is not finite", first)
    assert re.match(r"\w+, (for|back)ward, in (h\.0|ln_f|GPT)", op)
    described = r"    \w+ +\(.*\) float32, (from |\d+ (NaN|Inf))"
    assert all(re.match(described, shape) for shape in shapes) and shapes
    assert re.match(r"in .*gpt_numpy/model\.py, line \d+: ", line) and "--lr" in advice
    step = load_state(run.folder)[0].step
    assert saved == f"Step {step}, the last one that was saved, is intact."
    assert step == 0 if eval_every == 50 else step > 0
    assert '"state": "stopped"' in (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(v is not None for v in metrics_of(run.folder)["train_loss"][1:])


@pytest.mark.parametrize("flags", ["--resum", "--device tpu", "--step 3", "--steps many"])
def test_unknown_flags_are_refused(text_file, tmp_path, capsys, flags):
    """Status 2, named on stderr: what is not there yet, and what is misspelt, is never ignored."""
    arguments = ["--data", text_file, *TINY, "--out", tmp_path / "run", *flags.split()]
    assert exit_status(train_shakespeare.main, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and flags.split()[0] in err
    assert snapshot(tmp_path) == {}


# ---- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_on_pieces_of_words(train, text_file, workers):
    """Learned from what trains alone; kept in the folder; losses per token, bits per character."""
    flags = ["--tokenizer", "bpe", "--vocab-size", "270", "--workers", workers]
    run = train("run", *flags)
    assert (run.status, run.err) == (0, "")
    text = text_file.read_text(encoding="utf-8")
    training, validation = split(text)
    tokenizer = load(run.folder / "tokenizer.json")
    assert tokenizer.tokens == BPETokenizer.from_text(training, 270).tokens
    assert "tokenizer: bpe, 270 tokens" in run.lines
    assert GPT.from_pretrained(run.folder).config.vocab_size == 270

    ids = tokenizer.encode(validation)
    nats = metrics_of(run.folder)["val_loss"][-1] * len(ids)
    bits = nats / np.log(2) / len(validation)
    samples = (run.folder / "samples.txt").read_text(encoding="utf-8")
    *_, last = re.findall(r"val_loss \S+, (\S+) bits per character ---\n", samples)
    assert float(last) == pytest.approx(bits, rel=1e-4)
    assert any(f"so the loss is {bits:.3f} bits per character." in line for line in run.lines)
    settings = json.loads((run.folder / "train_config.json").read_text(encoding="utf-8"))
    assert (settings["tokenizer"], settings["vocab_size"]) == ("bpe", 270)


def test_bits_of_characters_are_the_loss(train):
    """A token is a character: bits per character are the loss by another unit."""
    run = train("run")
    samples = (run.folder / "samples.txt").read_text(encoding="utf-8")
    heads = re.findall(r"val_loss (\S+), (\S+) bits per character", samples)
    assert len(heads) == 3
    for loss, bits in heads:
        assert float(bits) == pytest.approx(float(loss) / np.log(2), abs=2e-4)


@needs_data
def test_a_run_on_gpt2s_pieces(train):
    """50,257 of them, though few occur."""
    run = train("run", "--tokenizer", "gpt2", "--steps", "2", "--eval-every", "2")
    assert (run.status, run.err) == (0, "")
    assert GPT.from_pretrained(run.folder).config.vocab_size == 50_257
    assert load(run.folder / "tokenizer.json").encode("hello world").tolist() == [31373, 995]


def test_a_text_of_hardly_a_character(tmp_path, capsys):
    """What validates is one character, of four bytes, and each of them is a token."""
    (tmp_path / "text").write_text("aaaaaaaaa😀", encoding="utf-8")
    flags = ["--data", tmp_path / "text", *TINY, "--block-size", "2", "--tokenizer", "bpe"]
    assert exit_status(train_shakespeare.main, *flags, "--out", tmp_path / "run") == 0
    assert "has 0.25 characters on average" in capsys.readouterr().out


def test_what_is_printed_can_be_printed(text_file, tmp_path):
    """Bytes make odd characters at first: none of them is obeyed by a terminal, and none ends a
    run whose output has no Unicode.
    """
    arguments = ["--data", text_file, "--out", tmp_path / "run", *TINY, "--tokenizer", "bpe"]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_shakespeare.py", *map(str, arguments)],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stdout)
    samples = (tmp_path / "run/samples.txt").read_text(encoding="utf-8")
    assert re.search("[\x00-\x08\x0b-\x1f]", samples)  # as the model wrote them


def test_a_run_on_pieces_of_words_goes_on(train):
    """Stopped and resumed with its own tokenizer; another one is another run."""
    flags = ["--tokenizer", "bpe", "--vocab-size", "270"]
    whole = train("whole", *flags)
    train("parts", *flags, "--steps", "3")
    refused = train("parts", "--resume", "--tokenizer", "char")
    assert refused.status == 2 and "--tokenizer would change" in refused.err
    assert train("parts", "--resume", "--steps", "6").status == 0
    a, b = (GPT.from_pretrained(folder.folder).config for folder in (whole, refused))
    assert a == b


def test_gpt2_that_is_nowhere_ends_in_a_sentence(text_file, tmp_path, capsys, monkeypatch):
    """Which file to get, and where to put it; nothing is written."""

    def offline(*_):
        raise ConnectionError("no route")

    import tiktoken.load

    monkeypatch.setenv("GPT_NUMPY_DATA", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file_cached", offline)
    arguments = ["--data", text_file, *TINY, "--out", tmp_path / "run", "--tokenizer", "gpt2"]
    parts = ["GPT-2's tokenizer", "no route", "vocab.bpe into", str(tmp_path / "gpt2")]
    assert_refused(capsys, train_shakespeare.main, arguments, parts)
    assert snapshot(tmp_path) == {}


# ---- texts ---------------------------------------------------------------------------------------


def test_a_sample_is_evaluated_during_a_run_and_all_of_the_text_at_the_end(train, text_file):
    """--eval-tokens of them in evenly spaced windows; as many as there are, and nothing changes."""
    whole, more = train("whole"), train("more", "--eval-tokens", "1000000")
    assert whole.lines[-1] == more.lines[-1]
    less = train("less", "--eval-tokens", "40")
    assert (less.status, less.err) == (0, "")
    text = text_file.read_text(encoding="utf-8")
    tokenizer = load(less.folder / "tokenizer.json")
    _, val_ids = encoded(tokenizer, text, 8)
    assert any(
        f"evaluating the whole validation text, {len(val_ids) - 1} tokens" in line
        for line in less.lines
    )
    losses = metrics_of(less.folder)["val_loss"]
    assert losses != metrics_of(whole.folder)["val_loss"]
    assert less.lines[-1] == whole.lines[-1], "the same weights on the same text"
    if losses[-1] == min(v for v in losses if v is not None):
        model = GPT.from_pretrained(less.folder)
        assert losses[-1] == pytest.approx(evaluate(model, val_ids, max_tokens=40), rel=1e-5)


def test_ctrl_c_ends_the_evaluation_of_all_of_the_text(train, monkeypatch):
    """The run is saved, and --resume goes on with that evaluation."""
    right = train("right").lines[-1]
    evaluate = trainer.evaluate

    def interrupted(*arguments, **options):
        if "progress" in options:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", interrupted)
        run = train("run", "--eval-tokens", "40")
    assert (run.status, run.err) == (130, "")
    assert run.lines[-1].startswith("stopped; step 6 is saved in")
    again = train("run", "--resume")
    assert (again.status, again.lines[-1]) == (0, right)


def test_another_sample_is_evaluated_anew(train):
    """On --resume with another --eval-tokens: the losses of two samples do not compare."""
    right = train("right").lines[-1]
    assert train("run", "--eval-tokens", "16").lines[-1] == right
    assert train("run", "--resume", "--eval-tokens", "0").lines[-1] == right
    longer = train("right", "--resume", "--steps", "9").lines[-1]
    assert train("run", "--resume", "--steps", "9").lines[-1] == longer


@pytest.mark.parametrize(
    "flags", [["--data", ""], ["--data="], ["--val-data", ""], ["--out", ""], ["--init-from="]]
)
def test_an_empty_value_is_refused(capsys, flags):
    """As of a variable that is not set: it would mean the current folder."""
    assert_refused(capsys, train_shakespeare.main, flags, [flags[0].rstrip("="), "is empty"])


def test_a_forgotten_folder_is_refused(tmp_path, monkeypatch, capsys):
    """--resume reads --out before the flags are checked."""
    monkeypatch.chdir(tmp_path)
    assert exit_status(train_shakespeare.main, "--resume", "--out") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_another_text_validates(train, tmp_path, text_file):
    """The whole of --data trains then, and --val-data is kept for --resume."""
    (tmp_path / "other.txt").write_text("a cat ran by a mat\n" * 20)
    run = train("run", "--val-data", tmp_path / "other.txt", "--steps", "3")
    assert (run.status, run.err) == (0, "")
    assert run.lines[0].startswith("text: mat.txt, validated on other.txt, ")
    text, other = (path.read_text() for path in (text_file, tmp_path / "other.txt"))
    tokenizer = load(run.folder / "tokenizer.json")
    assert tokenizer.characters == "".join(sorted({*text, *other}))
    loss = evaluate(GPT.from_pretrained(run.folder), tokenizer.encode(other))
    losses = [loss for loss in metrics_of(run.folder)["val_loss"] if loss is not None]
    assert min(losses) == pytest.approx(loss, rel=1e-5)
    assert train("run", "--resume", "--steps", "6").status == 0
    refused = train("run", "--resume", "--val-data", text_file, "--steps", "9")
    assert refused.status == 2 and "the text is not the one" in refused.err


def test_several_texts_and_a_folder(train, tmp_path, text_file):
    """--data takes them all; train_config.json keeps them, and the run goes on."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("the cat sat")
    run = train("run", "--data", tmp_path / "texts", text_file, "--steps", "3")
    assert (run.status, run.err) == (0, "")
    assert run.lines[0].startswith("text: texts and 1 more, ")
    settings = json.loads((run.folder / "train_config.json").read_text(encoding="utf-8"))
    assert settings["data"] == [str(tmp_path / "texts"), str(text_file)]
    assert train("run", "--resume", "--steps", "6").status == 0
    alone = train("alone", "--steps", "3")
    settings = json.loads((alone.folder / "train_config.json").read_text(encoding="utf-8"))
    assert (settings["data"], settings["val_data"]) == (str(text_file), None)


def test_standard_input_is_a_text(train, text_file, monkeypatch):
    """--data - reads it; --resume cannot read it again and says so."""
    with open(text_file) as file:
        monkeypatch.setattr("sys.stdin", file)
        run = train("run", "--data", "-")
    assert run.status == 0 and run.lines[0].startswith("text: standard input, ")
    assert run.lines[-1] == train("file").lines[-1]
    refused = train("run", "--resume", "--steps", "7")
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "came from standard input: give it again with --data" in refused.err
    assert train("run", "--resume", "--steps", "7", "--data", text_file).status == 0
    with open(os.devnull) as file:
        monkeypatch.setattr("sys.stdin", file)
        refused = train("empty", "--val-data", "-")
    assert refused.status == 2 and "standard input is empty; give" in refused.err


@pytest.mark.parametrize("form", ["--out=~/r", "--out ~/r"])
def test_the_home_folder(tmp_path, monkeypatch, capsys, text_file, form):
    """~ is the user's home folder in --data, --val-data, --init-from and --out."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "text").write_bytes(text_file.read_bytes())
    flags = [*TINY, "--data", "~/text", "--val-data", "~/text", *form.split()]
    assert exit_status(train_shakespeare.main, *flags) == 0
    assert (home / "r/model.safetensors").exists() and not (tmp_path / "~").exists()
    assert exit_status(train_shakespeare.main, "--resume", *form.split()) == 0
    flags = [*flags[: len(TINY)], "--data", "~/text", "--init-from", "~/r", "--out=~/s"]
    assert exit_status(train_shakespeare.main, *flags) == 0
    assert (home / "s/model.safetensors").exists()
    capsys.readouterr()
    arguments = ["--out", "~nobody-here/r", "--data", "~/text"]
    assert_refused(capsys, train_shakespeare.main, arguments, ["~nobody-here/r", "full path"])


def test_the_text_counts_in_the_memory_that_a_run_needs(train, text_file, tmp_path, monkeypatch):
    """A text of 10 MB takes 20 MB with its ids; both are said before the run begins."""
    (tmp_path / "long.txt").write_text(text_file.read_text(encoding="utf-8") * 3800)
    assert (tmp_path / "long.txt").stat().st_size == pytest.approx(10e6, rel=0.02)

    def said(run):
        (line,) = [line for line in run.lines if "which will take about" in line]
        return float(re.search(r"about (\d+) MB", line)[1])

    monkeypatch.setattr(train_shakespeare, "evaluate", lambda *_, **__: 4.0)
    flags = ["--steps", "1", "--eval-tokens", "100", "--workers", "1"]
    short = said(train("short", *flags))
    long = said(train("long", *flags, "--data", tmp_path / "long.txt"))
    assert long - short == pytest.approx(20, abs=2)


# ---- flags that would mean something else --------------------------------------------------------

WRONG_TEXTS = {  # flags, and what is said of them
    "twice": (["--data", "a.txt", "--data", "b.txt"], "--data is given twice"),
    "in two spellings": (["--val-data", "a.txt", "--val_data=b.txt"], "--val-data is given twice"),
    "nothing": (["--data", "--quiet"], "--data names no file"),
    "nothing at the end": (["--quiet", "--val-data"], "--val-data names no file"),
    "a run among its texts": (
        ["--data", "texts", "--out", "texts/run"],
        "is inside the --data folder texts",
    ),
    "a number too large": (["--data", "a.txt", "--steps", str(2**64)], "steps must be below 2^64"),
    "a value of a switch": (["--resume=1"], "--resume"),
    "a loop of links": (["--data", "a.txt", "--out", "loop"], "leads back to itself"),
}


@pytest.mark.parametrize("case", WRONG_TEXTS)
def test_a_flag_that_would_mean_something_else_is_refused(case, tmp_path, monkeypatch, capsys):
    """In one line, before anything is written."""
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for path in ("a.txt", "b.txt", "texts/a.txt"):
        Path(path).write_text("the cat sat on a mat\n" * 99)
    Path("loop").symlink_to("other")
    Path("other").symlink_to("loop")
    flags, said = WRONG_TEXTS[case]
    before = snapshot(tmp_path)
    assert_refused(capsys, train_shakespeare.main, [*TINY, *flags], [said])
    assert snapshot(tmp_path) == before


def test_a_folder_of_texts_is_read_as_a_whole(tmp_path, train):
    """Or refused; hidden folders, as of an editor, are left out."""
    folder = tmp_path / "texts"
    for name in ("a.txt", "sub/b.txt", ".hidden/c.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}: the cat sat on a mat\n" * 99)
    run = train("run", "--data", folder)
    assert run.status == 0 and "(2 files)" in run.lines[0]


def test_a_folder_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    """Also one below the folder that was given."""
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "sub").mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match=rf"cannot read {tmp_path}/sub: Permission denied"):
        reading.inside(tmp_path)
