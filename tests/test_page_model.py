"""The model in report.html computes what Python computes, and a visitor can use it."""

import base64
import json
import re
import time
import zlib

import numpy as np
import pytest
from browser import WIDTHS, browser, needs_browser, overflow
from browser import page as open_page
from command import example

import minigrad as mg
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app import page_model, report
from gpt_numpy.app.inspect_model import attention_maps
from gpt_numpy.app.page_model import FEWER_DIGITS, PageModel, packed, rounded
from gpt_numpy.bpe import BYTES
from gpt_numpy.config import PRESETS, Architecture
from gpt_numpy.sample import probabilities, sample
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, special_token
from minigrad import random

TEXT = "The cat's hat, 12 hens; \n\n  naïve дождь 莎士比亚 👩‍🚀 it's  \t over.\n"
PLANTED = "</script><img src=x onerror=alert(1)><b>\u202e\x1b[31m&amp;${1}"


def model_of(vocab_size, bias=True, block_size=8, deviation=0.3):
    """Return a model with large weights that float16 can hold exactly."""
    mg.manual_seed(3)
    shape = {"n_layer": 2, "n_head": 3, "n_embd": 12, "block_size": block_size}
    model = GPT(GPTConfig(vocab_size=vocab_size, bias=bias, dropout=0.0, **shape)).eval()
    rng = np.random.default_rng(vocab_size)
    for p in model.parameters():
        p.data = rounded(p.data + deviation * rng.standard_normal(p.shape)).astype(np.float32)
    return model


def held(model, tokenizer, **options):
    """Return the PageModel of a model, which was evaluated once."""
    kept = PageModel(model, tokenizer, tokenizer.encode("\n"), **options)
    kept.keep_best(model, 20, 1.5)
    return kept


def unpacked(version):
    """Return the numbers that a page holds, one after another."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(version.weights)), np.uint8)
    return np.ascontiguousarray(planes.reshape(2, -1).T).view("<f2").ravel()


CHAR = CharTokenizer.from_text(TEXT + PLANTED)
BPE = BPETokenizer.from_text(TEXT * 3, 300)
ADDED = BPETokenizer(
    [*(bytes([byte]) for byte in BYTES), b"he", b"hen", b"<|a|>", b"<|a|>b"],
    [(b"h", b"e"), (b"he", b"n")],
    [special_token(258, "<|a|>"), special_token(259, "<|a|>b")],
)


# ---- what a page holds ---------------------------------------------------------------------------


def test_weights_are_rounded_to_binary_digits():
    """Ten of them are float16; fewer have an error of half a unit of the last one at most."""
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert (rounded(x) == x.astype(np.float16)).all()
    for digits in range(1, 10):
        assert abs(rounded(x, digits) / x - 1).max() < 2.0 ** -(digits + 1) + 2.0**-11
    edges = np.array([0, -0.0, 65504, 6e-8, 1e-9], np.float32)
    assert (rounded(edges) == edges.astype(np.float16)).all()


def test_the_page_holds_the_weights():
    """All of them, in the order of state_dict(), which the sizes follow."""
    model = model_of(CHAR.vocab_size)
    kept = held(model, CHAR)
    state = model.state_dict()
    expected = np.concatenate([array.ravel() for array in state.values()])
    assert (unpacked(kept.best) == expected).all()
    assert kept.sizes == [[name, array.size] for name, array in state.items()]


def test_a_page_without_a_model_says_why():
    """It was not wanted, is too large, or is broken; the early one goes first for want of room."""
    model = model_of(CHAR.vocab_size)
    assert held(model, CHAR, wanted=False).contents(10**7) == (
        {"missing": "--no-page-model left it out"}, ""
    )  # fmt: skip
    kept = held(model, CHAR)
    kept.keep_early(model, 0, 3.0)
    assert kept.early is None
    kept.keep_early(model, 10, 2.5)
    kept.keep_early(model, 15, 2.0)
    facts, elements = kept.contents(10**7)
    assert re.findall(r'data-step="(\d+)"', elements) == ["20", "10"]
    assert "missing" not in facts
    both = len(elements) + len(json.dumps(facts))
    assert kept.contents(both)[1] == elements
    assert re.findall(r'data-step="(\d+)"', kept.contents(both - 1)[1]) == ["20"]
    facts, elements = kept.contents(1000)
    assert "would make this page larger than 12 MB" in facts["missing"] and elements == ""
    model.h[0].mlp.fc.weight.data[0, 0] = 1e6
    facts, elements = held(model, CHAR).contents(10**7)
    assert "too large for float16" in facts["missing"] and elements == ""


def test_a_large_model_is_not_packed_at_all(monkeypatch):
    """Where a byte for each weight is too much already."""
    monkeypatch.setattr(page_model, "LARGEST", 1000)
    monkeypatch.delattr(page_model, "packed")
    kept = held(model_of(CHAR.vocab_size), CHAR)
    assert "larger than" in kept.contents(10**7)[0]["missing"]


def test_a_run_that_goes_on_recalls_the_early_model():
    """From its report, if it is of a step before, and of this model."""
    model = model_of(CHAR.vocab_size)
    kept = held(model, CHAR)
    kept.keep_early(model, 10, 2.5)
    _, elements = kept.contents(10**7)
    again = held(model, CHAR)
    again.recall_early(elements, 9)
    assert again.early is None
    other = held(model_of(CHAR.vocab_size, bias=False), CHAR)
    other.recall_early(elements, 20)
    other.recall_early(elements.replace(">e", ">!").replace("=</", "</"), 20)
    assert other.early is None
    again.recall_early(elements, 10)
    assert again.early == kept.early


def test_the_forward_pass_is_short():
    """200 lines, of a width that one can read."""
    lines = (report.HERE / "gpt.js").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 120


# ---- JavaScript beside Python --------------------------------------------------------------------


def facts_of(model, tokenizer, text=TEXT):
    """Return what else a report knows of a run, as short as it can be."""
    ids = tokenizer.encode(text)
    row = {"step": 0, "train_loss": 2.0, "val_loss": 1.5, "lr": 0.1, "grad_norm": 1.0}
    row |= {"tokens_per_second": 9.0}
    return {
        **{"title": text, "state": "finished", "step": 20, "steps": 20, "seconds": 1.0, "left": 0},
        **{"weights": 1, "memory": "1 MB", "vocab_size": model.config.vocab_size, "uniform": 4.0},
        **dict.fromkeys(("entropy", "text_entropy", "times")),
        "rows": [row],
        "samples": [{"step": 20, "val_loss": 1.5, "bits": 1.0, "text": text}],
        "passage": report.passage(model, tokenizer, ids),
        "attention": report.attention(model, tokenizer, ids[: model.config.block_size]),
        **{"settings": {"grad_clip": 1.0}, "command": "python", "versions": [], "look_again": 9},
    }


def write_page(path, model, tokenizer, kept, text=TEXT, **more):
    facts = facts_of(model, tokenizer, text) | more
    html = report.page(facts.pop("rows"), facts.pop("samples"), kept, **facts)
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def functions(chromium, tmp_path_factory):
    """evaluate(function, argument) on a page, for the functions of its scripts."""
    model = model_of(CHAR.vocab_size)
    path = tmp_path_factory.mktemp("page") / "report.html"
    with open_page(chromium, write_page(path, model, CHAR, held(model, CHAR)), 1280) as opened:
        yield opened.evaluate


GPT_OF = """
  const element = document.createElement("script");
  element.type = "text/plain";
  element.textContent = given.weights;
  const model = new GPT(given.config, await unpacked(element, given.sizes));
"""


def given(model, tokenizer, **more):
    kept = held(model, tokenizer)
    return kept.facts | {"weights": kept.best.weights} | more


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
@pytest.mark.parametrize("bias", [True, False])
def test_scores_and_attention_are_pythons(functions, tokenizer, bias):
    """To 1e-5 of the largest score, with the same float16 weights: rounding them changes more."""
    model = model_of(tokenizer.vocab_size, bias)
    rng = np.random.default_rng(5)
    for _ in range(3):
        ids = rng.integers(tokenizer.vocab_size, size=8)
        logits, looked = functions(
            "async given => {" + GPT_OF + """
              const logits = [], looked = [];
              for (const id of given.ids) {
                logits.push([...model.forward(id)]);
                looked.push(model.looked.map(p => [...p]));
              }
              return [logits, looked];
            }""",
            given(model, tokenizer, ids=ids.tolist()),
        )  # fmt: skip
        expected = model(ids[None]).data[0]
        error = abs(np.array(logits) - expected).max() / abs(expected).max()
        assert error < 1e-5
        maps = attention_maps(model, ids).reshape(6, 8, 8)  # (heads of all layers, T, T)
        for t, heads in enumerate(looked):
            np.testing.assert_allclose(np.array(heads), maps[:, t, : t + 1], rtol=0, atol=1e-5)


READ = """
  const reader = new Reader(model), ids = given.ids, written = [];
  for (const id of ids) for (const _ of reader.read(id));
  for (let n = 0; n < given.n; n++) {
    const p = probabilities(reader.logits, given.options);
    written.push(sample(p, uniform(given.seed, n)));
    for (const _ of reader.read(written[n]));
  }
"""
WAYS = [
    {"temperature": 0},
    {},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.5, "top_p": 0.8},
]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("options", WAYS, ids=["greedy", "plain", "top-k", "top-p"])
@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
def test_it_writes_what_python_writes(functions, tokenizer, options):
    """100 tokens past the window, with the random numbers of the same seed."""
    model = model_of(tokenizer.vocab_size)
    ids = tokenizer.encode("The")
    more = {"ids": ids.tolist(), "n": 108, "options": options, "seed": 7}
    written = functions(
        "async given => {" + GPT_OF + READ + "return written;}", given(model, tokenizer, **more)
    )
    expected = model.generate(ids[None], 108, seed=7, **options).numpy()[0, len(ids) :]
    assert written == expected.tolist()


@needs_browser
@pytest.mark.slow
def test_a_text_that_is_cut_is_read_as_if_it_were_new(functions):
    """Wherever it is cut: the next scores are those of a reader that never saw the rest."""
    model = model_of(CHAR.vocab_size)
    ids = np.random.default_rng(2).integers(CHAR.vocab_size, size=30).tolist()
    worst = functions(
        "async given => {" + GPT_OF + """
          const read = (reader, ids) => { for (const id of ids) for (const _ of reader.read(id)); };
          let worst = 0;
          for (let cut = 0; cut < given.ids.length; cut++) {
            const old = new Reader(model), young = new Reader(new GPT(given.config, model.state));
            model.length = 0;
            read(old, given.ids);
            old.cut(cut);
            read(old, [3]);
            read(young, [...given.ids.slice(0, cut), 3]);
            const off = old.logits.map((x, i) => Math.abs(x - young.logits[i]));
            worst = Math.max(worst, ...off);
          }
          return worst;
        }""",
        given(model, CHAR, ids=ids),
    )  # fmt: skip
    assert worst == 0


@needs_browser
@pytest.mark.slow
def test_sampling_is_pythons(functions):
    """The probabilities to 1e-6, the token of a random number, and the random numbers exactly."""
    rng = np.random.default_rng(1)
    for options in [*WAYS, {"top_k": 3, "top_p": 0.5}, {"top_p": 0.05}, {"temperature": 0.05}]:
        logits = np.round(3 * rng.standard_normal((4, 11)), 1)  # some are equal
        expected = probabilities(logits, **options)
        run = "([rows, options]) => rows.map(logits => [...probabilities(logits, options)])"
        found = np.array(functions(run, [logits.tolist(), options]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        u = rng.random(4)
        drawn = functions(
            "([ps, u]) => ps.map((p, i) => sample(p, u[i]))", [found.tolist(), u.tolist()]
        )
        assert drawn == sample(expected, u).tolist()
    for seed in (0, 7, 2**40 + 1):
        numbers = np.random.Generator(random.philox((seed, 0, 0, 0), random.SAMPLE)).random(9)
        run = "seed => Array.from({length: 9}, (_, n) => uniform(seed, n))"
        assert functions(run, seed) == numbers.tolist()


TEXTS = [
    TEXT,
    "",
    "'s it's 'S  'll we're",
    "a\u0085b\ufeffc \x1c d\u00a0e\u3000f",
    "   hen   \n \n hens\n\n",
    "henhenhehen 12³½ <|a|>b<|a|>c<|a|",
    "𝔘𝔫𝔦 é e\u0301 ﬁ ١٢ ǅ _-_ …",
]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [BPE, ADDED], ids=["learned", "added tokens"])
def test_byte_pairs_are_pythons(functions, tokenizer):
    """The ids of texts, and what each of them adds to the text."""
    facts = page_model.tokenizer_facts(tokenizer)
    run = """([facts, texts]) => {
      const tokenizer = new BPETokenizer(facts);
      return texts.map(text => {
        const ids = tokenizer.encode(text);
        return [ids, pieces(tokenizer, ids), ids.map(id => written(tokenizer.bytes[id]))];
      });
    }"""
    for text, (ids, pieces, alone) in zip(TEXTS, functions(run, [facts, TEXTS]), strict=True):
        expected = tokenizer.encode(text).tolist()
        assert ids == expected, text
        shown = report.shown([report.pieces(tokenizer, ids)])[0]
        assert pieces == shown and alone == report.shown(
            [report.written(tokenizer.decode_bytes([i])) for i in ids]
        )


@needs_browser
@pytest.mark.slow
def test_characters_are_pythons(functions):
    """Those that the model does not know are left out."""
    facts = page_model.tokenizer_facts(CHAR)
    run = "([facts, text]) => new CharTokenizer(facts).encode(text)"
    for text in (TEXT, PLANTED):
        assert functions(run, [facts, text + "§"]) == CHAR.encode(text).tolist()


@needs_browser
@pytest.mark.slow
def test_what_is_not_shown_is_the_same(functions):
    """Every character of the first planes: see CONTROL of report.py."""
    points = [i for i in range(0x10000) if not 0xD800 <= i < 0xE000]
    text = "".join(map(chr, points))
    assert functions("text => safe(text)", text) == report.shown(text)


# ---- a visit -------------------------------------------------------------------------------------


def until(opened, condition, seconds=60):
    """Wait for a condition in JavaScript: the page's policy forbids Playwright's own way."""
    end = time.monotonic() + seconds
    while not opened.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def ready(opened):
    until(opened, "document.getElementById('progress').textContent !== ''")


@needs_browser
@pytest.mark.slow
def test_a_visit(chromium, tmp_path):
    """Type, read, choose a token, let it go on, move a slider, compare: by mouse and by keys."""
    model = model_of(CHAR.vocab_size)
    kept = held(model, CHAR)
    kept.keep_early(model_of(CHAR.vocab_size, deviation=0.1), 10, 2.5)
    path = write_page(tmp_path / "report.html", model, CHAR, kept)
    for width in WIDTHS:
        with open_page(chromium, path, width, "dark" if width == 390 else "light") as opened:
            ready(opened)
            assert overflow(opened) <= 0
            assert opened.text_content("#theirs") == opened.input_value("#prompt") == TEXT
            assert "step 20" in opened.text_content("#progress")
            assert "step 10" in opened.text_content("#progress")

            opened.fill("#prompt", "The cat§")
            until(opened, "document.getElementById('theirs').textContent === 'The cat'")
            until(opened, "document.getElementById('progress').textContent.includes('§')")
            opened.focus("#theirs")
            opened.keyboard.press("Home")
            assert "first token" in opened.text_content("#their-guess")
            for _ in range(2):
                opened.keyboard.press("ArrowRight")
            ids = CHAR.encode("The")
            p = probabilities(model(ids[None, :2]).data[0, -1:])[0]
            assert f"loss {-np.log(p[ids[2]]):.2f}" in opened.text_content("#their-guess")
            assert opened.get_attribute("#token-2", "aria-selected") == "true"
            assert opened.get_attribute("#theirs", "aria-activedescendant") == "token-2"
            assert opened.get_attribute("#token-3", "aria-label") == "space"

            maps = attention_maps(model, ids)
            opened.locator("#their-heads button").nth(4).focus()
            opened.keyboard.press("Enter")
            most = maps[1, 1, 2].argmax()
            expected = (
                f"layer 2, head 2 takes the most from “{'The'[most]}” {maps[1, 1, 2, most]:.2f}"
            )
            assert opened.text_content("#their-look").startswith(expected)

            # the candidates, and how a slider moves them
            next_p = probabilities(model(CHAR.encode("The cat")[None]).data[0, -1:])[0]
            cells = "rows => rows.map(row => +row.lastChild.textContent)"
            chances = opened.eval_on_selector_all("#candidates button", cells)
            # two digits are shown, and the scores differ by 1e-5 of the largest
            assert chances == pytest.approx(np.sort(next_p)[::-1][:8].tolist(), abs=0.005 + 1e-4)
            opened.locator("#temperature").fill("0")
            assert opened.eval_on_selector_all("#candidates button", cells) == [1] + [0] * 7

            opened.locator("#go").focus()
            opened.keyboard.press("Enter")
            until(opened, "document.querySelectorAll('#theirs .own').length > 30")
            opened.keyboard.press("Enter")
            until(opened, "document.getElementById('progress').textContent.startsWith('It wrote')")
            text = opened.text_content("#theirs")
            ids = model.generate(CHAR.encode("The cat")[None], len(text) - 7, temperature=0)
            assert text == report.shown(CHAR.decode(ids.numpy()[0]))
            opened.locator("#versions-of-it button").first.click()
            until(opened, "document.getElementById('progress').textContent.includes('step 10')")
            opened.click("#back")
            until(opened, "document.getElementById('theirs').textContent === 'The cat'")
            opened.locator("#candidates button").first.click()
            until(opened, "document.querySelectorAll('#theirs .own').length === 1")
            opened.fill("#prompt", "")
            until(opened, "document.getElementById('theirs').textContent === '\\n'")
            assert overflow(opened) <= 0
            small = opened.eval_on_selector_all(
                "#speak :is(p, small, button, label, div)",
                "all => Math.min(...all.map(e => parseFloat(getComputedStyle(e).fontSize)))",
            )
            assert small >= 12


@needs_browser
@pytest.mark.slow
def test_a_page_in_use_is_not_loaded_again(chromium, tmp_path):
    """The page of a running run reloads itself, but not after a visitor has typed something."""
    model = model_of(CHAR.vocab_size)
    path, running = tmp_path / "report.html", {"state": "running", "look_again": 1}
    write_page(path, model, CHAR, held(model, CHAR), **running)
    with open_page(chromium, path, 390) as opened:
        ready(opened)
        assert "this page looks again by itself" in opened.inner_text("#state")
        opened.fill("#prompt", "The cat")
        until(opened, "document.getElementById('state').textContent.includes('reload this page')")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
def test_planted_text_runs_no_code(chromium, tmp_path, tokenizer):
    """In the data, in the vocabulary, and in what a visitor types: it is shown as text."""
    if tokenizer is BPE:
        tokenizer = BPETokenizer.from_text(PLANTED * 4, 300)
    model = model_of(tokenizer.vocab_size)
    kept = held(model, tokenizer)
    path = write_page(tmp_path / "report.html", model, tokenizer, kept, PLANTED)
    alone = write_page(tmp_path / "alone.html", model, tokenizer, kept, "The cat\n")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert f'content="{policy}; img-src data:"' in path.read_text(encoding="utf-8")
    count = "document.querySelectorAll('script, img, b, iframe').length"
    with open_page(chromium, path, 390) as opened:
        ready(opened)
        with open_page(chromium, alone, 390) as other:
            ready(other)
            n = other.evaluate(count)
        assert opened.evaluate(count) == n
        opened.fill("#prompt", PLANTED * 2)
        until(opened, "document.getElementById('theirs').textContent.length > 90")
        assert opened.text_content("#theirs") == report.shown(PLANTED * 2)
        opened.keyboard.press("Tab")
        opened.locator("#theirs span").nth(5).click()
        opened.click("#one")
        until(opened, "document.getElementById('progress').textContent.startsWith('It wrote')")
        assert opened.evaluate(count) == n


@needs_browser
@pytest.mark.slow
def test_without_scripts_the_page_is_what_it_was(chromium, tmp_path):
    """The part with the model is hidden; and where it is missing, a line says why."""
    model = model_of(CHAR.vocab_size)
    kept = {"with": held(model, CHAR), "without": held(model, CHAR, wanted=False), "none": None}
    texts = {}
    for name, page_of in kept.items():
        path = write_page(tmp_path / f"{name}.html", model, CHAR, page_of)
        context = chromium.new_context(java_script_enabled=False)
        opened = context.new_page()
        opened.goto(path.as_uri())
        texts[name] = opened.inner_text("body")
        context.close()
    assert texts["with"] == texts["without"] == texts["none"]
    assert "Talk to it" not in texts["with"] and "The loss falls" in texts["with"]
    with open_page(chromium, tmp_path / "without.html", 390) as opened:
        assert "--no-page-model left it out" in opened.inner_text("#speak")
        assert not opened.is_visible("#talk")
    with open_page(chromium, tmp_path / "none.html", 390) as opened:
        assert not opened.is_visible("#speak")


@needs_browser
@pytest.mark.slow
def test_a_small_page_and_a_quick_model(chromium, tmp_path):
    """The preset laptop: both models in 3 MB, and 30 tokens a second, on a machine that is idle."""
    shape = {name: getattr(Architecture(), name) for name in Architecture.__dataclass_fields__}
    assert PRESETS["laptop"] == {}
    mg.manual_seed(1)
    model = GPT(GPTConfig(vocab_size=CHAR.vocab_size, **shape)).eval()
    kept = held(model, CHAR)
    kept.keep_early(model, 10, 2.5)
    path = write_page(tmp_path / "report.html", model, CHAR, kept)
    assert path.stat().st_size < 3_000_000 - 50_000  # the passage and the curves of a real run
    with open_page(chromium, path, 1280) as opened:
        ready(opened)
        more = {"ids": [1], "n": 120, "options": {}, "seed": 7}
        seconds = opened.evaluate(
            "async given => {" + GPT_OF + "const start = performance.now();" + READ
            + "return (performance.now() - start) / 1000;}",
            given(model, CHAR, **more),
        )  # fmt: skip
    print(f"{120 / seconds:.0f} tokens a second; {path.stat().st_size:,} bytes")
    assert 120 / seconds > 5  # other programs may be running


# ---- runs ----------------------------------------------------------------------------------------

main = example("train_shakespeare").main
TINY = "--device cpu --workers 1 --n-layer 1 --n-head 1 --n-embd 4 --block-size 4 --log-every 1"


@pytest.mark.slow
def test_a_run_and_the_model_in_its_report(tmp_path):
    """The best weights, those of the first evaluation too; both are there when it goes on."""
    (tmp_path / "text.txt").write_text("the cat and the hen. " * 40)
    out, data = tmp_path / "out", str(tmp_path / "text.txt")
    flags = [*TINY.split(), "--steps", "6", "--eval-every", "2", "--quiet", "--data", data]
    assert main([*flags, "--out", str(out)]) == 0

    def weights():
        html = (out / "report.html").read_text(encoding="utf-8")
        return {int(step): w for step, _, w in page_model.ELEMENT.findall(html)}

    first = weights()
    assert len(first) == 2 and min(first) == 2
    best = GPT.from_pretrained(out).state_dict()
    assert first[max(first)] == packed(best)
    assert main(["--resume", "--steps", "8", "--out", str(out), "--quiet"]) == 0
    assert weights()[2] == first[2]
    assert main(["--resume", "--steps", "9", "--no-page-model", "--out", str(out), "--quiet"]) == 0
    assert weights() == {}


@pytest.mark.slow
def test_fewer_digits_change_the_loss_little():
    """The early model is rounded to 3 binary digits: its scores change by a few percent."""
    model = model_of(CHAR.vocab_size)
    ids = np.random.default_rng(0).integers(CHAR.vocab_size, size=(20, 8))
    before = model(ids).data
    state = {
        name: rounded(x, FEWER_DIGITS).astype(x.dtype) for name, x in model.state_dict().items()
    }
    model.load_state_dict(state)
    assert abs(model(ids).data - before).mean() < 0.1 * before.std()
