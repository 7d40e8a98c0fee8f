"""The tape: it chains the derivatives of single ops into the gradient of a whole program.

Each op is written as a function of arrays that returns `(out, backward)`.  `backward(dout)` takes
the gradient of the loss with respect to out, and returns a tuple with the gradient with respect to
each input.  The function with its explanation is the op's page in this book; the files of ops/ hold
the pages.  `@op` turns a page into a function of Tensors: it runs the page and records a Node,
which knows where the inputs came from and keeps `backward`.  The nodes together are the tape.
`Tensor.backward` replays them, newest first, and adds up the gradients that reach each of them.
That is the whole chain rule.

A worked trace.  Let x = [1, 2], w = [3, 4] and b = 1 be Tensors that require gradients.
`((x * w).sum() + b) ** 2` records four nodes, named by their time (⊙ multiplies entry by entry):

    time  node  parents        out      backward(dout) returns
    0     mul   x, w           [3, 8]   dout ⊙ w, dout ⊙ x
    1     sum   node 0         11       an array like x * w, filled with dout
    2     add   node 1, b      12       dout, dout
    3     pow   node 2, None   144      2 · 12 dout, None: the number 2 wants no gradient

Calling backward() on the result, with dout = 1, takes the newest node off a heap, again and again:

    heap  node  dout       what becomes of the returned gradients
    3     pow   1          24 goes to node 2, which enters the heap, and so on
    2     add   24         24 goes to node 1;  b.grad = 24
    1     sum   24         [24, 24] goes to node 0
    0     mul   [24, 24]   x.grad = [72, 96];  w.grad = [24, 48]

The heap holds several nodes when an op's inputs come from several earlier ops.  In `h + h * x`,
where an op made h, `add` sends gradients to the node of h and to `mul`.  `mul` is newer.  So it is
replayed first, and sends a second gradient to the node of h.  When the turn of h comes, both have
been added up.

Some calls lead into internals/ and tools/: `guards` and `errors` refuse misuse and explain it,
`arguments` puts arguments in order, `half` computes float16 in float32, `hook` lets tools watch.
"""

import contextlib
import functools
import heapq
import itertools
from typing import Any

from minigrad.backend import is_array
from minigrad.internals import errors, guards, half
from minigrad.internals.arguments import Arguments
from minigrad.internals.contexts import also_for_generators
from minigrad.internals.hooks import this_thread  # recording, plain, hook: one set per thread
from minigrad.internals.operators import OPS, Operators, name_of

TWINS: dict[tuple[str, str], Any] = {}  # (op, "cpu" or "gpu") -> a faster page, see fast/
_clock = itertools.count()  # gives every Node the time at which it was made, a different one


class Node:
    """One applied op, and where the gradients of its inputs go.

    op        its name
    parents   one per input: the Node that made it, the Tensor itself if it is a leaf, or None if
              it wants no gradient
    backward  dout -> one gradient per input; a closure, which keeps the arrays that it needs
    shape     of the op's result, and so of dout
    time      when it was made.  For guards and hooks: protected, debug_info, module_stack

    A node points to the Node of an intermediate result, never to its Tensor.  So the array of a
    result that no closure keeps is freed as soon as the program drops the Tensor.  Nothing points
    from an input to the nodes that use it, so there are no cycles.
    """

    __slots__ = "op parents backward shape time protected debug_info module_stack".split()

    def __init__(self, op, parents, backward, shape, protected, debug_info):
        self.op, self.parents, self.backward, self.shape = op, parents, backward, shape
        self.protected, self.debug_info = protected, debug_info
        self.module_stack = this_thread.module_stack  # for tools: the module calls that are running
        self.time = next(_clock)

    def replay(self, dout):
        """Return the gradients of the inputs, from the gradient of the result."""
        guards.check_node(self)  # raises if replayed before, or if an optimizer changed an input
        grads = guards.check_tuple(self, self.backward(dout))
        if this_thread.hook is not None:  # a tool is watching
            this_thread.hook.backward(self, dout, grads)
        return grads

    def free(self):
        """Drop the closure and the arrays it kept, so that leaves become writable again."""
        self.backward = self.protected = self.debug_info = self.module_stack = None
        self.parents = ()


class Tensor(Operators):
    """An array, `data`, that remembers which op made it.

    A Tensor that you make is a leaf.  If it requires a gradient, backward() adds the gradient to
    `grad`, which is None at first and then an array like data.  If an input of an op requires one,
    the op's result has a `node` instead, and no grad.  Data given as numbers or lists becomes
    float32; an array keeps its dtype and is not copied.

    The result of a recorded op is always read-only.  The arrays that go into it are read-only until
    backward() has passed the op or its result is dropped.  So writing into them cannot silently
    corrupt a gradient (guards.py says what is not covered).  Assign a new array instead:
    `x.data = x.data + 1`.  Only a fused optimizer writes in spite of this.  It counts that in
    `version`, and a Node whose inputs have another version since refuses to be replayed.

    The base class has all operators and methods; `x * w` calls OPS["mul"](x, w).
    """

    node: Node | None = None
    # These check or convert what is assigned, and keep it in _data, _requires_grad and _grad, which
    # the engine sets itself where there is nothing to check.
    data = property(guards.get_data, guards.set_data)
    requires_grad = property(guards.get_requires_grad, guards.set_requires_grad)
    grad = property(guards.get_grad, guards.set_grad)
    _requires_grad, _grad = False, None
    grad_buffer = None  # the array in which an optimizer wants the gradient: fast/flat.py
    buffer_taken = False  # True once a twin writes its gradient there: guards.grad_slot
    version = 0  # how often an optimizer has written into data

    def __init__(self, data, requires_grad=False):
        self.data = data  # as an array
        if requires_grad:
            self.requires_grad = True

    def backward(self, dout=None):
        """Add the gradient of Σ self ⊙ dout to `grad` of every leaf that requires one.

        dout    an array of the shape of self; if self has one entry it may be left out, and is 1

        A node is newer than the nodes of its inputs.  The newest node on the heap has therefore
        received all of its gradients: only newer nodes could send it more, and every node that is
        still to come is on the heap, or older than one that is.  So it can be replayed, without
        sorting the graph first and without recursion.  Then it is freed: backward() passes it once.
        """
        dout = guards.check_dout(self, dout)  # an array like self; raises if self wants no gradient
        grads: dict[Node, Any] = {}  # node -> the sum of the gradients that reached it so far
        ready: list[tuple[int, Node]] = []  # a heap of (−time, node): pops the newest node first

        def accumulate(target, d):
            if isinstance(target, Tensor):  # a leaf
                target.accumulate_grad(d)
            elif target not in grads:
                grads[target] = d
                heapq.heappush(ready, (-target.time, target))
            else:  # never +=, because `add` returns the same array for both of its inputs
                grads[target] = grads[target] + d

        accumulate(self.node or self, dout)  # self, if it is a leaf
        while ready:
            _, node = heapq.heappop(ready)
            for parent, d in zip(node.parents, node.replay(grads.pop(node)), strict=True):
                if parent is None:
                    continue
                if not is_array(d) or d.shape != parent.shape:  # NumPy's scalars are arrays ()
                    raise guards.wrong_gradient(node, parent, d)
                accumulate(parent, d)
            node.free()

    def accumulate_grad(self, d):
        """Add `d` to this leaf's grad, unless the leaf was frozen after the forward pass."""
        if self._requires_grad:
            guards.add_gradient(self, d)  # in place only where nothing else reads the array


def op(page):
    """Turn `page(*inputs, **options) -> (out, backward)` into an op; enter minigrad.ops' in OPS.

    The parameters before `*` are the inputs: Tensors, arrays, numbers or None, by position or by
    name.  `backward(dout)` returns a tuple with one entry per input, None for one that can have no
    gradient, such as integers.  A page that takes `*arrays` makes an op that is called with one
    list: `concat([x, y])`.  The parameters after `*` are options.
    """
    name, arguments = name_of(page), Arguments(page)  # your own gelu: "__main__.gelu"

    @functools.wraps(page)
    def tensor_op(*inputs, **options):
        # All inputs by position: defaults are filled in, and the list of concat is unpacked.
        inputs, options = arguments.in_order(inputs, options)
        arrays = arguments.arrays(inputs)  # the data of Tensors; arrays, numbers, None as they are
        parents = [_parent(x) for x in inputs] if this_thread.recording else []
        recorded = any([parent is not None for parent in parents])  # some input wants a gradient
        try:
            device = guards.one_device(arrays)  # refuses a mix of CPU and GPU
            twin = None if this_thread.plain else TWINS.get((name, device))
            # half.run(f, arrays, options) is f(*arrays, **options).  For float16 it computes in
            # float32, and rounds out and the gradients to float16.
            result = NotImplemented if twin is None else half.run(twin, arrays, options)
            if result is NotImplemented:  # there is no twin, or it declines
                result = half.run(page, arrays, options)
        except errors.EXPLAINED as error:  # NumPy's, or ours
            raise errors.explained(error, page, arguments, arrays, options) from error
        out, backward = guards.check_pair(name, result)
        # Make out an array; raise for mixed dtypes, and for integers that would need a gradient.
        out = guards.check_dtype(name, arguments.names, arrays, out, recorded)
        tensor = Tensor(out)
        hook = this_thread.hook  # a tool, or None; the Node keeps what it returns
        debug_info = hook and hook.forward(name, arguments.names, inputs, arrays, out)
        if recorded:
            protected = guards.protect(inputs)  # keeps their arrays read-only while it lives
            guards.set_writable(out, False)
            tensor._requires_grad = True
            tensor.node = Node(name, parents, backward, out.shape, protected, debug_info)
        return tensor

    if name == page.__name__:  # an op of minigrad.ops, whose name has no dot
        OPS[name] = tensor_op
    return tensor_op


def _parent(x):
    """Return what receives the gradient of the input `x`: its node, itself as a leaf, or None."""
    if not isinstance(x, Tensor) or not x._requires_grad:
        return None
    if x.node is None:
        return x
    if x.node.backward is None:  # backward() has already gone through it
        raise guards.freed(x)
    return x.node


@also_for_generators  # as its decorator, no_grad applies while the generator's own lines run
@contextlib.contextmanager
def no_grad():
    """Run ops without recording them, for evaluation and sampling.  Also a decorator."""
    before, this_thread.recording = this_thread.recording, False
    try:
        yield
    finally:
        this_thread.recording = before
