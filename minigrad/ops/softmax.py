"""Softmax: scores become probabilities, larger scores larger ones; and its logarithm."""

from minigrad.device import array_module
from minigrad.faults import explained, no_axis
from minigrad.tensor import op


@op
@explained(no_axis)
def softmax(x, *, axis=-1):
    """out = eˣ / S  with  S = Σ eˣ  along the axis

    Shapes      out like x; along `axis` its entries are positive and sum to 1
    Source      Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network
                Outputs, with Relationships to Statistical Pattern Recognition"
    Derivation  By the quotient rule, with δᵢⱼ = 1 if i = j and 0 otherwise,

                    ∂outᵢ/∂xⱼ = δᵢⱼ e^xᵢ/S − e^xᵢ e^xⱼ/S² = outᵢ (δᵢⱼ − outⱼ)

                so  dxⱼ = Σᵢ doutᵢ outᵢ (δᵢⱼ − outⱼ)  reads

                    dx = out ⊙ (dout − Σ dout ⊙ out)

    In words    A score's gradient is its own share times how far dout there is above its average,
                weighted by the shares: as they always sum to 1, only differences count.

    Numerics    eˣ overflows in float32 above x = 88.7.  Subtracting the largest x multiplies
                numerator and denominator alike, and no exponent is above 0.
    """
    xp = array_module(x)
    e = xp.exp(x - x.max(axis, keepdims=True))
    out = e / e.sum(axis, keepdims=True)

    def backward(dout):
        average = (dout * out).sum(axis, keepdims=True)
        return (out * (dout - average),)

    return out, backward


@op
@explained(no_axis)
def log_softmax(x, *, axis=-1):
    """out = ln softmax(x) = x − ln Σ eˣ  along the axis

    Shapes      out like x; along `axis` the sum of e^out is 1
    Source      as softmax
    Derivation  ∂outᵢ/∂xⱼ = δᵢⱼ − e^xⱼ/Σ eˣ = δᵢⱼ − e^outⱼ,  so  Σᵢ doutᵢ ∂outᵢ/∂xⱼ  reads

                    dx = dout − e^out Σ dout

    Numerics    ln of softmax would be −∞ wherever a probability rounds to 0.  With m the largest x,
                ln Σ eˣ = m + ln Σ eˣ⁻ᵐ:  that sum is at least 1, and its logarithm is safe.
    """
    xp = array_module(x)
    shifted = x - x.max(axis, keepdims=True)
    out = shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))

    def backward(dout):
        return (dout - xp.exp(out) * dout.sum(axis, keepdims=True),)

    return out, backward
