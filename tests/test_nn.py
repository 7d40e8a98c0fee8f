"""Modules against torch.nn with the same weights, and the book-keeping of parameters.

The ops behind them are tested in test_ops.py; here the question is who owns which parameter, under
which name, and whether saving, loading, converting and tying them keep their promises.
"""

import gc
import math
import weakref

import numpy as np
import pytest
import torch

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor, nn
from minigrad.random import at
from minigrad.tensor import this_thread

B, T, C, V = 2, 3, 5, 7
IDS = np.array([[0, 4, 4], [6, 4, 1]])


class Net(nn.Module):
    """A little of everything; the head's weight is the embedding's where `tied`."""

    def __init__(self, tied=False):
        self.embed = nn.Embedding(V, C)
        self.blocks = nn.ModuleList([nn.Linear(C, C), nn.Linear(C, C, bias=False)])
        self.norm = nn.LayerNorm(C)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(C, V, bias=False)
        self.scale = Tensor([2.0], requires_grad=True)
        self.constant = Tensor([1.0])  # requires no gradient, so it is no parameter
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = x + self.drop(F.gelu(block(x)))
        return self.head(self.norm(x)) * self.scale


class TorchNet(torch.nn.Module):
    """The same in PyTorch."""

    def __init__(self, tied=False):
        super().__init__()
        self.embed = torch.nn.Embedding(V, C)
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Linear(C, C), torch.nn.Linear(C, C, bias=False)]
        )
        self.norm = torch.nn.LayerNorm(C)
        self.head = torch.nn.Linear(C, V, bias=False)
        self.scale = torch.nn.Parameter(torch.ones(1))
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = x + torch.nn.functional.gelu(block(x), approximate="tanh")
        return self.head(self.norm(x)) * self.scale


NAMES = [
    "scale",
    "embed.weight",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.weight",
    "norm.weight",
    "norm.bias",
    "head.weight",
]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def pair(request):
    """(ours, theirs): the same random weights in float64, without dropout."""
    rng = np.random.default_rng(0)
    ours, theirs = Net(request.param).to(dtype=np.float64), TorchNet(request.param).double()
    twins = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        p.data[...] = rng.standard_normal(p.shape)
        twins[name].data = torch.tensor(p.data)
    return ours.eval(), theirs


def test_a_network_matches_pytorch(pair):
    """Output and every gradient; a tied weight collects from the head and from the embedding."""
    ours, theirs = pair
    dout = np.random.default_rng(1).standard_normal((B, T, V))
    out, reference = ours(IDS), theirs(torch.tensor(IDS))
    out.backward(dout)
    reference.backward(torch.tensor(dout))
    np.testing.assert_allclose(out.data, reference.detach(), rtol=0, atol=1e-12)
    twins = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        size = abs(twins[name].grad).max().item()
        assert size > 1e-3
        np.testing.assert_allclose(p.grad, twins[name].grad, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize(
    "ours, theirs, shape",
    [
        (nn.Linear(C, V), torch.nn.Linear(C, V), (B, T, C)),
        (nn.Linear(C, V, bias=False), torch.nn.Linear(C, V, bias=False), (B, T, C)),
        (nn.LayerNorm(C), torch.nn.LayerNorm(C), (B, T, C)),
        (nn.LayerNorm(C, bias=False, eps=0.1), torch.nn.LayerNorm(C, 0.1, bias=False), (T, C)),
        (nn.Embedding(V, C), torch.nn.Embedding(V, C), None),
    ],
    ids=["Linear", "Linear, no bias", "LayerNorm", "LayerNorm, no bias", "Embedding"],
)
def test_modules_match_pytorch(ours, theirs, shape):
    """The same names, shapes and layout of weights, and with them the same output."""
    rng = np.random.default_rng(0)
    ours.to(dtype=np.float64)
    twins = dict(theirs.double().named_parameters())
    assert [n for n, _ in ours.named_parameters()] == list(twins)
    for name, p in ours.named_parameters():
        assert p.shape == twins[name].shape
        p.data[...] = rng.standard_normal(p.shape)
        twins[name].data = torch.tensor(p.data)
    x = IDS if shape is None else rng.standard_normal(shape)
    expected = theirs(torch.tensor(x)).detach()
    np.testing.assert_allclose(ours(x).data, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours(Tensor(x)).data, expected, rtol=0, atol=1e-12)


# ---- parameters ----------------------------------------------------------------------------------


def test_names_and_order():
    """A module's own parameters in the order of assignment, then its children's, as in PyTorch."""
    ours, theirs = Net(), TorchNet()
    assert [name for name, _ in ours.named_parameters()] == NAMES
    assert [name for name, _ in theirs.named_parameters()] == NAMES
    assert all(p is q for p, (_, q) in zip(ours.parameters(), ours.named_parameters(), strict=True))


def test_a_tied_tensor_appears_once():
    """Under its first name; so the optimizer moves it once a step."""
    net = Net(tied=True)
    assert [name for name, _ in net.named_parameters()] == NAMES[:-1]
    assert net.head.weight is net.embed.weight
    assert list(net.state_dict()) == NAMES[:-1]


def test_module_list():
    """A list that can be indexed, counted and walked through, and that names by place."""
    modules = [nn.Linear(1, 1), nn.LayerNorm(1)]
    held = nn.ModuleList(m for m in modules)
    assert len(held) == 2 and held[1] is modules[1] and list(held) == modules
    assert [n for n, _ in held.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_train_and_eval_reach_everything_below():
    """Also modules in a list in a module; both return the module."""
    net = nn.ModuleList([Net()])
    drop, block = net[0].drop, net[0].blocks[1]
    assert drop.training
    assert net.eval() is net and not (net.training or drop.training or block.training)
    assert net.train() is net and net.training and drop.training and block.training
    net.train(False)
    assert not drop.training


def test_dropout_only_in_training():
    """Evaluation gives x itself; training zeroes a share and scales the rest."""
    x, drop = Tensor(np.ones((4, 1000), np.float32)), nn.Dropout(0.25)
    out = drop(x).data
    np.testing.assert_array_equal(np.unique(out), np.float32([0, 1 / 0.75]))
    assert abs((out == 0).mean() - 0.25) < 0.05
    np.testing.assert_array_equal(drop.eval()(x).data, x.data)


def test_dropout_follows_the_place():
    """The same step draws the same masks; two dropouts in it draw different ones."""
    x, drop = Tensor(np.ones((2, 100))), nn.Dropout(0.5)
    with at(seed=1, step=2):
        first, second = drop(x).data, drop(x).data
    with at(seed=1, step=2):
        np.testing.assert_array_equal(drop(x).data, first)
    assert (first != second).any()


# ---- saving and converting -----------------------------------------------------------------------


def test_state_dict_is_a_copy():
    """Training on does not change what was saved."""
    net = Net()
    state = net.state_dict()
    assert list(state) == NAMES and all(type(a) is np.ndarray for a in state.values())
    before = state["scale"].copy()
    net.scale.data += 1
    np.testing.assert_array_equal(state["scale"], before)


@pytest.mark.parametrize("tied", [False, True])
def test_load_state_dict_round_trip(tied):
    """Another network computes the same; it has copies, in the tensors that it had before."""
    net, other = Net(tied).eval(), Net(tied).eval()
    tensors, state = other.parameters(), net.state_dict()
    assert (net(IDS).data != other(IDS).data).any()
    other.load_state_dict(state)
    np.testing.assert_array_equal(net(IDS).data, other(IDS).data)
    assert all(p is q for p, q in zip(tensors, other.parameters(), strict=True))
    state["scale"] += 1
    np.testing.assert_array_equal(net(IDS).data, other(IDS).data)


def without(state, name):
    return {n: a for n, a in state.items() if n != name}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: without(s, "norm.bias"), r"missing \['norm.bias'\]"),
        (lambda s: s | {"extra": np.zeros(1)}, r"unexpected \['extra'\]"),
        (lambda s: s | {"head.weight": np.zeros((C, V))}, r"head.weight .*\(7, 5\).*\(5, 7\)"),
        (lambda s: s | {"head.weight": np.zeros(C)}, r"head.weight .*\(7, 5\).*\(5,\)"),
    ],
    ids=["missing", "unexpected", "transposed", "would broadcast"],
)
def test_load_state_dict_takes_all_or_nothing(spoil, message):
    """A state that does not fit is refused in one line, and no parameter has changed."""
    net = Net()
    before = net.state_dict()
    state = spoil({name: array + 1 for name, array in before.items()})
    with pytest.raises(ValueError, match=f"load_state_dict: .*{message}") as caught:
        net.load_state_dict(state)
    assert "\n" not in str(caught.value)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_loading_keeps_the_dtype():
    """A float64 state in a float32 network stays a float32 network."""
    net = nn.Linear(2, 2)
    net.load_state_dict({n: a.astype(np.float64) for n, a in net.state_dict().items()})
    assert net.weight.dtype == np.float32


def test_to_dtype():
    """In place, so that an optimizer keeps its tensors; gradients of another dtype are dropped."""
    net = Net(tied=True)
    tensors = net.parameters()
    tensors[0].grad = np.ones(1, np.float32)
    assert all(p.dtype == np.float32 for p in tensors)
    assert net.to(dtype=np.float64) is net
    assert all(p is q for p, q in zip(tensors, net.parameters(), strict=True))
    assert all(p.dtype == np.float64 and p.grad is None for p in tensors)
    assert net.head.weight is net.embed.weight
    assert net.eval()(IDS).dtype == np.float64


def test_to_device():
    """To where it is already: nothing changes.  To a device that there is not: an error."""
    net = Net()
    assert net.to("cpu") is net and net.embed.weight.device == "cpu"
    with pytest.raises(ValueError, match="'tpu'"):
        net.to("tpu")


# ---- initial weights -----------------------------------------------------------------------------


def test_linear_starts_uniform():
    """Within ±1/√n_in, all over that range: a uniform distribution has a spread of bound/√3."""
    mg.manual_seed(0)
    layer = nn.Linear(100, 1000)
    for p in (layer.weight, layer.bias):
        assert p.dtype == np.float32 and abs(p.data).max() <= 0.1
        n = p.data.size
        # four standard errors: of the mean bound/√(3n), of the mean square (bound²/3) √(4/5n)
        assert abs(p.data.mean()) < 4 * 0.1 / math.sqrt(3 * n)
        square = (p.data.astype(np.float64) ** 2).mean() / (0.1**2 / 3)
        assert abs(square - 1) < 4 * math.sqrt(0.8 / n)


def test_embedding_starts_normal():
    """With mean 0 and standard deviation 1, and tails beyond what a uniform one has."""
    mg.manual_seed(0)
    weight = nn.Embedding(1000, 100).weight
    assert weight.dtype == np.float32
    n = weight.data.size
    assert abs(weight.data.mean()) < 4 / math.sqrt(n)
    assert abs((weight.data.astype(np.float64) ** 2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs(weight.data).max() > 3.5


def test_layer_norm_starts_as_plain_normalisation():
    """Weight 1, bias 0."""
    norm = nn.LayerNorm(C)
    np.testing.assert_array_equal(norm.weight.data, np.ones(C))
    np.testing.assert_array_equal(norm.bias.data, np.zeros(C))


def test_the_seed_decides_the_weights():
    """The same seed, the same network; another seed, or the next layer, another one."""

    def weights(seed):
        mg.manual_seed(seed)
        return nn.Linear(C, C).weight.data, nn.Linear(C, C).weight.data

    first, second = weights(1), weights(1)
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).all() and (first[0] != weights(2)[0]).all()


def test_evaluating_restores_every_module():
    """Also one that was in another mode than the whole, and after an error."""
    model = nn.ModuleList([nn.Dropout(0.5), nn.Dropout(0.5)])
    model[0].eval()
    with pytest.raises(KeyError), model.evaluating():
        assert not model.training and not model[1].training
        raise KeyError
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


# ---- which call of which module took a step ------------------------------------------------------


class Keeper(nn.Module):
    """It keeps what it computed, as a module may that shows its attention, or one with a state."""

    def __init__(self):
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        self.kept = self.linear(x) * 2.0
        if self.kept.data.size > 4:
            raise KeyError
        return self.kept


def test_a_step_knows_the_call_that_took_it():
    """From the outermost module to the innermost; two calls of one module are told apart."""
    keeper = Keeper()
    first, second, outside = (
        keeper(np.ones((1, 2), np.float32)),
        keeper(np.ones((1, 2), np.float32)),
        keeper.kept * 2.0,
    )
    (linear,) = {step for step in first.step.sources if step}
    assert outside.step.place is None
    calls = nn.calls_from_outermost(linear.place)
    assert [(module(), name) for _, module, name in calls] == [
        (keeper, "Keeper"),
        (keeper.linear, "Linear"),
    ]
    assert calls[:1] == nn.calls_from_outermost(first.step.place)
    assert calls[0] is first.step.place and calls[0] is not second.step.place
    first.backward(np.ones((1, 2), np.float32))
    assert linear.place is None and first.step.place is None


def test_a_call_that_fails_is_over():
    """What follows is outside of the module again."""
    keeper = Keeper()
    with pytest.raises(KeyError):
        keeper(np.ones((3, 2), np.float32))
    assert this_thread.calls is None


def test_a_module_that_keeps_its_result_is_freed_at_once():
    """Its tensor's step knows the module, and yet there is no cycle: no collector is needed."""
    gc.collect()
    gc.disable()
    try:
        keeper = Keeper()
        out, gone = keeper(np.ones((1, 2), np.float32)), weakref.ref(keeper)
        del keeper
        assert gone() is None and out.requires_grad
    finally:
        gc.enable()
