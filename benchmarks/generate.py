"""How quickly does a model write, beside PyTorch?

    python benchmarks/generate.py [--rounds 5] [--tokens 500]

One text at a time (batch 1), from a prompt of one token, at temperature 0.8, far past the window.
PyTorch writes in inference mode, with one thread or with all, whichever is quicker, in two ways:

uncached    the whole window is read for every token, as nanoGPT does
cached      with the same kind of cache as ours: keys and values are kept, each layer's in a block
            of memory, and where the window is full its last half is read anew
"""

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from common import HERE, number, parser, python, ratio, report, shown, take_turns

from gpt_numpy.config import PRESETS, TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # twin.py

TEMPERATURE = 0.8
VOCAB_SIZE = 65
BABY = PRESETS["baby"] | {"dropout": 0.0}
SETTINGS = {"laptop": {}, "baby": BABY}


def ours(config, temperature=TEMPERATURE, model=None):
    """write(n): the ids of a text of n tokens and its prompt, token 0."""
    import minigrad as mg
    from gpt_numpy import GPT

    mg.manual_seed(1)
    model = model or GPT(config)
    return lambda n: model.generate([[0]], n, temperature=temperature, seed=1).numpy()[0]


def draw(logits, temperature):
    """The next token (1, 1) by scores (1, V)."""
    import torch

    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1)


def uncached(config, temperature=TEMPERATURE, twin=None):
    """write(n) of the PyTorch twin, which reads its last block_size tokens for each."""
    import torch
    from twin import Twin

    twin = (twin or Twin(config)).eval()

    def write(n):
        ids = torch.zeros((1, 1), dtype=torch.long)
        with torch.inference_mode():
            for _ in range(n):
                logits = twin(ids[:, -config.block_size :])[:, -1]
                ids = torch.cat([ids, draw(logits, temperature)], 1)
        return ids[0].numpy()

    return write


def cached(config, temperature=TEMPERATURE, twin=None):
    """write(n) of the PyTorch twin with a cache."""
    import torch
    import torch.nn.functional as F
    from twin import Twin

    twin = (twin or Twin(config)).eval()
    H, size, C = config.n_head, config.block_size, config.n_embd
    dtype = twin.wte.weight.dtype
    caches = [torch.empty((2, 1, H, size, C // H), dtype=dtype) for _ in twin.h]

    def read(ids, start):
        T, stop = ids.shape[1], start + ids.shape[1]
        x = twin.wte(ids) + twin.wpe.weight[start:stop]
        for block, cache in zip(twin.h, caches, strict=True):
            q, k, v = block.qkv(block.ln_1(x)).split(C, dim=2)
            q, k, v = (t.view(1, T, H, -1).transpose(1, 2) for t in (q, k, v))
            cache[0, :, :, start:stop], cache[1, :, :, start:stop] = k, v
            keys, values = cache[0, :, :, :stop], cache[1, :, :, :stop]
            y = F.scaled_dot_product_attention(q, keys, values, is_causal=T > 1)
            x = x + block.proj(y.transpose(1, 2).reshape(1, T, C))
            x = x + block.mlp_proj(F.gelu(block.fc(block.ln_2(x)), approximate="tanh"))
        return F.linear(twin.ln_f(x[:, -1]), twin.wte.weight)

    def write(n):
        ids = new = torch.zeros((1, 1), dtype=torch.long)
        start = 0
        with torch.inference_mode():
            for _ in range(n):
                if start + new.shape[1] > size:
                    new, start = ids[:, -(size // 2) :], 0
                logits = read(new, start)
                start += new.shape[1]
                new = draw(logits, temperature)
                ids = torch.cat([ids, new], 1)
        return ids[0].numpy()

    return write


SIDES = {side.__name__: side for side in (ours, uncached, cached)}


def rate(write, n):
    """Tokens per second of a text of n, after a short one."""
    write(max(2, n // 10))
    start = time.perf_counter()
    write(n)
    return n / (time.perf_counter() - start)


def parts(config, n):
    """Where the microseconds of a token of ours go: {what: how many}, of a text of n."""
    import numpy as np

    from gpt_numpy import GPT
    from gpt_numpy.scale.decoder import Decoder

    model = GPT(config)
    decoder, half = Decoder(model), config.block_size // 2
    maps = [m for b in decoder.blocks for m in (b.query_key_value, b.proj, b.fc, b.mlp_proj)]
    products = [(np.ones((1, len(m.weight)), np.float32), m.weight) for m in [*maps, decoder.head]]
    one, many = np.zeros((1, 1), int), np.zeros((1, half), int)

    def multiply():
        for x, weight in products:
            x @ weight

    def read_one():
        if decoder.length == config.block_size:
            decoder.reset()
        decoder.forward(one)

    def read_half():
        decoder.reset()
        decoder.forward(many)

    def microseconds(work, times=500):
        """The median of 9, each of several times in a row: as work goes on without a pause."""
        found = []
        for _ in range(9):
            start = time.perf_counter()
            for _ in range(times):
                work()
            found.append((time.perf_counter() - start) / times)
        return 1e6 * statistics.median(found)

    whole = microseconds(lambda: model.generate([[0]], n, temperature=TEMPERATURE, seed=1), 1) / n
    product, one_read = microseconds(multiply), microseconds(read_one)
    # A full window is read anew for one token of every block_size - half + 1, which needs no read
    # of its own.
    anew = (microseconds(read_half, 20) - one_read) / (config.block_size - half + 1)
    return {
        "matrix products of one row": product,
        "NumPy's other calls": one_read - product,
        "reading the last half anew": anew,
        "drawing and the rest": whole - one_read - anew,
    }


def measure(side, options, n):
    """Print the tokens per second of one side, or the parts of ours."""
    config = TrainConfig(**options).model(VOCAB_SIZE)
    if side == "parts":
        print(json.dumps(parts(config, n)))
        return
    write = SIDES[side](config)
    if side == "ours":
        print(json.dumps(rate(write, n)))
        return
    import torch

    rates = []
    for threads in {1, torch.get_num_threads()}:
        torch.set_num_threads(threads)
        rates.append(rate(write, n))
    print(json.dumps(max(rates)))


def main():
    flags = parser(__doc__, rounds=5)
    flags.add_argument("--tokens", type=int, default=500, help="of each text")
    flags.add_argument("--only", default="", help="those settings whose name has this")
    flags.add_argument("--side", choices=[*SIDES, "parts"], help="measure this alone")
    args = flags.parse_args()
    settings = {name: options for name, options in SETTINGS.items() if args.only in name}
    if args.side:
        (options,) = settings.values()
        return measure(args.side, options, args.tokens)
    rows, raw, notes = [], {}, []
    for name in settings:
        print(f"{name}: tokens per second, a process each")
        command = [HERE / "generate.py", "--only", name, "--tokens", args.tokens, "--side"]
        sides = {side: partial(python, *command, side) for side in SIDES}
        raw[name] = results = take_turns(sides, args.rounds)
        middle = [number(statistics.median(r)) for r in results.values()]
        quotients = [ratio(results["ours"], results[s]) for s in ("uncached", "cached")]
        rows.append([name, *middle, *map(shown, quotients)])
        found = python(*command, "parts")
        listed = ", ".join(f"{what} {number(us)}" for what, us in found.items())
        notes.append(f"Microseconds of a token of ours, {name}: {listed}.")
        raw[name] |= found
    columns = ["setting", "gpt_numpy, tokens/s", "PyTorch, tokens/s", "PyTorch cached, tokens/s"]
    report(
        f"Writing {args.tokens} tokens, one text at a time",
        [*columns, "ours / PyTorch", "ours / PyTorch cached"],
        rows,
        raw,
        notes,
        complete=not args.only,
    )


if __name__ == "__main__":
    main()
