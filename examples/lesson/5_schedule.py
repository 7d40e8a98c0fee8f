"""The learning rate rises in a straight line, then falls along half a cosine to a floor.

The first gradients come from random weights and deserve no long steps; the last steps settle, and
must be small.  These are 10,000 steps with the rates that are typical of GPT-2 and GPT-3.

    python examples/lesson/5_schedule.py [FIGURE.png]
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from gpt_numpy.app.report import BLUE, GREEN, GREY, ORANGE
from minigrad.schedule import warmup_cosine

WARMUP, END = 1_000, 10_000  # steps
PEAK, FLOOR = 6e-4, 6e-5

steps = range(1, END + 1)  # counted from 1, so that none has a rate of 0
rates = [warmup_cosine(step, WARMUP, END, PEAK, FLOOR) for step in steps]

print("  step   learning rate")
for step, remark in (
    (1, "a thousandth of the peak"),
    (WARMUP // 2, "half the peak"),
    (WARMUP, "the peak"),
    ((WARMUP + END) // 2, "half-way from the peak to the floor"),
    (END, "the floor, a tenth of the peak"),
):
    print(f"{step:6,} {rates[step - 1]:15.1e}   {remark}")

figure = Figure(figsize=(12, 6), layout="constrained")
axes = figure.add_subplot()
axes.axvspan(0, WARMUP, color=ORANGE, alpha=0.12, lw=0)
axes.axvspan(WARMUP, END, color=BLUE, alpha=0.07, lw=0)
axes.plot(steps, rates, color=BLUE, lw=2.5)
for name, rate, color, offset in (("peak", PEAK, GREY, 6), ("floor", FLOOR, GREEN, -18)):
    axes.axhline(rate, color=color, lw=1, ls="--")
    axes.annotate(
        f"{name}: {rate:.0e}",
        (END, rate),
        (-6, offset),
        textcoords="offset points",
        ha="right",
        color=color,
        size=13,
    )
axes.text(WARMUP / 2, 0.3e-4, "warm-up", ha="center", va="center", color=ORANGE, size=13)
axes.text((WARMUP + END) / 2, 0.3e-4, "cosine decay", ha="center", va="center", color=BLUE, size=13)
axes.set_title("Warm-up, then cosine decay", loc="left", size=14)
axes.set_xlim(0, END)
axes.set_ylim(0, 1.1 * PEAK)
axes.yaxis.set_major_formatter("{x:.0e}")
axes.xaxis.set_major_formatter("{x:,.0f}")
axes.set_xlabel("step", size=13)
axes.set_ylabel("learning rate", size=13)
axes.tick_params(labelsize=12)
axes.spines[["top", "right"]].set_visible(False)

path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lesson/5_schedule.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=120)
print(f"\nThe course is drawn in {path}")
