"""AdamW: a step of its own size for every weight; and clipping, which limits its gradient."""

import math

from minigrad.device import array_module
from minigrad.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay.

    m ← β₁ m + (1 − β₁) g           the mean of recent gradients
    v ← β₂ v + (1 − β₂) g²          the mean of their squares
    w ← w − lr λ w                  decay, apart from the gradient
    w ← w − lr m̂ / (√v̂ + ε)        with  m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)

    w is a parameter, g its gradient, t the number of its steps, λ the weight_decay.  m and v start
    at 0: after t steps the shares of all gradients in m add up to 1 − β₁ᵗ, not 1; hence m̂ and v̂.
    m̂/√v̂ is about ±1 where gradients agree and near 0 where they contradict each other; so lr is,
    roughly, the distance that a weight may move in a step.

    Sources: Kingma & Ba 2015, "Adam", arXiv:1412.6980; Loshchilov & Hutter 2019, "Decoupled Weight
    Decay Regularization", arXiv:1711.05101.

    params  Tensors, or groups as dicts {"params": Tensors, and any option that differs}
    lr      learning rate;  assignable at any time: optimizer.param_groups[i]["lr"] = ...
    """

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        if isinstance(params, Tensor):
            raise TypeError("AdamW: params must be a list of Tensors or of groups, not one Tensor")
        params = list(params)
        if not params:
            raise ValueError("AdamW: there are no parameters to optimize")
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        self.param_groups = [
            defaults | group | {"params": list(group["params"])} for group in groups
        ]
        for group in self.param_groups:
            if unknown := group.keys() - defaults.keys() - {"params"}:
                raise ValueError(f"AdamW: a group has unknown options {sorted(unknown)}")
        if len(set(self._parameters())) < len(self._parameters()):
            raise ValueError("AdamW: a parameter stands in the groups twice")
        self.state = {}  # parameter -> {"step": t, "exp_avg": m, "exp_avg_sq": v}

    def step(self):
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    self._move(w, group)

    def _move(self, w, group):
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        xp, g = array_module(w.data), w.grad
        if w not in self.state:
            zeros = xp.zeros_like(w.data)
            self.state[w] = {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros.copy()}
        state = self.state[w]
        state["step"] += 1
        t, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]

        # m̂ / (√v̂ + ε) = m / (√v + ε c) · c / (1 − β₁ᵗ)  with  c = √(1 − β₂ᵗ):  two numbers are
        # corrected, not two arrays.  In place, for every pass over memory counts.
        c = math.sqrt(1 - beta2**t)
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        square = g * g
        square *= 1 - beta2
        v += square
        move = xp.sqrt(v)
        move += eps * c
        move = m / move
        move *= lr * c / (1 - beta1**t)
        w.data *= 1 - lr * decay
        w.data -= move

    def zero_grad(self):
        """Forget all gradients, so that the next backward() starts from none."""
        for group in self.param_groups:
            for w in group["params"]:
                w.grad = None

    def state_dict(self):
        """{"state": {number of the parameter: its state}, "param_groups": the options}."""
        numbers = {w: i for i, w in enumerate(self._parameters())}
        return {
            "state": {numbers[w]: _copied(state) for w, state in self.state.items()},
            "param_groups": [
                group | {"params": [numbers[w] for w in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, saved):
        """Take over what state_dict() of an optimizer of the same parameters returned."""
        parameters = self._parameters()
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != [len(group["params"]) for group in saved["param_groups"]]:
            raise ValueError("AdamW: the saved groups have other numbers of parameters")
        for i, state in saved["state"].items():
            if state["exp_avg"].shape != parameters[i].shape:
                raise ValueError(
                    f"AdamW: parameter {i} has shape {parameters[i].shape}, its saved moments "
                    f"{state['exp_avg'].shape}"
                )
        for group, options in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
        self.state = {parameters[i]: _copied(state) for i, state in saved["state"].items()}

    def _parameters(self):
        return [w for group in self.param_groups for w in group["params"]]


def _copied(state):
    return {k: v.copy() if hasattr(v, "copy") else v for k, v in state.items()}


def clip_grad_norm(params, max_norm):
    """Scale all gradients down together if their joint length is above max_norm.

    ‖g‖ = √(Σ g²) over all entries of all gradients;  g ← g · min(1, max_norm / (‖g‖ + 10⁻⁶)), as
    in PyTorch.  The direction stays, only its length is cut: one bad batch cannot throw the weights
    far.  Source: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
    networks", arXiv:1211.5063.  Returns the norm before clipping, a float.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    norm = math.sqrt(sum(float(g.ravel() @ g.ravel()) for g in gradients))  # g·g = Σ g²
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:  # so that a norm of NaN reaches every gradient, and is seen
        for g in gradients:
            g *= scale
    return norm
