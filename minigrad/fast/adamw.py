"""AdamW over one vector of all parameters: AdamW(..., fused=True).

Differs     from the page, optim.py: the parameters, their gradients, m and v are ranges of four
            long vectors (flat.py), updated in place, a chunk at a time that stays in the cache.  m
            and v are corrected by two numbers, not by two arrays:

                m̂ / (√v̂ + ε) = m / (√v + ε c) · c / (1 − β₁ᵗ)  with  c = √(1 − β₂ᵗ)

            Processes can share the vectors, and each updates a part of them (gpt_numpy).
            On a GPU a kernel does all of it (fast/gpu/optim.py), and the decision to skip a step is
            made there, without waiting for it.
Pays        half of the optimizer's time, and the transfer of gradients between processes:
            python benchmarks/twins.py

Because the parameters are views: convert or move a model before you make its optimizer; what was
taken from a parameter before (`p.data`, `p.numpy()`) is no longer the weight; zero_grad() lets
other gradients into the same memory, so copy what you want to keep; and nobody notices if you write
into `p.data` between forward and backward, so assign a new array.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from minigrad import optim
from minigrad.backend import CPU, GPU, array_module, device_of
from minigrad.fast.arrays import chunks, pieces
from minigrad.fast.flat import FlatParameters
from minigrad.fast.gpu import optim as gpu_optim
from minigrad.internals import optimizers
from minigrad.internals.guards import flat_behind, is_writable
from minigrad.internals.hooks import this_thread
from minigrad.tensor import Tensor

SMALLEST = 1e-15  # of the norms of gradients whose squares float32 can hold


class FusedAdamW(optim.AdamW):
    """The twin of AdamW."""

    found_inf: Any = 0  # the step at which stop_unless_finite() stopped, if any
    skip: Any = None  # whether there is one: an array that flags() makes

    def step(self):
        """Update every parameter that has a gradient."""
        adamw_update(self.vectors(), self.plan_step(), self.skips())

    def stop_unless_finite(self, step, loss, norm):
        """If one of the two numbers (Tensors) is not finite, skip this step and all that follow.

        For a GPU, where looking at a number means waiting for it: the decision is made there, and
        stopped_at() asks for it when there is time to wait.

        step    a number, or an array (1,) of uint64 on the GPU
        """
        xp = array_module(self.flat.data)
        if device_of(self.flat.data) == GPU and not this_thread.plain:
            found_inf, skip = self.flags()
            gpu_optim.stop_unless_finite(found_inf, skip, step, loss.data, norm.data)
            return
        finite = xp.isfinite(loss.data) & xp.isfinite(norm.data)
        self.found_inf = xp.where((self.found_inf != 0) | finite, self.found_inf, step)
        self.skip = None

    def flags(self):
        """Return (found_inf, skip), arrays of one entry on the GPU that keep their places."""
        if self.skip is None:
            self.found_inf = array_module(self.flat.data).zeros((), np.int64) + self.found_inf
            self.skip = self.found_inf != 0
        return self.found_inf, self.skip

    def stopped_at(self):
        """Return the step at which stop_unless_finite() stopped, or 0."""
        return int(self.found_inf)

    def skips(self):
        """Return whether steps are skipped: False, or a boolean array."""
        if self.skip is not None:
            return self.skip
        return False if isinstance(self.found_inf, int) else self.found_inf != 0

    def vectors(self):
        """Return (w, g, m, v), each the vector of all parameters, one after another."""
        return self.flat.data, self.flat.grad, self.exp_avg, self.exp_avg_sq

    def plan_step(self, updated=None):
        """Advance the step counters; return the parameter ranges to update, as ParamRanges.

        updated     the parameters to update; by default those that have a gradient

        Neighbours that are updated with the same numbers make one range, so that there are usually
        as many as groups.
        """
        groups = optimizers.check_groups(self)
        if updated is None:
            updated = [p for p in self.parameters if p.grad is not None]
        updated = {*updated}
        self.flat.sync()
        plan: list[ParamRange] = []
        for group, options in groups:
            for p in group["params"]:
                if p not in updated:
                    continue
                i = self.numbers[p]
                self.steps[i] += 1
                p.version += 1
                where = self.flat.slices[i]
                new = ParamRange(where.start, where.stop, self.steps[i], **options)
                if plan and plan[-1].stop == new.start and plan[-1][2:] == new[2:]:
                    new = new._replace(start=plan.pop().start)
                plan.append(new)
        return plan

    @property
    def state(self):
        """Parameter -> its state, as in AdamW; the moments are views of the vectors."""
        moments = self.flat.split(self.exp_avg), self.flat.split(self.exp_avg_sq)
        states = zip(self.parameters, self.steps, *moments, strict=True)
        return {p: {"step": t, "exp_avg": m, "exp_avg_sq": v} for p, t, m, v in states if t}

    @state.setter
    def state(self, states):
        if "flat" not in vars(self):  # Optimizer.__init__ sets the first state
            self.make_vectors()
        for i, p in enumerate(self.parameters):
            state = states.get(p, self.initial_state)
            self.steps[i] = state["step"]
            self.flat.split(self.exp_avg)[i][...] = state["exp_avg"]
            self.flat.split(self.exp_avg_sq)[i][...] = state["exp_avg_sq"]

    def make_vectors(self):
        """Join the parameters into one vector, and start m, v and the step counters at 0."""
        if any(p.dtype == np.float16 for p in self.parameters):
            raise ValueError(
                "AdamW: fused=True takes float32 and float64 parameters: convert the model by "
                "model.to(dtype='float32'), or leave fused out for float16"
            )
        self.flat = FlatParameters(self.parameters)
        zeros = array_module(self.flat.data).zeros_like
        self.exp_avg, self.exp_avg_sq = zeros(self.flat.data), zeros(self.flat.data)  # m and v
        self.steps = [0] * len(self.parameters)  # t of each


optimizers.FUSED[optim.AdamW] = FusedAdamW


def clip_grad_norm(params, max_norm):
    """Clip as the page, optim.py, does; the twin of its function.

    Differs     Gradients are scaled in place.  Their squares are added up a chunk at a time in the
                dtype of the gradients, and in float64 beyond.  On a GPU, the gradients of all
                parameters of an optimizer together are one vector for two kernels.
    Declines    gradients outside of an optimizer's vector, and norms of which float32 cannot hold
                the square.  (On a GPU, where looking at the norm means waiting for it, the norm of
                some of the parameters is then 0 or infinite.)
    """
    params = optimizers.with_gradients("clip_grad_norm", params, max_norm)
    if not params or any(p.grad is not p.grad_buffer for p in params):
        return NotImplemented
    flat = flat_behind(params[0].grad)
    if device_of(flat.grad) == GPU and {*params} == {*flat.parameters}:
        return Tensor(gpu_optim.clip(flat.grad, max_norm))
    grads = [p.grad.ravel() for p in params]
    xp = array_module(*grads)
    squares = [piece @ piece for g in grads for piece in pieces(g)]
    norm = xp.sqrt(sum(squares, start=xp.zeros(())))  # in float64, because the 0 is
    on_cpu = device_of(norm) == CPU
    if on_cpu and not SMALLEST < norm < math.inf:
        return NotImplemented
    scale = xp.minimum(1, max_norm / (norm + 1e-6))
    if on_cpu and scale == 1:
        return Tensor(norm)
    for p in params:
        if is_writable(p.grad):
            p.grad *= scale.astype(p.dtype)
        else:  # a graph still reads it
            p.grad = p.grad * scale.astype(p.dtype)
    return Tensor(norm)


optimizers.TWINS["clip_grad_norm"] = clip_grad_norm


class ParamRange(NamedTuple):
    """A range of the vectors that is updated with the same numbers: from start to before stop."""

    start: int
    stop: int
    t: int  # how many steps these have made, this one included
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


def adamw_update(vectors, plan, skip=False, part=0, n_parts=1):
    """Update the weights in the ranges of `plan`; or, of every range, one of n_parts equal parts.

    vectors     w, g, m, v of shape (N,), as FusedAdamW.vectors() returns them
    plan        what FusedAdamW.plan_step() returns
    skip        what FusedAdamW.skips() returns
    """
    if device_of(vectors[0]) == GPU and not this_thread.plain:  # where nobody shares the vectors
        return gpu_optim.adamw_update(vectors, plan, skip)
    for entries in plan:
        length = entries.stop - entries.start
        start = entries.start + length * part // n_parts
        stop = entries.start + length * (part + 1) // n_parts
        for chunk in chunks(vectors[0], start, stop):  # the formulas pass over it a dozen times
            update_chunk([vector[chunk] for vector in vectors], entries, skip)


def update_chunk(vectors, entries, skip):
    """Apply the formulas of AdamW in place.  Where `skip` is true, multiply by 1 and add 0."""
    w, g, m, v = vectors
    t, lr, (beta1, beta2) = entries.t, entries.lr, entries.betas
    xp = array_module(w)
    c = math.sqrt(1 - beta2**t)
    step_size = lr * c / (1 - beta1**t)
    factors: Any = [beta1, 1 - beta1, beta2, 1 - beta2, 1 - lr * entries.weight_decay, step_size]
    if skip is not False:  # an array on the GPU
        pairs = zip([1, 0] * 3, factors, strict=True)
        factors = [xp.where(skip, neutral, x).astype(w.dtype) for neutral, x in pairs]
        g = xp.where(skip, 0, g)
    m *= factors[0]
    m += factors[1] * g
    v *= factors[2]
    square = g * g
    square *= factors[3]
    v += square
    step = xp.sqrt(v)
    step += entries.eps * c
    xp.divide(m, step, out=step)
    step *= factors[5]
    w *= factors[4]
    w -= step
