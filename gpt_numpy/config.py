"""Every setting, with its reason."""

import math
from dataclasses import dataclass, field
from typing import Any


def physical_cores() -> int:
    """Return how many processor cores this process may use; two threads of a core count once."""
    import loky  # it also respects the limits of a container; here, because its import is slow

    return loky.cpu_count(only_physical_cores=True)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a GPT.  The defaults are the preset `laptop`, nanoGPT's recipe for a CPU."""

    block_size: int = 64
    """How many tokens the model sees at once (T); the cost of attention grows with T²."""
    n_layer: int = 4
    """How many blocks there are: each can build on what the one before has found."""
    n_head: int = 4
    """How many things a block can look for at once: each head has n_embd / n_head channels."""
    n_embd: int = 128
    """How many numbers describe a token (C): most of the work and the weights grow with C²."""
    dropout: float = 0.0
    """The fraction of values set to 0 in training; use some if the text is read many times."""
    bias: bool = False
    """Whether linear layers and layer norms have a bias; GPT-2's do, but it matters little."""

    def __post_init__(self):
        self.check()

    def check(self):
        """Raise ValueError that names the first field whose value makes no sense."""
        for name, declared in self.__dataclass_fields__.items():
            if declared.type is int:
                value = getattr(self, name)
                _require(isinstance(value, int), name, value, "a whole number")
        for name in ("block_size", "n_layer", "n_head", "n_embd"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(
            self.n_embd % self.n_head == 0,
            "n_embd",
            self.n_embd,
            f"a multiple of n_head, {self.n_head} (flag --n-head)",
        )
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Architecture):
    """Everything needed to build a GPT."""

    vocab_size: int
    """How many different tokens the tokenizer has (V)."""
    bias: bool = True
    """As above; on by default, because GPT-2 has biases."""

    def check(self):
        super().check()
        _require(self.vocab_size >= 1, "vocab_size", self.vocab_size, "at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Architecture):
    """All that decides the outcome of a training run, besides the text."""

    steps: int = 2000
    """How many training steps to make; each one updates the weights once."""
    batch_size: int = 12
    """How many windows of the text are read at once (B)."""
    accumulate: int = 1
    """How many batches to accumulate in a step: a large batch in the memory of a small one."""
    lr: float = 1e-3
    """The highest learning rate: about how far a weight moves in a step."""
    min_lr: float = 1e-4
    """The learning rate at the end, usually a tenth of the highest."""
    warmup_steps: int = 100
    """How many steps the learning rate takes to rise, because early gradients are noisy."""
    weight_decay: float = 0.1
    """How strongly matrices are pulled towards 0, so only what the data supports stays large."""
    beta1: float = 0.9
    """How long AdamW remembers gradients: 0.9 is about 10 steps."""
    beta2: float = 0.99
    """How long AdamW remembers their squares: 0.99 is about 100 steps; small batches are noisy."""
    grad_clip: float = 1.0
    """The largest gradient norm that is allowed; larger gradients are scaled down to it."""
    eval_every: int = 250
    """How many steps between evaluations: a validation loss and a sample each time."""
    patience: int = 0
    """How many evaluations in a row without a better validation loss end the run; 0: never."""
    log_every: int = 10
    """How many steps between rows of metrics.csv; a GPU run checks for NaN at these steps."""
    seed: int = 1
    """Where all randomness comes from: the same seed, the same run."""
    workers: int = field(default_factory=physical_cores)
    """How many processes share a step's sequences; the last digits depend on this number."""
    graph: bool = True
    """Whether a GPU replays a recorded step instead of waiting for Python; same results."""

    def check(self):
        super().check()
        for name in ("lr", "min_lr", "weight_decay"):
            _require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a number")
        for name in ("steps", "batch_size", "accumulate", "eval_every", "log_every", "workers"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("min_lr", "warmup_steps", "weight_decay", "patience", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _require(self.seed < 2**64, "seed", self.seed, "at most 2^64 - 1")
        for name, value in vars(self).items():
            if isinstance(value, int):
                _require(value < 2**64, name, value, "below 2^64")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr, {self.lr}")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        _require(self.grad_clip > 0, "grad_clip", self.grad_clip, "above 0")

    @property
    def tokens_per_step(self) -> int:
        """How many tokens are predicted before the weights are updated."""
        return self.sequences_per_step * self.block_size

    @property
    def sequences_per_step(self) -> int:
        """How many windows of the text a step reads."""
        return self.accumulate * self.batch_size

    def model(self, vocab_size: int) -> GPTConfig:
        """Return the GPTConfig of this run for a vocabulary."""
        shape = {name: getattr(self, name) for name in Architecture.__dataclass_fields__}
        return GPTConfig(vocab_size=vocab_size, **shape)


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        flag = "--" + name.replace("_", "-")
        raise ValueError(f"{name} must be {rule}; it is {value} (flag {flag})")


PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {},  # nanoGPT's train_shakespeare_char for a CPU: the defaults above
    "baby": {  # nanoGPT's train_shakespeare_char for a GPU
        "block_size": 256,
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "dropout": 0.2,
        "steps": 5000,
        "batch_size": 64,
    },
    "gpt2": {  # GPT-2 124M
        "block_size": 1024,
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "bias": True,
        "batch_size": 8,
        "lr": 6e-4,
        "min_lr": 6e-5,
        "warmup_steps": 2000,
        "steps": 100_000,
    },
}
