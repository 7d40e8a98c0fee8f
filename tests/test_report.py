"""What a loss means, in the lesson's numbers, and the loss figure as a file."""

import math
import os
import struct

import pytest

from gpt_numpy.app import report

LESSON = [  # loss, perplexity as the lesson rounds it, what it means
    ("10.82", 50_000, "untrained"),
    ("6.00", 403, "early"),
    ("3.00", 20, "learning patterns"),
    ("2.00", 7.4, "decent"),
    ("1.50", 4.5, "good"),
    ("1.00", 2.7, "excellent"),
]


@pytest.mark.parametrize(
    "loss, perplexity", [(0.0, 1.0), (2.0, 7.389056), (math.log(65), 65.0), (6.0, 403.428793)]
)
def test_perplexity_is_e_to_the_loss(loss, perplexity):
    """Certainty is 1, a loss of 2.0 is 7.39, a uniform guess among 65 is 65."""
    assert report.perplexity(loss) == pytest.approx(perplexity, rel=1e-7)


def test_a_uniform_guess_over_50_000_is_10_82():
    """The lesson's number for an untrained model."""
    assert f"{report.LADDER[0][0]:.2f}" == "10.82"
    assert report.perplexity(report.LADDER[0][0]) == pytest.approx(50_000)


@pytest.mark.parametrize("loss", [710, 1e4, math.inf])
def test_a_hopeless_loss_has_infinite_perplexity(loss):
    """Where e^loss overflows, no error."""
    assert report.perplexity(loss) == math.inf


def test_an_undefined_loss_has_undefined_perplexity():
    """A run that blew up must not pass for one that is merely bad."""
    assert math.isnan(report.perplexity(math.nan))


@pytest.mark.parametrize("loss, bits", [(math.log(2), 1.0), (math.log(65), 6.02237), (0.0, 0.0)])
def test_bits(loss, bits):
    """ln 2 nats are one bit; a choice among 65 characters takes 6.02."""
    assert report.bits(loss) == pytest.approx(bits, rel=1e-6)


def test_the_ladder_is_the_lessons_table():
    """A line for each landmark, under a heading, with the perplexity the lesson gives it."""
    heading, *lines = report.ladder().split("\n")
    assert heading.split() == ["loss", "perplexity", "what", "it", "means"]
    for line, (loss, perplexity, meaning) in zip(lines, LESSON, strict=True):
        words = line.split(maxsplit=2)
        assert words[0] == loss and words[2].startswith(meaning)
        digits = 1 if perplexity < 10 else 0
        assert round(float(words[1].replace(",", "")), digits) == perplexity


# ---- the figure ----------------------------------------------------------------------------------


def row(step, train_loss=None, val_loss=None):
    return {"step": step, "train_loss": train_loss, "val_loss": val_loss}


ROWS = [row(0, None, 4.2), row(10, 3.5), row(20, 3.0, 3.1), row(30, 2.5), row(40, 2.2, 2.4)]
FIGURES = {
    "a run": (ROWS, {}),
    "a run of the verse": (ROWS, {"entropy": 1.1, "text_entropy": 1.2}),
    "the grammar's entropy alone": (ROWS, {"entropy": 1.1}),
    "one evaluation": (ROWS[:1], {"entropy": 1.1, "text_entropy": 1.2}),
    "one step": (ROWS[1:2], {}),
    "no evaluations": ([row(10, 3.5), row(20, 3.0)], {}),
    "a large vocabulary": (ROWS, {"vocab_size": 50_000}),
    "nothing yet": ([], {}),
    "a text of one character": ([row(0, None, 0.0), row(1, 0.0, 0.0)], {"vocab_size": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_loss_figure_is_ten_by_five_inches(name, tmp_path):
    """The PNG has 1200 x 600 pixels, 120 to the inch, whatever is known."""
    rows, options = FIGURES[name]
    path = tmp_path / "loss.png"
    report.loss_figure(rows, path, **{"title": "a run", "vocab_size": 65} | options)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1200, 600)  # the width and height of the IHDR chunk


@pytest.mark.parametrize(
    "name", ["a$b^{$.txt", "s\udcff.txt", "<b>&amp;", "\x1b[31m", "莎士比亚.txt", "W" * 250]
)
def test_a_name_is_drawn_whatever_it_is(name, tmp_path):
    """A dollar sign starts no formula, a surrogate is replaced, a long name is cut; no warnings."""
    report.loss_figure(ROWS, tmp_path / "loss.png", title=name, vocab_size=65)
    assert (tmp_path / "loss.png").exists()


def test_a_figure_is_drawn_with_matplotlibs_own_settings(tmp_path, monkeypatch):
    """Whatever a user's matplotlibrc and MPLBACKEND say, which stay as they are."""
    import matplotlib

    report.loss_figure(ROWS, tmp_path / "right.png", "a run", 65)
    monkeypatch.setenv("MPLBACKEND", "module://not.there")
    theirs = {"text.usetex": True, "font.family": ["none"], "savefig.dpi": 10, "lines.marker": "x"}
    with matplotlib.rc_context(theirs):
        report.loss_figure(ROWS, tmp_path / "loss.png", "a run", 65)
        assert {name: matplotlib.rcParams[name] for name in theirs} == theirs
    assert os.environ["MPLBACKEND"] == "module://not.there"
    assert (tmp_path / "loss.png").read_bytes() == (tmp_path / "right.png").read_bytes()


def test_loss_figure_shows_the_runs_numbers(tmp_path):
    """The curves are the rows; dashed, labelled lines are at ln V and at the entropy."""
    path, ends = tmp_path / "loss.png", {"entropy": 1.1, "text_entropy": 1.2}
    figure = report.loss_figure(ROWS, path, "a run", 65, **ends)
    axes = figure.axes[0]
    training, first, validation, *lines = axes.get_lines()
    assert training.get_xydata().tolist() == [[10, 3.5], [20, 3.0], [30, 2.5], [40, 2.2]]
    assert first.get_xydata().tolist() == [[0, 4.2], [20, 3.1]] and first.get_linestyle() == ":"
    assert validation.get_xydata().tolist() == [[20, 3.1], [40, 2.4]]
    assert sorted(line.get_ydata()[0] for line in lines) == [1.1, 1.2, math.log(65)]
    texts = " | ".join(text.get_text() for text in axes.texts)
    for part in ("ln 65 = 4.17", "the grammar's entropy: 1.100", "validation text: 1.200", "2.400"):
        assert part in texts
    assert axes.get_title(loc="left") == "a run" and axes.get_ylim()[0] < 1.1
