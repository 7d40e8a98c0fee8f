"""Softmax: scores become probabilities, larger scores larger ones; and its logarithm."""

from minigrad.backend import accurate_sum, array_module, as_floats, axis_of
from minigrad.internals.errors import axis_error, explain_errors_with
from minigrad.tensor import op


@op
@explain_errors_with(axis_error)
def softmax(x, *, axis=-1):
    """out = eˣ / S  with  S = Σ eˣ  along the axis

    Shapes      out like x; along `axis` its entries are positive and sum to 1
    Source      Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network
                Outputs, with Relationships to Statistical Pattern Recognition"
    Derivation  By the quotient rule, with δᵢⱼ = 1 if i = j and 0 otherwise,

                    ∂outᵢ/∂xⱼ = δᵢⱼ e^xᵢ/S − e^xᵢ e^xⱼ/S² = outᵢ (δᵢⱼ − outⱼ)

                so  dxⱼ = Σᵢ doutᵢ outᵢ (δᵢⱼ − outⱼ)  reads

                    dx = out ⊙ (dout − Σ dout ⊙ out)

    In words    dxᵢ = pᵢ (doutᵢ − the p-weighted mean of dout), where p is out.  The entries of out
                always sum to 1, so only differences of dout count.

    Numerics    eˣ overflows in float32 above x = 88.7.  Subtracting the largest x multiplies
                numerator and denominator by the same number, and no exponent is above 0.
    """
    if not x.size:  # there is no largest x
        return x, lambda dout: (dout,)
    xp, axis, x = array_module(x), axis_of(x, axis), as_floats(x)
    e = xp.exp(x - x.max(axis, keepdims=True))
    out = e / accurate_sum(e, axis, keepdims=True)

    def backward(dout):
        average = accurate_sum(dout * out, axis, keepdims=True)
        return (out * (dout - average),)

    return out, backward


@op
@explain_errors_with(axis_error)
def log_softmax(x, *, axis=-1):
    """out = ln softmax(x) = x − ln Σ eˣ  along the axis

    Shapes      out like x; along `axis` the sum of e^out is 1
    Source      as softmax
    Derivation  ∂outᵢ/∂xⱼ = δᵢⱼ − e^xⱼ/Σ eˣ = δᵢⱼ − e^outⱼ,  so  Σᵢ doutᵢ ∂outᵢ/∂xⱼ  reads

                    dx = dout − e^out Σ dout

    Numerics    ln of softmax would be −∞ wherever a probability rounds to 0.  With m the largest x,
                ln Σ eˣ = m + ln Σ eˣ⁻ᵐ:  that sum is at least 1, and its logarithm is safe.
    """
    if not x.size:  # there is no largest x
        return x, lambda dout: (dout,)
    xp, axis, x = array_module(x), axis_of(x, axis), as_floats(x)
    shifted = x - x.max(axis, keepdims=True)
    out = shifted - xp.log(accurate_sum(xp.exp(shifted), axis, keepdims=True))

    def backward(dout):
        return (dout - xp.exp(out) * accurate_sum(dout, axis, keepdims=True),)

    return out, backward
