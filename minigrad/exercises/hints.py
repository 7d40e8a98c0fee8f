"""A hint for every exercise, in the order in which to solve them."""

HINTS = {  # of ops: write `backward`
    "neg": "If x grows by a little, out shrinks by the same amount.",
    "exp": "e to the x is its own derivative, and you have it already: it is out.",
    "log": "The slope of ln x is 1/x.",
    "sqrt": "Differentiate out² = x on both sides, and solve for the slope of out.",
    "tanh": "The slope of tanh is 1 − tanh², and tanh is out.",
    "sigmoid": "The slope can be written with out alone: out (1 − out).",
    "relu": "Where out is 0 nothing passes; elsewhere everything does.  Use xp.where.",
    "abs": "The slope is 1 on one side of 0, −1 on the other, and 0 at 0 itself.",
    "add": "Both slopes are 1.  Then unbroadcast each gradient to the shape of its input.",
    "sub": "As add, but y counts with a minus sign.",
    "mul": "The slope of x y along x is y.  Unbroadcast after the product, not before.",
    "div": "x/y falls with y at the rate x/y² = out/y.",
    "pow": "y xʸ⁻¹ for x; out ln x for y.  A plain number has no gradient: return None for it.",
    "maximum": "The larger operand gets all of it.  Where they are equal, each gets half.",
    "minimum": "As maximum, with the comparisons turned round.",
    "clip": "Between the bounds out moves with x; beyond them it does not.  The bounds get None.",
    "where": "x gets dout where the condition holds, y gets it elsewhere, the condition None.",
    "sum": "Every entry counts once, so every entry of a group gets the dout of its sum: spread.",
    "mean": "As sum, divided by the number of entries in a group.",
    "var": "The slope for an entry is 2 (entry − mean) / (n − correction).  Spread dout first.",
    "max": "Only the largest entry moves out.  If several tie, they share equally.",
    "reshape": "Nothing is computed: give dout the shape that x had.",
    "transpose": "Find the order of axes that undoes the first one.",
    "getitem": "Send every entry of dout back to where it was read.  Read twice means added twice.",
    "concat": "Cut dout where the arrays were joined: one piece for each.",
    "stack": "Array i of the inputs gets index i of dout along the new axis.",
    "matmul": "dx = dout yᵀ and dy = xᵀ dout.  Make a vector a matrix first, and take that axis "
    "out again at the end.  Unbroadcast the axes in front.",
    "linear": "Flatten dout to rows.  dx = dout W, dW = doutᵀ x, and db is a sum over the rows.",
    "embedding": "Row v of dweight is the sum of dout wherever the id was v: add_up.",
    "gelu": "out = x s, so its slope is s + x s', and s' = 2 s (1 − s) u'.",
    "softmax": "Every score moves every output of its row: ∂outᵢ/∂xⱼ = outᵢ (δᵢⱼ − outⱼ), where "
    "δᵢⱼ is 1 if i = j, else 0.  Multiply by doutᵢ, and sum over i.",
    "log_softmax": "The slope of outᵢ along xⱼ is δᵢⱼ − e^outⱼ.  Sum over i.",
    "cross_entropy": "For one row p − onehot(target).  Smoothed: 1 − s there, s/V everywhere.",
    "layer_norm": "Let g = dout · weight.  Subtract its mean, and x̂ times the mean of g · x̂.",
    "dropout": "The mask is a constant: what was dropped gets nothing, the rest is scaled.",
    "attention": "Walk backwards through: weights times v, softmax of each row, scores, scale.",
}
FORWARD = {  # name -> the signature of a forward pass to write, and a hint
    "softmax": ("x, *, axis=-1", "Subtract the largest x first: e to the 1000 is infinite."),
    "gelu": ("x", "It is one line after u.  Limit x to ±10 inside the tanh if powers overflow."),
    "cross_entropy": (
        "logits, targets",
        "For each row −x[target] + ln Σ eˣ, with the largest logit subtracted.  Then the mean.",
    ),
    "layer_norm": (
        "x, weight=None, bias=None, *, eps=1e-5",
        "Mean and variance over the last axis, with keepdims=True.  Divide by C, not by C − 1.",
    ),
    "attention": (
        "q, k, v, *, causal=True",
        "Query t is at position N − T + t.  Give hidden scores −∞ before the softmax.",
    ),
}
FUNCTIONS = {
    "adamw": "The formulas are in order: m, v, both corrected, decay, step.  t counts from 1.",
    "warmup_cosine": "Three cases.  Ask first whether the end has been reached.",
    "top_p": "Sort by probability.  A token stays if what comes before it sums to less than p.",
}
