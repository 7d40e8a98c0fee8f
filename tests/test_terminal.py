"""What a run shows: plain lines in a pipe, a live picture in a terminal."""

import io
import sys
import types

import numpy as np
import pytest
from rich.console import Console

from gpt_numpy.app import terminal
from gpt_numpy.app.terminal import Display, curve


def show(quiet):
    """A run of six steps, two seconds each, 500 tokens per second."""
    with Display(6, quiet) as display:
        display.say("text: a.txt")
        display.evaluation(0, 4.0, 2.9, "\nI am\na sample\n", "97 MB")
        for step in range(1, 7):
            left = (6 - step) * 96.0
            display.step(step, 3.0, 1e-3, 0.25, 500.0, left, 2.0 * step)
    return display


def test_plain_output_has_a_line_every_five_seconds(capsys):
    """And one for the last step; the loss of the last evaluation and the time left are in it."""
    assert show(quiet=False).live is None
    out, err = capsys.readouterr()
    lines = [line for line in out.split("\n") if line]
    numbers = "loss 3.000  val 4.000 (step 0)  lr 1.0e-03  gradient 0.25  500 tokens/s"
    assert lines == [
        "text: a.txt",
        "step 0: val_loss 4.0000 (perplexity 54.60, 2.90 bits per character)",
        "    I am",
        "    a sample",
        f"step     1/6  {numbers}  8:00 left",
        f"step     4/6  {numbers}  3:12 left",
        f"step     6/6  {numbers}  0:00 left",
    ]
    assert "\x1b" not in out and err == ""


def test_quiet_prints_nothing(capsys):
    """Neither words nor numbers."""
    show(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_before_an_evaluation_there_is_no_val(capsys):
    """A number that is not known is not shown."""
    Display(6).step(1, 3.0, 1e-3, 0.5, 500.0, 1.0, 0.0)
    line = "step     1/6  loss 3.000  lr 1.0e-03  gradient 0.50  500 tokens/s  0:01 left\n"
    assert capsys.readouterr().out == line


def test_a_run_that_goes_on_has_its_losses(capsys):
    """The curve begins where the run began, and the last validation loss is shown."""
    display = Display(6)
    rows = [
        {"step": s, "train_loss": t, "val_loss": v} for s, t, v in [(0, None, 4.0), (2, 3.5, 3.25)]
    ]
    display.go_on(rows)
    assert display.losses == ([(2, 3.5)], [(0, 4.0), (2, 3.25)])
    display.step(3, 3.0, 1e-3, 0.5, 500.0, 1.0, 0.0)
    assert "val 3.250 (step 2)" in capsys.readouterr().out


def test_a_long_sample_is_cut(capsys):
    """Six lines are enough to see how it writes."""
    Display(6).evaluation(1, 1.0, 1.4, "\n".join("abcdefgh"), "97 MB")
    lines = [line.strip() for line in capsys.readouterr().out.split("\n")]
    assert [line for line in lines if len(line) == 1] == list("abcdef")


@pytest.mark.parametrize("text", ["[bold]x[/bold] [/]", ":cat: and :smile:", "a" * 300, "[1, 2]"])
def test_what_a_model_writes_is_printed_as_it_is(capsys, text):
    """Brackets are no markup, colons no pictures, and a long line is not broken."""
    Display(6).say(text)
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (-3, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    """Minutes and seconds, and hours where there are any."""
    assert terminal.clock(seconds) == text


# ---- the picture ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 100 columns: screen.file is all that was sent to it."""
    screen = types.SimpleNamespace(file=Terminal(), width=100, height=30)

    def console(**options):
        size = {"width": screen.width, "height": screen.height}
        return Console(file=screen.file, force_terminal=True, **size, **options)

    monkeypatch.setattr(terminal, "Console", console)
    return screen


def seen(display):
    """The lines of the picture as it stands."""
    lines = display.console.render_lines(display.picture(), pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_a_terminal_gets_a_live_picture(screen, capsys):
    """The same numbers, redrawn in place; what is said stands above."""
    display = show(quiet=False)
    assert display.live is not None and not display.live.is_started
    shown = screen.file.getvalue()
    for part in ("text: a.txt", "a sample", "step 6/6", "100 %", "val 4.000", "0:00 left", "\x1b["):
        assert part in shown
    assert capsys.readouterr() == ("", "")


def test_what_is_said_at_the_end_stands_below_the_picture(screen):
    """The words that conclude a run are the last ones on the screen."""
    with Display(6) as display:
        display.evaluation(0, 4.0, 2.9, "gibberish", "97 MB")
        display.stop()
        display.say("The loss is 4.000.")
    shown = screen.file.getvalue()
    assert shown.rindex("gibberish") < shown.index("The loss is 4.000.")


def test_the_picture_has_the_numbers_the_curve_and_the_newest_sample(screen):
    """Half way: what is left counts down between two steps that are logged."""
    display = Display(100)
    display.evaluation(0, 4.0, 5.8, "gibberish", "97 MB")
    display.step(10, 3.5, 1e-3, 0.25, 48_000.0, 100.0, 1.0)
    display.evaluation(50, 2.0, 2.9, "\nBROSE:\nWhy\x1b[2J", "98 MB")
    display.step(50, 2.5, 5e-4, 0.125, 48_000.0, 61.0, 5.0)
    display.deadline -= 20  # so many seconds later
    lines = seen(display)
    assert lines[1].startswith("step 50/100 ") and lines[1].endswith("50 %  0:41 left")
    assert lines[2] == "loss 2.500  val 2.000  lr 5.0e-04  gradient 0.12  48,000 tokens/s  98 MB"
    assert lines[3].startswith("4.00 ┤") and lines[10].startswith("2.00 ┤")
    assert lines[12] == "step 50: val_loss 2.0000 (perplexity 7.39, 2.90 bits per character)"
    assert [line.strip() for line in lines[13:]] == ["BROSE:", "Why�[2J"]
    assert "gibberish" in screen.file.getvalue()  # the sample before has gone above the picture
    assert "BROSE" not in screen.file.getvalue()


@pytest.mark.parametrize("variable, value", [("FORCE_COLOR", "1"), ("TERM", "dumb")])
def test_what_is_no_terminal_gets_plain_lines(monkeypatch, capsys, variable, value):
    """A pipe does not become one by FORCE_COLOR; and a dumb one cannot move its cursor."""
    if variable == "TERM":
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv(variable, value)
    assert show(quiet=False).live is None
    out = capsys.readouterr().out
    assert "\x1b" not in out and "step     4/6  loss 3.000" in out


def test_words_are_not_broken(screen):
    """In a terminal a long line goes on in the next one at a space; names cannot send commands."""
    screen.width = 30
    display = Display(6)
    display.say("The sailor hath charmed that chase that crow.\x1b[2J")
    assert screen.file.getvalue() == "The sailor hath charmed that \nchase that crow.�[2J\n"


@pytest.mark.parametrize("width, height", [(100, 30), (40, 30), (80, 12), (20, 5)])
def test_the_picture_fits(screen, width, height):
    """No line is wider than the terminal; where it is low, the curve gives way."""
    screen.width, screen.height = width, height
    display = Display(2000)
    display.evaluation(0, 4.0, 5.8, "x" * 300 + "\ny\nz", "97 MB")
    for step in range(10, 500, 10):
        display.step(step, 4 - step / 500, 1e-3, 0.25, 48_000.0, 100.0, 1.0)
    lines = seen(display)
    assert max(map(len, lines)) <= width and lines[1].startswith("step ")
    assert lines[2].startswith("loss ")  # all of the bar is in one line
    assert any("┤" in line for line in lines) == (height == 30)


def dots(lines):
    """(rows, columns): whether a dot is there, from letters of Braille; their colours."""
    letters = np.array([[ord(c) - 0x2800 for c in line.plain.partition("┤")[2] or
                         line.plain.partition("│")[2]] for line in lines])  # fmt: skip
    bits = [[0, 3], [1, 4], [2, 5], [6, 7]]  # Unicode's order of the eight dots
    grid = (letters[..., None, None] >> np.array(bits)) & 1
    return grid.transpose(0, 2, 1, 3).reshape(4 * len(lines), -1).astype(bool)


def test_a_falling_line_falls():
    """From the upper left corner to the lower right one, a dot or more in every column."""
    lines = curve(([(0, 2.0), (100, 1.0)], []), 100, 46, 5)
    grid = dots(lines)
    assert grid.shape == (20, 80)
    assert grid[0, 0] and grid[-1, -1] and grid.any(0).all()
    heights = grid.argmax(0)
    assert (np.diff(heights) >= 0).all() and abs(heights - np.linspace(0, 19, 80)).max() <= 1
    assert lines[0].plain.startswith("2.00 ┤") and lines[-1].plain.startswith("1.00 ┤")


def test_training_is_blue_and_validation_orange():
    """And where they meet, validation is seen; half of the steps are half of the width."""
    lines = curve(([(0, 2.0), (50, 2.0)], [(0, 1.0), (50, 2.0)]), 100, 46, 5)
    styles = {span.style for span in lines[2].spans} - {"dim", ""}
    assert styles == {terminal.TRAINING, terminal.VALIDATION}
    grid = dots(lines)
    assert grid[:, :40].any(0).all() and not grid[:, 42:].any()


@pytest.mark.parametrize("losses", [([], []), ([(1, 2.0)], []), ([(1, np.nan), (2, np.inf)], [])])
def test_without_two_losses_there_is_no_curve(losses):
    """Nor for losses that are not finite."""
    assert curve(losses, 100, 40, 5) == []


def test_a_curve_has_not_too_many_points(screen):
    """Every second one goes, but for the first, when there are more than dots could show."""
    display = Display(10**6)
    for step in range(9000):
        display.step(step, 3.0, 1e-3, 0.5, 500.0, 1.0, 0.0)
    steps = [step for step, _ in display.losses[0]]
    assert len(steps) <= display.MOST and steps[0] == 0 and steps[-1] == 8999
    assert steps == sorted(steps)


def test_losses_that_do_not_change_are_a_line():
    """A range of 0 divides nothing."""
    assert dots(curve(([(1, 2.0), (100, 2.0)], []), 100, 40, 5)).any(0).sum() > 60
