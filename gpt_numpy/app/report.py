"""The meaning of a loss, and the figure and HTML report of a run."""

import base64
import codecs
import contextlib
import logging
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpt_numpy.app.inspect_model import attention_maps, surprise
from gpt_numpy.app.page_model import LARGEST, in_script

BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#dd6b20", "#718096", "#2f855a"

# What a terminal would obey, and a page would drop, instead of showing it; a model whose tokens are
# bytes writes all of it.  The last two kinds turn the direction of writing round.
NOT_SHOWN = [*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
CONTROL = {n: "�" for n in NOT_SHOWN if chr(n) not in "\n\t"}
HERE = Path(__file__).parent
LONGEST = 90  # characters of a title, which all are drawn
MOST_ROWS, MOST_SAMPLES = 1000, 200  # on a page; a curve of more points looks no different

LADDER = (  # the landmarks of a model whose tokens are pieces of words, some 50,000 of them
    (math.log(50_000), "untrained: any of 50,000"),
    (6.0, "early"),
    (3.0, "learning patterns"),
    (2.0, "decent"),
    (1.5, "good"),
    (1.0, "excellent"),
)


def perplexity(loss: float) -> float:
    """Return e^loss: the model is as unsure as among that many equally likely tokens."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits(loss: float, characters_per_token: float = 1.0) -> float:
    """Return a loss in nats per token as bits per character.

    A longer token is harder to guess, but a text has fewer of them.  Bits per character compare
    models with different tokenizers.
    """
    return loss / math.log(2) / characters_per_token


def ladder() -> str:
    """Return the table loss → perplexity → meaning, for tokens that are pieces of words, as text.

    A model of characters has other landmarks: with 65 characters it starts at ln 65 = 4.17.
    """
    lines = [f"{'loss':>6} {'perplexity':>11}   what it means"]
    for loss, meaning in LADDER:
        among = perplexity(loss)
        lines.append(f"{loss:6.2f} {among:11,.{0 if among >= 100 else 1}f}   {meaning}")
    return "\n".join(lines)


@contextlib.contextmanager
def own_settings():
    """Have matplotlib draw with its own settings, whatever MPLBACKEND or a matplotlibrc says.

    Its log messages, such as missing glyphs, are suppressed.
    """
    log, backend = logging.getLogger("matplotlib"), os.environ.get("MPLBACKEND")
    level = log.level
    log.setLevel(logging.CRITICAL)
    os.environ["MPLBACKEND"] = "agg"  # matplotlib reads it while it is imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import matplotlib  # here, because its import is slow and `--help` does not need it

            settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
            with matplotlib.rc_context(settings):
                yield
    finally:
        log.setLevel(level)
        del os.environ["MPLBACKEND"]
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@own_settings()
def loss_figure(rows, file, title, vocab_size, entropy=None, text_entropy=None):
    """Draw the losses of a run against its steps (10 × 5 inches), as a PNG; return the Figure.

    file            a path, or a file that is open to write bytes
    rows            dicts with step, train_loss and val_loss in nats per token; None where missing
    entropy         the lowest mean loss that is possible, if it is known, in nats per token
    text_entropy    the entropy measured on the validation text itself
    """
    from matplotlib.figure import Figure

    def points(name):
        pairs = [(row["step"], row[name]) for row in rows if row[name] is not None]
        found = [pair for pair in pairs if math.isfinite(pair[1])]
        return [list(column) for column in zip(*found, strict=True)] if found else [[], []]

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = points("train_loss")
    axes.plot(steps, losses, color=BLUE, alpha=0.55, lw=1, label="training (a batch each)")
    val_steps, val_losses = points("val_loss")
    # Between the first two evaluations the loss falls fastest, and not in a straight line.
    axes.plot(val_steps[:2], val_losses[:2], "o:", color=ORANGE, lw=1, ms=4)
    axes.plot(val_steps[1:], val_losses[1:], "o-", color=ORANGE, lw=2, ms=4, label="validation")

    end = max([1, *steps, *val_steps])
    start = math.log(vocab_size)
    lines = [(start, GREY, f"a uniform guess among {vocab_size}: ln {vocab_size} = {start:.2f}")]
    if entropy is not None:
        text = f"the least possible, the grammar's entropy: {entropy:.3f}"
        if text_entropy is not None:
            text += f" (of this validation text: {text_entropy:.3f})"
            axes.axhline(text_entropy, color=GREEN, lw=1, ls=":")
        lines.append((entropy, GREEN, text))
    for height, color, text in lines:
        axes.axhline(height, color=color, lw=1, ls="--")
        axes.annotate(
            text, (end, height), (-4, 4), textcoords="offset points", ha="right", color=color
        )
    if val_losses:
        best = min(val_losses)
        axes.annotate(
            f"{val_losses[-1]:.3f}",
            (val_steps[-1], val_losses[-1]),
            (0, 9),
            textcoords="offset points",
            ha="right",
            color=ORANGE,
            weight="bold",
        )
    else:
        best = min(losses, default=start)

    top = 1.08 * max([start, *losses, *val_losses]) or 1  # a text of one character has loss 0
    bottom = min(best, start if entropy is None else entropy)
    axes.set_ylim(max(0, bottom - 0.12 * (top - bottom)), top)
    axes.set_xlim(0, end)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    title = shown(title)
    title = title if len(title) <= LONGEST else f"{title[: LONGEST - 60]}…{title[-59:]}"
    axes.set_title(title.replace("$", r"\$"), loc="left")  # a dollar sign would begin a formula
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.88), frameon=False)
    marks = [p for p in (1, 1.5, 2, 3, 5, 10, 20, 40, 80, 300, 1000, 10_000) if math.log(p) < top]
    right = axes.secondary_yaxis("right")
    right.set_yticks([math.log(p) for p in marks], [f"{p:,}" for p in marks])
    right.set_ylabel("perplexity = e^loss")
    right.spines["right"].set_visible(False)
    figure.savefig(file, dpi=120, format="png", backend="agg")
    return figure


def page(rows, samples, model=None, **facts):
    """Return the report of a run: an HTML page that needs no other file.

    rows        dicts with the columns of metrics.csv; None where missing
    samples     dicts with step, val_loss, bits and text: what the model wrote at each evaluation
    model       the PageModel that a visitor can talk to, or None
    facts       what else the script in report.html reads: see Run.report() in app/trainer.py
    """
    evaluations = [row for row in rows if row["val_loss"] is not None]
    kept = {id(row) for row in thinned(rows, MOST_ROWS) + thinned(evaluations, MOST_ROWS)}
    rows = [row for row in rows if id(row) in kept]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else [])}
    facts |= {"rows": columns, "samples": thinned(samples, MOST_SAMPLES), "ladder": LADDER}
    facts = shown(facts)  # but not the model, whose vocabulary may have any character
    html = filled(facts)
    if model is None:
        return html
    return filled(facts, *model.contents(LARGEST - len(html.encode())))


def filled(facts, model=None, weights=""):
    """report.html with the facts, and with the scripts and the weights, each in its place."""
    parts = {"RUN": in_script(facts), "MODEL": in_script(model), "WEIGHTS": weights}
    for name in ("gpt.js", "speak.js"):
        parts[name] = (HERE / name).read_text(encoding="utf-8")
    html = (HERE / "report.html").read_text(encoding="utf-8")
    names = "|".join(map(re.escape, parts))
    return re.sub(rf"/\*({names})\*/", lambda found: parts[found[1]], html)


def thinned(items, most):
    """Return at most `most` evenly spaced items, including the last."""
    return items[::-1][:: math.ceil(len(items) / most) or 1][::-1]


def shown(x):
    """Return x with everything that JSON or the page cannot show replaced."""
    match x:
        case dict():
            return {key: shown(value) for key, value in x.items()}
        case list() | tuple():
            return [shown(value) for value in x]
        case str():
            return x.translate(CONTROL).encode("utf-8", "replace").decode()
        case float() if not math.isfinite(x):
            return None
    return x


def passage(model, tokenizer, ids):
    """Return the surprisal of ids (N + 1,) for the report; None if the model is broken."""
    found = surprise(model, ids)
    if not np.isfinite(found.losses).all():
        return None
    guesses = [
        [[written(tokenizer.decode_bytes([i])), float(p)] for i, p in zip(row, ps, strict=True)]
        for row, ps in zip(found.guesses, found.probabilities, strict=True)
    ]
    tokens = pieces(tokenizer, ids)
    return {"tokens": tokens, "losses": found.losses.tolist(), "guesses": guesses}


def pieces(tokenizer, ids):
    """Return what each id adds to the text; a character of several tokens belongs to the last."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(tokenizer.decode_bytes([i])) for i in ids]


def written(token):
    """Return a token's bytes as text, or in hexadecimal if they are only a part of a character."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return f"⟨{token.hex()}⟩"


def attention(model, tokenizer, ids):
    """Return the attention maps of a text of ids (T,) for the report; None if the model is broken.

    The weights are rounded to 255ths, a byte each.
    """
    maps = attention_maps(model, ids)  # (L, H, T, T)
    if not np.isfinite(maps).all():
        return None
    return {
        "layers": maps.shape[0],
        "heads": maps.shape[1],
        "tokens": pieces(tokenizer, ids),
        "maps": base64.b64encode((255 * maps).round().astype(np.uint8).tobytes()).decode(),
    }
