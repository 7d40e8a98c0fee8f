"""The smallest training loop: guess, measure, find out which way is better, take a step.

It is written for PyTorch and runs here on minigrad: only the two imports differ.

    python examples/lesson/4_training_loop.py
"""

import math

import minigrad as torch
import minigrad.ops as F
from gpt_numpy import GPT, GPTConfig
from gpt_numpy.corpus import grammar
from gpt_numpy.data import DataLoader
from gpt_numpy.tokenizer import CharTokenizer

text = grammar.generate(50_000)  # a play, written by a grammar
tokenizer = CharTokenizer.from_text(text)
train_loader = DataLoader(tokenizer.encode(text), batch_size=32, block_size=32)
torch.manual_seed(1)
model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, block_size=32, n_layer=1, n_embd=64))
epochs = 4

V = tokenizer.vocab_size
print(f"Untrained, it guesses among {V} characters: a loss of ln {V} = {math.log(V):.4f}")

# fmt: off
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
for epoch in range(epochs):
    for x, y in train_loader:
        logits = model(x)
        B, T, C = logits.shape
        logits = logits.view(B*T, C)
        targets = y.view(B*T)
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"Epoch {epoch} | Loss: {loss.item():.4f}")
