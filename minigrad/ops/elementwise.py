"""Ops that work entry by entry, and broadcasting, which is where their backward needs care.

Each derivation is about one entry.  The notation (dx, dout, [c]) is explained in ops/__init__.py.

Where a slope is 0, the code selects a gradient of 0 (`where`) and does not multiply by 0.  The
incoming gradient may be infinite there, as that of √y at y = 0 is, and 0 · ∞ is not a number.
"""

from minigrad.backend import accurate_sum, array_module, as_floats, is_array
from minigrad.internals.errors import elementwise_error, explain_errors_with
from minigrad.internals.guards import refuse_negative_powers
from minigrad.tensor import op


def shape_of(x):
    """Return the shape of an array, or None for a plain number."""
    return getattr(x, "shape", None)


def unbroadcast(dout, shape):
    """Return the gradient of an input of that shape, from the gradient of its broadcast copy.

    An entry that was used n times collects n contributions: sum over the axes that were stretched.
    (Over an axis of length 1 in both, a sum changes nothing.)  A plain number has no gradient.
    """
    if shape is None:
        return None
    if dout.shape == shape:
        return dout
    if dout.ndim > len(shape):  # the axes added in front
        dout = accurate_sum(dout, tuple(range(dout.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1)
    return accurate_sum(dout, stretched, keepdims=True) if stretched else dout


@op
@explain_errors_with(elementwise_error)
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
@explain_errors_with(elementwise_error)
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
@explain_errors_with(elementwise_error)
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
@explain_errors_with(elementwise_error)
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
@explain_errors_with(elementwise_error)
def pow(x, y):
    """out = xʸ

    Shapes      x and y broadcast against each other to the shape of out
    Source      the power rule, and xʸ = e^(y ln x) for the exponent
    Derivation  ∂out/∂x = y xʸ⁻¹,  ∂out/∂y = xʸ ln x,  so  dx = dout y xʸ⁻¹,  dy = dout out ln x

    Numerics    ln x exists only for x > 0.  A plain number as exponent has no gradient, so no
                logarithm is taken and x ** 2 can be differentiated at negative x.
                x⁰ is flat, also at x = 0; and so is 0ʸ in y, for y ≥ 0.
    """
    refuse_negative_powers(x, y)
    out = x**y
    xp = array_module(out)

    def backward(dout):
        dx = dy = None
        if is_array(x):
            flat = xp.equal(y, 0)
            dx = xp.where(flat, 0, dout) * y * x ** (y - (y != 0))  # the exponent is 0 where x⁰
            dx = unbroadcast(dx, x.shape)
        if is_array(y):
            flat = xp.equal(x, 0) & (y >= 0)
            above_0 = xp.where(xp.less(x, 0), float("nan"), xp.asarray(x, out.dtype))
            log_x = xp.log(xp.where(flat, 1, above_0))  # NaN where there is none
            dy = unbroadcast(xp.where(flat, 0, dout) * out * log_x, y.shape)
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
def sigmoid(x):
    """out = 1 / (1 + e⁻ˣ)

    Shapes      out like x, between 0 and 1
    Source      the quotient rule
    Derivation  ∂out/∂x = e⁻ˣ / (1 + e⁻ˣ)² = out (1 − out),  so  dx = dout out (1 − out)

    Numerics    e⁻ˣ overflows where x is far below 0.  There 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): with
                e = e^−|x| ≤ 1, the numerator is 1 for x ≥ 0 and e for x < 0.
    """
    xp, x = array_module(x), as_floats(x)
    e = xp.exp(-xp.abs(x))
    out = xp.where(x >= 0, 1, e) / (1 + e)

    def backward(dout):
        return (dout * out * (1 - out),)

    return out, backward


@op
def relu(x):
    """out = max(x, 0)

    Shapes      out like x
    Source      Nair & Hinton 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines"
    Derivation  ∂out/∂x = 1 where x > 0, and 0 where x < 0.  At 0 there is a kink, where any slope
                from 0 to 1 is a subgradient; 0 is customary.  So  dx = dout [x > 0]
    """
    xp = array_module(x)
    out = xp.maximum(x, 0)

    def backward(dout):  # out is 0 where x ≤ 0, so x is not needed again; NaN is not ≤ 0
        return (xp.where(out <= 0, 0, dout),)

    return out, backward


@op
def abs(x):
    """out = |x|

    Shapes      out like x
    Source      |x| is x for x > 0 and −x for x < 0
    Derivation  ∂out/∂x = 1 where x > 0, and −1 where x < 0.  At 0 any slope from −1 to 1 is a
                subgradient; 0 is the symmetric one.  So  dx = dout [x > 0] − dout [x < 0]
    """
    xp = array_module(x)

    def backward(dout):
        return (xp.where(x > 0, dout, xp.where(x < 0, -dout, 0)),)

    return xp.abs(x), backward


@op
@explain_errors_with(elementwise_error)
def maximum(x, y):
    """out = max(x, y),  entry by entry

    Shapes      x and y broadcast against each other to the shape of out
    Source      the slope of a maximum is that of the larger operand (Danskin's theorem)
    Derivation  ∂out/∂x = [x > y],  ∂out/∂y = [y > x].  Where they are equal, any share between the
                two is a subgradient, and halves are the symmetric one:
                dx = dout ([x > y] + ½ [x = y]),  dy = dout ([y > x] + ½ [x = y])
    Numerics    Where x or y is NaN so is out, and both get dout, as in PyTorch.
    """
    xp = array_module(x, y)
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        rest = xp.where(xp.equal(x, y), dout / 2, dout)
        dx = xp.where(xp.less(x, y), 0, rest)
        dy = xp.where(xp.less(y, x), 0, rest)
        return unbroadcast(dx, x_shape), unbroadcast(dy, y_shape)

    return xp.maximum(x, y), backward


@op
@explain_errors_with(elementwise_error)
def minimum(x, y):
    """out = min(x, y),  entry by entry

    Shapes      x and y broadcast against each other to the shape of out
    Source      min(x, y) = −max(−x, −y)
    Derivation  as for maximum, with the smaller operand in place of the larger:
                dx = dout ([x < y] + ½ [x = y]),  dy = dout ([y < x] + ½ [x = y])
    """
    xp = array_module(x, y)
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        rest = xp.where(xp.equal(x, y), dout / 2, dout)
        dx = xp.where(xp.greater(x, y), 0, rest)
        dy = xp.where(xp.greater(y, x), 0, rest)
        return unbroadcast(dx, x_shape), unbroadcast(dy, y_shape)

    return xp.minimum(x, y), backward


@op
@explain_errors_with(elementwise_error)
def clip(x, min=None, max=None):
    """out = x, but not below min and not above max

    Shapes      min and max numbers, or None for no bound on that side; out like x.  Both may be
                arrays that broadcast against x; they get no gradient.
    Source      the composition min(max, max(min, x)); out = max where min > max, as in NumPy
    Derivation  Between the bounds out moves with x, beyond them it does not:
                dx = dout [min ≤ x ≤ max].  At a bound any slope from 0 to 1 is a subgradient; 1 is
                PyTorch's choice.
    """
    if min is None and max is None:
        raise ValueError("clip: give min, max or both")
    xp = array_module(x, min, max)
    x_shape = shape_of(x)
    out, inside = x, True
    if min is not None:
        out, inside = xp.maximum(x, min), xp.greater_equal(x, min)
    if max is not None:
        out, inside = xp.minimum(out, max), inside & xp.less_equal(x, max)

    def backward(dout):
        return unbroadcast(xp.where(inside, dout, 0), x_shape), None, None

    return out, backward


@op
@explain_errors_with(elementwise_error)
def where(condition, x, y):
    """out = x where condition holds, else y

    Shapes      condition (booleans), x and y broadcast against each other to the shape of out
    Source      a sum of two products: out = c x + (1 − c) y  with  c = [condition]
    Derivation  ∂out/∂x = c,  ∂out/∂y = 1 − c,  so  dx = dout c,  dy = dout (1 − c).  The condition
                jumps, and has no gradient.
    """
    xp = array_module(condition, x, y)
    condition = xp.array(condition, bool)  # a copy, because backward reads it again
    x_shape, y_shape = shape_of(x), shape_of(y)

    def backward(dout):
        dx = unbroadcast(xp.where(condition, dout, 0), x_shape)
        dy = unbroadcast(xp.where(condition, 0, dout), y_shape)
        return None, dx, dy

    return xp.where(condition, x, y), backward
