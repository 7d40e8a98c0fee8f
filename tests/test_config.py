"""The numbers of the presets, and what a wrong number answers."""

import ast
import math
from dataclasses import asdict
from pathlib import Path

import loky
import pytest

from gpt_numpy import GPTConfig, TrainConfig, config
from gpt_numpy.config import PRESETS

LAPTOP = {
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "block_size": 64,
    "batch_size": 12,
    "accumulate": 1,
    "steps": 2000,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup_steps": 100,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "dropout": 0.0,
    "bias": False,
    "eval_every": 250,
    "log_every": 10,
}
BABY = {
    "n_layer": 6,
    "n_head": 6,
    "n_embd": 384,
    "block_size": 256,
    "batch_size": 64,
    "steps": 5000,
    "dropout": 0.2,
}
GPT2 = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "batch_size": 8,
    "bias": True,
    "lr": 6e-4,
    "min_lr": 6e-5,
    "warmup_steps": 2000,
}


@pytest.mark.parametrize(
    "name, numbers",
    [("laptop", LAPTOP), ("baby", LAPTOP | BABY), ("gpt2", LAPTOP | GPT2 | {"steps": 100_000})],
)
def test_presets_are_the_recipes(name, numbers):
    """Every preset is a valid TrainConfig with exactly the published numbers."""
    settings = asdict(TrainConfig(**PRESETS[name]))
    assert {key: settings[key] for key in numbers} == numbers
    assert settings.keys() - numbers.keys() == {"graph", "patience", "seed", "workers"}


def test_there_are_three_presets():
    """The command offers these and no others."""
    assert list(PRESETS) == ["laptop", "baby", "gpt2"]


BAD = [
    *[(name, 0) for name in ("block_size", "n_layer", "n_head", "n_embd")],
    *[(name, -3) for name in ("block_size", "n_layer", "n_head", "n_embd")],
    *[(name, 0) for name in ("steps", "batch_size", "accumulate", "eval_every", "log_every")],
    ("workers", 0),
    *[(name, -1) for name in ("min_lr", "warmup_steps", "weight_decay", "seed", "steps")],
    *[("dropout", value) for value in (-0.1, 1, 1.5, math.nan)],
    *[("lr", value) for value in (0, -1, math.nan, math.inf)],
    *[("min_lr", value) for value in (2e-3, math.nan)],  # above lr, 1e-3
    *[(name, value) for name in ("beta1", "beta2") for value in (-0.1, 1, math.nan)],
    *[("weight_decay", value) for value in (math.nan, math.inf)],
    *[("grad_clip", value) for value in (0, -1, math.nan)],
    ("n_embd", 130),  # no multiple of n_head, 4
]


@pytest.mark.parametrize("name, value", BAD)
def test_a_bad_number_is_named(name, value):
    """In one line: the field, the value, and the flag that sets it."""
    with pytest.raises(ValueError) as error:
        TrainConfig(**{name: value})
    message = str(error.value)
    assert message.startswith(f"{name} must be ") and "\n" not in message
    assert f"it is {value} (flag --{name.replace('_', '-')})" in message


def test_heads_that_do_not_share_the_channels_are_named():
    """n_embd and n_head are both in the message: either may be the one to change."""
    with pytest.raises(ValueError, match="n_embd must be a multiple of n_head, 3 .* it is 8 "):
        GPTConfig(vocab_size=65, n_head=3, n_embd=8)


@pytest.mark.parametrize("value", [0, -1])
def test_a_vocabulary_without_tokens_is_refused(value):
    """A model needs at least one token."""
    with pytest.raises(ValueError, match=f"vocab_size must be at least 1; it is {value} "):
        GPTConfig(vocab_size=value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("dropout", 0),
        ("dropout", 0.999),
        ("min_lr", 0),
        ("min_lr", 1e-3),
        ("warmup_steps", 0),
        ("weight_decay", 0),
        ("beta1", 0),
        ("beta2", 0),
        ("seed", 0),
        ("steps", 1),
        ("n_embd", 4),
        ("grad_clip", math.inf),
    ],
)
def test_the_edges_are_allowed(name, value):
    """The rules refuse what is wrong, and nothing else: 1e-3 is as high as min_lr may be."""
    assert getattr(TrainConfig(**{name: value}), name) == value


def test_every_field_has_its_reason():
    """A string of at least a few words follows every field of every class in config.py."""
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {c.name for c in classes} == {"Architecture", "GPTConfig", "TrainConfig"}
    bare = []
    for c in classes:
        for field, after in zip(c.body, [*c.body[1:], None], strict=True):
            match after:
                case ast.Expr(value=ast.Constant(value=str(reason))):
                    pass
                case _:
                    reason = ""
            if isinstance(field, ast.AnnAssign) and len(reason.split()) < 5:
                bare.append(f"{c.name}.{field.target.id}")
    assert bare == []


def test_model_carries_the_architecture_over():
    """The GPTConfig of a run has its shape, its dropout and its choice of biases."""
    shape = {"block_size": 8, "n_layer": 2, "n_head": 3, "n_embd": 6, "dropout": 0.25}
    for bias in (False, True):
        made = TrainConfig(**shape, bias=bias, steps=7).model(65)
        assert made == GPTConfig(vocab_size=65, **shape, bias=bias)


def test_a_model_has_biases_unless_it_is_told_not_to():
    """As in GPT-2; the training recipes go without."""
    assert GPTConfig(vocab_size=65).bias and not TrainConfig().bias


def test_as_many_workers_as_cores(monkeypatch):
    """Physical ones, and those that the process may use."""
    assert TrainConfig().workers == config.physical_cores() >= 1
    monkeypatch.setattr(loky, "cpu_count", lambda only_physical_cores: 4 + only_physical_cores)
    assert TrainConfig().workers == 5


def test_configs_are_frozen_and_have_no_positions():
    """A number that a run began with cannot change under it, nor be given in the wrong place."""
    with pytest.raises(AttributeError):
        TrainConfig().lr = 1.0
    with pytest.raises(TypeError):
        TrainConfig(64)
