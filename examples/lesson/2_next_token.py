"""The text is its own label: what comes next is the answer, and what came before the question.

Nobody has to mark anything by hand.  A loader hands the text to the model twice, as x and as y,
where y is x moved by one; each place of x asks, and the same place of y answers.

    python examples/lesson/2_next_token.py
"""

import numpy as np

from gpt_numpy.data import DataLoader

text = "The cat sat on the mat."
tokens = text.replace(".", " .").split()  # a word is a token here, and so is the full stop

print(f"{text}\n")
for t in range(1, len(tokens)):
    print(f"{'[' + ', '.join(tokens[:t]) + ']':29} -> {tokens[t]}")

vocabulary = sorted(set(tokens))
ids = np.array([vocabulary.index(token) for token in tokens])
loader = DataLoader(ids, batch_size=1, block_size=len(ids) - 1)
[(x, y)] = loader  # one window is all that this text has, so one batch (1, T)

print("\nThe same six questions as the loader gives them, each token as its number:\n")
for name, row in (("x", x.numpy()[0]), ("y", y.numpy()[0])):
    print(name, "  ", *(f"{vocabulary[i]:>5}" for i in row))
    print("    ", *(f"{i:5}" for i in row))

print("""
Under every x stands its y.  The causal mask hides from each place of x what comes after
it, so a model may answer all six at once.""")
