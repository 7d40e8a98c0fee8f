"""Cross-entropy: minus the logarithm of the probability that the model gave to the right token.

It is near 0 where the model was confident and right, and grows without bound where it was confident
and wrong.  e to the loss, the perplexity, is among how many tokens the model was undecided.

    python examples/lesson/3_cross_entropy.py [FIGURE.png]
"""

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minigrad.ops as F
from gpt_numpy.app.report import BLUE, GREY, ORANGE, ladder, perplexity

print("The cat sat on the ...   scores: mat  sofa  moon     p(mat)     loss   perplexity")
right = np.array([0])  # mat is token 0
points = []
for meaning, scores in (
    ("confident and right", [6, 0, 0]),
    ("leaning to mat", [2, 0, 0]),
    ("undecided", [0, 0, 0]),
    ("leaning to the moon", [0, 0, 2]),
    ("confident and wrong", [0, 0, 6]),
    ("certain and wrong", [0, 0, 12]),
):
    row = np.array([scores], np.float64)
    p = F.softmax(row).numpy()[0, 0]
    loss = F.cross_entropy(row, right).item()
    points.append((p, loss))
    shown = " ".join(f"{score:5}" for score in scores)
    print(f"{meaning:30} {shown} {p:10.6f} {loss:8.4f} {perplexity(loss):12,.2f}")

print(f"""
Perfection is a loss of 0, a perplexity of {perplexity(0):.0f}.
A loss of 2.0 is a perplexity of {perplexity(2):.2f}, as if undecided among 7 or 8 tokens.
A uniform guess among 50,000 tokens is a loss of ln 50,000 = {math.log(50_000):.2f}.

{ladder()}

This ladder holds for word pieces, some 50,000 of them.  A model of characters, say 65,
starts at ln 65 = {math.log(65):.2f}, and a loss of 1.5 means something else there.
""")

p = np.geomspace(1e-4, 1, 500)
figure = Figure(figsize=(8, 4.5), layout="constrained")
axes = figure.add_subplot()
axes.plot(p, -np.log(p), color=BLUE, lw=2)
for text, point, offset, color in (
    ("confident and right", points[0], (-110, 12), BLUE),
    ("undecided among three", points[2], (9, 6), GREY),
    ("confident and wrong", points[4], (9, 0), ORANGE),
):
    axes.plot(*point, "o", color=color, clip_on=False, zorder=3)
    axes.annotate(text, point, offset, textcoords="offset points", color=color)
axes.set_xlim(0, 1)
axes.set_ylim(0, 7)
axes.set_xlabel("p, the probability given to the right token")
axes.set_ylabel("loss = -ln p (nats)")
axes.set_title("What a guess costs", loc="left")
axes.spines[["top", "right"]].set_visible(False)

path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lesson/3_cross_entropy.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=120)
print(f"The curve is drawn in {path}")
