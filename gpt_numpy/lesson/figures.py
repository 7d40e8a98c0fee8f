"""The figures of the lesson, drawn with matplotlib.

A figure that is W inches wide has letters of 2 W points.  A phone shows it 360 pixels wide, and
then they are 10 pixels high:  2 W / 72 inches · 360 / W pixels per inch = 10.

Colour-blind readers can tell any two of the colours apart; the tests measure how far they differ
(Machado et al. 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency").
The background is opaque, so a figure can be read on a dark page too.

    figure, axes = new("Loss against steps", xlabel="step", ylabel="loss")
    axes.plot(losses, color=BLUE)
    figure                                # the last line of a cell: the notebook shows it
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#004f8b", "#d55e00", "#00875a", "#c2669b"
INK, GREY, PALE, PAPER = "#1f2328", "#63696f", "#d0d5db", "#ffffff"


def use_settings(width):
    """Give matplotlib its own settings and large letters, whatever a user's matplotlibrc says."""
    matplotlib.rcdefaults()
    coloured = ["text.color", "axes.labelcolor", "xtick.color", "ytick.color"]
    settings: Any = (
        dict.fromkeys(coloured, INK)
        | dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], PAPER)
        | {
            "font.size": 2 * width,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": GREY,
            "axes.linewidth": 1.5,
            "lines.linewidth": 3.5,
            "legend.frameon": False,
            "legend.handlelength": 1.4,
        }
    )
    matplotlib.rcParams.update(settings)


class Picture(Figure):
    """A figure that a notebook shows as a PNG image, and describes by its titles."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
        return buffer.getvalue()

    def __repr__(self):
        titles = [axes.get_title("left") for axes in self.axes]
        return f"<figure: {'; '.join(title for title in titles if title)}>"


def new(*titles, width=10.0, height=5.0, xlabel="", ylabel="") -> tuple[Picture, Any]:
    """Return (figure, axes), or (figure, list of axes, one below the other) for several titles.

    width and height are in inches.  The settings stay until the next figure.
    """
    use_settings(width)
    figure = Picture(figsize=(width, height), layout="constrained")
    panels = [figure.add_subplot(len(titles), 1, i + 1) for i in range(len(titles))]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
    return figure, panels[0] if len(panels) == 1 else panels


def dashed(axes, height, text, colour=GREY, below=False):
    """Draw a dashed line at a height, with a text at its right end, above or below it."""
    axes.axhline(height, color=colour, lw=2, ls="--")
    right = axes.get_xlim()[1]
    offset, align = ((-4, -6), "top") if below else ((-4, 5), "bottom")
    axes.annotate(
        text, (right, height), offset, textcoords="offset points",
        ha="right", va=align, color=colour,
    )  # fmt: skip


def running_mean(losses, n=20):
    """Return the mean of each loss and of the n − 1 before it, or as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(total))
    starts = np.maximum(0, ends - n)
    return (total[ends] - total[starts]) / (ends - starts)


def curve(axes, losses, colour, label):
    """Draw the loss of every step, pale, and its running mean."""
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color=colour, alpha=0.25, lw=1.5)
    axes.plot(steps, running_mean(losses), color=colour, label=label)


def heat_map(axes, weights, names):
    """Draw weights (T, T) as squares, darker for larger ones, with names along both sides."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    for (t, s), weight in np.ndenumerate(weights):
        if weight:
            colour = PAPER if weight > 0.55 else INK
            axes.text(s, t, f"{weight:.2f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
