"""The lesson's scripts run, and print and draw what PyTorch, mathematics or the lesson says."""

import contextlib
import io
import math
import re
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as pytorch
import torch.nn.functional as TF
from command import EXAMPLES
from threadpoolctl import threadpool_limits
from twin import Twin, gradients, in_our_names

import minigrad
import minigrad.ops
import minigrad.tensor
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.app import report
from gpt_numpy.data import DataLoader

SCRIPTS = {path.stem: path for path in (EXAMPLES / "lesson").glob("*.py")}
# Half a unit of the second decimal, the last that is printed; and 1e-4 for a value on the half.
TWO_DIGITS = 0.005 + 1e-4
FIGURES = {"3_cross_entropy": (8, 4.5), "5_schedule": (12, 6), "9_sampling": (12, 4)}  # inches


@pytest.fixture
def lesson(monkeypatch, tmp_path, capsys):
    """lesson(name, *arguments): run a script in an empty folder; what it prints, and its names.

    Whatever is printed is to be read in a terminal of 88 columns, whichever letters it knows.
    """
    monkeypatch.setattr(minigrad.tensor, "OPS", dict(minigrad.OPS))  # where broken ops are entered
    monkeypatch.chdir(tmp_path)

    def lesson(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS[name]), *map(str, arguments)])
        with threadpool_limits(1):  # threads of BLAS wait for each other where others compute too
            names = runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
        out = capsys.readouterr().out
        assert out.isascii() and out.endswith("\n") and not out.endswith("\n\n")
        assert [line for line in out.split("\n") if len(line) > 88 or line != line.rstrip()] == []
        return out, names

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


def test_every_script_has_a_test():
    """Named after it, here or in another file; and each says in its docstring how to run it."""
    tests = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    assert len(SCRIPTS) >= 9
    assert [name for name in SCRIPTS if f"\ndef test_{name}(" not in tests] == []
    for name, path in SCRIPTS.items():
        docstring = path.read_text(encoding="utf-8").split('"""')[1]
        assert f"\n    python examples/lesson/{name}.py" in docstring


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_goes_where_it_is_told(name, lesson, tmp_path):
    """Into the file named, in a folder that need not exist; 120 dots to the inch."""
    path = tmp_path / "new" / "figure.png"
    out, _ = lesson(name, path.relative_to(tmp_path))
    assert out.endswith(" drawn in new/figure.png\n") and not (tmp_path / "runs").exists()
    width, height = FIGURES[name]
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (120 * width, 120 * height)


def figure_of(name, out, names, tmp_path):
    """The figure of a script that was told no path; that it says where it is, and is there."""
    assert out.endswith(f" drawn in runs/lesson/{name}.png\n")
    assert (tmp_path / f"runs/lesson/{name}.png").read_bytes().startswith(b"\x89PNG")
    figure = names["figure"]
    assert tuple(figure.get_size_inches()) == FIGURES[name]
    for axes in figure.axes:
        assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
    return figure


# ---- script by script ----------------------------------------------------------------------------


def test_1_derivative(lesson):
    """((2+h)³ − (2−h)³) / 2h is 12 + h², but for rounding, 40 times 2⁻⁵³ each, divided by 2h."""
    out, names = lesson("1_derivative")
    assert "backward() says 12.0\n" in out
    table = re.findall(r"^ (1e\S+) +(\S+) +(\S+)   (.*)$", out, re.MULTILINE)
    for h, (step, slope, error, _) in zip(10.0 ** -np.arange(0, 17, 2), table, strict=True):
        assert float(step) == h
        assert abs(float(slope) - (12 + h**2)) <= 40 * 2**-53 / h
        assert error == f"{abs(float(slope) - 12):.0e}"
    remarks = [remark for *_, remark in table]
    n = remarks.index("just right")
    assert remarks[:n] == ["too large: f is curved"] * n and n >= 2
    assert set(remarks[n + 1 : -1]) == {"too small: rounding"}
    assert remarks[-1].startswith("much too small") and 2 + 1e-16 == 2
    assert min(names["errors"]) / 12 < 1e-10


def test_2_next_token(lesson):
    """The lesson's pairs; y is x moved by one, in words and in numbers."""
    out, names = lesson("2_next_token")
    pairs = re.findall(r"^\[(.*)\] +-> (.*)$", out, re.MULTILINE)
    assert pairs[:3] == [("The", "cat"), ("The, cat", "sat"), ("The, cat, sat", "on")]
    assert pairs[-1] == ("The, cat, sat, on, the, mat", ".") and len(pairs) == 6
    x, y = names["x"].numpy(), names["y"].numpy()
    assert x.shape == y.shape == (1, 6) and (x[0, 1:] == y[0, :-1]).all()
    (*_, x_words, x_ids, y_words, y_ids), _ = (part.split("\n") for part in out.rsplit("\n\n", 1))
    assert x_words.split() == ["x", "The", "cat", "sat", "on", "the", "mat"]
    assert y_words.split() == ["y", "cat", "sat", "on", "the", "mat", "."]
    assert (numbers(x_ids), numbers(y_ids)) == (x[0].tolist(), y[0].tolist())
    assert len(set(y_ids.split())) == 6  # "The" and "the" are two


def test_3_cross_entropy(lesson, tmp_path):
    """PyTorch's probabilities and losses, the lesson's numbers; the curve, three points of it."""
    out, names = lesson("3_cross_entropy")
    table = rows(out, r"(confident|leaning|undecided|certain)[a-z ]+")
    for *scores, p, loss, perplexity in table:
        logits = pytorch.tensor([scores], dtype=pytorch.float64)
        assert p == pytest.approx(TF.softmax(logits, -1)[0, 0].item(), abs=1e-6)
        theirs = TF.cross_entropy(logits, pytorch.tensor([0])).item()
        assert loss == pytest.approx(theirs, abs=1e-4)
        assert perplexity == pytest.approx(math.exp(theirs), rel=1e-6, abs=0.005)  # two decimals
    losses = [row[-2] for row in table]
    assert len(losses) == 6 and losses == sorted(losses) and losses[0] < 0.01 and losses[-1] > 10
    for said in ("7.39, as if undecided among 7 or 8", "ln 50,000 = 10.82", "ln 65 = 4.17"):
        assert said in out
    assert f"\n\n{report.ladder()}\n\n" in out and "word pieces" in out  # see test_report.py

    curve, *points = figure_of("3_cross_entropy", out, names, tmp_path).axes[0].get_lines()
    p, loss = curve.get_data()
    np.testing.assert_allclose(np.exp(-loss), p, rtol=1e-12)
    assert p.min() < math.exp(-7) and p.max() == 1
    for point, row in zip(points, (table[0], table[2], table[4]), strict=True):
        np.testing.assert_allclose(point.get_xydata()[0], row[-3:-1], atol=1e-4)


def test_4_training_loop(lesson):
    """It starts at ln V, and the loss falls from epoch to epoch.  (PyTorch's loop: see below.)"""
    out, names = lesson("4_training_loop")
    V = len(set(names["text"]))
    assert out.startswith(f"Untrained, it guesses among {V} characters: a loss of ln {V} = ")
    start = float(re.search(r" = (\d\.\d{4})\n", out)[1])
    assert start == pytest.approx(math.log(V), abs=1e-4)
    losses = [float(loss) for loss in re.findall(r"^Epoch \d \| Loss: (.*)$", out, re.MULTILINE)]
    assert len(losses) == names["epochs"] and losses == sorted(losses, reverse=True)
    assert losses[0] < start - 0.5 and losses[-1] < start - 1.3


def test_5_schedule(lesson, tmp_path):
    """The lesson's figure: every rate by the formula, both phases, peak and floor."""
    out, names = lesson("5_schedule")
    table = [numbers(line) for line in out.split("\n")[1:6]]
    assert table == [[1, 6e-7], [500, 3e-4], [1000, 6e-4], [5500, 3.3e-4], [10_000, 6e-5]]

    axes = figure_of("5_schedule", out, names, tmp_path).axes[0]
    course, *dashed = axes.get_lines()
    steps, rates = course.get_data()
    falling = 6e-5 + 5.4e-4 * np.cos(np.pi / 2 * (steps - 1_000) / 9_000) ** 2
    np.testing.assert_array_equal(steps, np.arange(1, 10_001))
    np.testing.assert_allclose(
        rates, np.where(steps < 1_000, 6e-7 * steps, falling), rtol=1e-9, atol=0
    )
    assert {(line.get_ydata()[0], line.get_linestyle()) for line in dashed} == {
        (6e-4, "--"),
        (6e-5, "--"),
    }
    shaded = [(span.get_x(), span.get_x() + span.get_width()) for span in axes.patches]
    assert shaded == [(0, 1_000), (1_000, 10_000)]
    labels = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert labels.keys() == {"warm-up", "cosine decay", "peak: 6e-04", "floor: 6e-05"}
    assert 0 < labels["warm-up"] < 1_000 < labels["cosine decay"] < 10_000


def test_6_accumulation(lesson):
    """The same step as PyTorch takes on the large batch, at 1e-12; its gradient's length, and 64 x.

    (PyTorch's loop: see below.)
    """
    out, names = lesson("6_accumulation")
    moved, off = (float(text) for text in re.findall(r" (\de-\d\d)$", out, re.MULTILINE)[:2])
    assert moved == 3e-4 and off < 1e-12
    twin = Twin(names["untrained"].config).double()
    twin.load_ours(names["untrained"].state_dict())
    optimizer = pytorch.optim.AdamW(twin.parameters(), lr=3e-4)
    x, y = (pytorch.tensor(names[name].numpy()) for name in ("all_x", "all_y"))
    assert len(x) == 512 and {len(x) for x, _ in names["train_loader"]} == {8}
    TF.cross_entropy(twin(x).flatten(0, 1), y.flatten()).backward()
    length = math.sqrt(sum((gradient**2).sum() for gradient in gradients(twin).values()))
    optimizer.step()
    check_weights(names["model"], in_our_names(twin, dict(twin.named_parameters())), 1e-12)
    (one, zero), (divided, rounding), (undivided, error) = rows(out, r"of (one|64) [a-z\d, ]*?  +")
    assert one == divided == pytest.approx(length, abs=1e-4) and zero == 0 and rounding < 1e-12
    assert undivided == pytest.approx(64 * length, abs=1e-4)
    assert error == pytest.approx(63 * length, abs=0.5)  # printed to one digit: half of its unit


def test_7_attention(lesson):
    """PyTorch's attention, forward and backward at 1e-12, and its weights as printed."""
    out, names = lesson("7_attention")
    q, k, v = (pytorch.tensor(array, requires_grad=True) for array in names["arrays"])
    theirs = TF.scaled_dot_product_attention(q, k, v, is_causal=True)
    theirs.backward(pytorch.tensor(names["dout"]))
    pairs = [(names["out"].data, theirs.detach())]
    pairs += [(names[name].grad, t.grad) for name, t in (("q", q), ("k", k), ("v", v))]
    table = rows(out, r"(out|dq|dk|dv) ")
    for (ours, expected), (largest, difference) in zip(pairs, table, strict=True):
        np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-12)
        assert (
            largest == pytest.approx(abs(expected).max().item(), abs=TWO_DIGITS) and largest > 0.1
        )
        assert difference < 1e-12
    scores = (q @ k.mT / 2).detach()[0, 0]  # the root of 4 channels is 2
    for t, row in enumerate(rows(out, r"(The|cat|sat|on|the|mat) +(?=\d)")):
        np.testing.assert_allclose(row, TF.softmax(scores[t, : t + 1], -1), rtol=0, atol=TWO_DIGITS)
    assert t == 5


RIGHT = {  # what the six ops of 8_what_goes_wrong compute, in PyTorch's words
    "square": lambda x: x * x,
    "rows_0_1_0": lambda x: x[[0, 1, 0]],
    "normalize": lambda x: TF.layer_norm(x, x.shape[-1:]),
    "softmax_by_entry": lambda x: TF.softmax(x, -1),
    "softmax_upside_down": lambda x: TF.softmax(x, -1),
}


def test_8_what_goes_wrong(lesson):
    """The forward of each is PyTorch's, its gradient is not at the entry that the check names."""
    out, names = lesson("8_what_goes_wrong")
    verdicts = dict(re.findall(r"^(\d\. .*)\n   (.*)\n", out, re.MULTILINE))
    assert [int(title[0]) for title in verdicts] == [1, 2, 3, 4, 5, 6]
    fault = verdicts.pop("2. What was broadcast is not summed, in x + row")
    assert fault == "add_row: gradient of shape (2, 3) for an input (3,)"
    x, row = names["x"], names["row"]
    np.testing.assert_array_equal(names["add_row"](x, row).data, x + row)
    for (name, right), verdict in zip(RIGHT.items(), verdicts.values(), strict=True):
        wrong, theirs = minigrad.Tensor(x, True), pytorch.tensor(x, requires_grad=True)
        ours, expected = names[name](wrong), right(theirs)
        np.testing.assert_allclose(ours.data, expected.detach(), rtol=0, atol=1e-14)
        dout = np.random.default_rng(0).standard_normal(expected.shape)  # as gradcheck has it
        ours.backward(dout)
        expected.backward(pytorch.tensor(dout))
        _, i, j, backward, differences = numbers(verdict)
        entry = int(i), int(j)
        assert verdict.startswith(f"input 0, entry {entry}: backward gives ")
        assert backward == pytest.approx(wrong.grad[entry], rel=1e-8)
        assert differences == pytest.approx(theirs.grad[entry].item(), rel=1e-6)
        assert abs(backward - differences) > 0.01
    for zeros in rows(out, r"   (this rule gives|the right rule ) "):
        assert zeros == [0, 0, 0]
    assert out.count("0.0000000000") == 6


def test_9_sampling(lesson, tmp_path):
    """The lesson's examples by hand: e to the scores over T; the first two, the first three."""
    out, names = lesson("9_sampling")
    scores, likely = [2.0, 1.0, 0.1, -1.0], [0.40, 0.30, 0.20, 0.05, 0.03, 0.02]
    expected = {"scores": scores}
    for temperature in (0.5, 1.0, 1.5):
        e = np.exp(np.array(scores) / temperature)
        expected[f"temperature {temperature}"] = e / e.sum()
    expected["probabilities"] = likely
    expected["top-k, k = 2"] = [4 / 7, 3 / 7, 0, 0, 0, 0]
    expected["top-p, p = 0.9"] = [4 / 9, 3 / 9, 2 / 9, 0, 0, 0]
    for name, values in expected.items():
        [printed] = rows(out, rf"{name} +(?=[-\d])")
        np.testing.assert_allclose(printed, values, rtol=0, atol=TWO_DIGITS, err_msg=name)

    panels = figure_of("9_sampling", out, names, tmp_path).axes
    drawn = {
        bars.get_label(): [bar.get_height() for bar in bars]
        for axes in panels
        for bars in axes.containers
    }
    assert len(panels) == 3 and drawn.pop("before") == likely
    assert drawn.keys() == expected.keys() - {"scores", "probabilities"}
    for name, heights in drawn.items():
        np.testing.assert_allclose(heights, expected[name], rtol=0, atol=1e-12, err_msg=name)


# ---- the lesson's two loops, as the scripts have them, on PyTorch --------------------------------

VOCAB_SIZE = 13
NAMES = {"epochs": 2, "accumulation_steps": 3, "vocab_size": VOCAB_SIZE}
IMPORTS = "import minigrad as torch\nimport minigrad.ops as F\n"


def loop_of(name):
    """The lines from the optimizer to the end of the loop, out of a script's source."""
    source = SCRIPTS[name].read_text(encoding="utf-8")
    assert source.count(IMPORTS) == 1
    return re.search(r"^optimizer = .*\n(?:(?:optimizer|for|    ).*\n|\n)+", source, re.MULTILINE)[
        0
    ]


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
            exec(compile(loop, "<the lesson>", "exec"), NAMES | names)
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
    loop = loop_of("4_training_loop")
    assert loop.count("\n") == 12
    (ours, theirs), model, weights = run(loop)
    assert ours == theirs and ours.startswith("Epoch 0 | Loss: ") and ours.count("\n") == 2
    check_weights(model, weights)


def test_the_accumulation_loop_runs_on_pytorch():
    """At 1e-9 the same weights."""
    loop = loop_of("6_accumulation")
    assert "loss = loss / accumulation_steps\n" in loop and loop.endswith("zero_grad()\n\n")
    _, model, weights = run(loop)
    check_weights(model, weights)
