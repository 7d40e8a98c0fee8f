"""gpt_numpy: a GPT, written and trained on minigrad."""

from gpt_numpy.config import GPTConfig, TrainConfig
from gpt_numpy.model import GPT

__all__ = ["GPT", "GPTConfig", "TrainConfig"]
