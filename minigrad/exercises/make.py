"""Make the files of the exercises from the pages: the formula stays, the body of backward goes."""

import ast
import importlib
import inspect
import re
from typing import Any

from minigrad.exercises.hints import FORWARD, FUNCTIONS, HINTS
from minigrad.internals.arguments import Arguments
from minigrad.tensor import OPS

HEAD = '''\
"""Exercise: {task}

Check it with `python -m minigrad.exercises FOLDER {name}`.
FOLDER is where this file is.  For a hint add `--hint {name}`.
{notes}"""
'''
NO_GRADIENT = ("ids", "targets", "condition", "min", "max", "p")  # names of such inputs
HELPERS = ("unbroadcast", "spread", "add_up", "accurate_sum", "check_ids", "axis_of", "parts_of")
EMPTY = "raise NotImplementedError"
ADAMW = '''
import numpy as np


def adamw(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """Return the new (w, m, v) of step t, which counts from 1.

    m ← β₁ m + (1 − β₁) g           the mean of recent gradients
    v ← β₂ v + (1 − β₂) g²          the mean of their squares
    m̂ = m / (1 − β₁ᵗ)               both corrected, because they start at 0
    v̂ = v / (1 − β₂ᵗ)
    w ← w − lr λ w                  decay, apart from the gradient
    w ← w − lr m̂ / (√v̂ + ε)

    w, g, m and v are arrays of one shape; λ is weight_decay.
    """
    raise NotImplementedError  # return w, m, v
'''
SCHEDULE = '''
import math


def warmup_cosine(step, warmup_steps, max_steps, max_lr, min_lr):
    """Return the learning rate at `step`: a straight line up, then half a cosine down.

    min_lr                                        from max_steps on, else
    max_lr · step / warmup_steps                  while step < warmup_steps, else
    min_lr + ½ (1 + cos πz) (max_lr − min_lr)     z = (step − warmup_steps)
                                                      / (max_steps − warmup_steps)
    """
    raise NotImplementedError  # return lr
'''
TOP_P = '''
import numpy as np


def top_p(probabilities, p):
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least p.

    Shapes      probabilities (V,), which sum to 1   out (V,): those kept, scaled up to sum to 1,
                and 0 for the others

    Sums are rounded: 0.4 + 0.3 + 0.2 should reach 0.9.  Of tokens that are equally likely, those
    with the smaller ids are kept.
    """
    raise NotImplementedError  # return out
'''
BODIES = {"adamw": ADAMW, "warmup_cosine": SCHEDULE, "top_p": TOP_P}


def exercises():
    """Return {name of a file: its text}, in the order of the hints."""
    texts = {name: backward_exercise(name) for name in HINTS}
    for name, (signature, _) in FORWARD.items():
        texts[f"{name}_forward"] = forward_exercise(name, signature)
    for name in FUNCTIONS:
        texts[name] = HEAD.format(task=f"write {name}.", name=name, notes="") + BODIES[name]
    return texts


def backward_exercise(name, solved=False):
    """Return the text of an op's file, with its backward empty unless it is to be solved."""
    page = inspect.unwrap(OPS[name])
    lines = inspect.getsource(page).splitlines()
    function: Any = ast.parse("\n".join(lines)).body[0]
    backward = next(
        node
        for node in function.body
        if isinstance(node, ast.FunctionDef) and node.name == "backward"
    )
    start, end = backward.lineno - 1, backward.end_lineno
    empty = ["    def backward(dout):", f"        {EMPTY}  # return {gradients(page)}"]
    rest = lines[start:end] if solved else empty
    body = [*lines[function.lineno - 1 : start], *rest, *lines[end:]]
    function.decorator_list.clear()  # the checker makes an op of it, and needs no decorators
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    lines = imports(page, names)
    head = HEAD.format(task=f"write the backward of {name}.", name=name, notes=notes(lines, names))
    return head + lines + "\n\n" + without_derivation("\n".join(body)) + "\n"


def notes(import_lines, names):
    """Return the lines of a file's head that explain names in its forward pass."""
    imported = ", ".join(re.findall(r"^from .* import (.*)$", import_lines, re.M)).split(", ")
    helpers = [name for name in HELPERS if name in imported]
    lines = []
    if "array_module" in imported:
        library = "xp is" if "xp" in names else "array_module returns"
        lines.append(f"{library} NumPy (CuPy on a GPU).")
    if helpers:
        lines.append(f"The imported functions have docstrings: try help({helpers[0]}).")
    if "shape_of" in imported:
        lines.append("An input may be a plain number.  Then shape_of and unbroadcast return None:")
        lines.append("a number has no gradient.")
    return "".join(f"{line}\n" for line in ["", *lines]) if lines else ""


def forward_exercise(name, signature):
    """Return the text of the file in which a forward pass is to be written."""
    doc = inspect.getdoc(inspect.unwrap(OPS[name])) or ""
    doc = "\n".join(f"    {line}".rstrip() for line in doc.splitlines())
    text = f'\nimport numpy as np\n\n\ndef {name}({signature}):\n    """{doc[4:]}\n    """\n'
    task = f"write the forward pass of {name}."
    head = HEAD.format(task=task, name=f"{name}_forward", notes="")
    return head + without_derivation(text) + f"    {EMPTY}  # return out\n"


def without_derivation(text):
    """Cut a docstring before its Source: what follows there gives the answer away."""
    start = text.find("\n    Source  ")
    return text[:start] + "\n" + text[text.index('    """', start) :]


def gradients(page):
    """Return what backward returns, as a reminder."""
    arguments = Arguments(page)
    if arguments.take_a_list:
        return "one gradient for each of the arrays"
    names = ["None" if name in NO_GRADIENT else f"d{name}" for name in arguments.names]
    return f"({names[0]},)" if len(names) == 1 else ", ".join(names)


def imports(page, names):
    """Return the import lines for the names that a page uses, from wherever it has them."""
    module = importlib.import_module(page.__module__)
    found: dict[str, list[str]] = {}
    plain = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import):
            plain += [f"import {a.name}" for a in node.names if a.name in names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = [alias.name for alias in node.names if alias.name in names]
            found.setdefault(node.module, []).extend(imported)
    own = names & vars(module).keys() - {page.__name__}
    here = [name for name in sorted(own) if not any(name in listed for listed in found.values())]
    found.setdefault(module.__name__, []).extend(
        name for name in here if f"import {name}" not in plain
    )
    lines = [f"from {source} import {', '.join(found[source])}" for source in sorted(found)
             if found[source]]  # fmt: skip
    blocks = ["\n".join(block) for block in (sorted(plain), lines) if block]
    return "".join(f"\n{block}\n" for block in blocks)
