"""The tape: how plain array code learns to differentiate itself.

An op is a function of arrays that returns `(out, backward)`.  `backward(dout)` takes the gradient
of the loss with respect to out, and returns the gradient with respect to each input.  Such a
function, in a file of ops/, is called the op's page.  `@op` lifts it to Tensors: it runs the page
and records a Node, which knows where the inputs came from and keeps `backward`.  `Tensor.backward`
replays the nodes, newest first, and adds up what reaches each of them.  That is the whole chain
rule.

A worked trace.  Let x = [1, 2], w = [3, 4] and b = 1 be Tensors that require gradients.
`((x * w).sum() + b) ** 2` records four nodes (⊙ multiplies entry by entry):

    time  node  parents        out      backward(dout) returns
    0     mul   x, w           [3, 8]   dout ⊙ w, dout ⊙ x
    1     sum   node 0         11       dout, once per entry
    2     add   node 1, b      12       dout, dout
    3     pow   node 2, None   144      2 · 12 dout, None: the number 2 wants no gradient

Calling backward() on the result, with dout = 1, takes the newest node off a heap, again and again:

    heap  node  dout       what becomes of the returned gradients
    3     pow   1          24 goes to node 2, which enters the heap, and so on
    2     add   24         24 goes to node 1;  b.grad = 24
    1     sum   24         [24, 24] goes to node 0
    0     mul   [24, 24]   x.grad = [72, 96];  w.grad = [24, 48]

The heap holds several nodes where an op has several results as inputs.  In `h + h * x`, with h a
result, `add` sends gradients to h and to `mul`.  `mul` is newer, so it is replayed first; by then
both gradients of h have come in and are added up.

Calls of `guards`, `errors`, `half`, `arguments` and `hook` lead into internals/ and tools/.  They
refuse misuse, compute float16 in float32, let tools watch, and put arguments in order.  The name or
the comment beside each says what you need to know of it.
"""

import contextlib
import functools
import heapq
import itertools
from typing import Any

from minigrad.internals import errors, guards, half
from minigrad.internals.arguments import Arguments
from minigrad.internals.contexts import also_for_generators
from minigrad.internals.hooks import this_thread  # .recording is True and .plain False at first
from minigrad.internals.operators import OPS, Operators

TWINS: dict[tuple[str, str], Any] = {}  # (op, "cpu" or "gpu") -> a faster page, see fast/
_clock = itertools.count()  # gives every Node the moment at which it was made


class Node:
    """One applied op, and where the gradients of its inputs go.

    op        its name
    parents   one per input: the Node that made it, the Tensor itself if it is a leaf, or None if
              it wants no gradient
    backward  dout -> one gradient per input; a closure, which keeps the arrays that it needs
    shape     of the op's result, and so of dout
    time      when it was made;  protected, debug_info, module_stack: for guards and hooks

    Parents are never Tensors in between, so an array that no closure keeps is freed as soon as the
    program drops its Tensor.  Nothing points from an input to the nodes that use it: no cycles.
    """

    __slots__ = "op parents backward shape time protected debug_info module_stack".split()

    def __init__(self, op, parents, backward, shape, protected, debug_info):
        self.op, self.parents, self.backward, self.shape = op, parents, backward, shape
        self.protected, self.debug_info = protected, debug_info
        self.module_stack = this_thread.module_stack  # for tools: inside which module calls
        self.time = next(_clock)

    def replay(self, dout):
        """Return the gradients of the inputs, from the gradient of the result."""
        guards.check_node(self)  # refuses a second time, and inputs that an optimizer has changed
        grads = self.backward(dout)
        if this_thread.hook is not None:  # a tool looks on
            this_thread.hook.backward(self, dout, grads)
        return grads

    def free(self):
        """Drop the closure and the arrays it kept; inputs become writable again."""
        self.backward = self.protected = self.debug_info = self.module_stack = None
        self.parents = ()


class Tensor(Operators):
    """An array, `data`, that remembers which op made it.

    A Tensor that you make is a leaf.  If it requires a gradient, backward() adds that to `grad`:
    None at first, then an array like data.  The result of an op has a `node` instead.  Data given
    as numbers or lists becomes float32; an array keeps its dtype and is not copied.

    Inputs of recorded ops are read-only until backward() has run through them or the result is
    dropped, and results always, so an in-place write cannot silently corrupt a gradient.  Assign a
    new array instead (`x.data = x.data + 1`).

    The base class has all operators and methods; `x * w` calls OPS["mul"](x, w).
    """

    node: Node | None = None
    _requires_grad, _grad = False, None  # what two of these keep; they check what is assigned
    data = property(guards.get_data, guards.set_data)
    requires_grad = property(guards.get_requires_grad, guards.set_requires_grad)
    grad = property(guards.get_grad, guards.set_grad)
    grad_buffer = None  # the array in which an optimizer wants the gradient: fast/flat.py
    version = 0  # how often an optimizer has written into data; guards compare it

    def __init__(self, data, requires_grad=False):
        self.data = data  # as an array
        if requires_grad:
            self.requires_grad = True

    def backward(self, dout=None):
        """Add the gradient of Σ self ⊙ dout to `leaf.grad` of every leaf behind this tensor.

        dout    like self; it may be left out if self has one entry, and is then 1

        Whatever uses a tensor is newer than it.  The newest node on the heap has therefore received
        all of its gradients: only newer nodes could send it more, and every node that is still to
        come is on the heap, or older than one that is.  So it can be replayed, without sorting the
        graph first and without recursion.
        """
        dout = guards.check_dout(self, dout)  # an array like self; refuses if self has no gradient
        grads: dict[Node, Any] = {}  # node -> the gradient of its result, as far as collected
        ready: list[tuple[int, Node]] = []  # a heap of (−time, node): pops the newest node first

        def accumulate(parent, d):
            if isinstance(parent, Tensor):
                parent.accumulate_grad(d)
            elif parent not in grads:
                grads[parent] = d
                heapq.heappush(ready, (-parent.time, parent))
            else:  # never +=, because `add` returns one array for both of its inputs
                grads[parent] = grads[parent] + d

        accumulate(self.node or self, dout)
        while ready:
            _, node = heapq.heappop(ready)
            for parent, d in zip(node.parents, node.replay(grads.pop(node)), strict=True):
                if parent is None:
                    continue
                if d is None or d.shape != parent.shape:
                    raise guards.wrong_gradient(node, parent, d)
                accumulate(parent, d)
            node.free()

    def accumulate_grad(self, d):
        """Add `d` to grad, of a leaf.  The first d is copied: other tensors may share its array."""
        grad = self._grad
        if grad is None:
            self._grad = guards.new_grad(self)  # grad_buffer or a new array, still to be filled
            self._grad[...] = d
        elif guards.is_writable(grad):
            grad += d  # in place
        else:  # the array was used as the input of an op, which may still read it
            self.grad = grad + d


def op(page):
    """Lift `page(*inputs, **options) -> (out, backward)` to Tensors, and enter it in OPS.

    The parameters before `*` are the inputs: Tensors, arrays, numbers or None, by position or by
    name.  `backward(dout)` returns one entry per input, None for one without a gradient.  A page
    that takes `*arrays` makes an op that is called with one list: `concat([x, y])`.  The parameters
    after `*` are options.
    """
    name, arguments = page.__name__, Arguments(page)

    @functools.wraps(page)
    def tensor_op(*inputs, **options):
        inputs, options = arguments.in_order(inputs, options)  # by position; a list is spread out
        arrays = arguments.arrays(inputs)  # the data of Tensors; arrays, numbers, None as they are
        parents = [_parent(x) for x in inputs] if this_thread.recording else []
        recorded = parents.count(None) < len(parents)  # some input wants a gradient
        try:
            device = guards.one_device(arrays)  # refuses a mix of CPU and GPU
            twin = None if this_thread.plain else TWINS.get((name, device))
            # half.run(f, arrays, options) is f(*arrays, **options), for float16 via float32.
            result = NotImplemented if twin is None else half.run(twin, arrays, options)
            if result is NotImplemented:  # there is no twin, or it declines
                result = half.run(page, arrays, options)
        except (ValueError, IndexError) as error:
            raise errors.explained(error, page, arguments, arrays, options) from error
        out, backward = result
        # As an array; refuses a mix of dtypes, and integers that should have a gradient.
        out = guards.check_dtype(name, arguments.names, arrays, out, recorded)
        tensor, hook = Tensor(out), this_thread.hook
        debug_info = hook and hook.forward(name, arguments.names, inputs, arrays, out)
        if recorded:
            protected = guards.protect(inputs)  # leaves are read-only while this object lives
            guards.set_writable(out, False)
            tensor._requires_grad = True
            tensor.node = Node(name, parents, backward, out.shape, protected, debug_info)
        return tensor

    OPS[name] = tensor_op
    return tensor_op


def _parent(x):
    """Return who receives the gradient of the input `x`: its node, itself as a leaf, or None."""
    if not isinstance(x, Tensor) or not x._requires_grad:
        return None
    if x.node is None:
        return x
    if x.node.backward is None:  # backward() has already gone through it
        raise guards.freed(x)
    return x.node


@also_for_generators  # as a decorator of a generator, it applies while the generator runs
@contextlib.contextmanager
def no_grad():
    """Run ops without recording them, for evaluation and sampling.  Also a decorator."""
    before, this_thread.recording = this_thread.recording, False
    try:
        yield
    finally:
        this_thread.recording = before
