import warnings
import fake_cupy
import numpy as np
import pytest
import gpt_numpy.scale.train
import minigrad as mg
from gpt_numpy import GPT, GPTConfig, TrainConfig
from gpt_numpy.scale.train import train
from gpt_numpy.train import adamw
V = 11
IDS = np.cumsum(np.random.default_rng(0).integers(1, 3, size=2000)) % V
RUN = {"batch_size": 3, "block_size": 8, "warmup_steps": 2, "workers": 1}

def model_on(device="gpu", **options):
    mg.manual_seed(3)
    shape = {"vocab_size": V, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 12}
    return GPT(GPTConfig(**shape | options)).to(device)

def trained(graph, steps, accumulate=1, **options):
    model = model_on(dropout=0.2)
    config = TrainConfig(**RUN, steps=steps, accumulate=accumulate, graph=graph)
    found = [(r.loss.item(), r.grad_norm.item()) for r in train(model, IDS, config)]
    return np.array(found), model.state_dict()

def test_same_bits(fake_gpu):
    eager = trained(False, 10)
    replays = fake_gpu.ledger.replays
    graph = trained(True, 10)
    assert fake_gpu.ledger.replays - replays == 6
    np.testing.assert_array_equal(eager[0], graph[0])
    for name, w in eager[1].items():
        np.testing.assert_array_equal(w, graph[1][name])
