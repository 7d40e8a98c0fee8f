"""The lesson's notebooks print and draw what PyTorch, mathematics or the lesson says.

A quick notebook is run here cell by cell, in this process, and must print what the saved one has.
The training runs of the long ones are left out; what they printed is read from the saved notebooks,
and `pytest -m slow` runs every notebook in a kernel of its own, and compares.
"""

import ast
import contextlib
import io
import itertools
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import matplotlib.image
import nbformat
import numpy as np
import pytest
import torch as pytorch
import torch.nn.functional as TF
from browser import browser, needs_browser, page
from command import EXAMPLES
from threadpoolctl import threadpool_limits
from twin import Twin, gradients, in_our_names

import minigrad
import minigrad.ops
import minigrad.tensor
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app import report
from gpt_numpy.corpus import grammar
from gpt_numpy.data import DataLoader
from gpt_numpy.lesson import figures, shapes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import notebooks  # noqa: E402

sys.path.remove(str(ROOT / "docs"))

NAMES = sorted(path.stem for path in (EXAMPLES / "lesson").glob("*.py"))
STOP = {  # long notebooks -> the heading at which a quick run ends
    "05_training_loop": "## Text, batches, model",
    "06_training_curve": "## The model, and what it writes before training",
    "08_accumulation": "## The last group",
    "10_sampling": "## A model to write with",
    "11_what_goes_wrong": "## Four broken training runs",
}
# Half a unit of the second decimal, the last that is printed; and 1e-4 for a value on the half.
TWO_DIGITS = 0.005 + 1e-4


def source(name):
    return EXAMPLES / f"lesson/{name}.py"


def saved(name):
    """The notebook in the repository, with its outputs."""
    return nbformat.read(source(name).with_suffix(".ipynb"), as_version=4)


def text_of(name):
    """All that a saved notebook printed, and its prose."""
    parts = []
    for cell in saved(name).cells:
        parts += [cell.source] if cell.cell_type == "markdown" else []
        parts += [output.text for output in cell.get("outputs", []) if "text" in output]
    return "\n".join(parts)


def run_cell(code, names):
    """Run a cell; return its text outputs as Jupyter has them: what it prints, its last value."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    outputs = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    if printed.getvalue():
        outputs.append(printed.getvalue())
    if value is not None:
        outputs.append(repr(value))
    return outputs


done: dict = {}  # name -> what lesson(name) returned


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    """lesson(name): run a notebook as far as it is quick; (all it printed, its names).

    Every cell must print what is saved.
    """
    monkeypatch.setattr(minigrad.tensor, "OPS", dict(minigrad.OPS))  # where broken ops are entered
    monkeypatch.chdir(tmp_path)

    def lesson(name):
        if name in done:
            return done[name]
        names = {"__name__": "lesson"}
        everything = []
        with threadpool_limits(1), matplotlib.rc_context():
            for cell, before in zip(
                notebooks.unexecuted(source(name)).cells, saved(name).cells, strict=True
            ):
                if cell.cell_type == "markdown" and STOP.get(name, "no end") in cell.source:
                    break
                if cell.cell_type == "code":
                    outputs = run_cell(cell.source, names)
                    assert outputs == notebooks.printed_by(before), cell.source
                    everything += outputs
        out = "\n".join(everything)
        lines = [line for line in out.split("\n") if not line.startswith("<")]
        assert max(map(len, lines)) <= 100
        done[name] = out, names
        return done[name]

    return lesson


def numbers(text):
    """The numbers in a text, in order."""
    return [
        float(number.replace(",", ""))
        for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", text)
    ]


def rows(out, pattern):
    """The numbers of each line that matches the pattern, what is matched left out."""
    return [
        numbers(re.sub(pattern, "", line)) for line in out.split("\n") if re.match(pattern, line)
    ]


# ---- the notebooks as files ----------------------------------------------------------------------


def test_there_are_twelve_and_each_has_a_test():
    """Numbered from 1; each leads to the next one."""
    assert [name[:2] for name in NAMES] == [f"{n:02}" for n in range(1, 13)]
    assert [name for name in NAMES if f"test_{name}" not in globals()] == []
    for name, following in itertools.pairwise(NAMES):
        last = notebooks.unexecuted(source(name)).cells[-1].source
        assert re.search(rf"\nNext: \[{int(following[:2])}\. .*\]\({following}\.ipynb\)", last)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_script_executed(name):
    """Cell by cell, from top to bottom, without errors, paths of a machine, or its versions."""
    expected, notebook = notebooks.unexecuted(source(name)), saved(name)
    nbformat.validate(notebook)
    assert notebook.metadata == expected.metadata
    for cell, before in zip(expected.cells, notebook.cells, strict=True):
        assert (cell.cell_type, cell.source, cell.id) == (
            before.cell_type, before.source, before.id,
        ), "run: python docs/notebooks.py"  # fmt: skip
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = sum((cell.outputs for cell in code), [])
    assert {output.get("name", "stdout") for output in outputs} <= {"stdout"}
    assert {o.output_type for o in outputs} <= {"stream", "execute_result"}
    text = source(name).with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text) < 300_000
    for path in ("/tmp", "/home", "/root", "/Users", "site-packages", str(ROOT)):
        assert path not in text, path
    assert "Colab" in code[0].source
    first = [cell.source for cell in notebooks.unexecuted(source(NAMES[0])).cells]
    assert code[0].source in first  # the same in all


@pytest.mark.parametrize(
    "name",
    [n if n == "02_build_a_tape" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_a_kernel_prints_what_is_saved(name, tmp_path, monkeypatch):
    """A fresh execution, as a reader's: the same text outputs; figures may differ in a pixel."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = notebooks.execute(notebooks.unexecuted(source(name)), tmp_path)
    for cell, before in zip(notebook.cells, saved(name).cells, strict=True):
        assert notebooks.printed_by(cell) == notebooks.printed_by(before), cell.source


POINTS = [  # the lesson's points, in its order: the notebook, and what it must show
    ("03_next_token", "writes gibberish"),
    ("03_next_token", "[The, cat, sat] -> on [The, cat"),
    ("03_next_token", "All questions at once"),
    ("04_cross_entropy", "confident and wrong"),
    ("04_cross_entropy", "perplexity 7.39: as if undecided between 7 or 8 tokens"),
    ("04_cross_entropy", "loss 10.82 perplexity 50,000: a uniform guess over 50,000"),
    ("04_cross_entropy", "loss 4.17 perplexity 65"),
    ("04_cross_entropy", "10.82 50,000 untrained 6.00 403 early"),
    ("04_cross_entropy", "Another vocabulary is another ladder"),
    ("05_training_loop", "Epoch 0 | Loss: "),
    ("06_training_curve", "Before training:"),
    ("06_training_curve", "levels off above the dashed line"),
    ("07_schedule", "rate 6.0e-04 the peak"),
    ("07_schedule", "rate 6.0e-05 the floor, a tenth of the peak"),
    ("08_accumulation", "512"),
    ("08_accumulation", "The last group"),
    ("09_attention", "causal mask"),
    ("10_sampling", "temperature 0.5: 0.86 0.12 0.02 0.00"),
    ("10_sampling", "top-p, p = 0.9 0.44 0.33 0.22 0.00"),
    ("10_sampling", "The generating loop"),
]


def test_every_point_of_the_lesson_is_there():
    """In the lesson's order."""
    texts = {name: " ".join(text_of(name).split()) for name in NAMES}
    assert [point for point in POINTS if point[1] not in texts[point[0]]] == []
    assert [name for name, _ in POINTS] == sorted(name for name, _ in POINTS)
    for name in NAMES:
        places = [texts[name].index(shown) for where, shown in POINTS if where == name]
        assert places == sorted(places), name


# ---- notebook by notebook ------------------------------------------------------------------------


def test_01_derivative(lesson):
    """((2+h)³ − (2−h)³) / 2h is 12 + h², but for rounding, 40 times 2⁻⁵³ each, divided by 2h."""
    out, names = lesson("01_derivative")
    assert out.startswith("backward() says 12.0\n")
    steps, slopes = np.array(names["steps"]), np.array(names["slopes"])
    np.testing.assert_array_equal(steps, 10.0 ** -np.arange(0, 17, 2))
    assert (abs(slopes - (12 + steps**2)) <= 40 * 2**-53 / steps).all()
    table = re.findall(r"^ (1e\S+) +(\S+) +(\S+)$", out, re.MULTILINE)
    for h, slope, row in zip(steps, slopes, table, strict=True):
        assert row == (f"{h:.0e}", f"{slope:.8f}", f"{abs(slope - 12):.0e}")
    best = min(zip(names["fine_errors"], names["fine"], strict=True))
    assert best[0] / 12 < 1e-10 and 1e-7 < best[1] < 1e-4 and slopes[-1] == 0
    assert "2000 evaluations" in out and "1 evaluation and one pass" in out
    np.testing.assert_allclose(names["w"].grad, 2 * (names["path"][-2] - 3), rtol=1e-15)
    np.testing.assert_allclose(names["path"], 3 - 3 * 0.8 ** np.arange(11), rtol=1e-14)


def test_02_build_a_tape(lesson):
    """Five steps, run; the last one has about 80 lines and finds minigrad's gradients, each bit."""
    out, names = lesson("02_build_a_tape")
    assert out.count("dx 42.0   dw 28.0   db 14.0") == 2 and "dx 52.0   dw 28.0" in out
    assert "row has shape (3,) and its gradient (2, 3)\n" in out  # the trap
    assert "row has shape (3,) and its gradient (3,) [2. 2. 2.]\n" in out
    assert "answers: 0.00 1.00 1.00 0.00\n" in out
    assert out.count("equal to the last bit: True") == 5
    code = source("02_build_a_tape").read_text(encoding="utf-8")
    assert code.count("\n# ## Step ") == 5
    pages = code[code.index("def unbroadcast") : code.index("add = op(add_page)\ntape")]
    tape = code[code.index("clock = ") : code.index("# That is the whole machine")]
    lines = [x for x in (pages + tape).splitlines() if x.strip() and not x.startswith("#")]
    assert 65 <= len(lines) <= 85


UNARY = ["exp", "tanh", "sigmoid", "gelu", "softmax", "layer_norm", "neg"]


def test_the_tape_of_the_lesson_is_minigrads(lesson):
    """100 random graphs, whose results are used several times: the same order, so the same bits."""
    _, names = lesson("02_build_a_tape")
    ours = {name: names["op"](minigrad.OPS[name].__wrapped__) for name in minigrad.OPS}

    def grown(ops, leaves, rng):
        """The loss of a graph in which any earlier result may be used again."""
        values = list(leaves)
        for _ in range(rng.integers(2, 12)):
            x, y = (values[rng.integers(len(values))] for _ in range(2))
            name = [*UNARY, "add", "mul", "sub", "maximum"][rng.integers(len(UNARY) + 4)]
            if name == "layer_norm":
                values.append(ops[name](x, None, None))
            else:
                values.append(ops[name](x) if name in UNARY else ops[name](x, y))
        return ops["sum"](ops["mul"](values[-1], values[rng.integers(len(values))]))

    n_compared = 0
    for seed in range(100):
        arrays = np.random.default_rng(seed).standard_normal((2, 3, 4))
        our_leaves = [names["Tensor"](a, requires_grad=True) for a in arrays]
        their_leaves = [minigrad.Tensor(a, requires_grad=True) for a in arrays]
        grown(ours, our_leaves, np.random.default_rng([seed, 1])).backward()
        with minigrad.plain():
            grown(minigrad.OPS, their_leaves, np.random.default_rng([seed, 1])).backward()
        for x, y in zip(our_leaves, their_leaves, strict=True):
            assert (x.grad is None) == (y.grad is None)
            if y.grad is not None:
                np.testing.assert_array_equal(x.grad, y.grad)
                n_compared += 1
    assert n_compared > 120


def test_03_next_token(lesson):
    """The lesson's pairs; y is x moved by one; the bigram model's loss, counted once more."""
    out, names = lesson("03_next_token")
    pairs = re.findall(r"^\[(.*)\] +-> (.*)$", out, re.MULTILINE)
    assert pairs[:3] == [("The", "cat"), ("The, cat", "sat"), ("The, cat, sat", "on")]
    assert pairs[-1] == ("The, cat, sat, on, the, mat", ".") and len(pairs) == 6
    x, y = names["x"].numpy(), names["y"].numpy()
    assert x.shape == y.shape == (1, 6) and (x[0, 1:] == y[0, :-1]).all()
    x_words, x_ids, y_words, y_ids = out[out.index("\nx ") + 1 :].split("\n")[:4]
    assert x_words.split() == ["x", "The", "cat", "sat", "on", "the", "mat"]
    assert y_words.split() == ["y", "cat", "sat", "on", "the", "mat", "."]
    assert (numbers(x_ids), numbers(y_ids)) == (x[0].tolist(), y[0].tolist())
    assert len(set(y_ids.split())) == 6  # "The" and "the" are two

    play, cut = names["play"], names["cut"]
    counted: dict = {}
    for a, b in itertools.pairwise(play[:cut]):
        counted.setdefault(a, {}).setdefault(b, 0)
        counted[a][b] += 1
    V = len(set(play))

    def p(a, b):
        return (counted[a].get(b, 0) + 1) / (sum(counted[a].values()) + V)

    tail = play[cut:]
    loss = -np.mean([math.log(p(a, b)) for a, b in itertools.pairwise(tail)])
    [(uniform, bigram)] = rows(out, r"mean of -ln p:")
    assert uniform == pytest.approx(math.log(V), abs=TWO_DIGITS)
    assert bigram == pytest.approx(loss, abs=TWO_DIGITS) and bigram < uniform - 1
    for following, probability in re.findall(r"after 'h' comes '(.)' .* (\d\.\d+)$", out, re.M):
        assert float(probability) == pytest.approx(p("h", following), abs=TWO_DIGITS)


def test_04_cross_entropy(lesson):
    """PyTorch's probabilities and losses, the lesson's numbers, the ladder."""
    out, names = lesson("04_cross_entropy")
    table = rows(out, r"(confident|leaning|undecided|certain)[a-z ]+")
    for *scores, p, loss in table:
        logits = pytorch.tensor([scores], dtype=pytorch.float64)
        assert p == pytest.approx(TF.softmax(logits, -1)[0, 0].item(), abs=1e-6)
        theirs = TF.cross_entropy(logits, pytorch.tensor([0])).item()
        assert loss == pytest.approx(theirs, abs=1e-4)
    losses = [row[-1] for row in table]
    assert len(losses) == 6 and losses == sorted(losses) and losses[0] < 0.01 and losses[-1] > 10

    logits = pytorch.tensor(names["logits"], requires_grad=True)
    theirs = TF.cross_entropy(logits, pytorch.tensor(names["targets"]))
    theirs.backward()
    for [printed] in rows(out, r"(ours|minigrad) "):
        assert printed == pytest.approx(theirs.item(), abs=1e-6)
    np.testing.assert_allclose(names["x"].grad, logits.grad, rtol=0, atol=1e-15)
    assert "equal to the formula: True\n" in out

    assert names["ladder"] == [(loss, what.partition(":")[0]) for loss, what in report.LADDER]
    for (loss, meaning), row in zip(names["ladder"], rows(out, r" +(?=\d+\.\d\d +)"), strict=True):
        assert row[0] == pytest.approx(loss, abs=TWO_DIGITS), meaning
        last_digit = 1 if row[1] >= 20 else 0.1  # as printed
        assert row[1] == pytest.approx(math.exp(loss), abs=last_digit / 2)
    for line, loss, n in (("untrained", math.log(65), 1), ("1.5", 1.5, 1), ("3.0", 3.0, 4)):
        [(perplexity, bits)] = rows(out, rf"(characters|word pieces), (loss )?{line}")
        assert perplexity == pytest.approx(math.exp(loss), abs=0.05)  # one digit is printed
        assert bits == pytest.approx(report.bits(loss, n), abs=TWO_DIGITS)

    rungs = names["figure"].axes[0]
    points = [line.get_xydata()[0] for line in rungs.get_lines() if len(line.get_xdata()) == 1]
    np.testing.assert_allclose([math.log(x) for x, _ in points], [y for _, y in points])
    assert [y for _, y in points] == [loss for loss, _ in names["ladder"]]
    assert {text.get_text() for text in rungs.texts} >= {"1.00  excellent", "untrained  10.82"}


def test_05_training_loop(lesson):
    """It starts at ln V, and the loss falls from epoch to epoch.  (PyTorch's loop: see below.)"""
    lesson("05_training_loop")
    out = text_of("05_training_loop")
    V = len(set(grammar.generate(50_000)))
    start = math.log(V)
    assert f"  A uniform guess among {V}: ln {V} = {start:.2f}\n" in out
    untrained = float(re.search(r"^Untrained: loss (\d\.\d+)\.", out, re.MULTILINE)[1])
    # Scores of variance s raise the loss by s / 2, here s = 64 · 0.02² = 0.026.  The mean over the
    # 1024 characters of a batch deviates by √(s / 1024) = 0.005; two digits are printed.
    assert untrained == pytest.approx(start, abs=0.013 + 2 * 0.005 + TWO_DIGITS)
    assert f" scores (32, 32, {V})\n" in out
    losses = [float(loss) for loss in re.findall(r"^Epoch \d \| Loss: (.*)$", out, re.MULTILINE)]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert losses[0] < start - 0.5 and losses[-1] < start - 1.3
    assert "the gradient is 2.0000 times as long" in out
    assert "largest difference below 1e-14: True" in out


def test_06_training_curve(lesson):
    """The curve has the shape that the text says; the entropy is that of the grammar."""
    lesson("06_training_curve")
    out = text_of("06_training_curve")
    entropy = grammar.entropy_per_character()
    assert re.search(rf"entropy of the grammar: +{entropy:.3f}\n", out)
    held_out = {
        int(step): [float(x) for x in (loss, perplexity, bits)]
        for step, loss, perplexity, bits in re.findall(
            r"^step +(\d+) +held-out loss (\S+) +perplexity +(\S+) +(\S+) bits", out, re.M
        )
    }
    losses = [loss for loss, *_ in held_out.values()]
    assert [*held_out] == [*range(100, 1001, 100)] and losses == sorted(losses, reverse=True)
    for loss, perplexity, bits in held_out.values():
        assert perplexity == pytest.approx(math.exp(loss), abs=0.05 + 0.005 * math.exp(loss))
        assert bits == pytest.approx(report.bits(loss), abs=0.005 + 0.005 / math.log(2))
    assert 2.1 < losses[0] < 2.5  # the shoulder, a little above 2
    assert entropy + 0.3 < losses[-1] < 1.1  # it levels off above the dashed line
    assert losses[-2] - losses[-1] < 0.1 < losses[3] - losses[4]
    nats, n = grammar.negative_log_likelihood(grammar.generate(300_000)[270_000:])
    assert f"knows the grammar: {nats / n:.3f}\n" in out
    [(_, share)] = rows(out, r"of the way from ln")
    final = float(re.search(r"loss of the model: +(\S+),", out)[1])
    start = math.log(len(set(grammar.generate(300_000))))
    assert share == pytest.approx(100 * (start - final) / (start - entropy), abs=0.7)
    # It speaks: after training most words are words of the play, before it almost none is.
    words = set(re.findall(r"[a-z']+", grammar.generate(300_000).lower()))
    spoken = {}
    for cell in saved("06_training_curve").cells:
        for output in cell.get("outputs", []):
            if "print(write(model" in cell.source and "text" in output:
                found = re.findall(r"[a-z']+", output.text.lower())
                spoken[cell.source[-20:]] = np.mean([word in words for word in found])
    before, after = spoken.values()
    assert before < 0.5 < 0.85 < after


def test_07_schedule(lesson):
    """The lesson's figure: every rate by the formula, both phases, peak and floor."""
    out, names = lesson("07_schedule")
    table = [row for row in rows(out, r"step(?= )")]
    assert table == [[1, 6e-7], [500, 3e-4], [1000, 6e-4], [5500, 3.3e-4], [10_000, 6e-5]]
    assert "equal to minigrad.schedule at every step: True\n" in out

    figure = names["figure"]
    assert tuple(figure.get_size_inches()) == (12, 6)
    axes = figure.axes[0]
    course, *dashed = axes.get_lines()
    steps, rates = course.get_data()
    falling = 6e-5 + 5.4e-4 * np.cos(np.pi / 2 * (steps - 1_000) / 9_000) ** 2
    np.testing.assert_array_equal(steps, np.arange(1, 10_001))
    np.testing.assert_allclose(
        rates, np.where(steps < 1_000, 6e-7 * steps, falling), rtol=1e-9, atol=0
    )
    lines = {(line.get_ydata()[0], line.get_linestyle()) for line in dashed}
    assert lines == {(6e-4, "--"), (6e-5, "--")}
    shaded = [(span.get_x(), span.get_x() + span.get_width()) for span in axes.patches]
    assert shaded == [(0, 1_000), (1_000, 10_000)]
    labels = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert labels.keys() == {"warm-up", "cosine decay", "peak: 6e-04", "floor: 6e-05"}
    assert 0 < labels["warm-up"] < 1_000 < labels["cosine decay"] < 10_000


def test_08_accumulation(lesson):
    """The same step as PyTorch takes on the large batch, at 1e-12; its gradient's length, and 64 x.

    (PyTorch's loop: see below.)
    """
    out, names = lesson("08_accumulation")
    assert "a weight moved by at most 3e-04\n" in out and names["off"] < 1e-12
    twin = Twin(names["untrained"].config).double()
    twin.load_ours(names["untrained"].state_dict())
    optimizer = pytorch.optim.AdamW(twin.parameters(), lr=3e-4)
    x, y = (pytorch.tensor(names[name].numpy()) for name in ("all_x", "all_y"))
    assert len(x) == 512 and {len(x) for x, _ in names["train_loader"]} == {8}
    TF.cross_entropy(twin(x).flatten(0, 1), y.flatten()).backward()
    length = math.sqrt(sum((gradient**2).sum() for gradient in gradients(twin).values()))
    optimizer.step()
    check_weights(names["model"], in_our_names(twin, dict(twin.named_parameters())), 1e-12)
    lengths = [row[-1] for row in rows(out, r"(length of the gradient|64 batches of 8)")]
    assert lengths[0] == lengths[1] == pytest.approx(length, abs=1e-4)
    assert lengths[2] == pytest.approx(64 * length, abs=1e-4)
    rest = text_of("08_accumulation").partition("## The last group")[2]
    assert "70 batches; sequences in the last six: [8, 8, 8, 8, 8, 3]\n" in rest
    assert rest.count(": 2\n") == 2 and "differ by less than 1e-12: True\n" in rest


def test_the_last_group_counts_as_it_should(lesson):
    """The function of the lesson, on batches of several lengths: the gradients of whole groups."""
    _, names = lesson("08_accumulation")
    code = source("08_accumulation").read_text(encoding="utf-8")
    functions = re.search(r"^def groups.*?(?=^more = )", code, re.M | re.S)[0]
    exec(functions, names)
    ids = np.random.default_rng(2).integers(50, size=(23, 17))
    batches, first = [], 0
    for n in (4, 4, 4, 4, 4, 3):
        rows_of = ids[first : first + n]
        batches.append((minigrad.Tensor(rows_of[:, :-1]), minigrad.Tensor(rows_of[:, 1:])))
        first += n
    many, twin = GPT(names["untrained"].config), Twin(names["untrained"].config).double()
    many.to(dtype=np.float64)
    many.load_state_dict(names["untrained"].state_dict())
    twin.load_ours(names["untrained"].state_dict())
    assert names["train"](many, batches, 4) == 2
    optimizer = pytorch.optim.AdamW(twin.parameters(), lr=3e-4)
    for group in (ids[:16], ids[16:]):
        optimizer.zero_grad()
        x = pytorch.tensor(group)
        TF.cross_entropy(twin(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
        optimizer.step()
    check_weights(many, in_our_names(twin, dict(twin.named_parameters())), 1e-9)


def test_09_attention(lesson):
    """PyTorch's attention, forward and backward at 1e-12, its weights as drawn."""
    out, names = lesson("09_attention")
    q, k, v = (pytorch.tensor(array, requires_grad=True) for array in names["arrays"])
    theirs = TF.scaled_dot_product_attention(q, k, v, is_causal=True)
    theirs.backward(pytorch.tensor(names["dout"]))
    pairs = [(names["out"].data, theirs.detach())]
    pairs += [(names[name].grad, t.grad) for name, t in (("q", q), ("k", k), ("v", v))]
    for ours, expected in pairs:
        np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-12)
    assert out.count("they differ by less than 1e-14: True") == 4
    scores = (q @ k.mT / 2).detach()[0, 0]  # the root of 4 channels is 2
    scores = scores.masked_fill(pytorch.ones(6, 6).triu(1).bool(), -math.inf)
    weights = TF.softmax(scores, -1).numpy()
    axes = names["figure"].axes[0]
    drawn = np.zeros((6, 6))
    for text in axes.texts:
        column, row = text.get_position()
        drawn[row, column] = float(text.get_text())
    np.testing.assert_allclose(drawn, weights, rtol=0, atol=TWO_DIGITS)
    assert [label.get_text() for label in axes.get_yticklabels()] == names["words"]
    assert "stay the same to the last bit: True\nwithout it: False\n" in out
    spreads = rows(out, r"D =")
    assert [row[0] for row in spreads] == [4, 64, 1024]
    for D, spread, divided in spreads:
        assert spread == pytest.approx(math.sqrt(D), rel=0.05)  # of 10,000 products
        assert divided == pytest.approx(1, rel=0.06)
    n = sum(p.size for p in names["model"].parameters())
    assert f"\n{n:,} weights\n" in out and f"{n:,} in all" in names["shapes_svg"](names["config"])


RIGHT = {  # what the six ops of notebook 11 compute, in PyTorch's words
    "square": lambda x: x * x,
    "rows_0_1_0": lambda x: x[[0, 1, 0]],
    "normalize": lambda x: TF.layer_norm(x, x.shape[-1:]),
    "softmax_by_entry": lambda x: TF.softmax(x, -1),
    "softmax_upside_down": lambda x: TF.softmax(x, -1),
}


def test_10_sampling(lesson):
    """The lesson's examples by hand: e to the scores over T; the first two, the first three."""
    out, names = lesson("10_sampling")
    scores, likely = [2.0, 1.0, 0.1, -1.0], [0.40, 0.30, 0.20, 0.05, 0.03, 0.02]
    expected = {"scores": scores}
    for temperature in (0.5, 1.0, 1.5):
        e = np.exp(np.array(scores) / temperature)
        expected[f"temperature {temperature}"] = e / e.sum()
    expected["top-k, k = 2"] = [4 / 7, 3 / 7, 0, 0, 0, 0]
    expected["top-p, p = 0.9"] = [4 / 9, 3 / 9, 2 / 9, 0, 0, 0]
    for name, values in expected.items():
        [printed] = rows(out, rf"{name}:? +(?=[-\d])")
        np.testing.assert_allclose(printed, values, rtol=0, atol=TWO_DIGITS, err_msg=name)
    assert "= 0.8999999999999999   at least 0.9? False" in out
    assert out.count("the same: True") == 4

    panels = names["figure"].axes
    drawn = {
        bars.get_label(): [bar.get_height() for bar in bars]
        for axes in panels
        for bars in axes.containers
    }
    assert len(panels) == 3 and drawn.pop("before") == likely
    assert drawn.keys() == expected.keys() - {"scores"}
    for name, heights in drawn.items():
        np.testing.assert_allclose(heights, expected[name], rtol=0, atol=1e-12, err_msg=name)

    written = text_of("10_sampling").partition("## The generating loop")[2]
    assert "the same 44 tokens: True\n" in written
    words = set(re.findall(r"[a-z']+", grammar.generate(200_000).lower()))
    share = {}
    for name, text in re.findall(r"^--- ([^\n]*)\nBRIDGET:\n(.*?)\n\n", written, re.M | re.S):
        found = re.findall(r"[a-z']+", text.lower())
        share[name] = np.mean([word in words for word in found])
    assert len(share) == 5 and share["temperature 2.0"] < 0.5  # it spells badly
    assert min(share[name] for name in share if "top" in name) > share["temperature 2.0"] + 0.2
    table = re.findall(r"^(t.*?) +(\d+)% +(\d+)$", written, re.M)
    wrong = {name: int(percent) for name, percent, _ in table}
    different = {name: int(n) for name, _, n in table}
    assert wrong.keys() == share.keys()
    low, normal, high, *tops = share
    assert wrong[low] < 10 and different[low] < 0.6 * different[normal] and wrong[high] > 50
    for name in tops:
        assert wrong[name] < wrong[normal] and different[name] > 0.75 * different[normal]


def test_11_what_goes_wrong(lesson):
    """The forward of each is PyTorch's, its gradient is not at the entry that the check names."""
    out, names = lesson("11_what_goes_wrong")
    fault, *verdicts = sorted(re.findall(r"^(?:input|add_row).*$", out, re.M), key=len)
    assert fault == "add_row: gradient of shape (2, 3) for an input (3,)" and len(verdicts) == 5
    verdicts = re.findall(r"^input.*$", out, re.M)
    x, row = names["x"], names["row"]
    np.testing.assert_array_equal(names["add_row"](x, row).data, x + row)
    for (name, right), verdict in zip(RIGHT.items(), verdicts, strict=True):
        wrong, theirs = minigrad.Tensor(x, True), pytorch.tensor(x, requires_grad=True)
        ours, expected = names[name](wrong), right(theirs)
        np.testing.assert_allclose(ours.data, expected.detach(), rtol=0, atol=1e-14)
        dout = np.random.default_rng(0).standard_normal(expected.shape)  # as gradcheck has it
        ours.backward(dout)
        expected.backward(pytorch.tensor(dout))
        _, i, j, backward, differences = numbers(verdict)
        entry = int(i), int(j)
        assert verdict.startswith(f"input 0, entry {entry}: backward gives ")
        assert backward == pytest.approx(wrong.grad[entry], abs=1e-6)  # six decimals are printed
        assert differences == pytest.approx(theirs.grad[entry].item(), abs=1e-6)
        assert abs(backward - differences) > 0.01
    for zeros in rows(out, r"(this rule |right rule)"):
        assert zeros == [0, 0, 0]


def test_broken_runs_look_as_described():
    """What notebook 11 says of the four curves, and of what the models write."""
    out = text_of("11_what_goes_wrong")
    ends = re.findall(r"^([a-z -]+?) {2,}(?:about )?(\d\S*)(?:   (.*))?$", out, re.M)
    loss = {name: float(number) for name, number, _ in ends}
    written = {name: ast.literal_eval(text) for name, _, text in ends if text}
    entropy = grammar.entropy_per_character()
    V = len(set(grammar.generate(100_000)))
    assert [*loss] == [
        "healthy", "rate too high", "no warm-up", "targets not shifted", "mask forgotten",
    ]  # fmt: skip
    assert "more than 0.15 above the healthy run: True" in out
    assert "more than 0.5 above that: True" in out
    assert math.log(V) - 1.2 < loss["rate too high"] < math.log(V)
    assert loss["targets not shifted"] < 0.05 and loss["mask forgotten"] < entropy - 0.1
    assert len(set(written["targets not shifted"][2:])) == 1  # it repeats its last character
    longest = max(len(m[0]) for m in re.finditer(r"(.)\1*", written["mask forgotten"]))
    assert longest > 10 > max(len(m[0]) for m in re.finditer(r"(.)\1*", written["healthy"]))


def test_12_graph(lesson, tmp_path):
    """The tape as minigrad has it; the gradients of the chain and of the stream, by PyTorch."""
    out, names = lesson("12_graph")
    for name in ("expression", "gpt"):
        assert (tmp_path / f"runs/lesson/{name}.svg").exists()
    assert "runs/lesson/gpt.svg (click a block" in out
    table = re.findall(r"^node (\d)  (\w+) +(\(.*?\)) +(.*)$", out, re.M)
    assert table == [
        ("3", "pow", "()", "node 2, a number"),
        ("2", "add", "()", "node 1, b"),
        ("1", "sum", "()", "node 0"),
        ("0", "mul", "(3,)", "x, w"),
    ]
    x, w, b = (pytorch.tensor(t, requires_grad=True) for t in ([1.0, 2, 3], [0.5, -1, 2], 0.25))
    (((x * w).sum() + b) ** 2).backward()
    for name, t in (("x", x), ("w", w), ("b", b)):
        np.testing.assert_allclose(names[name].grad, t.grad, rtol=1e-6)
    counts = dict((kind, int(n)) for n, kind in re.findall(r"^ +(\d+)  (\w+)$", out, re.M))
    assert sum(counts.values()) == int(re.search(r"^(\d+) operations", out, re.M)[1]) == 95
    assert counts["attention"] == 4 and counts["layer_norm"] == 9  # two a block, and the last

    for residual, name in ((False, "chain"), (True, "stream")):
        generator = np.random.default_rng(0)
        h, probes = pytorch.tensor(generator.standard_normal((8, 64))), []
        for _ in range(24):
            probes.append(pytorch.zeros(8, 64, dtype=pytorch.float64, requires_grad=True))
            h = h + probes[-1]
            weight = pytorch.tensor(0.02 * generator.standard_normal((64, 64)))
            new_h = TF.gelu(h @ weight.mT, approximate="tanh")
            h = h + new_h if residual else new_h
        h.backward(pytorch.tensor(generator.standard_normal((8, 64))))
        lengths = [probe.grad.norm().item() for probe in probes]
        np.testing.assert_allclose(names[name], lengths, rtol=1e-10)
    assert names["chain"][0] < 1e-6 * names["chain"][-1]  # lost on the way
    assert 0.2 < names["stream"][-1] / names["stream"][0] < 5  # it arrives


# ---- figures -------------------------------------------------------------------------------------

COLOURS = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.PURPLE, figures.INK)
# What a colour-blind reader sees, for linear RGB: Machado et al. 2009, severity 1.
SEEN = {
    "by most": np.eye(3),
    "without long cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "without middle cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "without short cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip


def linear_rgb(colour):
    """sRGB, "#rrggbb", as amounts of light (IEC 61966-2-1)."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast of WCAG 2: from 1 to 21."""
    lights = sorted(linear_rgb(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (one, other))
    return lights[1] / lights[0]


def lab(light):
    """CIE L*a*b* of linear RGB, in which equal distances look about equally large."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
         [0.0193339, 0.1191920, 0.9503041]]
    )  # fmt: skip
    xyz = to_xyz @ np.clip(light, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_can_be_told_apart(kind):
    """20 units apart (2 are noticeable), with the contrast that WCAG asks of large text."""
    for one, other in itertools.combinations(COLOURS, 2):
        seen = [lab(SEEN[kind] @ linear_rgb(c)) for c in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 20, (one, other)
    for colour in (*COLOURS, figures.GREY):
        assert contrast(colour, figures.PAPER) > 3, colour


def test_figures_can_be_read_on_a_phone_and_on_dark_pages():
    """Letters are 10 of 360 pixels; the image is opaque; a user's settings change nothing."""
    theirs = {"font.size": 3, "figure.facecolor": "none", "axes.facecolor": "red"}
    images = []
    for settings in ({}, theirs):
        with matplotlib.rc_context(settings):
            figure, axes = figures.new("A title", width=12, height=6, xlabel="x", ylabel="y")
            axes.plot([0, 1])
            images.append(figure._repr_png_())
            size = axes.xaxis.label.get_fontsize()
            assert size / 72 * 360 / figure.get_figwidth() == 10  # points, inches, pixels
    assert images[0] == images[1] and repr(figure) == "<figure: A title>"
    pixels = matplotlib.image.imread(io.BytesIO(images[0]))
    assert pixels.shape == (600, 1200, 4) and (pixels[..., 3] == 1).all()
    _, (top, bottom) = figures.new("One", "Two")
    assert top.get_position().y0 > bottom.get_position().y0


def test_running_mean():
    """Of three at most: by hand."""
    np.testing.assert_allclose(figures.running_mean([3, 1, 2, 9], 3), [3, 2, 2, 4], rtol=1e-15)


# ---- the lesson's two loops, as the notebooks have them, on PyTorch ------------------------------

VOCAB_SIZE = 13
NAMES_OF_LOOPS = {"epochs": 2, "accumulation_steps": 3, "vocab_size": VOCAB_SIZE}
IMPORTS = "import minigrad as torch\nimport minigrad.ops as F\n"


def loop_of(name):
    """The lines from the optimizer to the end of the loop, out of a notebook's source."""
    text = source(name).read_text(encoding="utf-8")
    assert text.count(IMPORTS) == 1
    return re.search(r"^optimizer = .*\n(?:(?:optimizer|for|    ).*\n|\n)+", text, re.MULTILINE)[0]


def run(loop):
    """Run a loop on minigrad and, unchanged, on PyTorch: (prints, models) of both."""
    minigrad.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=VOCAB_SIZE, block_size=5, n_layer=1, n_head=2, n_embd=8))
    model.to(dtype=np.float64)
    twin = Twin(model.config).double()
    twin.load_ours(model.state_dict())
    loader = DataLoader(np.random.default_rng(0).integers(VOCAB_SIZE, size=120), 4, 5, seed=1)

    class TorchLoader:
        def __iter__(self):
            return ((pytorch.tensor(x.numpy()), pytorch.tensor(y.numpy())) for x, y in loader)

    prints = []
    for names in (
        {"model": model, "train_loader": loader, "torch": minigrad, "F": minigrad.ops},
        {"model": twin, "train_loader": TorchLoader(), "torch": pytorch, "F": TF},
    ):
        loader.epoch = 0
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(loop, "<the lesson>", "exec"), NAMES_OF_LOOPS | names)
        prints.append(out.getvalue())
    return prints, model, in_our_names(twin, dict(twin.named_parameters()))


def check_weights(model, theirs, atol=1e-9):
    for name, p in model.named_parameters():
        if "key.bias" not in name:  # no gradient but rounding, which Adam scales up to a step
            np.testing.assert_allclose(
                p.data, theirs[name].detach().numpy(), rtol=0, atol=atol, err_msg=name
            )


def test_the_training_loop_runs_on_pytorch():
    """The same prints and, at 1e-9, the same weights."""
    loop = loop_of("05_training_loop")
    assert loop.strip().count("\n") == 11
    (ours, theirs), model, weights = run(loop)
    assert ours == theirs and ours.startswith("Epoch 0 | Loss: ") and ours.count("\n") == 2
    check_weights(model, weights)


def test_the_accumulation_loop_runs_on_pytorch():
    """At 1e-9 the same weights."""
    loop = loop_of("08_accumulation")
    assert "loss = loss / accumulation_steps\n" in loop and loop.endswith("zero_grad()\n\n")
    _, model, weights = run(loop)
    check_weights(model, weights)


# ---- the picture of the shapes -------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_of_the_shapes_is_made_by_its_script(tmp_path):
    """docs/shapes.svg is what the command writes; every number is the model's."""
    path = ROOT / "docs/shapes.svg"
    assert path.read_text(encoding="utf-8") == shapes.shapes_svg(shapes.LAPTOP)
    for bias in (False, True):
        config = GPTConfig(vocab_size=50, block_size=8, n_layer=3, n_head=2, n_embd=12, bias=bias)
        root = ElementTree.fromstring(shapes.shapes_svg(config))
        texts = [element.text or "" for element in root.iter(f"{SVG}text")]
        counts = [int(t.replace(",", "").removesuffix(" weights")) for t in texts
                  if re.fullmatch(r"[\d,]+ weights", t)]  # fmt: skip
        (tokens, *block, last) = counts
        sizes = {name: p.size for name, p in GPT(config).named_parameters()}
        assert tokens == 50 * 12 + 8 * 12 and last == 12 * (1 + bias)
        assert len(block) == 6 and sum(block) == sum(
            size for name, size in sizes.items() if name.startswith("h.0.")
        )
        assert f"a block: {sum(block):,} weights, 3 times" in texts
        assert texts.count(f"One pass of a GPT with {sum(sizes.values()):,} weights") == 1
        assert tokens + 3 * sum(block) + last == sum(sizes.values())


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_of_the_shapes_can_be_read(scheme):
    """On a phone: no text leaves the picture or meets another; large contrast, light and dark."""
    with browser() as running, page(running, ROOT / "docs/shapes.svg", 390, scheme) as opened:
        boxes = np.array(opened.evaluate(TEXT_BOXES))
        colours = opened.evaluate(
            "() => ['text', '.gs-paper', '.gs-box', '.gs-note', '.gs-orange'].map(s => {"
            " const style = getComputedStyle(document.querySelector(s)); return style.fill })"
        )
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (right <= 390).all() and len(boxes) > 30
    assert (bottom - top >= 12).all()  # pixels: a line of text of 12
    meet = (left[:, None] < right) & (left < right[:, None])
    meet &= (top[:, None] + 1 < bottom) & (top + 1 < bottom[:, None])
    assert meet.sum() == len(boxes)  # each with itself
    ink, paper, box, note, orange = (
        "#" + "".join(f"{int(n):02x}" for n in re.findall(r"\d+", colour)[:3]) for colour in colours
    )
    for text in (ink, note, orange):
        assert min(contrast(text, paper), contrast(text, box)) >= 4.5  # WCAG, small text
    assert (contrast(paper, "#000000") < 3) == (scheme == "dark")


TEXT_BOXES = """() => [...document.querySelectorAll("text")]
    .map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])
    .filter(([left, , right]) => right > left)"""
