"""The hook through which tools watch the tape, and the stack of module calls that are running.

`this_thread.hook` is None or an object with two methods, which the tape calls:

    forward(op, names, inputs, arrays, out)   after every op; the Node keeps the returned value
    backward(node, dout, grads)               after every node that is replayed

A tool that finds a hook already set keeps it, and calls it from its own.
"""

import os
import threading
import weakref
from typing import Any


class ThreadState(threading.local):
    """The state of the tape, one for each thread."""

    recording = True  # False inside `with no_grad():`
    precision = "float32"  # or "tf32", of matrix products on a GPU: inside `with precision(...):`
    evaluating: frozenset[int] = frozenset()  # ids of modules inside `with eval_mode():`
    plain = os.environ.get("MINIGRAD_PLAIN", "0") not in ("", "0")  # True inside `with plain():`
    hook: Any = None
    module_stack: Any = None  # the innermost module call that is running: see enter_module


this_thread = ThreadState()
PRECISIONS = ("float32", "tf32")


def check_precision(name):
    """Return the name of a precision; ValueError if there is none of that name."""
    if name not in PRECISIONS:
        raise ValueError(f"there is no precision {name!r}: choose {' or '.join(PRECISIONS)}")
    return name


def enter_module(module):
    """Push a module call onto the stack; return the stack as it was, for leave_module.

    The stack is a linked list of (outer call, weak reference to the module, name of its class).
    Every Node keeps the stack as it was when the Node was made.  The reference is weak because a
    module may keep a result, and a strong one would make a cycle of module, tensor and node.
    """
    outer = this_thread.module_stack
    this_thread.module_stack = (outer, weakref.ref(module), type(module).__name__)
    return outer


def leave_module(outer):
    """Pop the innermost module call."""
    this_thread.module_stack = outer


def is_called(module):
    """Return whether a call of this module is running in this thread."""
    calls = calls_from_outermost(this_thread.module_stack)
    return any(called() is module for _, called, _ in calls)


def calls_from_outermost(module_stack):
    """Return the calls of a stack as a list: [(outer call, weak reference, class name), ...]."""
    calls = []
    while module_stack is not None:
        calls.append(module_stack)
        module_stack = module_stack[0]
    return calls[::-1]


def path_of(module, root):
    """Return the dotted name of a module below `root`: "" for root itself, None if not found."""
    return next((path for path, found in root.named_modules() if found is module), None)


def paths_below(root):
    """Return {id of a module: path_of(module, root)} of root and all modules below it."""
    return {id(module): path for path, module in root.named_modules()}
