"""Three knobs between the scores of a model and the token that is drawn.

Temperature divides the scores: below 1 it sharpens the distribution, above 1 it flattens it.  Top-k
keeps the k likeliest tokens.  Top-p keeps the fewest that have a probability of p together.

    python examples/lesson/9_sampling.py [FIGURE.png]
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gpt_numpy.app.report import BLUE, GREY, ORANGE
from gpt_numpy.sample import probabilities

scores = np.array([[2.0, 1.0, 0.1, -1.0]])  # one row, of four tokens
by_temperature = {t: probabilities(scores, temperature=t)[0] for t in (0.5, 1.0, 1.5)}

p = np.array([0.40, 0.30, 0.20, 0.05, 0.03, 0.02])  # of six tokens
likely = np.log(p)[None]  # scores whose softmax is p
top_k = probabilities(likely, top_k=2)[0]
top_p = probabilities(likely, top_p=0.9)[0]


def show(name, numbers):
    print(f"{name:18}", *(f"{number:6.2f}" for number in numbers))


show("scores", scores[0])
for temperature, row in by_temperature.items():
    show(f"temperature {temperature}", row)
print()
show("probabilities", p)
show("top-k, k = 2", top_k)
show("top-p, p = 0.9", top_p)
print("""
0.40 + 0.30 + 0.20 is 0.90: top-p keeps these three, scaled up to sum to 1.""")

figure = Figure(figsize=(12, 4), layout="constrained")
left, middle, right = figure.subplots(1, 3, sharey=True)
place = np.arange(4)
for i, (temperature, row) in enumerate(by_temperature.items()):
    color = (BLUE, GREY, ORANGE)[i]
    left.bar(place + 0.27 * (i - 1), row, 0.25, color=color, label=f"temperature {temperature}")
left.set_xticks(place, [f"{score:g}" for score in scores[0]])
left.set_xlabel("the token's score")
left.set_title("Temperature sharpens or flattens", loc="left")
left.set_ylabel("probability")
for axes, kept, name, title in (
    (middle, top_k, "top-k, k = 2", "Top-k keeps the k likeliest"),
    (right, top_p, "top-p, p = 0.9", "Top-p keeps the fewest that reach p"),
):
    axes.bar(np.arange(6) - 0.2, p, 0.37, color=GREY, alpha=0.5, label="before")
    axes.bar(np.arange(6) + 0.2, kept, 0.37, color=BLUE, label=name)
    axes.set_xticks(np.arange(6), [f"{number:.2f}" for number in p])
    axes.set_xlabel("the token's probability before")
    axes.set_title(title, loc="left")
for axes in (left, middle, right):
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)

path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lesson/9_sampling.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=120)
print(f"The knobs are drawn in {path}")
