"""Optimizers: how far and in which direction each weight moves; and clipping, which limits that."""

from collections.abc import Callable
from typing import Any

from minigrad.backend import array_module
from minigrad.internals import optimizers
from minigrad.internals.half import widen
from minigrad.tensor import Tensor


class Optimizer:
    """What SGD and AdamW share: groups of parameters with options, and a state of each parameter.

    A subclass defines two things:

    initial_state                      what is remembered of a parameter, before its first step
    update(w, g, state, **options)     arrays w and their gradient g -> the new w; changes `state`

    params    leaf Tensors, or groups as dicts {"params": Tensors, and any option that differs}
    defaults  option -> its value in groups that do not set it

    Options may change at any time, `optimizer.param_groups[0]["lr"] = 1e-4`; the parameters of a
    group may not.
    """

    initial_state: dict[str, float]
    update: Callable[..., Any]

    def __init__(self, params, defaults):
        self.defaults = defaults
        self.param_groups = optimizers.make_groups(self, params)
        self.parameters = [w for group in self.param_groups for w in group["params"]]
        self.numbers = {p: i for i, p in enumerate(self.parameters)}
        self.state: dict[Tensor, dict] = {}  # parameter -> its state, from its first step on

    def step(self):
        """Update every parameter that has a gradient."""
        for group, options in optimizers.check_groups(self):
            for p in group["params"]:
                if p.grad is None:
                    continue
                xp, w = array_module(p.data), widen(p.data)
                g = xp.asarray(p.grad, w.dtype)
                state = self.state.setdefault(p, dict(self.initial_state))
                optimizers.check_shapes(self, p, state)
                p.data = xp.asarray(self.update(w, g, state, **options), p.dtype)

    def zero_grad(self):
        """Set all gradients to None, so that the next backward() starts from none."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self):
        """Return {"state": {number of the parameter: its state}, "param_groups": the options}.

        Arrays are copied to NumPy, from whatever device the parameters are on.
        """
        state = {self.numbers[p]: optimizers.copy_state(s) for p, s in self.state.items()}
        groups = [g | {"params": [self.numbers[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved):
        """Restore what state_dict() of an optimizer of the same parameters returned."""
        state = optimizers.load_states(self, saved)
        for group, options in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update(options | {"params": group["params"]})
        self.state = state


class SGD(Optimizer):
    """Stochastic gradient descent: every weight moves against its gradient.

    g ← g + λ w                     decay: the gradient of ½ λ w²
    u ← μ u + g                     momentum: a sum of gradients, in which older ones fade
    w ← w − lr u

    w is a parameter, g its gradient, μ the momentum and λ the weight_decay; u starts at 0.  With
    μ = λ = 0 this is  w ← w − lr g.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", ICML; in PyTorch's form, with lr outside of u.
    """

    initial_state = {"momentum_buffer": 0.0}  # u

    def __init__(self, params, lr, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def update(self, w, g, state, lr, momentum, weight_decay):
        """Return the new w: the formulas above, line by line."""
        g = g + weight_decay * w if weight_decay else g  # no 0 · ∞
        u = g
        if momentum:
            u = state["momentum_buffer"] = momentum * state["momentum_buffer"] + g
        return w - lr * u


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    m ← β₁ m + (1 − β₁) g           the mean of recent gradients
    v ← β₂ v + (1 − β₂) g²          the mean of their squares
    m̂ = m / (1 − β₁ᵗ)               both corrected, because they start at 0
    v̂ = v / (1 − β₂ᵗ)
    w ← w (1 − lr λ)                decay, apart from the gradient
    w ← w − lr m̂ / (√v̂ + ε)

    w is a parameter, g its gradient, t the number of its steps, λ the weight_decay (times lr, as in
    PyTorch).  After t steps the weights of all gradients in m add up to
    (1 − β₁)(1 + β₁ + ... + β₁ᵗ⁻¹) = 1 − β₁ᵗ, not 1; dividing by that makes m̂ a mean.  m̂/√v̂ is about
    ±1 where gradients agree and near 0 where they contradict each other; so lr is, roughly, the
    distance that a weight may move in a step.

    Sources: Kingma & Ba 2015, "Adam", arXiv:1412.6980; Loshchilov & Hutter 2019, "Decoupled Weight
    Decay Regularization", arXiv:1711.05101.

    fused   True makes an object of the twin of this class, fast/adamw.py: the same numbers but for
            rounding, in a fraction of the time
    """

    initial_state = {"step": 0, "exp_avg": 0.0, "exp_avg_sq": 0.0}  # t, m, v

    def __new__(cls, *args, fused=False, **options):
        """Make an object of this class, or of its twin if fused is true."""
        return super().__new__(optimizers.choose_class(cls, fused))

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, *, fused=False):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options)

    def update(self, w, g, state, lr, betas, eps, weight_decay):
        """Return the new w: the formulas above, line by line."""
        beta1, beta2 = betas
        t = state["step"] + 1
        m = beta1 * state["exp_avg"] + (1 - beta1) * g
        v = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
        state.update(step=t, exp_avg=m, exp_avg_sq=v)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        w = w * (1 - lr * weight_decay)
        return w - lr * m_hat / (array_module(v).sqrt(v_hat) + eps)


@optimizers.may_have_twin
def clip_grad_norm(params, max_norm):
    """Scale all gradients down together if their joint length is above max_norm.

    ‖g‖ = √(Σ g²)                          over all entries of all gradients
    g ← g · min(1, max_norm / (‖g‖ + 10⁻⁶))

    The direction stays, only the length is cut, so one bad batch cannot throw the weights far.

    params      a Tensor or several
    max_norm    at least 0

    Returns the norm before clipping, a float64 Tensor of one entry.  On a GPU it may not be known
    yet, and norm.item() waits for it.

    Source: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
    networks", arXiv:1211.5063; the 10⁻⁶ as in PyTorch.
    """
    params = optimizers.with_gradients("clip_grad_norm", params, max_norm)
    xp = array_module(*[p.grad for p in params])
    squares = [(p.grad.astype("float64") ** 2).sum() for p in params]
    norm = xp.sqrt(sum(squares))
    scale = xp.minimum(1, max_norm / (norm + 1e-6))  # NaN if the norm is: so are all gradients
    for p in params:
        p.grad = p.grad * scale  # which has p's dtype again
    return Tensor(norm)
