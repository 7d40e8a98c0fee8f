"""Modules against torch.nn with the same weights, and the book-keeping of parameters.

The ops behind them are tested in test_ops.py; here the question is who owns which parameter, under
which name, and whether saving, loading, converting and tying them keep their promises.
"""

import contextlib
import copy
import dataclasses
import gc
import math
import pickle
import threading
import weakref
from collections import deque

import numpy as np
import pytest
import torch

import minigrad as mg
import minigrad.ops as F
from minigrad import Tensor, nn
from minigrad.internals.hooks import calls_from_outermost, this_thread
from minigrad.random import rng_scope


def test_modules_are_found_in_values_and_arrays():
    """As in lists."""

    class Holder(nn.Module):
        def __init__(self):
            self.values = {"a": nn.Linear(1, 1)}.values()
            self.array = np.array([nn.Linear(1, 1), None], object)

    names = [name for name, _ in Holder().named_parameters()]
    assert names == ["values.0.weight", "values.0.bias", "array.0.weight", "array.0.bias"]


def test_eval_mode_decorates_generators():
    """Its code runs without dropout and recording; the caller's does not."""
    layer, x = nn.Dropout(0.5), Tensor([1.0], requires_grad=True)

    @layer.eval_mode()
    def steps():
        for _ in range(2):
            yield layer.training, layer(x).requires_grad

    for inside in steps():
        assert inside == (False, False) and layer.training
        assert (x * 1).requires_grad


@pytest.mark.parametrize("wrong", [np.array(["x", "y"]), np.array([1j, 2])])
def test_a_state_that_holds_no_numbers_changes_nothing(wrong):
    """It is refused before anything is copied."""
    layer = nn.Linear(2, 2)
    before = layer.weight.data.copy()
    with pytest.raises(TypeError, match="load_state_dict: bias holds .*, not real numbers"):
        layer.load_state_dict({"weight": np.ones((2, 2)), "bias": wrong})
    np.testing.assert_array_equal(layer.weight.data, before)


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


@pytest.mark.parametrize("kind", [list, tuple, deque, lambda modules: dict(enumerate(modules))])
def test_modules_in_containers(kind):
    """Each is found, under its index or key."""
    net = nn.Module()
    net.layers = kind([nn.Linear(1, 1), nn.Linear(1, 1, bias=False)])
    names = ["layers.0.weight", "layers.0.bias", "layers.1.weight"]
    assert [name for name, _ in net.named_parameters()] == names


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
    with rng_scope(seed=1, step=2):
        first, second = drop(x).data, drop(x).data
    with rng_scope(seed=1, step=2):
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
    with pytest.raises(KeyError), model.eval_mode():
        assert not model.training and not model[1].training
        raise KeyError
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_evaluating_is_of_a_thread():
    """Dropout goes on in another thread, and in other models; one evaluation may be in another."""
    model, other = nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.5)
    entered, seen = threading.Event(), threading.Event()

    def evaluate():
        with model.eval_mode(), model[0].eval_mode():
            entered.set()
            seen.wait(10)
            modes.append((model.training, model[0].training, other.training))

    modes = []
    thread = threading.Thread(target=evaluate)
    thread.start()
    assert entered.wait(10)
    assert model.training and model[0].training
    dropped = (model(np.ones(100, np.float32)).data == 0).sum()
    model.eval()
    seen.set()
    thread.join()
    assert modes == [(False, False, True)] and 0 < dropped < 100
    assert not model.training and other.training


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
    (linear,) = {node for node in first.node.parents if node}
    assert outside.node.module_stack is None
    calls = calls_from_outermost(linear.module_stack)
    assert [(module(), name) for _, module, name in calls] == [
        (keeper, "Keeper"),
        (keeper.linear, "Linear"),
    ]
    assert calls[:1] == calls_from_outermost(first.node.module_stack)
    assert calls[0] is first.node.module_stack and calls[0] is not second.node.module_stack
    first.backward(np.ones((1, 2), np.float32))
    assert linear.module_stack is None and first.node.module_stack is None


def test_a_call_that_fails_is_over():
    """What follows is outside of the module again."""
    keeper = Keeper()
    with pytest.raises(KeyError):
        keeper(np.ones((3, 2), np.float32))
    assert this_thread.module_stack is None


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


# ---- what is a parameter, and what is not --------------------------------------------------------


def names_of(module):
    return [name for name, _ in module.named_parameters()]


def parameter(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


class Recorder(nn.Module):
    """It keeps an activation, its input and more in forward()."""

    def __init__(self):
        self.linear = nn.Linear(2, 2)
        self.last = None

    def forward(self, x):
        self.last = self.linear(x)
        self.input, self.inputs, self.by_name = x, [x * 1.0], {"last": self.last}
        return F.relu(self.last)


def test_what_forward_keeps_is_no_parameter():
    """Names, state and checkpoints are the same before and after a call; it can be used again."""
    module = Recorder()
    before = module.state_dict()
    for x in (parameter([1.0, 2.0]), Tensor([[1.0, 2.0]])):
        module(x).sum().backward()
        assert names_of(module) == ["linear.weight", "linear.bias"]
        assert module.input is x and module.last.node is not None
        module.load_state_dict(before)
        mg.optim.AdamW(module.parameters(), lr=0.1).step()
        before = module.state_dict()
    with mg.no_grad():
        module(x)
    assert names_of(module.to(dtype=np.float64)) == ["linear.weight", "linear.bias"]


class Lazy(nn.Module):
    """It makes a layer when it sees its first input."""

    layer = None

    def forward(self, x):
        if self.layer is None:
            self.layer = nn.Linear(x.shape[-1], 3)
            self.others = [nn.Linear(3, 1)]
        return self.others[0](self.layer(x))


def test_a_layer_made_in_forward_has_its_parameters():
    """Only the module that is being called keeps things; a new one registers its own."""
    outer = nn.Sequential(Lazy())
    assert outer(np.ones((1, 2), np.float32)).shape == (1, 1)
    assert names_of(outer) == ["0.layer.weight", "0.layer.bias", "0.others.0.weight",
                               "0.others.0.bias"]  # fmt: skip


def test_a_parameter_of_another_module_may_be_set_in_forward():
    """As in weight tying that is done late; results cannot be parameters there either."""

    class Outer(nn.Module):
        def __init__(self):
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            self.second.weight = self.first.weight
            self.second.extra = parameter(1.0)
            return self.second(self.first(x))

    outer = Outer()
    outer(np.ones((1, 2), np.float32))
    assert names_of(outer) == ["first.weight", "first.bias", "second.bias", "second.extra"]


def test_a_frozen_parameter_stays_one():
    """In names, state, conversion and loading; an optimizer leaves it as it is."""
    module = nn.Linear(2, 2)
    module.weight.requires_grad = False
    assert names_of(module) == ["weight", "bias"]
    assert list(module.state_dict()) == ["weight", "bias"]
    module.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    assert module.to(dtype=np.float64).weight.dtype == np.float64
    assert not module.weight.requires_grad
    optimizer = mg.optim.AdamW(module.parameters(), lr=0.1)
    module(np.ones((1, 2))).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(module.weight.data, np.ones((2, 2)))
    assert (module.bias.data != 1).all() and module.weight.grad is None
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert names_of(twin) == ["weight", "bias"] and not twin.weight.requires_grad
    frozen = nn.Linear(2, 2)
    for p in frozen.parameters():
        p.requires_grad = False
    assert not frozen(np.ones((1, 2), np.float32)).requires_grad and len(frozen.parameters()) == 2


def test_a_frozen_tensor_may_be_shared():
    """The attribute was a parameter, so what replaces it is one too."""
    embedding, head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    embedding.weight.requires_grad = False
    head.weight = embedding.weight
    assert names_of(head) == ["weight"]
    assert names_of(nn.ModuleList([embedding, head])) == ["0.weight"]


def test_assignment_and_deletion():
    """A parameter can be replaced by another, by None, and deleted; names follow."""
    module = nn.Linear(2, 2)
    new = parameter([1.0, 2.0], [3.0, 4.0])
    module.weight = new
    assert module.parameters()[0] is new and names_of(module) == ["weight", "bias"]
    module.bias = None
    assert names_of(module) == ["weight"] and module(np.ones((1, 2), np.float32)).shape == (1, 2)
    module.bias = parameter(0.0, 0.0)
    assert names_of(module) == ["weight", "bias"]
    del module.bias
    assert names_of(module) == ["weight"] and not hasattr(module, "bias")
    module.bias = Tensor([0.0, 0.0])  # a new attribute, and a constant
    assert names_of(module) == ["weight"]
    with pytest.raises(AttributeError):
        del module.nothing
    net = Net()
    net.norm = None
    del net.head
    assert [n for n in names_of(net) if n.startswith(("norm", "head"))] == []
    net.norm = nn.LayerNorm(C)
    assert names_of(net)[-2:] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("where", ["outside", "in forward"])
def test_a_result_does_not_replace_a_parameter(where):
    """An optimizer would go on updating the old one."""

    class Scaled(nn.Linear):
        def forward(self, x):
            self.weight = self.weight * 2
            return super().forward(x)

    module = Scaled(2, 2)
    weight = module.weight
    with pytest.raises(TypeError, match=r"Scaled.weight is a parameter and stays one"):
        if where == "outside":
            module.weight = module.weight * 2
        else:
            module(np.ones((1, 2), np.float32))
    assert module.weight is weight and names_of(module) == ["weight", "bias"]
    module.weight.data = module.weight.data * 2


def test_a_constant_is_no_parameter():
    """Nor are arrays, numbers and None."""
    module = nn.Module()
    module.constant, module.array, module.number, module.nothing = Tensor([1.0]), C, 1, None
    assert module.parameters() == [] and module.state_dict() == {}


# ---- modules in lists, dicts and cycles ----------------------------------------------------------


class Holder(nn.Module):
    """It holds what it is given."""

    def __init__(self, held):
        self.held = held


def linear():
    return nn.Linear(1, 1, bias=False)


@pytest.mark.parametrize(
    "held, names",
    [
        (lambda: [linear(), linear()], ["held.0.weight", "held.1.weight"]),
        (lambda: (linear(), None, 3, linear()), ["held.0.weight", "held.3.weight"]),
        (lambda: {"a": linear(), 2: linear()}, ["held.a.weight", "held.2.weight"]),
        (lambda: [[linear()], {"b": (linear(),)}], ["held.0.0.weight", "held.1.b.0.weight"]),
        (lambda: nn.ModuleList([linear()]), ["held.0.weight"]),
        (lambda: nn.Sequential(linear(), F.relu, linear()), ["held.0.weight", "held.2.weight"]),
        (lambda: [nn.ModuleList([linear()])], ["held.0.0.weight"]),
        (lambda: [], []),
    ],
)
def test_modules_in_lists_and_dicts(held, names):
    """They are found by index and key, at any depth, and reached by train() and to()."""
    holder = Holder(held())
    assert names_of(holder) == names
    assert all(not m.training for _, m in holder.eval().named_modules())
    assert all(p.dtype == np.float64 for p in holder.to(dtype="float64").parameters())
    assert len(holder.state_dict()) == len(names)
    holder.late = []
    holder.late.append(linear())
    assert names_of(holder) == [*names, "late.0.weight"]


@pytest.mark.parametrize(
    "held",
    [
        lambda p: [p],
        lambda p: (p, linear()),
        lambda p: {"a": p},
        lambda p: [[1, {"b": (p,)}]],
        lambda p: {p},
    ],
)
def test_parameters_in_lists_are_refused(held):
    """When they are assigned, or when the parameters are asked for: never forgotten."""
    words = r"Holder.held.*: parameters in a (list|tuple|dict|set) have no names of their own"
    with pytest.raises(TypeError, match=words):
        Holder(held(parameter(1.0)))
    late = Holder([])
    late.held.append(held(parameter(1.0)))
    for use in (late.parameters, late.state_dict, late.eval, late.to):
        with pytest.raises(TypeError, match=words):
            use()
    Holder(held(Tensor([1.0])))  # constants are welcome
    Holder(held(parameter(1.0) * 2))


def test_a_set_of_modules_is_refused():
    """It has no order, and so no names."""
    for held in ({linear()}, frozenset([linear()]), [{linear()}]):
        with pytest.raises(TypeError, match="a set of modules has no order; use a list"):
            Holder(held)
    assert Holder({1, "a"}).parameters() == []


def test_cycles_of_modules():
    """A child may know its parent, a module itself, and a list in it may hold it."""
    a, b = Holder(None), Holder(None)
    a.child, b.parent, a.me, b.all = b, a, a, [a, b]
    a.weight, b.weight = parameter(1.0), parameter(2.0)
    assert names_of(a) == ["weight", "child.weight"]
    assert names_of(b) == ["weight", "parent.weight"]
    assert not a.eval().child.training and list(a.state_dict()) == ["weight", "child.weight"]
    assert a.to(dtype="float64") is a and len(copy.deepcopy(a).parameters()) == 2
    assert Holder(None).parameters() == []
    alone = nn.Module()
    alone.alone = alone
    assert alone.parameters() == []


def test_shared_modules_and_parameters_appear_once():
    """Under the first name, whether the module or the Tensor is shared."""
    shared, p = linear(), parameter(1.0)
    holder = Holder([shared, shared, nn.Sequential(shared)])
    holder.first, holder.second = p, p
    assert names_of(holder) == ["first", "held.0.weight"]
    assert len(list(holder.named_modules())) == 3
    for twin in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert names_of(twin) == ["first", "held.0.weight"]
        assert twin.first is twin.second and twin.held[0] is twin.held[1] is twin.held[2][0]


def test_two_parameters_with_one_name_are_refused():
    """One of them would be lost in the state_dict()."""
    holder = Holder({1: linear(), "1": linear()})
    with pytest.raises(ValueError, match="two parameters have the name 'held.1.weight'"):
        holder.state_dict()
    dotted = Holder([linear()])
    setattr(dotted, "held.0.weight", parameter(1.0))
    with pytest.raises(ValueError, match="two parameters have the name 'held.0.weight'"):
        dotted.parameters()


def test_a_subclass_of_module_list_may_have_more():
    """Attributes beside the list keep their names."""

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(1, 1), F.relu)
            self.head, self.scale = linear(), parameter(2.0)

        def forward(self, x):
            return self.head(super().forward(x)) * self.scale

    net = Net()
    assert names_of(net) == ["scale", "0.weight", "0.bias", "head.weight"]
    assert net(np.ones((2, 1), np.float32)).shape == (2, 1) and len(net) == 2
    assert net.append(linear()) is net and names_of(net)[-2:] == ["2.weight", "head.weight"]


def test_modules_with_their_own_ideas_of_equality():
    """A dataclass is equal by its fields and cannot be hashed; identity tells modules apart."""

    @dataclasses.dataclass
    class Pair(nn.Module):
        first: nn.Module
        second: nn.Module

    pair = Pair(linear(), linear())
    assert names_of(pair) == ["first.weight", "second.weight"]
    assert names_of(Holder([pair, Pair(linear(), linear())])) == [
        f"held.{i}.{name}.weight" for i in (0, 1) for name in ("first", "second")
    ]


# ---- calls, copies and states --------------------------------------------------------------------


def test_keyword_arguments_reach_forward():
    """And what forward() does not take is an error."""

    class Scale(nn.Module):
        def forward(self, x, *, by=1.0, shift=None):
            return x * by if shift is None else x * by + shift

    x = Tensor([1.0, 2.0])
    np.testing.assert_array_equal(Scale()(x, by=2.0, shift=1.0).data, [3.0, 5.0])
    np.testing.assert_array_equal(Scale()(x=x).data, [1.0, 2.0])
    np.testing.assert_array_equal(nn.Dropout(0.5).eval()(x=x).data, [1.0, 2.0])
    with pytest.raises(TypeError, match="colour"):
        Scale()(x, colour=1)


def test_sequential_matches_pytorch():
    """Modules and functions, one after another; with the names of torch.nn.Sequential."""
    ours = nn.Sequential(nn.Linear(3, 4), F.relu, nn.LayerNorm(4), nn.Linear(4, 2))
    ours.to(dtype=np.float64)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)
    ).double()
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    x = np.random.default_rng(0).standard_normal((5, 3))
    out, expected = ours(x), theirs(torch.tensor(x))
    np.testing.assert_allclose(out.data, expected.detach(), rtol=0, atol=1e-12)
    out.sum().backward()
    expected.sum().backward()
    for name, p in theirs.named_parameters():
        grad = dict(ours.named_parameters())[name].grad
        np.testing.assert_allclose(grad, p.grad, rtol=0, atol=1e-11)
    assert nn.Sequential()(out) is out and ours[1] is F.relu and len(ours) == 4


def test_load_state_dict_not_strict():
    """What both sides have is loaded, and the names of the rest are returned; shapes must agree."""
    net = nn.Linear(2, 2)
    bias = net.bias.data.copy()
    missing, unexpected = net.load_state_dict({"weight": np.ones((2, 2)), "x": 1}, strict=False)
    assert (missing, unexpected) == (["bias"], ["x"])
    np.testing.assert_array_equal(net.weight.data, np.ones((2, 2)))
    np.testing.assert_array_equal(net.bias.data, bias)
    assert net.load_state_dict(net.state_dict()) == ([], [])
    assert net.load_state_dict({}, strict=False) == (["bias", "weight"], [])
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2\), was given \(2,\)"):
        net.load_state_dict({"weight": np.ones(2), "bias": np.ones(2)}, strict=False)
    np.testing.assert_array_equal(net.bias.data, bias)
    net.load_state_dict({"weight": Tensor([[1.0, 2.0]] * 2), "bias": [5, 6]})
    np.testing.assert_array_equal(net.bias.data, [5, 6])


@pytest.mark.parametrize("dtype", ["int64", np.uint8, bool, complex])
def test_parameters_are_floating_point_numbers(dtype):
    """to() refuses other dtypes before it has changed anything."""
    net = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="^to: parameters are floating-point numbers, not"):
        net.to(dtype=dtype)
    assert net.weight.dtype == np.float32


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("fused", [None, False, True])
def test_a_copy_of_a_module_is_its_own(how, fused):
    """With the ties, modes and numbers of the original; training one leaves the other alone."""
    net = Net(tied=True)
    net.blocks[0].eval()
    optimizer = None if fused is None else mg.optim.AdamW(net.parameters(), lr=0.1, fused=fused)
    loss = net(IDS).sum()  # a graph of the original, which the copy must not share
    twin = how(net)
    assert names_of(twin) == names_of(net) and twin.head.weight is twin.embed.weight
    assert [m.training for _, m in twin.named_modules()] == [
        m.training for _, m in net.named_modules()
    ]
    before = net.state_dict()
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    copied = mg.optim.AdamW(twin.parameters(), lr=0.1)
    twin(IDS).sum().backward()
    copied.step()
    assert all(p.grad is None for p in net.parameters())
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    after = twin.state_dict()
    loss.backward()
    if optimizer:
        optimizer.step()
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, after[name])


# ---- layers without inputs or outputs ------------------------------------------------------------


@pytest.mark.parametrize("n_in, n_out", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("front", [(2,), (), (2, 0), (0,)])
def test_linear_of_nothing(n_in, n_out, bias, front):
    """A sum of no products is 0, so the output is the bias; gradients have their shapes."""
    for context in (mg.plain, contextlib.nullcontext):
        with context():
            layer = nn.Linear(n_in, n_out, bias=bias)
            x = Tensor(np.ones((*front, n_in), np.float32), requires_grad=True)
            out = layer(x)
            expected = np.broadcast_to(layer.bias.data if bias else 0, (*front, n_out))
            if n_in == 0:
                np.testing.assert_array_equal(out.data, expected)
            assert out.shape == (*front, n_out)
            out.sum().backward()
            for p in (x, *layer.parameters()):
                assert p.grad.shape == p.shape
            if bias:
                np.testing.assert_array_equal(layer.bias.grad, np.full(n_out, math.prod(front)))


def test_layers_of_nothing():
    """An embedding without channels works; a layer norm without entries says what is missing."""
    embedding = nn.Embedding(3, 0)
    out = embedding([0, 2])
    out.sum().backward()
    assert out.shape == (2, 0) and embedding.weight.grad.shape == (3, 0)
    norm = nn.LayerNorm(0)
    with pytest.raises(ValueError, match=r"x \(2, 0\) has no entries along axis -1"):
        norm(np.ones((2, 0), np.float32))
    assert nn.Linear(0, 3).weight.shape == (3, 0) and nn.Embedding(0, 2).weight.shape == (0, 2)


@pytest.mark.parametrize(
    "value",
    [np.ones((2, 2), np.float32), Tensor(np.ones((2, 2), np.float32)), 1.0],
    ids=["array", "no gradient", "number"],
)
def test_a_parameter_stays_one(value):
    """What would never be trained cannot replace a parameter silently."""
    layer = nn.Linear(2, 2)
    before = layer.weight
    with pytest.raises(TypeError, match=r"Linear.weight is a parameter and stays one.*weight.data"):
        layer.weight = value
    assert layer.weight is before and list(layer.state_dict()) == ["weight", "bias"]


def test_a_module_without_attributes():
    """Such as an activation of one's own, whose __init__ sets nothing."""

    class Activation(nn.Module):
        def forward(self, x):
            return F.relu(x)

    model = nn.Sequential(nn.Linear(2, 2), Activation())
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert not Activation().parameters()
    activation = Activation()
    vars(activation)["scale"] = 2  # as pickle sets attributes
    del activation.scale
    assert not vars(activation)


def test_eval_mode_within_eval_mode():
    """The modules of both are evaluated; afterwards those of the outer one."""
    outer, inner = nn.Dropout(0.5), nn.Dropout(0.5)
    with outer.eval_mode():
        with inner.eval_mode():
            assert not outer.training and not inner.training
        assert not outer.training and inner.training
    assert outer.training and inner.training


def test_a_state_of_pytorch():
    """Its tensors are copied as arrays are."""
    layer, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    layer.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(layer.weight.data, theirs.weight.detach())
    np.testing.assert_array_equal(layer.bias.data, theirs.bias.detach())


def test_a_state_on_the_gpu(fake_gpu):
    """Its arrays are not converted to NumPy's without being asked for, which CuPy refuses."""
    layer, other = nn.Linear(3, 2).to("gpu"), nn.Linear(3, 2).to("gpu")
    layer.load_state_dict({name: p.data for name, p in other.named_parameters()})
    for p, q in zip(layer.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_one_input_starts_within_one():
    """1/√1, which a thousand weights nearly reach."""
    weight = nn.Linear(1, 1000).weight.data
    assert 0.99 < abs(weight).max() <= 1


def test_a_shallow_copy_has_parameters_of_its_own():
    """What one gains or loses, the other does not."""
    layer = nn.Linear(2, 2)
    other = copy.copy(layer)
    del other.bias
    other.scale = Tensor(np.ones(1), requires_grad=True)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in other.named_parameters()] == ["weight", "scale"]
