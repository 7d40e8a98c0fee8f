"""Where a NaN came from: look at every result, and name the first op that made one.

    with mg.detect_anomaly():
        loss = F.cross_entropy(model(x), y)
        loss.backward()

A NaN (0/0, ∞ − ∞) or an infinity (a number too large) spreads: a few ops later everything is NaN,
and a loss of NaN says nothing of where it began.  So go through the step once more, slowly.
"""

import contextlib
import linecache
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad.device import array_module, is_array
from minigrad.faults import input_names
from minigrad.nn import calls_from_outermost, path_of
from minigrad.tensor import Tensor, this_thread

ENGINE = str(Path(__file__).parent) + os.sep


@contextlib.contextmanager
def detect_anomaly():
    """`with mg.detect_anomaly():` FloatingPointError names the first op that makes a NaN or an Inf.

    Forward as well as backward: the op, the path of its module in the model, its inputs with shapes
    and ranges, and the line of the program that called it.  Also a gradient of a leaf whose square
    overflows, for clipping and AdamW square it.  An infinity that was put in on purpose, as in a
    mask, may pass as long as no NaN comes of it.  Every result is read, which takes time; outside
    of this block nothing is looked at.
    """
    before, this_thread.watch = this_thread.watch, Watch()
    try:
        with np.errstate(all="ignore"):  # what NumPy would warn of is what we look for
            yield
    finally:
        this_thread.watch = before


class Note(NamedTuple):
    """What is kept of an op's forward pass, for an error in its backward."""

    place: str  # ", in h.2.attn.query", or nothing outside of modules
    names: list[str]  # of its inputs
    inputs: list[tuple[str, str]]  # each name, and what the input was like
    line: str  # of the program


class Watch:
    """What looks on while detect_anomaly() is on: ops report to it."""

    def forward(self, op_name, names, inputs, arrays, out):
        """Look at what an op has made of its inputs; return a Note for backward."""
        names = input_names(names, arrays)
        note = Note(
            place=place(),
            names=names,
            inputs=[(n, describe(x)) for n, x in zip(names, arrays, strict=True) if x is not None],
            line=line_of_program(),
        )
        made = fault(out)
        for name, tensor, array in zip(names, inputs, arrays, strict=True):
            given = fault(array)
            parameter = isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.step
            if given == "NaN" or given and parameter:
                raise error(op_name, f"was given {given}", "forward", name, note)
            if given == made:
                made = ""  # it was there before
        if made:
            raise error(op_name, f"made {made}", "forward", "out", note, out=out)
        return note

    def backward(self, step, dout, gradients):
        """Look at the gradients that a step has made of dout."""
        note = step.note or Note("", [], [], "put detect_anomaly() around the forward pass too")
        if given := fault(dout):
            raise error(step.op, f"was given {given}", "backward", "dout", note, dout=dout)
        for i, (source, d) in enumerate(zip(step.sources, gradients, strict=True)):
            if source is None or d is None:
                continue
            made = fault(d)
            if not made and isinstance(source, Tensor) and fault((d * d).sum()):
                made = f"a gradient too long for {d.dtype}"
            if made:
                name = f"d{note.names[i]}" if note.names else f"the gradient of input {i}"
                raise error(step.op, f"made {made}", "backward", name, note, dout=dout, **{name: d})


def place():
    """Where we are, in words."""
    modules = [module() for _, module, _ in calls_from_outermost(this_thread.calls)]
    if not modules:
        return ""
    root, module = modules[0], modules[-1]
    path = path_of(module, root)
    if path is None:
        return f", in {type(root).__name__}, {type(module).__name__}"
    return f", in {path or type(root).__name__}"


def fault(array):
    """ "NaN" if the array (or number) holds one, "Inf" if an infinity, "" if all is well."""
    if isinstance(array, float):
        array = np.array(array)
    if not is_array(array) or array.dtype.kind != "f":
        return ""
    xp = array_module(array)
    if xp.isfinite(array).all():
        return ""
    return "NaN" if xp.isnan(array).any() else "Inf"


def describe(x):
    """The shape, dtype and range of an array; numbers that are not finite are counted apart."""
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


def error(op_name, what, direction, where, note, **more):
    """The FloatingPointError that tells it all."""
    rows = note.inputs + [(name, describe(array)) for name, array in more.items()]
    width = max((len(name) for name, _ in rows), default=0)
    head = f"{op_name} {what} going {direction}{note.place}: it is in {where}"
    body = [f"    {name:{width}}  {text}" for name, text in rows]
    return FloatingPointError("\n".join([head, *body, note.line]))


def line_of_program():
    """ "in model.py, line 40: x = ...": the innermost line that is not the engine's own."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    path, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(path, number).strip()
    if path.startswith(os.getcwd() + os.sep):
        path = os.path.relpath(path)
    return f"in {path}, line {number}" + (f": {code}" if code else "")
