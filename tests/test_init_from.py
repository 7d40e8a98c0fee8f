"""--init-from: training goes on from a model in Hugging Face's layout, ours or theirs."""

import json

import numpy as np
import pytest
import torch
from command import TINY, assert_refused, example, metrics_of, needs_data, snapshot
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_numpy import GPT
from gpt_numpy.data import encoded
from gpt_numpy.tokenizer import BPETokenizer, CharTokenizer, gpt2, load
from gpt_numpy.train import evaluate

pytestmark = pytest.mark.slow

train_shakespeare = example("train_shakespeare")
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32}


def their_model(folder, vocab_size, dtype=torch.float32, **changes):
    """A small GPT-2 with random weights, saved by transformers."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocab_size, bos_token_id=None, eos_token_id=None, **SMALL)
    model = GPT2LMHeadModel(config).to(dtype)
    model.save_pretrained(folder, **changes)
    return model


@pytest.fixture
def start(tmp_path, text_file):
    """(folder, tokenizer) of a model of theirs, with a tokenizer of 290 tokens."""
    tokenizer = BPETokenizer.from_text(text_file.read_text(encoding="utf-8"), 290)
    their_model(tmp_path / "start", 290)
    tokenizer.save(tmp_path / "start/tokenizer.json")
    return tmp_path / "start", tokenizer


FLAGS = "--device cpu --steps 6 --eval-every 3 --log-every 2 --batch-size 4 --workers 1".split()


@pytest.fixture
def tune(text_file, tmp_path, capsys):
    """tune(folder, *flags): a short run that starts from the model there; its folder and output."""

    def tune(folder, *flags, name="tuned"):
        out = tmp_path / name
        arguments = ["--data", text_file, "--init-from", folder, "--out", out, *FLAGS, *flags]
        assert train_shakespeare.main([*map(str, arguments)]) == 0
        return out, capsys.readouterr().out.splitlines()

    return tune


@pytest.mark.parametrize("block_size", [None, 32, 8])
def test_it_starts_where_the_model_stands(start, tune, text_file, block_size):
    """The loss at step 0 is that of the model, with its own tokenizer and a block as long or
    shorter; then it falls.
    """
    folder, tokenizer = start
    flags = [] if block_size is None else ["--block-size", block_size]
    out, lines = tune(folder, *flags)
    config = GPT.from_pretrained(out).config
    assert config.block_size == (block_size or 32)
    assert (config.n_layer, config.n_head, config.n_embd, config.bias) == (2, 2, 16, True)
    assert load(out / "tokenizer.json").tokens == tokenizer.tokens

    model = GPT.from_pretrained(folder)
    model.wpe.weight.data = model.wpe.weight.data[: config.block_size]
    object.__setattr__(model.config, "block_size", config.block_size)
    _, val_ids = encoded(tokenizer, text_file.read_text(encoding="utf-8"), config.block_size)
    losses = [v for v in metrics_of(out)["val_loss"] if v is not None]
    assert losses[0] == pytest.approx(evaluate(model, val_ids), rel=1e-5)
    assert losses[-1] < losses[0]
    assert any("it starts from the weights in" in line and str(folder) in line for line in lines)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_trains_in_float32(start, tune, dtype):
    """Whatever the file is in."""
    folder, _ = start
    their_model(folder, 290, dtype)
    out, _ = tune(folder)
    assert GPT.from_pretrained(out).wte.weight.dtype == np.float32


def test_a_run_of_ours_can_be_the_start(train, tune):
    """Of characters and without biases, as it was."""
    first = train("first", "--no-bias").folder
    out, _ = tune(first)
    assert not GPT.from_pretrained(out).config.bias
    assert isinstance(load(out / "tokenizer.json"), CharTokenizer)
    before = [v for v in metrics_of(first)["val_loss"] if v is not None]
    after = [v for v in metrics_of(out)["val_loss"] if v is not None]
    assert after[0] == pytest.approx(min(before), rel=1e-5)


def test_it_goes_on_without_the_start(start, tune, train, monkeypatch):
    """A run that was stopped has all that it needs in its own folder."""
    folder, _ = start
    out, _ = tune(folder, "--steps", "3")
    settings = json.loads((out / "train_config.json").read_text(encoding="utf-8"))
    assert settings["init_from"] == str(folder) and settings["tokenizer"] == "bpe"
    monkeypatch.chdir(folder.parent)
    assert train("tuned", "--resume", "--init-from", "start", "--steps", "4").status == 0
    folder.rename(folder.with_name("gone"))
    resumed = train("tuned", "--resume", "--steps", "5")
    assert (resumed.status, resumed.err) == (0, "")
    refused = train("tuned", "--resume", "--init-from", "elsewhere", "--steps", "6")
    assert refused.status == 2 and "--init-from would change" in refused.err


@needs_data
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_gpt2_of_50257_tokens(tmp_path, tune, text_file, with_tokenizer):
    """With the tokenizer that lies beside it, or without: then it is GPT-2's."""
    folder = tmp_path / "gpt2"
    their_model(folder, 50_257)
    if with_tokenizer:
        gpt2().save(folder / "tokenizer.json")
    out, lines = tune(folder, "--steps", "2", "--eval-every", "2")
    assert "tokenizer: gpt2, 50,257 tokens" in lines
    losses = [v for v in metrics_of(out)["val_loss"] if v is not None]
    _, val_ids = encoded(gpt2(), text_file.read_text(encoding="utf-8"), 32)
    assert losses[0] == pytest.approx(evaluate(GPT.from_pretrained(folder), val_ids), rel=1e-5)
    assert losses[-1] < losses[0]
    theirs = GPT2LMHeadModel.from_pretrained(out).eval()
    ids = np.array([[15496, 11, 995, 0]])
    with torch.no_grad():
        reference = theirs(torch.from_numpy(ids)).logits.numpy()
    logits = GPT.from_pretrained(out).eval()(ids).numpy()
    assert abs(logits - reference).max() <= 1e-5 * abs(reference).max()


def test_rows_for_no_token_are_left_out(start, tune):
    """Of a vocabulary that was padded from 290 to 296."""
    folder, _ = start
    their_model(folder, 296)
    out, _ = tune(folder)
    assert GPT.from_pretrained(out).config.vocab_size == 290


REFUSED = {
    "--n-layer 3": ["--n-layer is 3", "has 2"],
    "--n-embd 32": ["--n-embd is 32", "has 16"],
    "--n-head 1": ["--n-head is 1", "has 2"],
    "--no-bias": ["--bias is False", "has True"],
    "--block-size 33": ["--block-size is 33", "has only 32 positions"],
    "--tokenizer char": ["is bpe, not char"],
    "--vocab-size 300": ["--vocab-size", "cannot be combined with --init-from"],
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_the_model_is_not_is_refused(start, text_file, tmp_path, capsys, flags):
    """In one line; nothing is written."""
    folder, _ = start
    before = snapshot(tmp_path)
    arguments = ["--data", text_file, "--init-from", folder, "--out", tmp_path / "run", *FLAGS]
    parts = [*REFUSED[flags]]
    assert_refused(capsys, train_shakespeare.main, [*arguments, *flags.split()], parts)
    assert snapshot(tmp_path) == before


def test_a_model_is_not_overwritten_by_what_starts_from_it(start, text_file, capsys):
    """Nor renamed: --out must be another folder."""
    folder, _ = start
    before = snapshot(folder)
    arguments = ["--data", text_file, "--init-from", folder, "--out", folder, *FLAGS]
    assert_refused(capsys, train_shakespeare.main, arguments, ["--out", "choose another"])
    assert snapshot(folder) == before


def spoil(what):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        match what:
            case "no folder":
                folder.rename(folder.with_name("elsewhere"))
            case "no tokenizer":
                (folder / "tokenizer.json").unlink()
            case "another vocabulary":
                CharTokenizer("abc").save(folder / "tokenizer.json")
            case "another architecture":
                config["model_type"] = "llama"
            case "a missing tensor":
                config["n_layer"] = 3
            case "a bias of another kind":
                config["bias"] = "no"
            case "a number that is none":
                model = GPT.from_pretrained(folder)
                model.h[1].ln_2.bias.data[3] = np.inf
                model.save_pretrained(folder)
                config = json.loads((folder / "config.json").read_text())
        if folder.exists():
            (folder / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    "what, parts",
    [
        ("no folder", ["config.json"]),
        ("no tokenizer", ["has no tokenizer.json"]),
        ("another vocabulary", ["tokenizer.json", "is not the tokenizer of the model", "3 tokens"]),
        ("another architecture", ["config.json", "llama"]),
        ("a missing tensor", ["model.safetensors", "h.2."]),
        ("a bias of another kind", ["config.json", "bias must be true or false"]),
        ("a number that is none", ["h.1.ln_2.bias has NaN or infinite entries"]),
    ],
)
def test_a_bad_start_is_refused(start, text_file, tmp_path, capsys, what, parts):
    """In one line that names the file; nothing is written."""
    folder, _ = start
    spoil(what)(folder)
    before = snapshot(tmp_path)
    arguments = ["--data", text_file, *TINY, "--init-from", folder, "--out", tmp_path / "run"]
    assert_refused(capsys, train_shakespeare.main, arguments, [*parts, str(folder)])
    assert snapshot(tmp_path) == before
