"""What a loss means, and the figure of a run."""

import math

from gpt_numpy.files import replacing

BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#dd6b20", "#718096", "#2f855a"

LADDER = (  # the landmarks of a model whose tokens are pieces of words, some 50,000 of them
    (math.log(50_000), "untrained: any of 50,000"),
    (6.0, "early"),
    (3.0, "learning patterns"),
    (2.0, "decent"),
    (1.5, "good"),
    (1.0, "excellent"),
)


def perplexity(loss: float) -> float:
    """e^loss: the model is as unsure as if it chose among so many equally likely tokens."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits(loss: float, characters_per_token: float = 1.0) -> float:
    """A loss in nats per token as bits per character.

    A model with longer tokens has more to guess at each, and fewer of them: this tells which one
    knows a text better.
    """
    return loss / math.log(2) / characters_per_token


def ladder() -> str:
    """The table loss → perplexity → meaning, for tokens that are pieces of words, as text.

    A model of characters has another ladder: it chooses among some 65, and starts at ln 65 = 4.17.
    """
    lines = [f"{'loss':>6} {'perplexity':>11}   what it means"]
    lines += [f"{loss:6.2f} {perplexity(loss):11,.1f}   {word}" for loss, word in LADDER]
    return "\n".join(lines)


def loss_figure(rows, path, title, vocab_size, entropy=None, text_entropy=None):
    """Draw the losses of a run against its steps to the file `path` (10 × 5 inches); the Figure.

    rows            dicts with step, train_loss and val_loss in nats per token; None where missing
    entropy         the least mean loss that is possible, if it is known, in nats per token
    text_entropy    the same as measured on the very validation text, which is finite
    """
    from matplotlib.figure import Figure  # here, for `--help` need not wait for it

    def points(name):
        found = [(row["step"], row[name]) for row in rows if row[name] is not None]
        return [list(column) for column in zip(*found, strict=True)] if found else [[], []]

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = points("train_loss")
    axes.plot(steps, losses, color=BLUE, alpha=0.55, lw=1, label="training (a batch each)")
    val_steps, val_losses = points("val_loss")
    axes.plot(val_steps, val_losses, "o-", color=ORANGE, lw=2, ms=4, label="validation")

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

    top = 1.08 * max([start, *losses, *val_losses])
    bottom = min(best, start if entropy is None else entropy)
    axes.set_ylim(max(0, bottom - 0.12 * (top - bottom)), top)
    axes.set_xlim(0, end)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.88), frameon=False)
    marks = [p for p in (1, 1.5, 2, 3, 5, 10, 20, 40, 80, 300, 1000, 10_000) if math.log(p) < top]
    right = axes.secondary_yaxis("right")
    right.set_yticks([math.log(p) for p in marks], [f"{p:,}" for p in marks])
    right.set_ylabel("perplexity = e^loss")
    right.spines["right"].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return figure
