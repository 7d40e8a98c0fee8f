"""GPT: from a sequence of tokens to the scores of what comes next, at every position at once.

    ids (B, T) → token + position vectors (B, T, C) → n_layer blocks → layer norm → scores (B, T, V)

A block lets the positions talk (attention), then lets each think (MLP).  Both add what they found
to the vectors that run from input to output, the residual stream: x + f(x) has the derivative
1 + f'(x), so a part of every gradient passes through all blocks unchanged.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), and
Karpathy's nanoGPT for the form without biases.
"""

import math

import numpy as np

import minigrad.ops as F
from gpt_numpy import sample
from gpt_numpy.config import GPTConfig
from gpt_numpy.hf import checkpoint
from minigrad import Tensor, nn, random
from minigrad.backend import array_module, is_array
from minigrad.ops.embedding import check_ids


class Attention(nn.Module):
    """x (B, T, C) → (B, T, C): every position gathers from itself and those before."""

    def __init__(self, config):
        C, bias = config.n_embd, config.bias
        self.n_head, self.dropout_rate = config.n_head, config.dropout
        self.query = nn.Linear(C, C, bias)
        self.key = nn.Linear(C, C, bias)
        self.value = nn.Linear(C, C, bias)
        self.proj = nn.Linear(C, C, bias)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x):
        """x (B, T, C) → (B, H, T, D), with C = H D."""
        B, T, C = x.shape
        return x.view(B, T, self.n_head, C // self.n_head).transpose(0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        y = F.attention(q, k, v, dropout=self.dropout_rate, training=self.training)
        y = y.transpose(0, 2, 1, 3).view(*x.shape)
        return self.dropout(self.proj(y))


class MLP(nn.Module):
    """x (B, T, C) → (B, T, C): every position by itself, through a layer four times as wide."""

    def __init__(self, config):
        C = config.n_embd
        self.fc = nn.Linear(C, 4 * C, config.bias)
        self.proj = nn.Linear(4 * C, C, config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.proj(F.gelu(self.fc(x))))


class Block(nn.Module):
    """x (B, T, C) → (B, T, C): talk, then think; the norm comes before each (pre-norm)."""

    def __init__(self, config):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A transformer that reads from left to right.  wte, wpe, h and ln_f are GPT-2's names."""

    def __init__(self, config: GPTConfig):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # what the token is
        self.wpe = nn.Embedding(config.block_size, config.n_embd)  # where it stands
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias)
        self._initialize()

    def _initialize(self):
        """Set GPT-2's initial weights: normal with deviation 0.02, norms 1, biases 0.

        The stream is a sum of 2·n_layer branches.  Variances of independent numbers add up: the
        last map of each starts 1/√(2·n_layer) times as wide, so that the sum is no wider than one.
        """
        narrow = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                p.data = random.normal(p.shape, narrow if name.endswith("proj.weight") else 0.02)
            else:
                p.data[...] = 1 if name.endswith("weight") else 0

    def forward(self, ids):
        """ids (B, T), integers, T ≤ block_size → logits (B, T, V), scores for the next token."""
        if not isinstance(ids, Tensor):
            ids = Tensor(ids if is_array(ids) else np.asarray(ids))  # a list's numbers are integers
        if ids.ndim != 2:
            raise ValueError(f"GPT: ids {ids.shape} must have 2 axes, (B, T): one row is (1, T)")
        if ids.shape[1] > self.config.block_size:
            raise ValueError(
                f"GPT: ids {ids.shape} are too long: axis 1 has T = {ids.shape[1]} tokens, more "
                f"than block_size {self.config.block_size}"
            )
        if ids.device != self.device:
            check_ids("GPT", ids.data, self.config.vocab_size)
            ids = ids.to(self.device)
        positions = array_module(ids.data).arange(ids.shape[1])
        x = self.dropout(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for block in self.h:
            x = block(x)
        # Weight tying: the output layer reuses the token embedding matrix.
        return F.linear(self.ln_f(x), self.wte.weight)

    @property
    def device(self):
        """Where the weights are."""
        return self.wte.weight.device

    def parameter_groups(self, weight_decay):
        """Return the groups for AdamW: matrices decay, norms and biases do not."""
        parameters = self.parameters()
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]

    def stream(self, ids, max_new_tokens, **options):
        """Yield one column of new ids (B,) at a time: gpt_numpy.sample.stream."""
        return sample.stream(self, ids, max_new_tokens, **options)

    def generate(self, ids, max_new_tokens, **options):
        """ids (B, T) → ids (B, T + max_new_tokens), a Tensor: gpt_numpy.sample.generate.

        Prompts in a list may have different lengths, and then it is a list of Tensors.
        """
        return sample.generate(self, ids, max_new_tokens, **options)

    def save_pretrained(self, folder, **origin):
        """Write config.json and model.safetensors as Hugging Face's GPT-2 has them.

        origin      metadata for model.safetensors, such as tokenizer=tokenizer.fingerprint()
        """
        checkpoint.save(folder, self.config, self.state_dict(), origin)

    @classmethod
    def from_pretrained(cls, folder):
        """Return the GPT that `save_pretrained` wrote; ValueError or OSError if it is damaged."""
        return cls.from_state(*checkpoint.load(folder))

    @classmethod
    def from_state(cls, config, state):
        """Return the GPT with this GPTConfig and these arrays, in their dtype, for evaluation."""
        model = cls(config)
        model.to(dtype=state["wte.weight"].dtype)
        model.load_state_dict(state)
        return model.eval()
