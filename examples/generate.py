"""Let a trained model speak.

python examples/generate.py runs/shakespeare --prompt "ROMEO:" --tokens 500 --temperature 0.8
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt_numpy import GPT, checkpoint
from gpt_numpy.tokenizer import CharTokenizer
from minigrad.device import NoGPU, choose, in_one_line, out_of_memory


def speak(
    folder: Annotated[Path, tyro.conf.Positional] = Path("runs/shakespeare"),
    prompt: str = "\n",
    tokens: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 1,
    device: Literal["auto", "cpu", "gpu"] = "cpu",
):
    """Continue a prompt with the model of a run, printing as it writes.

    Args:
        folder: What examples/train_shakespeare.py left.
        prompt: The text to continue.
        tokens: How many tokens to write.
        temperature: Below 1 the likely becomes likelier; 0 always takes the likeliest.
        top_k: Draw among the k likeliest tokens only.
        top_p: Draw among the fewest tokens that together have this probability.
        seed: Another seed, another text.
        device: Where to compute; a small model is quick enough on a CPU.
    """
    if not (folder / "config.json").exists():
        raise ValueError(
            f"there is no model in {folder}: python examples/train_shakespeare.py first"
        )
    tokenizer = CharTokenizer.load(folder / "tokenizer.json")
    chosen, why = choose(device)
    if device == "auto":
        print(f"device: {chosen} ({why})", file=sys.stderr)
    model = GPT.from_pretrained(folder).to(chosen)
    checkpoint.check_tokenizer(folder, tokenizer.vocab_size, tokenizer.fingerprint())
    stream = model.stream(
        tokenizer.encode(prompt)[None],
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    print(prompt.lstrip("\n"), end="")
    for ids in stream:
        print(tokenizer.decode(ids), end="", flush=True)
    print()


def main(arguments=None):
    try:
        tyro.cli(speak, args=arguments)
    except (ValueError, OSError, NoGPU) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not out_of_memory(error):
            raise
        print(f"generate: there is not enough memory ({in_one_line(error)})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
