"""Find where a NaN came from: check every result, and name the first op that made one.

    with mg.detect_anomaly():
        loss = F.cross_entropy(model(x), y)
        loss.backward()

A NaN (0/0, ∞ − ∞) or an infinity (a number too large) spreads.  A few ops later everything is NaN,
and a NaN loss does not say where it began.  So run the training step again with every op checked.
"""

import contextlib
import linecache
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad.backend import array_module, is_array
from minigrad.internals.contexts import also_for_generators
from minigrad.internals.guards import input_names
from minigrad.internals.half import widen
from minigrad.internals.hooks import calls_from_outermost, path_of, this_thread
from minigrad.tensor import Tensor

ENGINE = str(Path(__file__).parents[1]) + os.sep


@also_for_generators
@contextlib.contextmanager
def detect_anomaly():
    """Raise a FloatingPointError at the first op that makes a NaN or an Inf, in either direction.

    The error names the op, the path of its module in the model, the inputs with their shapes and
    ranges, and the line of the program that called the op.  A gradient of a leaf with an entry
    whose square overflows is an error too, because AdamW squares it (of float16, in float32).  An
    infinity that was put in on purpose, as in a mask, is allowed as long as it leads to no NaN.
    Every result is read, which takes time; outside of this block nothing is checked.
    """
    before, this_thread.hook = this_thread.hook, AnomalyHook()
    try:
        with np.errstate(all="ignore"):  # NumPy would warn of what we look for
            yield
    finally:
        this_thread.hook = before


class DebugInfo(NamedTuple):
    """What a Node keeps of its forward pass, for an error in its backward."""

    module: str  # ", in h.2.attn.query", or nothing outside of modules
    names: list[str]  # of the inputs
    inputs: list[tuple[str, str]]  # (name, description) of each input
    line: str  # of the program


class AnomalyHook:
    """The hook that checks every op and every replayed node."""

    def forward(self, op_name, names, inputs, arrays, out):
        """Check the inputs and the result of an op; return the DebugInfo for backward."""
        names = input_names(names, arrays)
        info = DebugInfo(
            module=module_in_words(),
            names=names,
            inputs=[(n, describe(x)) for n, x in zip(names, arrays, strict=True) if x is not None],
            line=line_of_program(),
        )
        made = nan_or_inf(out)
        for name, tensor, array in zip(names, inputs, arrays, strict=True):
            given = nan_or_inf(array)
            parameter = isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.node
            if given == "NaN" or given and parameter:
                raise anomaly(op_name, "forward", f"received {given} in {name}", info)
            if given == made:
                made = ""  # the input had it already
        if made:
            raise anomaly(op_name, "forward", f"{made} in out", info, out=out)
        return info

    def backward(self, node, dout, grads):
        """Check the gradient that a node received, and those that it returned."""
        info = node.debug_info or DebugInfo(
            "", [], [], "put detect_anomaly() around the forward pass too"
        )
        if given := nan_or_inf(dout):
            raise anomaly(node.op, "backward", f"received {given} in dout", info, dout=dout)
        for i, (parent, d) in enumerate(zip(node.parents, grads, strict=True)):
            if parent is None or d is None:
                continue
            name = f"d{info.names[i]}" if info.names else f"the gradient of input {i}"
            if made := nan_or_inf(d):
                what = f"{made} in {name}"
            elif isinstance(parent, Tensor) and nan_or_inf(widen(d) ** 2):
                what = f"the square of an entry of {name} overflows {widen(d).dtype}"
            else:
                continue
            raise anomaly(node.op, "backward", what, info, dout=dout, **{name: d})


def module_in_words():
    """Return ", in h.2.attn.query" for the module that is being called, "" outside of modules."""
    modules = [module() for _, module, _ in calls_from_outermost(this_thread.module_stack)]
    if not modules:
        return ""
    root, module = modules[0], modules[-1]
    path = path_of(module, root)
    if path is None:
        return f", in {type(root).__name__}, {type(module).__name__}"
    return f", in {path or type(root).__name__}"


def nan_or_inf(array):
    """Return "NaN" if an array or number has one, else "Inf" if it has an infinity, else ""."""
    if isinstance(array, float):
        array = np.array(array)
    if not is_array(array) or array.dtype.kind != "f":
        return ""
    xp = array_module(array)
    if xp.isfinite(array).all():
        return ""
    return "NaN" if xp.isnan(array).any() else "Inf"


def describe(x):
    """Return the shape, dtype and range of an array, and how many entries are NaN or Inf."""
    if not is_array(x):
        return str(x)
    xp = array_module(x)
    text = f"{x.shape} {x.dtype}"
    finite = x[xp.isfinite(x)]
    if finite.size:
        text += f", from {finite.min().item():.3g} to {finite.max().item():.3g}"
    for kind, which in (("NaN", xp.isnan), ("Inf", xp.isinf)):
        if count := int(which(x).sum()):
            text += f", {count:,} {kind}"
    return text


def anomaly(op_name, direction, what, info, **more):
    """Return the FloatingPointError: one line on the op, one for each array, the program's line."""
    rows = info.inputs + [(name, describe(array)) for name, array in more.items()]
    width = max((len(name) for name, _ in rows), default=0)
    head = f"{op_name}, {direction}{info.module}: {what}"
    body = [f"    {name:{width}}  {text}" for name, text in rows]
    return FloatingPointError("\n".join([head, *body, info.line]))


def line_of_program():
    """Return "in model.py, line 40: x = ...": the innermost line outside of minigrad."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    path, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(path, number).strip()
    if path.startswith(os.getcwd() + os.sep):
        path = os.path.relpath(path)
    return f"in {path}, line {number}" + (f": {code}" if code else "")
