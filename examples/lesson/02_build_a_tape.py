# %% [markdown]
# # 2. Build a tape
#
# How does `backward()` know the derivative of a whole program? It does not. It knows the derivative
# of each small step, and it remembers which steps were taken. We build such a machine in five
# steps. The last one is `minigrad/tensor.py` without its guards.
#
# We write $\partial \text{loss} / \partial x$ for the slope of notebook 1: how fast the loss grows
# when $x$ grows and everything else stays fixed. You need one rule, the **chain rule**. If $y$
# grows 3 times as fast as $x$, and the loss 2 times as fast as $y$, then the loss grows 6 times as
# fast as $x$:
#
# $$\frac{\partial \text{loss}}{\partial x}
# = \frac{\partial \text{loss}}{\partial y} \cdot \frac{\partial y}{\partial x}$$
#
# If $x$ is used in several places, the contributions of all of them add up. (When $x$ grows a
# little, each use moves the loss a little, and these moves add up.) We write `dx` for
# $\partial \text{loss} / \partial x$, and `dout` for the slope of the loss with respect to an
# operation's result.

# %%
# In Colab, or wherever minigrad is missing, this installs it. If the install fails, run
#     pip install -e ".[lesson]"
# in a terminal, in your clone of the repository. Then start Jupyter again in the same environment.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("minigrad") is None:
    command = [sys.executable, "-m", "pip", "install", "-q", "gpt-numpy[lesson]"]
    subprocess.run(command, check=True)

# %%
import functools
import heapq
import itertools

import numpy as np

# %% [markdown]
# ## Step 1: an operation that knows its own derivative
#
# An operation returns two things: its result, and a function `backward`. From `dout`, the slope of
# the loss with respect to the result, `backward` computes the slope with respect to each input. (We
# say "the gradient of x" for short when we mean the gradient of the loss with respect to x.)
# `backward` is defined inside the operation, so it may use the inputs. Python keeps them for it.


# %%
def add(x, y):
    def backward(dout):
        return dout, dout  # x + y grows as fast as x does, and as fast as y does

    return x + y, backward


def mul(x, y):
    def backward(dout):
        return dout * y, dout * x  # x y grows y times as fast as x does

    return x * y, backward


# %% [markdown]
# Now take $\text{loss} = (x w + b)^2$ at $x = 2$, $w = 3$, $b = 1$. We compute it forwards, and
# then call the three `backward` functions in the opposite order. Each receives what the one that
# was called before it returned. The last operation multiplies $s$ by itself, so $s$ gets two
# contributions.

# %%
x, w, b = 2.0, 3.0, 1.0
h, backward_h = mul(x, w)
s, backward_s = add(h, b)
loss, backward_loss = mul(s, s)

ds_left, ds_right = backward_loss(1.0)  # the loss grows as fast as itself
ds = ds_left + ds_right
dh, db = backward_s(ds)
dx, dw = backward_h(dh)
print("loss", loss, "  dx", dx, "  dw", dw, "  db", db)

# %% [markdown]
# Check it by hand: $\partial \text{loss} / \partial b = 2 (x w + b) = 14$. Then `dx` is $w$ times
# that, and `dw` is $x$ times that.
#
# ## Step 2: a tape
#
# Nobody wants to call those functions by hand. So we write down every operation as it happens: its
# result, its inputs, and its `backward`. That list is the **tape**. To find the gradients we play
# it from the end to the beginning.

# %%
tape = []  # (result, inputs, backward) of every operation, oldest first


class Tensor:
    def __init__(self, data):
        self.data, self.grad = data, 0.0


def apply(operation, *inputs):
    out, backward = operation(*[x.data for x in inputs])
    result = Tensor(out)
    tape.append((result, inputs, backward))
    return result


def play_backwards(loss, dout=1.0):
    loss.grad = dout
    for result, inputs, backward in reversed(tape):
        for x, dx in zip(inputs, backward(result.grad), strict=True):
            x.grad = x.grad + dx


x, w, b = Tensor(2.0), Tensor(3.0), Tensor(1.0)
s = apply(add, apply(mul, x, w), b)
play_backwards(apply(mul, s, s))
print("dx", x.grad, "  dw", w.grad, "  db", b.grad, "  operations on the tape:", len(tape))

# %% [markdown]
# ## Step 3: `@op`
#
# A **decorator** is a function that takes a function and returns another one. `@op` in the line
# above the definition of `f` means `f = op(f)` after it. Our functions exist already, so we write
# the second form. (Run this cell only once. A second run would wrap them twice.)
#
# Our `op` returns a function of Tensors that also writes to the tape. We call the original
# function, which computes with plain numbers, the operation's **page**. With Python's operators on
# top, an ordinary formula records itself.


# %%
def op(page):
    @functools.wraps(page)
    def tensor_op(*inputs):
        inputs = [x if isinstance(x, Tensor) else Tensor(x) for x in inputs]
        return apply(page, *inputs)

    return tensor_op


add, mul = op(add), op(mul)
Tensor.__add__ = Tensor.__radd__ = lambda x, y: add(x, y)
Tensor.__mul__ = Tensor.__rmul__ = lambda x, y: mul(x, y)

tape.clear()
x, w, b = Tensor(2.0), Tensor(3.0), Tensor(1.0)
s = x * w + b
play_backwards(s * s + 10 * x)
print("dx", x.grad, "  dw", w.grad, "  db", b.grad)

# %% [markdown]
# `x` is used twice now, and its gradient is $42 + 10$.
#
# ## Step 4: arrays
#
# The same code works for arrays, because NumPy computes with arrays as with numbers. There is one
# trap. NumPy **broadcasts**: it adds a row to every row of a matrix. Then the row was used many
# times, so its gradient is a sum, and it must have the shape of the row. (There is no loss in the
# next cell. We pretend that it grows by 1 with every entry of the result, so `dout` is all ones.)

# %%
tape.clear()
matrix, row = Tensor(np.ones((2, 3))), Tensor(np.array([1.0, 2.0, 3.0]))
play_backwards(matrix + row, np.ones((2, 3)))
print("row has shape", row.data.shape, "and its gradient", row.grad.shape)

# %% [markdown]
# That is wrong, and `unbroadcast` fixes it: it sums over every axis along which the input was
# repeated. With it we define the operations that a small network needs. Three of them are new:
#
# * In a product of matrices $x_{ik}$ meets $y_{kj}$ in $\text{out}_{ij}$. So
#   $dx_{ik} = \sum_j dout_{ij} \, y_{kj}$, which is `dout @ y.T`. In the same way
#   $dy_{kj} = \sum_i x_{ik} \, dout_{ij}$, which is `x.T @ dout`.
# * $\tanh$ is a curve that squeezes any number into the range from −1 to 1. Its slope is
#   $1 - \tanh^2$.
# * Every entry of a sum counts once, so it gets `dout`.


# %%
def unbroadcast(dout, shape):
    dout = dout.sum(tuple(range(dout.ndim - len(shape))))  # the axes added in front; () for none
    # Then the axes of length 1. If one of them was not repeated, its sum changes nothing.
    stretched = tuple(i for i, n in enumerate(shape) if n == 1)
    return dout.sum(stretched, keepdims=True)


def add_page(x, y):
    def backward(dout):
        return unbroadcast(dout, x.shape), unbroadcast(dout, y.shape)

    return x + y, backward


def mul_page(x, y):
    def backward(dout):
        return unbroadcast(dout * y, x.shape), unbroadcast(dout * x, y.shape)

    return x * y, backward


def matmul_page(x, y):
    def backward(dout):
        return dout @ y.T, x.T @ dout

    return x @ y, backward


def tanh_page(x):
    out = np.tanh(x)

    def backward(dout):
        return (dout * (1 - out * out),)

    return out, backward


def sum_page(x):
    def backward(dout):
        return (np.full(x.shape, dout),)

    return np.asarray(x.sum()), backward


add = op(add_page)
tape.clear()
matrix, row = Tensor(np.ones((2, 3))), Tensor(np.array([1.0, 2.0, 3.0]))
play_backwards(matrix + row, np.ones((2, 3)))
print("row has shape", row.data.shape, "and its gradient", row.grad.shape, row.grad)

# %% [markdown]
# ## Step 5: newest first
#
# One list for everything has three faults. It grows forever, since nothing is ever removed. It
# keeps every array alive, needed or not. And it replays operations that have nothing to do with the
# loss.
#
# So we cut the tape into pieces. Every result gets a **Node**, which holds its `backward` and
# points to the nodes of its inputs. Starting from the loss, `backward()` follows those pointers. It
# must not replay a node before all of its gradients have arrived. One fact settles the order:
# **the result of an operation is newer than its inputs.** Every node gets the time at which it was
# made, and the newest one that is waiting always goes first. A heap is a list that gives us its
# smallest entry quickly. With negative times, that is the newest node.
#
# A Tensor that no operation computed, such as a weight, has no node. It is called a **leaf**, and
# keeps its gradient in `.grad`.
#
# A node that has been replayed is emptied. Then the arrays that its `backward` kept are freed while
# the rest is still being computed.

# %%
clock = itertools.count()


class Node:
    def __init__(self, parents, backward):
        self.parents, self.backward, self.time = parents, backward, next(clock)


class Tensor:
    def __init__(self, data, requires_grad=False):
        self.data = np.asarray(data, float)
        self.requires_grad, self.grad, self.node = requires_grad, None, None

    def backward(self, dout=1.0):
        grads, ready = {}, []  # node -> its gradient so far; a heap of (-time, node)

        def accumulate(parent, d):
            if isinstance(parent, Tensor):  # a leaf
                parent.grad = d if parent.grad is None else parent.grad + d
            elif parent in grads:
                grads[parent] = grads[parent] + d
            else:
                grads[parent] = d
                heapq.heappush(ready, (-parent.time, parent))

        accumulate(self.node or self, np.broadcast_to(dout, self.data.shape))
        while ready:
            _, node = heapq.heappop(ready)
            for parent, d in zip(node.parents, node.backward(grads.pop(node)), strict=True):
                if parent is not None:
                    accumulate(parent, d)
            node.parents, node.backward = (), None

    def __add__(self, other):
        return add(self, other)

    def __mul__(self, other):
        return mul(self, other)

    def __matmul__(self, other):
        return matmul(self, other)


def op(page):
    @functools.wraps(page)
    def tensor_op(*inputs, **options):
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        out, backward = page(*arrays, **options)
        result = Tensor(out)
        if any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            result.requires_grad = True
            result.node = Node([parent_of(x) for x in inputs], backward)
        return result

    return tensor_op


def parent_of(x):
    if isinstance(x, Tensor) and x.requires_grad:
        return x.node or x  # where it came from, or itself if nobody computed it
    return None  # it wants no gradient


add, mul, matmul = op(add_page), op(mul_page), op(matmul_page)
tanh, total = op(tanh_page), op(sum_page)

# %% [markdown]
# That is the whole machine. Does it work? Here is a network with two layers. A **layer** multiplies
# by a matrix and may add a row, its **bias**; a **network** is several layers with a curve such as
# tanh between them. This one learns the function "exclusive or", which no single layer can compute:
# true if exactly one of two inputs is true. The loss is the sum of the squared errors. It is 0 only
# if every answer is right.

# %%
generator = np.random.default_rng(1)
inputs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
answers = np.array([[0.0], [1.0], [1.0], [0.0]])
w1 = Tensor(generator.standard_normal((2, 4)), requires_grad=True)
b1 = Tensor(np.zeros(4), requires_grad=True)
w2 = Tensor(generator.standard_normal((4, 1)), requires_grad=True)
parameters = [w1, b1, w2]


def network(x):
    return tanh(matmul(x, w1) + b1) @ w2


for step in range(301):
    error = network(inputs) + -answers  # our Tensor has no minus
    loss = total(error * error)
    for p in parameters:
        p.grad = None
    loss.backward()
    for p in parameters:
        p.data = p.data - 0.05 * p.grad
    if step % 100 == 0:
        print(f"step {step:3}   loss {loss.data:.4f}")
print("answers:", *(f"{y:.2f}" for y in network(inputs).data[:, 0]))

# %% [markdown]
# ## This is `minigrad/tensor.py` without its guards
#
# Our pages have the same form as those of minigrad, so our tape can run minigrad's operations, and
# minigrad's tape must find the same gradients. We send one small piece of a language model through
# both. You need not know these operations yet: all that matters is that the same list of operations
# runs on two tapes. (`__wrapped__` is the page that `@op` has replaced. A twin is a faster version
# of a page, which minigrad runs in its place.)

# %%
import minigrad as mg
import minigrad.ops as F

names = ["layer_norm", "linear", "gelu", "softmax", "matmul", "add", "cross_entropy"]
ours = {name: op(getattr(F, name).__wrapped__) for name in names}
theirs = {name: getattr(F, name) for name in names}
shapes = [(5, 8), (8,), (8,), (32, 8), (8, 32)]
arrays = [generator.standard_normal(shape) for shape in shapes]
targets = np.array([3, 1, 4, 1, 5])


def piece(ops, x, weight, bias, up, down):
    h = ops["layer_norm"](x, weight, bias)
    h = ops["linear"](ops["gelu"](ops["linear"](h, up, None)), down, None)
    x = ops["add"](x, h)  # the first x is used twice
    mixed = ops["matmul"](ops["softmax"](x), down)  # `down` is used here, and again below
    return ops["cross_entropy"](ops["linear"](mixed, down, None), targets)


our_leaves = [Tensor(array, requires_grad=True) for array in arrays]
piece(ours, *our_leaves).backward()
their_leaves = [mg.Tensor(array, requires_grad=True) for array in arrays]
with mg.plain():  # run the pages themselves, not their faster twins
    piece(theirs, *their_leaves).backward()

for x, y in zip(our_leaves, their_leaves, strict=True):
    print(f"{x.grad.shape!s:8} equal to the last bit: {np.array_equal(x.grad, y.grad)}")

# %% [markdown]
# `minigrad/tensor.py` adds guards. They raise an error if a gradient would be wrong: if an array
# was overwritten before `backward()` needed it, if a gradient has the wrong shape, or if a graph is
# used twice. Their messages explain the mistake. And `no_grad()` switches recording off.
#
# ## Try it
#
# * Write the page of `exp`, whose derivative is itself, and make it an operation.
# * Write `x = ops["add"](x, bias)` as the first line of `piece`, and let `backward()` take the
#   **oldest** waiting node instead of the newest. (In `accumulate`, push `parent.time` instead of
#   `-parent.time`.) Which error do you get, and why?
# * [`examples/exercises/`](../exercises/README.md) has every operation of minigrad with an empty
#   `backward`. In a terminal, `python -m minigrad.exercises --new mine` makes a folder of your
#   own, and `python -m minigrad.exercises mine` checks what you write there. The table lists
#   them in the order in which to solve them. You can do those from `neg` to `matmul` now. The
#   others belong to notebooks 4, 5, 7, 9, 10 and 12.

# %% [markdown]
# ## Answers
#
# * The page keeps its result, because that is its slope:
#
#   ```python
#   def exp_page(x):
#       out = np.exp(x)
#
#       def backward(dout):
#           return (dout * out,)
#
#       return out, backward
#
#
#   exp = op(exp_page)
#   ```
# * `TypeError: 'NoneType' object is not callable`. The node of the new `x` is older than the node
#   of `h`, so it is replayed as soon as it has its first gradient, and emptied. When the second
#   gradient arrives, the node waits once more, and its `backward` is gone.
# * The solutions are the pages in `minigrad/ops/`.
#
# Next: [3. Next-token prediction](03_next_token.ipynb).
