"""report.html as it is seen: its numbers are the run's, at the width of a phone and of a desk."""

import base64
import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
import types
import webbrowser

import numpy as np
import pytest
import tyro
from browser import WIDTHS, browser, needs_browser, overflow, page
from command import example, metrics_of

import gpt_numpy.app.run_folder
from gpt_numpy import GPT
from gpt_numpy.app import report
from gpt_numpy.app.cli import PATHS, Command, paths_kept
from gpt_numpy.app.inspect_model import attention_maps, surprise
from gpt_numpy.config import PRESETS
from gpt_numpy.data import split
from gpt_numpy.tokenizer import BPETokenizer, load

pytestmark = pytest.mark.slow

main = example("train_shakespeare").main
TEXT = "".join(f"{a} the </script> & {b}'s <b>{c}\n" for a, b, c in np.random.default_rng(0).choice(
    "cat dog hen sun".split(), size=(140, 3)))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose text a page might take for its own."""
    root = tmp_path_factory.mktemp("run")
    (root / "a <b> & c.txt").write_text(TEXT)
    flags = "--device cpu --workers 1 --steps 40 --eval-every 20 --log-every 5 --n-layer 2 --quiet"
    shape = "--n-head 3 --n-embd 12 --block-size 16 --lr 0.01 --grad-clip 0.5"
    data, out = str(root / "a <b> & c.txt"), str(root / "out")
    assert main([*flags.split(), *shape.split(), "--data", data, "--out", out]) == 0
    return root / "out"


def settings_of(flags):
    """The settings that the flags of a command make."""
    default = Command(**PRESETS[flags[flags.index("--preset") + 1]])
    command = tyro.cli(Command, args=flags, default=default)
    settings = {f.name: getattr(command, f.name) for f in dataclasses.fields(command)}
    return settings | {name: paths_kept(settings[name]) for name in PATHS}


def facts(folder):
    """What the script on the page reads."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="run">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_has_the_runs_numbers(folder):
    """metrics.csv, samples.txt, the settings, and what the last model does with the passage."""
    run, metrics = facts(folder), metrics_of(folder)
    for name, column in metrics.items():
        for ours, theirs in zip(run["rows"][name], column, strict=True):
            assert ours == theirs or ours == pytest.approx(theirs, rel=1e-5), name
    samples = (folder / "samples.txt").read_text(encoding="utf-8")
    assert [sample["step"] for sample in run["samples"]] == [0, 20, 40]
    assert all(f" ---\n{sample['text']}\n\n" in samples for sample in run["samples"])
    assert run["settings"] == json.loads((folder / "train_config.json").read_text())
    assert (run["state"], run["step"], run["steps"], run["left"]) == ("finished", 40, 40, 0)
    assert run["uniform"] == math.log(run["vocab_size"])
    program, _, flags = run["command"].partition(" --")
    assert program == "python examples/train_shakespeare.py"
    again, settings = settings_of(shlex.split(f"--{flags}")), run["settings"]
    assert {name: again[name] for name in settings.keys() - {"text", "ranks"}} == {
        name: settings[name] for name in settings.keys() - {"text", "ranks"}
    }
    assert run["ladder"] == [list(rung) for rung in report.LADDER]

    tokenizer = load(folder / "tokenizer.json")
    text = split(TEXT)[1].partition("\n")[2]  # from the beginning of a line on
    ids = tokenizer.encode(text)
    model = GPT.from_pretrained(folder)
    n = len(run["passage"]["tokens"])
    assert "".join(run["passage"]["tokens"]) == text[:n] and n == min(481, len(ids))
    found = surprise(model, ids[:n])
    assert run["passage"]["losses"] == pytest.approx(found.losses.tolist(), rel=1e-4, abs=1e-5)
    assert [g[0][0] for g in run["passage"]["guesses"]] == [
        tokenizer.decode([i]) for i in found.guesses[:, 0]
    ]
    maps = np.frombuffer(base64.b64decode(run["attention"]["maps"]), np.uint8)
    expected = attention_maps(model, ids[:16])
    assert abs(maps.reshape(2, 3, 16, 16) / 255 - expected).max() < 0.5 / 255 + 1e-5


def test_a_steps_time_is_told_op_by_op(folder):
    """Every op of a GPT is there, and all of them together take no longer than the step."""
    times = facts(folder)["times"]
    ops = {name: (forward, backward) for name, forward, backward in times["ops"]}
    names = {"linear", "attention", "layer_norm", "gelu", "embedding", "add", "cross_entropy"}
    assert names <= ops.keys() and times["n_runs"] == 10 and times["processes"] == 1
    assert all(
        forward > 0 and backward > 0 for name, (forward, backward) in ops.items() if name in names
    )
    assert sum(map(sum, ops.values())) <= times["step"]


def test_nothing_ends_the_script_or_is_lost():
    """Whatever a text says; numbers that are not finite are none, control characters are shown."""
    given = {"a": [math.nan, -math.inf, 1.5, (2, None)], "b": "x\x1b\ud800\n"}
    assert report.shown(given) == {"a": [None, None, 1.5, [2, None]], "b": "x�?\n"}


def test_a_sample_ends_no_script(tmp_path):
    """What closes the script of a page would show the rest of it as text, or run it."""
    sample = {"step": 0, "val_loss": 1.0, "bits": 1.0, "text": "</script><script>alert(1)<!--"}
    (tmp_path / "report.html").write_text(report.page([], [sample]), encoding="utf-8")
    assert facts(tmp_path)["samples"] == [sample]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("</script>") == html.count("<script") == 5


@pytest.mark.parametrize("every", [999, 1])
def test_a_long_run_is_thinned_out(tmp_path, every):
    """A page has a thousand rows or so, evaluations before others; the last ones are there."""
    rows = [
        {"step": i, "train_loss": 1.0, "val_loss": None if i % every else 2.0} for i in range(6994)
    ]
    samples = [{"step": row["step"], "text": ""} for row in rows if row["val_loss"]]
    (tmp_path / "report.html").write_text(report.page(rows, samples), encoding="utf-8")
    kept = facts(tmp_path)["rows"]["step"]
    assert len(kept) <= 1100 and kept[-1] == 6993 and kept == sorted(kept)
    if every == 999:
        assert set(range(0, 6994, 999)) <= {*kept}
    steps = [sample["step"] for sample in facts(tmp_path)["samples"]]
    assert len(steps) <= 201 and steps[-1] == 6993 and steps == sorted(steps)


def test_half_a_character_is_no_text():
    """A character of several tokens belongs to its last one; a guess of a part is told in hex."""
    tokenizer = BPETokenizer.from_text("да нет да нет", 257)
    ids = tokenizer.encode("да, нет")
    shown = report.pieces(tokenizer, ids)
    assert "".join(shown) == "да, нет" and "" in shown
    assert report.written("д".encode()) == "д" and report.written("д".encode()[:1]) == "⟨d0⟩"


def test_a_broken_model_has_no_passage(folder):
    """Nor attention: NaN is nothing that one could show."""
    model, tokenizer = GPT.from_pretrained(folder), load(folder / "tokenizer.json")
    model.wte.weight.data[...] = np.nan
    ids = tokenizer.encode(TEXT[:20])
    assert report.passage(model, tokenizer, ids) is None
    assert report.attention(model, tokenizer, ids[:8]) is None


TINY = "--device cpu --workers 1 --n-layer 1 --n-head 1 --n-embd 4 --block-size 4 --log-every 1"


@pytest.fixture
def run(tmp_path):
    """run(*flags): a tiny run into tmp_path/out."""
    (tmp_path / "text.txt").write_text(TEXT)
    where = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--quiet"]
    return lambda *flags: main([*TINY.split(), *where, *flags])


def test_a_run_that_was_stopped_says_so(run, tmp_path, monkeypatch):
    """And does not look again by itself; when it went on and ended, it has finished."""

    program = example("train_shakespeare")
    steps = program.train

    def stopping(*arguments):
        for result in steps(*arguments):
            if result.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield result

    monkeypatch.setattr(program, "train", stopping)
    assert run("--steps", "5", "--eval-every", "9") == 128 + signal.SIGTERM
    assert (facts(tmp_path / "out")["state"], facts(tmp_path / "out")["step"]) == ("stopped", 2)
    monkeypatch.undo()
    for _ in range(2):  # the second time there is nothing left to do
        assert main(["--resume", "--out", str(tmp_path / "out"), "--quiet"]) == 0
        found = facts(tmp_path / "out")
        assert (found["state"], found["step"], len(found["samples"])) == ("finished", 5, 2)
        (tmp_path / "out/report.html").unlink()


def test_while_it_runs_the_page_knows_what_is_left(run, tmp_path, monkeypatch):
    """Nothing before the first step; then training and evaluations to come, by a clock of ours."""
    clock, pages = types.SimpleNamespace(now=0.0), []

    def taking(seconds, function):
        def call(*args, **options):
            clock.now += seconds
            return function(*args, **options)

        return call

    page = report.page
    monkeypatch.setattr(
        report, "page", lambda *a, **facts: (pages.append(facts), page(*a, **facts))
    )
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(gpt_numpy.app.run_folder, "time", fake)
    monkeypatch.setattr(
        gpt_numpy.scale.train, "warmup_cosine", taking(1, gpt_numpy.scale.train.warmup_cosine)
    )
    program = example("train_shakespeare")
    monkeypatch.setattr(program, "evaluate", taking(100, program.evaluate))
    assert run("--steps", "12", "--eval-every", "4") == 0
    assert [page["step"] for page in pages] == [0, 4, 8, 12]
    assert [page["left"] for page in pages] == [None, 8 + 300, 4 + 200, 0]
    assert [page["look_again"] for page in pages][1:] == [4 + 200] * 3
    assert [page["state"] for page in pages] == ["running"] * 3 + ["finished"]


@pytest.mark.parametrize("display", [True, False])
def test_open_shows_the_page_in_a_browser(run, tmp_path, monkeypatch, capsys, display):
    """Once, without waiting for it; where there is no screen, the last words say so."""
    asked, closed = [], threading.Event()

    def wait(address):
        asked.append(address)
        closed.wait()

    monkeypatch.setattr(webbrowser, "open", wait)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "platform", "linux")
    where = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    assert main([*TINY.split(), *where, "--steps", "3", "--eval-every", "1", "--open"]) == 0
    closed.set()
    assert asked == [(tmp_path / "out/report.html").as_uri()] * display
    assert ("there is no display" in capsys.readouterr().out) == (not display)


@needs_browser
def test_the_page_in_a_browser(folder, tmp_path):
    """Every figure is there and fits, nothing is fetched, the console is silent; it can be used."""
    run = facts(folder)
    with browser() as running:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                with page(running, folder / "report.html", width, scheme) as opened:
                    check(opened, run, width)
        young = run | dict.fromkeys(("passage", "attention", "times", "entropy"))
        young |= {"state": "running", "vocab_size": 50_257, "uniform": math.log(50_257)}
        young["rows"] = {name: column[:1] for name, column in run["rows"].items()}
        path = tmp_path / "report.html"
        path.write_text(report.filled(young), encoding="utf-8")
        with page(running, path, 390) as opened:
            assert overflow(opened) <= 0
            assert not opened.is_visible("#passage") and not opened.is_visible("#heads")
            for text in ("among 50,257: ln 50,257 = 10.82", "learning patterns", "excellent"):
                assert text in opened.text_content("#loss")
            assert "left; this page looks again" in opened.inner_text("#state")


def check(opened, run, width):
    assert overflow(opened) <= 0
    last = run["samples"][-1]
    assert f"{last['val_loss']:.3f}" in opened.inner_text("#cards")
    for figure in ("loss", "lr", "norm", "rate", "map"):
        box = opened.locator(f"#{figure}").bounding_box()
        assert box["width"] > 200 and box["height"] > 150, figure
    n_rows = sum(x is not None for x in run["rows"]["train_loss"])
    lines = opened.eval_on_selector_all("#loss polyline", "ps => ps.map(p => p.points.length)")
    assert lines == [n_rows, 2, 2]  # training, validation, and between its first two, dashed
    for text in ("perplexity", "a uniform guess among"):
        assert text in opened.text_content("#loss")
    sizes = opened.eval_on_selector_all(
        "svg:not(#map) text, td, th, p, pre, figcaption",
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))",
    )
    assert min(sizes) >= 12
    labels = opened.locator("#map text").first.bounding_box()
    assert labels["height"] >= 8

    # samples: the newest at first, any other by the slider
    assert opened.text_content("#sample") == last["text"].lstrip("\n")
    opened.locator("#when").fill("0")
    assert opened.text_content("#sample") == run["samples"][0]["text"].lstrip("\n")
    assert "step 0," in opened.text_content("#heading")

    # surprise: the passage letter by letter, and what it says of one of them
    assert opened.text_content("#passage") == "".join(run["passage"]["tokens"])
    opened.locator("#passage span").nth(7).click()
    loss = run["passage"]["losses"][6]
    assert f"loss {loss:.2f}" in opened.text_content("#guess")
    worst = max(range(len(run["passage"]["losses"])), key=run["passage"]["losses"].__getitem__)
    assert (
        opened.text_content("#most tr:first-child td") == f"“{run['passage']['tokens'][worst + 1]}”"
    )

    # attention: a map for every head, drawn; another head can be chosen
    assert opened.locator("#heads canvas").count() == 6
    drawn = "cs => cs.map(c => c.getContext('2d').getImageData(0, 0, 16, 16).data.some(x => x > 0))"
    assert all(opened.eval_on_selector_all("#heads canvas", drawn))
    opened.locator("#heads button").nth(1).click()
    assert opened.text_content("#which") == "layer 1, head 2"
    assert opened.locator("#map rect").count() == 16 * 17 / 2

    assert opened.locator("#times tr").count() == len(run["times"]["ops"]) + 1
    assert opened.locator("#ladder tr").count() == 1 + len(run["ladder"]) + 2
    assert "this model, now" in opened.inner_text("#ladder .here")
    assert opened.text_content("#command") == run["command"]
    assert opened.locator("#settings tr").count() == len(run["settings"])
    opened.mouse.move(width / 2, opened.locator("#loss").bounding_box()["y"] + 50)
    opened.locator("#loss").hover()
    assert "training" in opened.text_content("#loss .reading")
