"""Modules: they own parameters, and each calls one op."""

import math
from collections import deque
from collections.abc import Callable, ValuesView

import numpy as np

import minigrad.ops as F
from minigrad import random
from minigrad.backend import is_array, to_device
from minigrad.internals import hooks
from minigrad.internals.contexts import reusable
from minigrad.tensor import Tensor, no_grad

LISTS = (list, tuple, deque, set, frozenset, ValuesView)  # in which modules are found


class Module:
    """Something with parameters.  A subclass assigns Tensors and Modules and defines `forward`.

    A leaf Tensor that requires a gradient becomes a parameter when it is assigned to an attribute,
    in __init__ or later, but not while this module is being called: what forward() keeps for itself
    (`self.last_input = x`) is no parameter.  A parameter stays one when its requires_grad is
    switched off.  Modules may also be in lists and dicts; parameters may not.
    """

    forward: Callable[..., Tensor]
    _training = True

    @property
    def training(self):
        """Whether dropout is on: until eval(), and but for this thread in eval_mode()."""
        return self._training and id(self) not in hooks.this_thread.evaluating

    @training.setter
    def training(self, mode):
        self._training = mode

    def __call__(self, *inputs, **options):
        outer = hooks.enter_module(self)
        try:
            return self.forward(*inputs, **options)
        finally:
            hooks.leave_module(outer)

    def __setattr__(self, name, value):
        parameters = vars(self).setdefault("_parameters", {})  # a set of names that keeps its order
        if name in parameters and value is not None and not may_be_parameter(value):
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter and stays one: assign a Tensor that "
                f"no op has made, with requires_grad=True; or assign an array to {name}.data"
            )
        if not hooks.is_called(self):
            if (
                is_trainable(value) and name not in parameters
            ):  # a new dict: copies share the old one
                vars(self)["_parameters"] = parameters | {name: None}
            self.modules_in(name, value)  # refuses parameters in lists
        super().__setattr__(name, value)

    def __delattr__(self, name):
        super().__delattr__(name)
        if name in (parameters := vars(self).get("_parameters", {})):
            vars(self)["_parameters"] = {key: None for key in parameters if key != name}

    def named_children(self):
        """Return [(name, module), ...] of the modules directly below, in order of assignment.

        A module in a list or dict has its index or key in its name: "layers.0".
        """
        return [child for item in vars(self).items() for child in self.modules_in(*item)]

    def modules_in(self, name, value):
        """Return [(name, module), ...] of the modules in the value of an attribute.

        Raises TypeError if the value is a list or dict that holds parameters, or a set of modules.
        """
        if isinstance(value, Module):
            return [(name, value)]
        found = []
        for key, element in items(value):
            if is_trainable(element):
                raise TypeError(
                    f"{type(self).__name__}.{name}: parameters in a {type(value).__name__} have no "
                    "names of their own; assign each to an attribute"
                )
            found += self.modules_in(f"{name}.{key}", element)
        if found and isinstance(value, set | frozenset):
            raise TypeError(
                f"{type(self).__name__}.{name}: a set of modules has no order; use a list"
            )
        return found

    def named_modules(self, prefix="", seen=None):
        """Yield (dotted name, module) of this module, named "", and all below, each once."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(join(prefix, name), seen)

    def named_parameters(self):
        """Yield (dotted name, Tensor) of every parameter: each Tensor once, by its first name."""
        names, seen = set(), set()
        for path, module in self.named_modules():
            for attribute in vars(module).get("_parameters", ()):
                name, parameter = join(path, attribute), vars(module).get(attribute)
                if not isinstance(parameter, Tensor) or parameter in seen:
                    continue
                if name in names:
                    raise ValueError(f"two parameters have the name {name!r}: rename an attribute")
                names.add(name)
                seen.add(parameter)
                yield name, parameter

    def parameters(self):
        """Return the list of all parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self, mode=True):
        """Switch on what differs in training (dropout), here and below."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self):
        """Switch off what differs in training."""
        return self.train(False)

    @reusable
    def eval_mode(self):
        """`with model.eval_mode():` switches off what differs in training, and all recording.

        It does so in this thread alone: another one may train the model meanwhile.  A copy that is
        made inside is in training mode.  Also a decorator.
        """
        modules = [module for _, module in self.named_modules()]
        before = hooks.this_thread.evaluating
        hooks.this_thread.evaluating = before | set(map(id, modules))
        try:
            with no_grad():
                yield
        finally:
            hooks.this_thread.evaluating = before

    def to(self, device=None, dtype=None):
        """Move all parameters to "cpu" or "gpu", or convert them, in place; gradients are dropped.

        Returns self.
        """
        if dtype is not None and np.dtype(dtype).kind != "f":
            raise TypeError(f"to: parameters are floating-point numbers, not {np.dtype(dtype)}")
        for parameter in self.parameters():
            if device is not None:
                parameter.data = to_device(parameter.data, device)
            if dtype is not None:
                parameter.data = parameter.data.astype(dtype)
            parameter.grad = None
        return self

    def state_dict(self):
        """Return name -> NumPy array, a copy, for every parameter."""
        return {name: p.numpy().copy() for name, p in self.named_parameters()}

    def load_state_dict(self, state, strict=True):
        """Copy the arrays of `state` in; ValueError unless names and shapes agree exactly.

        strict=False ignores names that only one side has, and returns (missing, unexpected) names.
        """
        parameters = dict(self.named_parameters())
        missing = sorted(parameters.keys() - state.keys())
        unexpected = sorted(state.keys() - parameters.keys())
        if strict and (missing or unexpected):
            raise ValueError(f"load_state_dict: missing {missing}, unexpected {unexpected}")
        common = [(name, p) for name, p in parameters.items() if name in state]
        for name, p in common:
            given = state[name] if hasattr(state[name], "shape") else np.asarray(state[name])
            if given.shape != p.shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {p.shape}, was given {tuple(given.shape)}"
                )
            if is_array(given) and given.dtype.kind not in "fiub":
                raise TypeError(f"load_state_dict: {name} holds {given.dtype}, not real numbers")
        for name, p in common:
            p.copy_(state[name])
        return missing, unexpected


def is_trainable(value):
    """Return whether a value is a leaf Tensor that requires a gradient."""
    return isinstance(value, Tensor) and value.node is None and value.requires_grad


def may_be_parameter(value):
    """Return whether a value is trainable, or a leaf whose requires_grad was switched off."""
    is_leaf = isinstance(value, Tensor) and value.node is None
    return is_leaf and "_requires_grad" in vars(value)


def items(value):
    """Return the (key, element) pairs of a dict, or of a list or the like; else none."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, np.ndarray):
        return enumerate(value.flat) if value.dtype == object else ()
    return enumerate(value) if isinstance(value, LISTS) else ()


def join(path, name):
    """Return the dotted name of what is called `name` in the module called `path`."""
    return f"{path}.{name}" if path else name


class ModuleList(Module):
    """A list of modules, named by their index."""

    def __init__(self, modules=()):
        self.modules = list(modules)

    def named_children(self):
        """Return [(name, module), ...]: "0", not "modules.0"."""
        return [(name.removeprefix("modules."), m) for name, m in super().named_children()]

    def append(self, module):
        self.modules.append(module)
        return self

    def __iter__(self):
        return iter(self.modules)

    def __getitem__(self, i):
        return self.modules[i]

    def __len__(self):
        return len(self.modules)


class Sequential(ModuleList):
    """Modules, or functions such as F.relu, each applied to the output of the one before."""

    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for module in self.modules:
            x = module(x)
        return x


class Linear(Module):
    """x (..., n_in) -> x Wᵀ + b (..., n_out).  Starts uniform within ±1/√n_in, as in PyTorch."""

    def __init__(self, n_in, n_out, bias=True):
        bound = 1 / math.sqrt(max(1, n_in))
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
    """In training, set a fraction p of the entries to 0 and scale up the rest.  Otherwise x."""

    def __init__(self, p):
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, training=self.training)
