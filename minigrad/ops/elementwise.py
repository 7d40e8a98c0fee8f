"""Ops that work entry by entry, and broadcasting, which is where their backward needs care.

Each derivation speaks of one entry.  What dx, dout and [c] mean stands in ops/__init__.py.
"""

from minigrad.device import array_module, is_array
from minigrad.faults import explained, no_broadcast
from minigrad.tensor import op


def shape_of(x):
    """The shape of an array, None of a plain number.  A backward that needs no more keeps this."""
    return getattr(x, "shape", None)


def unbroadcast(dout, shape):
    """The gradient of an input of that shape from that of its broadcast copy.

    An entry that was used n times collects n contributions: sum over the axes that were stretched.
    (Over one that has length 1 in both, a sum changes nothing.)
    A plain number (shape None) has no gradient.
    """
    if shape is None:
        return None
    if dout.shape == shape:
        return dout
    dout = dout.sum(tuple(range(dout.ndim - len(shape))))  # those put in front; () are none
    return dout.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


@op
@explained(no_broadcast)
def add(x, y):
    """out = x + y

    Shapes      x and y broadcast against each other to the shape of out
    Source      the sum rule
    Derivation  ∂out/∂x = 1,  ∂out/∂y = 1,  so  dx = dout,  dy = dout
    """
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        return unbroadcast(dout, x_shape), unbroadcast(dout, y_shape)

    return x + y, backward


@op
@explained(no_broadcast)
def sub(x, y):
    """out = x − y

    Shapes      x and y broadcast against each other to the shape of out
    Source      the sum rule
    Derivation  ∂out/∂x = 1,  ∂out/∂y = −1,  so  dx = dout,  dy = −dout
    """
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        return unbroadcast(dout, x_shape), unbroadcast(-dout, y_shape)

    return x - y, backward


@op
@explained(no_broadcast)
def mul(x, y):
    """out = x y

    Shapes      x and y broadcast against each other to the shape of out
    Source      the product rule
    Derivation  ∂out/∂x = y,  ∂out/∂y = x,  so  dx = dout y,  dy = dout x
    """

    def backward(dout):
        return unbroadcast(dout * y, shape_of(x)), unbroadcast(dout * x, shape_of(y))

    return x * y, backward


@op
@explained(no_broadcast)
def div(x, y):
    """out = x / y

    Shapes      x and y broadcast against each other to the shape of out
    Source      the quotient rule
    Derivation  ∂out/∂x = 1/y,  ∂out/∂y = −x/y² = −out/y,  so  dx = dout / y,  dy = −dx out
    """
    out = x / y
    x_shape = shape_of(x)

    def backward(dout):
        dx = dout / y
        return unbroadcast(dx, x_shape), unbroadcast(-dx * out, shape_of(y))

    return out, backward


@op
def neg(x):
    """out = −x

    Shapes      out like x
    Source      the sum rule
    Derivation  ∂out/∂x = −1,  so  dx = −dout
    """

    def backward(dout):
        return (-dout,)

    return -x, backward


@op
@explained(no_broadcast)
def pow(x, y):
    """out = xʸ

    Shapes      x and y broadcast against each other to the shape of out
    Source      the power rule, and xʸ = e^(y ln x) for the exponent
    Derivation  ∂out/∂x = y xʸ⁻¹,  ∂out/∂y = xʸ ln x,  so  dx = dout y xʸ⁻¹,  dy = dout out ln x

    Numerics    ln x exists for x > 0 alone.  A plain number as exponent has no gradient, and no
                logarithm is taken: x ** 2 may be differentiated at negative x.  At x = 0 stands a
                product of 0 and ∞ that is 0: x⁰ is flat, whence the exponent y − [y ≠ 0]; and 0ʸ
                is flat for y > 0, whence a 1 for x where its logarithm is taken.
    """
    out = x**y
    xp = array_module(out)

    def backward(dout):
        dx = dy = None
        if is_array(x):
            dx = unbroadcast(dout * y * x ** (y - (y != 0)), x.shape)
        if is_array(y):
            log = xp.log(xp.where(xp.equal(x, 0), 1, xp.asarray(x, out.dtype)))
            dy = unbroadcast(dout * out * log, y.shape)
        return dx, dy

    return out, backward


@op
def exp(x):
    """out = eˣ

    Shapes      out like x
    Source      eˣ is its own derivative
    Derivation  ∂out/∂x = eˣ = out,  so  dx = dout out
    """
    out = array_module(x).exp(x)

    def backward(dout):
        return (dout * out,)

    return out, backward


@op
def log(x):
    """out = ln x

    Shapes      out like x
    Source      the derivative of an inverse function: e^out = x
    Derivation  Differentiate both sides of e^out = x:  e^out ∂out/∂x = 1,  so  ∂out/∂x = 1/x  and
                dx = dout / x
    """

    def backward(dout):
        return (dout / x,)

    return array_module(x).log(x), backward


@op
def sqrt(x):
    """out = √x

    Shapes      out like x
    Source      the derivative of an inverse function: out² = x
    Derivation  Differentiate both sides of out² = x:  2 out ∂out/∂x = 1,  so  dx = dout / (2 out)
    """
    out = array_module(x).sqrt(x)

    def backward(dout):
        return (dout / (2 * out),)

    return out, backward


@op
def tanh(x):
    """out = tanh x = sinh x / cosh x

    Shapes      out like x
    Source      the quotient rule, with sinh' = cosh, cosh' = sinh
    Derivation  ∂out/∂x = (cosh² x − sinh² x) / cosh² x = 1 − out²,  so  dx = dout (1 − out²)
    """
    out = array_module(x).tanh(x)

    def backward(dout):
        return (dout * (1 - out * out),)

    return out, backward


@op
def relu(x):
    """out = max(x, 0)

    Shapes      out like x
    Source      Nair & Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines"
    Derivation  ∂out/∂x = 1 where x > 0, and 0 where x < 0.  At 0 it has a kink: any slope from 0 to
                1 may serve there (a subgradient), and 0 is the custom.  So  dx = dout [x > 0]
    """
    positive = x > 0

    def backward(dout):
        return (dout * positive,)

    return array_module(x).maximum(x, 0), backward


@op
@explained(no_broadcast)
def where(condition, x, y):
    """out = x where condition holds, else y

    Shapes      condition (booleans), x and y broadcast against each other to the shape of out
    Source      a sum of two products: out = c x + (1 − c) y  with  c = [condition]
    Derivation  ∂out/∂x = c,  ∂out/∂y = 1 − c,  so  dx = dout c,  dy = dout (1 − c); the condition
                jumps, and has no gradient
    """
    xp = array_module(condition, x, y)
    condition = xp.asarray(condition, bool)
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        dx = unbroadcast(dout * condition, x_shape)
        return None, dx, unbroadcast(dout * ~condition, y_shape)

    return xp.where(condition, x, y), backward
