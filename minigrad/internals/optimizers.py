"""What an optimizer refuses: parameters, options and saved states that it cannot use."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.backend import device_of, to_device, to_numpy
from minigrad.internals.hooks import this_thread

FUSED: dict[type, type] = {}  # an optimizer -> its twin over one vector: see fast/adamw.py
TWINS: dict[str, Callable] = {}  # a function of optim.py -> its twin, which may be declined

BELOW_1 = "betas", "momentum"  # options that must be below 1


def choose_class(cls, fused):
    """Return an optimizer's class, or its twin if fused is true; TypeError if it has none."""
    if not fused or cls in FUSED.values():
        return cls
    if cls not in FUSED:
        raise TypeError(f"{cls.__name__}: there is no fused version of it")
    return FUSED[cls]


def may_have_twin(page):
    """Decorate a function of parameters: its twin runs first, unless pages are to run alone."""

    @functools.wraps(page)
    def choose(params, *args, **options):
        params = params if is_tensor(params) else list(params)  # which may be an iterator
        twin = None if this_thread.plain else TWINS.get(page.__name__)
        with np.errstate(all="ignore"):  # gradients that are not finite give such a norm
            result = twin(params, *args, **options) if twin else NotImplemented
            return page(params, *args, **options) if result is NotImplemented else result

    return choose


def name_of(optimizer):
    """Return the name of an optimizer's class; of a twin, that of its page."""
    cls = type(optimizer)
    return next((page.__name__ for page, twin in FUSED.items() if twin is cls), cls.__name__)


def is_tensor(x):
    """Return whether `x` is a Tensor, which alone has a node."""
    return hasattr(x, "node")


# ---- parameters ----------------------------------------------------------------------------------


def make_groups(optimizer, params):
    """Return the parameter groups, each with every option; raise if something is wrong with them.

    params      Tensors, or groups as dicts
    """
    name = name_of(optimizer)
    if is_tensor(params) or isinstance(params, dict | set) or not hasattr(params, "__iter__"):
        kind = type(params).__name__
        raise TypeError(f"{name}: params must be a list of Tensors or of groups, not one {kind}")
    params = list(params)
    if any(isinstance(group, dict) for group in params):
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
    else:
        groups = [{"params": params}]
    result, seen = [], set()
    for group in groups:
        if "params" not in group:
            raise ValueError(f"{name}: a group needs an entry 'params', this has {[*group]}")
        inside = group["params"]
        inside = [inside] if is_tensor(inside) else list(inside)
        group = optimizer.defaults | group | {"params": inside}
        check_options(optimizer, group)
        for w in group["params"]:
            check_parameter(name, w)
            if w in seen:
                raise ValueError(f"{name}: a parameter is in the groups twice")
            seen.add(w)
        result.append(group)
    if not seen:
        raise ValueError(f"{name}: there are no parameters to optimize")
    return result


def check_parameter(name, w):
    """Raise TypeError or ValueError unless `w` is a leaf Tensor of floating-point numbers."""
    if not is_tensor(w):
        raise TypeError(f"{name}: a parameter must be a Tensor, not {type(w).__name__}")
    if w.node is not None:
        raise ValueError(
            f"{name}: a parameter of shape {w.shape} is the result of {w.node.op!r}; only leaves "
            "can be optimized, Tensors that no op has made"
        )
    if w.dtype.kind != "f":
        raise TypeError(f"{name}: a parameter must be floating-point, not {w.dtype}")


# ---- options -------------------------------------------------------------------------------------


def check_options(optimizer, group):
    """Return the options of a group as Python numbers; raise if one is unknown or out of range.

    (A NumPy float64 would turn what it is multiplied by into float64; a Python number does not.)
    """
    name = name_of(optimizer)
    if unknown := group.keys() - optimizer.defaults.keys() - {"params"}:
        raise ValueError(f"{name}: a group has unknown options {sorted(unknown)}")
    options: dict[str, Any] = {}
    for option in optimizer.defaults:
        value = group[option]
        if option == "betas":
            if not (isinstance(value, tuple | list) and len(value) == 2):
                raise ValueError(f"{name}: betas must be two numbers, not {value!r}")
            options[option] = tuple(check_number(name, option, x, value) for x in value)
        else:
            options[option] = check_number(name, option, value, value)
    return options


def check_number(name, option, x, value):
    """Return a number of an option as a float; raise if it is none or out of range."""
    if not isinstance(x, numbers.Real):
        raise TypeError(f"{name}: {option} must be a number, not {type(x).__name__}")
    number = float(x)
    if not 0 <= number < (1 if option in BELOW_1 else math.inf):
        limits = "at least 0 and below 1" if option in BELOW_1 else "at least 0 and finite"
        raise ValueError(f"{name}: {option} must be {limits}, not {value}")
    return number


def check_groups(optimizer):
    """Return [(group, its options as Python numbers), ...]; raise if one cannot be used."""
    groups = optimizer.param_groups
    if any(p not in optimizer.numbers for group in groups for p in group["params"]):
        name = name_of(optimizer)
        raise ValueError(f"{name}: a parameter was added to a group: make another optimizer")
    return [(group, check_options(optimizer, group)) for group in groups]


# ---- gradients -----------------------------------------------------------------------------------


def check_shapes(optimizer, p, state):
    """Raise ValueError where a parameter got data of another shape than its gradient or state."""
    for key, array in [("grad", p.grad), *state.items()]:
        if getattr(array, "shape", p.shape) != p.shape:
            raise ValueError(
                f"{name_of(optimizer)}: a parameter has shape {p.shape}, its {key} {array.shape}; "
                "was its data exchanged?  Call zero_grad(), and make another optimizer"
            )


def with_gradients(name, params, max_norm):
    """Return those of the parameters that have a gradient, each once; raise if one is no Tensor."""
    if not max_norm >= 0:
        raise ValueError(f"{name}: max_norm must be at least 0, not {max_norm}")
    params = [params] if is_tensor(params) else list(dict.fromkeys(params))
    for p in params:
        if not is_tensor(p):
            raise TypeError(f"{name}: a parameter must be a Tensor, not {type(p).__name__}")
    return [p for p in params if p.grad is not None]


# ---- saved states --------------------------------------------------------------------------------


def copy_state(state):
    """Return the state of a parameter with its arrays copied to NumPy."""
    return {k: to_numpy(v).copy() if hasattr(v, "ndim") else v for k, v in state.items()}


def load_states(optimizer, saved):
    """Return parameter -> its saved state, copied to its device; ValueError if one does not fit.

    Moments are at least float32.  The optimizer is not changed.
    """
    name, parameters = name_of(optimizer), optimizer.parameters
    groups = optimizer.param_groups
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(group["params"]) for group in saved["param_groups"]]:
        raise ValueError(f"{name}: the saved groups have other numbers of parameters")
    for group, options in zip(groups, saved["param_groups"], strict=True):
        check_options(optimizer, group | options)
    states: dict[Any, dict] = {}
    for i, state in saved["state"].items():
        if i not in range(len(parameters)):
            raise ValueError(f"{name}: there is no parameter {i!r}, only {len(parameters)} of them")
        if state.keys() != optimizer.initial_state.keys():
            raise ValueError(
                f"{name}: the state of a parameter has {[*optimizer.initial_state]}, the saved one "
                f"of parameter {i} {[*state]}"
            )
        w, states[w] = parameters[i], {}
        for key, value in state.items():
            if key == "step":
                states[w][key] = int(value)
            elif np.shape(value) == w.shape:
                dtype = np.result_type(w.dtype, np.float32)
                states[w][key] = to_device(value, device_of(w.data)).astype(dtype)
            else:
                raise ValueError(
                    f"{name}: parameter {i} has shape {w.shape}, its saved {key} {np.shape(value)}"
                )
    return states
