"""How long until the validation loss on tiny Shakespeare is 1.95, beside PyTorch?

    python benchmarks/time_to_loss.py [--loss 1.95] [--rounds 3]

Preset laptop, whole validation split, looked at every 50 steps from step 500 on.  Looking does not
count, nor does the first step with all that is made and imported for it.  The text as the training
command finds it: GPT_NUMPY_DATA may name its folder.
"""

import argparse
import json
import sys
import time
from functools import partial

import numpy as np
from common import number, parser, python, ratio, report, shown, take_turns
from side import SIDES

from gpt_numpy.config import TrainConfig
from gpt_numpy.corpus import load_corpus
from gpt_numpy.data import encoded
from gpt_numpy.tokenizer import CharTokenizer
from gpt_numpy.train import evaluate


def loss_of(model, ids):
    """The mean loss of every token of `ids` but the first, for a model of either side."""
    if hasattr(model, "eval_mode"):
        return evaluate(model, ids)
    import torch
    import torch.nn.functional as F

    T = model.config.block_size
    x, y = (torch.from_numpy(part) for part in (ids[:-1], ids[1:]))
    total = 0.0
    model.eval()
    with torch.no_grad():
        for i in range(0, len(x), 64 * T):
            for rows, targets in zip(
                cut(x[i : i + 64 * T], T), cut(y[i : i + 64 * T], T), strict=True
            ):
                scores = model(rows).flatten(0, 1)
                total += F.cross_entropy(scores, targets.flatten(), reduction="sum").item()
    model.train()
    return total / len(x)


def cut(tokens, T):
    """Rows of T tokens, and what is left as a row of its own."""
    whole = len(tokens) // T * T
    parts = (tokens[:whole], T), (tokens[whole:], len(tokens) - whole)
    return [part.view(-1, n) for part, n in parts if len(part)]


def run(side, goal, seed):
    """Print [seconds, step] at which the loss is first at most `goal`."""
    corpus = load_corpus()
    if "Shakespeare" not in corpus.name:
        sys.exit(f"time_to_loss needs tiny Shakespeare, not {corpus.name}")
    config, tokenizer = TrainConfig(seed=seed), CharTokenizer(corpus.alphabet())
    train_ids, val_ids = encoded(tokenizer, corpus.text, config.block_size)
    seconds, start = 0.0, time.perf_counter()
    for step, model in enumerate(SIDES[side](config, train_ids), start=1):
        if step == 1:  # by now everything is imported and made
            start = time.perf_counter()
        if step >= 500 and step % 50 == 0:
            seconds += time.perf_counter() - start
            loss = loss_of(model, np.asarray(val_ids))
            print(f"{side} step {step} loss {loss:.4f} after {seconds:.1f} s", file=sys.stderr)
            if loss <= goal:
                break
            start = time.perf_counter()
    else:
        sys.exit(f"{side}, seed {seed}: no loss of {goal} within {config.steps} steps")
    print(json.dumps([seconds, step]))


def main():
    flags = parser(__doc__, rounds=3)
    flags.add_argument("--loss", type=float, default=1.95, help="the validation loss to reach")
    flags.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    flags.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.side:
        return run(args.side, args.loss, args.seed)
    runs: dict[str, list] = {"ours": [], "eager": []}

    def measure(side):
        seed = str(len(runs[side]) + 1)
        task = [__file__, "--side", side, "--loss", str(args.loss), "--seed", seed]
        runs[side].append(python(*task))
        return runs[side][-1][0]

    results = take_turns({side: partial(measure, side) for side in runs}, args.rounds)
    rows = []
    for i in range(args.rounds):
        row = [i + 1]
        for side in runs:
            row += [number(runs[side][i][0]), runs[side][i][1]]
        rows.append([*row, f"{runs['ours'][i][0] / runs['eager'][i][0]:.2f}"])
    rows.append(["median", "", "", "", "", shown(ratio(results["ours"], results["eager"]))])
    columns = ["seed", "gpt_numpy, s", "steps", "PyTorch eager, s", "steps", "ratio"]
    report(f"Time to a validation loss of {args.loss} on tiny Shakespeare", columns, rows, runs)


if __name__ == "__main__":
    main()
