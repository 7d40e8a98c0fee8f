"""Modules: they own parameters and call one op each."""

import contextlib
import math
import weakref
from collections.abc import Callable

import minigrad.ops as F
from minigrad import random
from minigrad.device import to_device
from minigrad.tensor import Tensor, no_grad, this_thread


class Module:
    """Something with parameters.  A subclass assigns Tensors and Modules and defines `forward`."""

    training = True
    forward: Callable[..., Tensor]

    def __call__(self, *inputs):
        # Every step notes inside which call it was taken.  The reference is a weak one, so that a
        # module may keep what it computed: else it would hold a tensor, whose step held the module.
        outer = this_thread.calls
        this_thread.calls = (outer, weakref.ref(self), type(self).__name__)
        try:
            return self.forward(*inputs)
        finally:
            this_thread.calls = outer

    def named_children(self):
        """(name, module) of the modules right below this one, in the order of assignment."""
        return [(name, m) for name, m in vars(self).items() if isinstance(m, Module)]

    def named_parameters(self):
        """(dotted name, Tensor) of every parameter, each Tensor once even if used in two places."""
        seen = set()
        for name, parameter in self._walk(""):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix):
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.requires_grad:
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self):
        """The list of all parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    def _modules(self):
        yield self
        for _, child in self.named_children():
            yield from child._modules()

    def train(self, mode=True):
        """Switch what differs in training (dropout) on, here and below."""
        self.training = mode
        for _, child in self.named_children():
            child.train(mode)
        return self

    def eval(self):
        """Switch what differs in training off."""
        return self.train(False)

    @contextlib.contextmanager
    def evaluating(self):
        """`with model.evaluating():` what differs in training is off, and nothing is recorded."""
        before = [(module, module.training) for module in self._modules()]
        self.eval()
        try:
            with no_grad():
                yield
        finally:
            for module, mode in before:
                module.training = mode

    def to(self, device=None, dtype=None):
        """Move all parameters to "cpu" or "gpu", or convert them, in place; gradients are dropped.

        Returns self.
        """
        for parameter in self.parameters():
            if device is not None:
                parameter.data = to_device(parameter.data, device)
            if dtype is not None:
                parameter.data = parameter.data.astype(dtype)
            parameter.grad = None
        return self

    def state_dict(self):
        """name -> NumPy array, a copy, for every parameter."""
        return {name: p.numpy().copy() for name, p in self.named_parameters()}

    def load_state_dict(self, state):
        """Copy the arrays of `state` in; ValueError unless names and shapes agree exactly."""
        parameters = dict(self.named_parameters())
        if state.keys() != parameters.keys():
            missing = sorted(parameters.keys() - state.keys())
            unexpected = sorted(state.keys() - parameters.keys())
            raise ValueError(f"load_state_dict: missing {missing}, unexpected {unexpected}")
        for name, p in parameters.items():
            if state[name].shape != p.shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {p.shape}, was given {state[name].shape}"
                )
        for name, p in parameters.items():
            p.overwrite(to_device(state[name], p.device))


def calls_from_outermost(place):
    """[(outer, weak reference to the module, name of its class), ...] of a step's `place`."""
    calls = []
    while place is not None:
        calls.append(place)
        place = place[0]
    return calls[::-1]


def path_of(module, root):
    """The dotted name of a module below `root`; "" for itself, None if it is not there."""
    if module is root:
        return ""
    for name, child in root.named_children():
        path = path_of(module, child)
        if path is not None:
            return f"{name}.{path}" if path else name
    return None


class ModuleList(Module):
    """A list of modules, named by their place."""

    def __init__(self, modules):
        self.modules = list(modules)

    def named_children(self):
        return [(str(i), module) for i, module in enumerate(self.modules)]

    def __iter__(self):
        return iter(self.modules)

    def __getitem__(self, i):
        return self.modules[i]

    def __len__(self):
        return len(self.modules)


class Linear(Module):
    """x (..., n_in) -> x Wᵀ + b (..., n_out).  Starts uniform within ±1/√n_in, as in PyTorch."""

    def __init__(self, n_in, n_out, bias=True):
        bound = 1 / math.sqrt(n_in)
        self.weight = Tensor(random.uniform((n_out, n_in), bound), requires_grad=True)
        self.bias = Tensor(random.uniform((n_out,), bound), requires_grad=True) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """ids (...) -> rows of the table (..., n_embd).  Starts standard normal, as in PyTorch."""

    def __init__(self, n_rows, n_embd):
        self.weight = Tensor(random.normal((n_rows, n_embd), 1.0), requires_grad=True)

    def forward(self, ids):
        return F.embedding(ids, self.weight)


class LayerNorm(Module):
    """x (..., n) -> each row with mean 0 and variance 1, times weight, plus bias."""

    def __init__(self, n, bias=True, eps=1e-5):
        self.weight = Tensor([1.0] * n, requires_grad=True)
        self.bias = Tensor([0.0] * n, requires_grad=True) if bias else None
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)


class Dropout(Module):
    """In training, x with a share p of its entries set to 0 and the rest scaled up; else x."""

    def __init__(self, p):
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, training=self.training)
