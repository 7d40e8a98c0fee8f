"""AdamW: a step of its own size for every weight; and clipping, a limit to the whole gradient."""

import math
from typing import NamedTuple

from minigrad.device import CPU, array_module, blocks, device_of, to_device, to_host
from minigrad.flat import Flat
from minigrad.tensor import Tensor


class AdamW:
    """Adam with decoupled weight decay.

    m ← β₁ m + (1 − β₁) g           the mean of recent gradients
    v ← β₂ v + (1 − β₂) g²          the mean of their squares
    w ← w − lr λ w                  decay, apart from the gradient
    w ← w − lr m̂ / (√v̂ + ε)        with  m̂ = m / (1 − β₁ᵗ),  v̂ = v / (1 − β₂ᵗ)

    w is a parameter, g its gradient, t the number of steps that it has made, λ the weight_decay
    (times lr, as in PyTorch).  m and v start at 0: after t steps the shares of all gradients in m
    add up to (1 − β₁)(1 + β₁ + ... + β₁ᵗ⁻¹) = 1 − β₁ᵗ, not 1; hence m̂ and v̂.
    m̂/√v̂ is about ±1 where gradients agree and near 0 where they contradict each other; so lr is,
    roughly, the distance that a weight may move in a step.

    Sources: Kingma & Ba 2015, "Adam", arXiv:1412.6980; Loshchilov & Hutter 2019, "Decoupled Weight
    Decay Regularization", arXiv:1711.05101.

    params  Tensors, or groups as dicts {"params": Tensors, and any option that differs}
    lr      learning rate;  assignable at any time: optimizer.param_groups[i]["lr"] = ...

    From here on the parameters, their gradients, m and v are views of a vector each (flat.py), so
    that a step is a few passes over long arrays.  So convert or move a model first; what was taken
    from a parameter before (`p.data`, `p.numpy()`) is no longer the weight; and zero_grad() makes
    room for other gradients in the same place: copy what you want to keep.  The groups' options
    may change, the parameters in them may not.
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
        parameters = [w for group in self.param_groups for w in group["params"]]
        if len(set(parameters)) < len(parameters):
            raise ValueError("AdamW: a parameter stands in the groups twice")
        self.flat = Flat(parameters)
        zeros = array_module(self.flat.data).zeros_like
        self.exp_avg, self.exp_avg_sq = zeros(self.flat.data), zeros(self.flat.data)  # m and v
        self.numbers = {w: i for i, w in enumerate(parameters)}
        self.steps = [0] * len(parameters)  # t of each
        self.stopped = 0  # the step that stop_unless_finite() stopped at, if any

    def step(self):
        """Move every parameter that has a gradient."""
        move(self.vectors(), self.next_step(), self.going())

    def stop_unless_finite(self, step, loss, norm):
        """If one of the two numbers (Tensors) is not finite, move nothing from this step on.

        For a GPU, where to look at a number is to wait for it: the decision is made there, and
        stopped_at() asks for it when there is time to wait.
        """
        xp = array_module(self.flat.data)
        finite = xp.isfinite(loss.data) & xp.isfinite(norm.data)
        self.stopped = xp.where((self.stopped != 0) | finite, self.stopped, step)

    def stopped_at(self):
        """The step that stop_unless_finite() stopped at, or 0."""
        return int(self.stopped)

    def going(self):
        """1, or 0 when stopped, of the weights' dtype: how much of a step is to be made."""
        if isinstance(self.stopped, int):
            return 1
        return (self.stopped == 0).astype(self.flat.data.dtype)

    def vectors(self):
        """(w, g, m, v): each the vector of all parameters, one after another."""
        return self.flat.data, self.flat.grad, self.exp_avg, self.exp_avg_sq

    def next_step(self):
        """Count a step, and say what it has to do: a list of Stretches, which are to be moved.

        Neighbours that move alike make one stretch: as a rule there are as many as groups.
        """
        self.flat.gather()
        plan: list[Stretch] = []
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                i = self.numbers[w]
                self.steps[i] += 1
                w.version += 1
                place, options = self.flat.places[i], (group[name] for name in OPTIONS)
                stretch = Stretch(place.start, place.stop, self.steps[i], *options)
                if plan and plan[-1].stop == stretch.start and plan[-1][2:] == stretch[2:]:
                    stretch = stretch._replace(start=plan.pop().start)
                plan.append(stretch)
        return plan

    def zero_grad(self):
        """Forget all gradients, so that the next backward() starts from none."""
        for w in self.flat.parameters:
            w.grad = None

    def state_dict(self):
        """{"state": {number of the parameter: its state}, "param_groups": the options}.

        The moments are NumPy arrays, copies, wherever the parameters are.
        """
        vectors = self.exp_avg, self.exp_avg_sq
        moments = zip(*[self.flat.split(to_host(v).copy()) for v in vectors], strict=True)
        return {
            "state": {
                i: {"step": self.steps[i], "exp_avg": m, "exp_avg_sq": v}
                for i, (m, v) in enumerate(moments)
                if self.steps[i]
            },
            "param_groups": [
                group | {"params": [self.numbers[w] for w in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, saved):
        """Take over what state_dict() of an optimizer of the same parameters returned."""
        sizes = [len(group["params"]) for group in self.param_groups]
        if sizes != [len(group["params"]) for group in saved["param_groups"]]:
            raise ValueError("AdamW: the saved groups have other numbers of parameters")
        for i, state in saved["state"].items():
            for moment in (state["exp_avg"], state["exp_avg_sq"]):
                if moment.shape != self.flat.shapes[i]:
                    raise ValueError(
                        f"AdamW: parameter {i} has shape {self.flat.shapes[i]}, a saved moment of "
                        f"it {moment.shape}"
                    )
        for group, options in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
        for i in range(len(self.steps)):
            self.steps[i] = saved["state"].get(i, {"step": 0})["step"]
        for name, vector in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            vector[...] = 0
            moments = self.flat.split(vector)
            for i, state in saved["state"].items():
                moments[i][...] = to_device(state[name], device_of(vector))


class Stretch(NamedTuple):
    """Entries of the vectors that move alike: from `start` up to but without `stop`."""

    start: int
    stop: int
    t: int  # how many steps these have made, with this one
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


OPTIONS = Stretch._fields[3:]


def move(vectors, plan, going, part=0, n_parts=1):
    """Move the weights as `plan` says; or, of every stretch, only one of n_parts equal parts.

    vectors     w, g, m, v of shape (N,), as AdamW.vectors() returns them
    plan        what AdamW.next_step() returns
    going       what AdamW.going() returns
    """
    for stretch in plan:
        length = stretch.stop - stretch.start
        start = stretch.start + length * part // n_parts
        stop = stretch.start + length * (part + 1) // n_parts
        for block in blocks(vectors[0], start, stop):  # the formulas pass over it a dozen times
            _move([vector[block] for vector in vectors], stretch, going)


def _move(vectors, stretch, going):
    """The formulas of AdamW, in place.  Where `going` is 0 they multiply by 1 and add 0."""
    w, g, m, v = vectors
    t, lr, eps, decay = stretch.t, stretch.lr, stretch.eps, stretch.weight_decay
    beta1, beta2 = stretch.betas
    xp = array_module(w)
    # m̂ / (√v̂ + ε) = m / (√v + ε c) · c / (1 − β₁ᵗ)  with  c = √(1 − β₂ᵗ):  two numbers are
    # corrected, not two arrays.
    c = math.sqrt(1 - beta2**t)
    if not isinstance(going, int):  # it is an array on the GPU
        g = xp.where(going, g, 0)
    m *= beta1**going
    m += (1 - beta1) * g
    v *= beta2**going
    square = g * g
    square *= 1 - beta2
    v += square
    step = xp.sqrt(v)
    step += eps * c
    step = m / step
    step *= lr * c / (1 - beta1**t) * going
    w *= 1 - lr * decay * going
    w -= step


def clip_grad_norm(params, max_norm):
    """Scale all gradients down together if their joint length is above max_norm.

    ‖g‖ = √(Σ g²) over all entries of all gradients;  g ← g · min(1, max_norm / (‖g‖ + 10⁻⁶)), as
    in PyTorch.  The direction stays, only its length is cut: one bad batch cannot throw the weights
    far.  Source: Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
    networks", arXiv:1211.5063.  Returns the norm before clipping, a float64 Tensor of one entry: on
    a GPU it need not be known yet, and norm.item() waits for it.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    xp = array_module(*gradients)
    squares = [g.ravel() @ g.ravel() for g in gradients]  # g·g = Σ g²
    norm = xp.sqrt(sum(squares, start=xp.zeros(())))  # added up in float64, for the 0 is
    scale = xp.minimum(1, max_norm / (norm + 1e-6))  # NaN if norm is: so are all gradients
    if device_of(norm) != CPU or scale != 1:  # on a GPU to look at scale is to wait
        for g in gradients:
            g *= scale.astype(g.dtype)
    return Tensor(norm)
